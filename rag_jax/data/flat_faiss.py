"""Vectors and ids in a flat faiss file, memory-mapped; other kinds of index hold no exact vectors and are refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rag_jax.errors import fail

FIRST_BYTES = (b"Ix", b"IH", b"Iw")  # of flat indexes and id maps; of HNSW; of inverted lists
ROWS = 4096  # vectors in a block


class _File(NamedTuple):
    """whole: the index, which owns what is in it; flat: its vectors; id_N: its numbers for them, if it has any."""

    whole: Any
    flat: Any
    id_N: np.ndarray | None


def ids(path: Path) -> Iterator[list[str]] | None:
    """Yields the ids of an IndexIDMap as strings, some thousands at a time; None where the index has none."""
    id_N = _open(path).id_N
    if id_N is None:
        return None
    return (list(map(str, id_N[at : at + ROWS].tolist())) for at in range(0, len(id_N), ROWS))


def count(path: Path) -> int:
    """How many vectors the index holds."""
    return _open(path).flat.ntotal


def vectors(path: Path) -> Iterator[np.ndarray]:
    """Yields blocks [n, E] in the index's order."""
    file = _open(path)
    for start in range(0, file.flat.ntotal, ROWS):
        yield file.flat.reconstruct_n(start, min(ROWS, file.flat.ntotal - start))


def _open(path: Path) -> _File:
    try:
        import faiss
    except ImportError:
        fail(f"{path}: reading it needs the package faiss-cpu; install it with `pip install rag_jax[hub]`")
    try:
        whole = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        said = " ".join(str(error).split()).rpartition("Error: ")[2][:200]
        fail(f"{path}: cannot be read as a faiss index ({said}); it is cut, damaged or of another kind")
    flat, id_N = whole, None
    if isinstance(whole, faiss.IndexIDMap):
        flat, id_N = faiss.downcast_index(whole.index), faiss.vector_to_array(whole.id_map)
    if not isinstance(flat, faiss.IndexFlat):
        fail(
            f"{path}: {type(flat).__name__}; expected IndexFlatIP, IndexFlatL2 or an IndexIDMap of one, which hold "
            "vectors as they were; give the vectors that this index was made from"
        )
    return _File(whole, flat, id_N)
