"""Files of torch.save, as pytorch_model.bin, read without torch and without running anything that they name.

Since torch 1.6 a file is an archive of a pickle and of each storage's numbers, before it a row of pickles with the
numbers behind them (torch/serialization.py, `_save` and `_legacy_save`). The pickle tells what part of which storage
a tensor is.
"""

import functools
import io
import math
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import ml_dtypes
import numpy as np

from rag_jax.errors import UserError, fail
from rag_jax.unpickle import Reader

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the old form
DTYPES = {
    f"{name}Storage": np.dtype(dtype)
    for name, dtype in (
        ("Double", "<f8"),
        ("Float", "<f4"),
        ("Half", "<f2"),
        ("BFloat16", ml_dtypes.bfloat16),
        ("Long", "<i8"),
        ("Int", "<i4"),
        ("Short", "<i2"),
        ("Char", "i1"),
        ("Byte", "u1"),
        ("Bool", "?"),
    )
}


class _Storage(NamedTuple):
    """A storage's name, what its numbers are, and how many it says it has."""

    key: str
    dtype: np.dtype
    size: int

    @property
    def bytes(self) -> int:
        return self.size * self.dtype.itemsize


Span = Callable[[_Storage], np.ndarray]  # reads a storage


class _View:
    """A tensor, as `_rebuild_tensor_v2` and its predecessor are told of it: part of a storage."""

    def __init__(self, storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> None:
        self.storage, self.offset, self.shape, self.stride = storage, offset, shape, stride

    def __setstate__(self, state: Any) -> NoReturn:
        raise ValueError("a tensor with a state")

    def checked(self) -> "_View":
        """Itself, if its numbers lie within its storage; ValueError if not."""
        numbers = self.offset, *self.shape, *self.stride
        if not isinstance(self.storage, _Storage) or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError("a tensor of no storage")
        used = [(size - 1) * step for size, step in zip(self.shape, self.stride, strict=True)]
        many = math.prod(self.shape)
        if many > self.storage.size or (many and self.offset + sum(used) >= self.storage.size):
            raise ValueError("a tensor that reaches out of its storage")
        return self

    def numbers(self, storage: np.ndarray) -> np.ndarray:
        steps = [step * storage.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, steps, writeable=False)


class _Parameter:
    """`_rebuild_parameter`: the tensor that it is made of."""

    def __new__(cls, data: Any, *_: Any) -> Any:
        return data

    def __setstate__(self, state: Any) -> NoReturn:
        raise ValueError("a parameter with a state")


ADMITTED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _View,
    ("torch._utils", "_rebuild_tensor_v2"): _View,
    ("torch._utils", "_rebuild_parameter"): _Parameter,
} | {("torch", name): name for name in DTYPES}


def read_bin(path: Path) -> dict[str, tuple[tuple[int, ...], Callable[[], np.ndarray]]]:
    """{name: (shape, read)} of a model's state; no number is read before `read`, which reads one tensor anew.

    Raises UserError naming a file that is damaged, holds something else, or names a program.
    """
    try:
        table, span = (_archive if zipfile.is_zipfile(path) else _old)(path)
        views = dict(table.items()) if isinstance(table, dict) else {}
        if not views or not all(isinstance(k, str) and isinstance(v, _View) for k, v in views.items()):
            fail(f"{path}: found no table of tensors, expected a model's state; save the model again")
        checked = {name: view.checked() for name, view in views.items()}
    except UserError:
        raise
    except Exception as error:  # bytes that are no pickle make it say anything
        _damaged(path, error)
    return {name: (view.shape, functools.partial(_read, path, name, view, span)) for name, view in checked.items()}


def _read(path: Path, name: str, view: _View, span: Span) -> np.ndarray:
    dtype = view.storage.dtype
    if dtype.kind in "iub":
        raise UserError(f"{path}: tensor {name} holds {dtype} numbers, expected floating point")
    try:
        return view.numbers(span(view.storage))
    except Exception as error:  # an archive is checked where it is read
        _damaged(path, error)


class _Pickles(NamedTuple):
    """Reads a file's pickles, one `load` each; `known` are the storages that they named."""

    path: Path
    stream: IO[bytes]
    known: dict[str, _Storage]

    def load(self) -> Any:
        return Reader(self.stream, ADMITTED, functools.partial(_refuse, self.path), self._storage).load()

    def _storage(self, identity: Any) -> _Storage:
        kind, dtype, key, _, size, *view = identity
        if kind != "storage" or any(part is not None for part in view) or type(size) is not int or size < 0:
            raise ValueError("a storage of another kind")
        return self.known.setdefault(key, _Storage(key, DTYPES[dtype], size))


def _archive(path: Path) -> tuple[Any, Span]:
    """The pickle in an archive, and what reads a storage, which lies there as it is."""
    with zipfile.ZipFile(path) as archive:
        parts = {part.filename.partition("/")[2]: part for part in archive.infolist()}
        if "byteorder" in parts and archive.read(parts["byteorder"]) != b"little":
            raise ValueError("numbers of another byte order")
        pickles = _Pickles(path, io.BytesIO(archive.read(parts["data.pkl"])), {})
        table = pickles.load()
        for storage in pickles.known.values():
            part = parts[f"data/{storage.key}"]
            if part.compress_type != zipfile.ZIP_STORED or part.file_size != storage.bytes:
                raise ValueError(f"{part.file_size} bytes of storage {storage.key}")

    def span(storage: _Storage) -> np.ndarray:
        with zipfile.ZipFile(path) as archive:
            return np.frombuffer(archive.read(parts[f"data/{storage.key}"]), storage.dtype)

    return table, span


def _old(path: Path) -> tuple[Any, Span]:
    """The fourth of a row of pickles, and what reads a storage of those behind the fifth, each after its size."""
    with open(path, "rb") as stream:
        pickles = _Pickles(path, stream, {})
        if (pickles.load(), pickles.load()) != (MAGIC, PROTOCOL) or pickles.load()["little_endian"] is not True:
            raise ValueError("no file of torch, or of another byte order")
        table, keys, starts = pickles.load(), pickles.load(), {}
        for key in keys:
            size, storage = int.from_bytes(stream.read(8), "little"), pickles.known[key]
            if size != storage.size:
                raise ValueError(f"{size} numbers in storage {key}")
            starts[key] = stream.tell()
            stream.seek(storage.bytes, io.SEEK_CUR)
        if pickles.known.keys() != starts.keys() or stream.tell() > path.stat().st_size:
            raise ValueError("it is cut")

    def span(storage: _Storage) -> np.ndarray:
        return np.fromfile(path, storage.dtype, storage.size, offset=starts[storage.key])

    return table, span


def _refuse(path: Path, name: str) -> NoReturn:
    fail(f"{path}: holds more than tensors ({name}), which is never run; give it as model.safetensors")


def _damaged(path: Path, error: Exception) -> NoReturn:
    raise UserError(f"{path}: damaged ({error}); restore it or download it again") from error
