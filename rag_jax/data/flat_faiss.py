"""Vectors and ids in a flat faiss file, memory-mapped; other kinds of index hold no exact vectors and are refused.

The file is read here and not by faiss, which believes what a file says of its sizes: a damaged one ends the process.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from rag_jax.errors import fail

FIRST_BYTES = (b"Ix", b"IH", b"Iw")  # of flat indexes and id maps; of HNSW; of inverted lists
FLAT, ID_MAP = (b"IxFI", b"IxF2", b"IxFl"), (b"IxMp", b"IxM2")
OTHERS = {
    b"IHNf": "IndexHNSWFlat", b"IwFl": "IndexIVFFlat", b"IwPQ": "IndexIVFPQ", b"IxPq": "IndexPQ",
    b"IxSQ": "IndexScalarQuantizer",
}  # fmt: skip
HEADER = struct.Struct("<iqqq?i")  # of any index: width, count, two that mean nothing, whether it is trained, metric
LAST_PLAIN_METRIC = 1  # inner product, L2; others have a number more
ROWS = 4096  # vectors in a block


class _File(NamedTuple):
    """Vectors [N, E] and the index's numbers for them, if it has any."""

    vector_NE: np.ndarray
    id_N: np.ndarray | None


def ids(path: Path) -> Iterator[list[str]] | None:
    """Yields the ids of an IndexIDMap as strings, some thousands at a time; None where the index has none."""
    id_N = _open(path).id_N
    if id_N is None:
        return None
    return (list(map(str, id_N[at : at + ROWS].tolist())) for at in range(0, len(id_N), ROWS))


def count(path: Path) -> int:
    """How many vectors the index holds."""
    return len(_open(path).vector_NE)


def vectors(path: Path) -> Iterator[np.ndarray]:
    """Yields blocks [n, E] in the index's order."""
    vector_NE = _open(path).vector_NE
    for start in range(0, len(vector_NE), ROWS):
        yield np.array(vector_NE[start : start + ROWS])  # in the file they may begin at an odd byte


def _open(path: Path) -> _File:
    try:
        with open(path, "rb") as stream:
            kind, count, width = _header(stream)
            mapped = kind in ID_MAP
            if mapped:
                kind, count, width = _header(stream)
            if kind not in FLAT:
                fail(
                    f"{path}: {OTHERS.get(kind, f'an index of kind {kind!r}')}; expected IndexFlatIP, IndexFlatL2 or "
                    "an IndexIDMap of one, which hold vectors as they were; give the vectors that this index was made "
                    "from"
                )
            values = _array(path, stream, np.dtype("<f4"))
            id_N = _array(path, stream, np.dtype("<i8")) if mapped else None
        if count < 0 or width < 1 or len(values) != count * width or (id_N is not None and len(id_N) != count):
            raise ValueError(f"{count} vectors of width {width} do not make {len(values)} numbers")
    except (OSError, OverflowError, ValueError, struct.error) as error:
        fail(f"{path}: cannot be read as a faiss index ({error}); it is cut, damaged or of another kind")
    return _File(values.reshape(count, width), id_N)


def _header(stream: BinaryIO) -> tuple[bytes, int, int]:
    """(kind, count, width) of the index that begins here."""
    kind = stream.read(4)
    if len(kind) < 4:
        raise ValueError("it ends where an index should begin")
    if kind not in (*FLAT, *ID_MAP):
        return kind, 0, 0
    width, count, _, _, _, metric = HEADER.unpack(stream.read(HEADER.size))
    if metric > LAST_PLAIN_METRIC:
        stream.read(4)
    return kind, count, width


def _array(path: Path, stream: BinaryIO, dtype: Any) -> np.ndarray:
    """The numbers that come next, behind how many they are; the stream goes on behind them."""
    (size,) = struct.unpack("<Q", stream.read(8))
    at = stream.tell()
    stream.seek(size * dtype.itemsize, 1)
    return np.memmap(path, dtype, "r", at, (size,)) if size else np.zeros(0, dtype)
