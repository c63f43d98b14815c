"""DPR's pickles of passage vectors, a list of (id, numpy array), read without running anything that they name.

What they name of numpy is rebuilt here from plain stand-ins, whose bytes become floats at the end; every other name is
an error. So neither Python's nor numpy's own unpickling ever sees a crafted file.
"""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from rag_jax.data.lines import BadLine, identity
from rag_jax.errors import UserError, fail
from rag_jax.unpickle import Reader

FIRST_BYTE = b"\x80"  # of protocols 2 and later
ROWS = 4096  # vectors in a block
FLOATS, PLAIN = r"f[248]", r"[fiuU]\d+"


def ids(path: Path) -> Iterator[list[str]]:
    """Yields the ids, some thousands at a time; the file's pickle lies in memory meanwhile, as it does for vectors."""
    for part in _parts(path):
        yield [record[0] for record in part]


def vectors(path: Path) -> Iterator[np.ndarray]:
    """Yields blocks [n, E] in the order of ids."""
    for part in _parts(path):
        block = [record[1] for record in part]
        if len({len(vector) for vector in block}) > 1:
            fail(f"{path}: vectors of several widths; expected one; write the file again")
        yield np.stack(block)


def count(path: Path) -> int:
    """How many vectors the file holds."""
    return len(_load(path))


def _parts(path: Path) -> Iterator[list[tuple[str, np.ndarray]]]:
    records = _load(path)
    for start in range(0, len(records), ROWS):
        yield [_record(path, start + n, item) for n, item in enumerate(records[start : start + ROWS])]


def _record(path: Path, number: int, item: Any) -> tuple[str, np.ndarray]:
    """(id, vector [E]) of a tuple, whose further items are passed over: DPR puts a table's cells there."""
    if not isinstance(item, tuple | list) or len(item) < 2 or not isinstance(item[1], _Array):
        fail(f"{path}: item {number} is not (id, numpy array); expected what DPR's generate_dense_embeddings.py writes")
    try:
        vector = item[1].value(FLOATS)
        name = item[0].value(PLAIN).item() if isinstance(item[0], _Array) else item[0]
        if vector.ndim != 1:
            raise ValueError(f"an array {list(vector.shape)}")
        return identity(name), vector
    except (AttributeError, TypeError, ValueError, OverflowError, BadLine) as error:
        fail(f"{path}: item {number}: {error}; expected an id and a vector of 16, 32 or 64 bit floats")


def _load(path: Path) -> list[Any]:
    try:
        with open(path, "rb") as stream:
            found = Reader(stream, ADMITTED, functools.partial(_refuse, path)).load()
    except UserError:
        raise
    except Exception as error:  # bytes that are no pickle make it say anything
        fail(f"{path}: cannot be read as a pickle ({error}); it is cut or damaged; restore it")
    if not isinstance(found, list):
        fail(f"{path}: holds {type(found).__name__.strip('_')}; expected a list of (id, numpy array), as DPR writes it")
    return found


def _refuse(path: Path, name: str) -> NoReturn:
    fail(
        f"{path}: names {name}, which could run a program; nothing was run; expected ids and numpy arrays "
        "alone, as DPR writes them (protocol 3 or later)"
    )


class _Dtype:
    """numpy.dtype(code), with the byte order of its state."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]


@functools.lru_cache
def _dtype(code: str, order: str, allowed: str) -> np.dtype:
    if not re.fullmatch(allowed, code) or order not in ("<", ">", "=", "|"):
        raise ValueError(f"an array of dtype {code!r}")
    return np.dtype(order + code)


class _Array:
    """An array's bytes, dtype and shape; without them as _reconstruct makes it, until it is told its state."""

    __slots__ = ("dtype", "raw", "shape")

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.dtype, _, self.raw = state

    def value(self, allowed: str) -> np.ndarray:
        """The array, in C order, of a dtype whose code matches `allowed`; ValueError for any other."""
        return np.frombuffer(self.raw, _dtype(self.dtype.code, self.dtype.order, allowed)).reshape(self.shape)


class _Buffered(_Array):
    """An array as protocol 5 has it."""

    def __init__(self, raw: bytes, dtype: _Dtype, shape: tuple, *_: Any) -> None:
        self.raw, self.dtype, self.shape = raw, dtype, shape


class _Scalar(_Array):
    """A numpy number or string."""

    def __init__(self, dtype: _Dtype, raw: bytes) -> None:
        self.raw, self.dtype, self.shape = raw, dtype, ()


ADMITTED = {("numpy", "ndarray"): _Array, ("numpy", "dtype"): _Dtype} | {
    (f"numpy.{core}.{name}", function): stand_in
    for core in ("core", "_core")  # numpy 1 and 2
    for name, function, stand_in in (
        ("multiarray", "_reconstruct", _Array),
        ("multiarray", "scalar", _Scalar),
        ("numeric", "_frombuffer", _Buffered),
    )
}
