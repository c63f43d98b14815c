"""Passage vectors on disk: npy shards, memory-mapped; a block's CRC is checked when it is first read."""

import zlib
from pathlib import Path
from typing import Protocol

import ml_dtypes
import numpy as np

from rag_jax.errors import fail
from rag_jax.files import write_atomically
from rag_jax.progress import counted

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
VECTORS = "vectors-"  # what the names of their files begin with
BLOCK = 256  # rows under one CRC: a random read touches at most this many


def shard_path(folder: str | Path, shard: int) -> Path:
    """Where shard number `shard` lies; it is there only when it is whole."""
    return Path(folder) / f"{VECTORS}{shard:05d}.npy"


def write_shard(folder: Path, shard: int, vector_CE: np.ndarray) -> None:
    """Writes the CRCs, then the vectors, each atomically: a shard that exists is whole and has its CRCs."""
    _save(crc_path(folder, shard), _crcs(vector_CE))
    _save(shard_path(folder, shard), vector_CE)


def is_whole(folder: Path, shard: int) -> bool:
    """Whether shard number `shard` is there, with every block as it was written."""
    try:
        vector_CE = np.load(shard_path(folder, shard), mmap_mode="r", allow_pickle=False)
        return np.array_equal(_crcs(vector_CE), np.load(crc_path(folder, shard), allow_pickle=False))
    except Exception:  # numpy parses a header as Python, and raises whatever that may raise
        return False


def first_not_finite(vector_CE: np.ndarray) -> int | None:
    """The first row with an infinite number or none at all; None where all is well."""
    bad = np.flatnonzero(~np.isfinite(vector_CE.astype(np.float32)).all(axis=1))
    return int(bad[0]) if len(bad) else None


class Stored(Protocol):
    """Vectors [N, E] that are read where they are touched: those of an index, or a part of them."""

    shape: tuple[int, int]
    dtype: np.dtype

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> np.ndarray: ...

    def gather(self, id_: np.ndarray) -> np.ndarray: ...


class Vectors:
    """The [N, E] vectors of an index, read where they are touched.

    Raises UserError that names the file when a shard is missing, has another shape or holds flipped bits.
    """

    def __init__(self, folder: str | Path, count: int, width: int, dtype: str, shard_size: int):
        self.shape = (count, width)
        self.dtype = DTYPES[dtype]
        self._shard_size = shard_size
        starts = range(0, count, shard_size)
        self._paths = [shard_path(folder, shard) for shard in range(len(starts))]
        rows = [min(shard_size, count - start) for start in starts]
        self._shards = [_map(p, (n, width), self.dtype) for p, n in zip(self._paths, rows, strict=True)]
        self._crcs = [_map(crc_path(folder, i), (-(-n // BLOCK),), np.dtype(np.uint32)) for i, n in enumerate(rows)]
        self._checked = [np.zeros(len(crc), bool) for crc in self._crcs]

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) in the stored dtype."""
        parts = []
        for shard in range(start // self._shard_size, -(-stop // self._shard_size)):
            first = shard * self._shard_size
            rows = slice(max(start - first, 0), min(stop - first, len(self._shards[shard])))
            self._check(shard, np.arange(rows.start // BLOCK, -(-rows.stop // BLOCK)))
            parts.append(self._shards[shard][rows])
        return np.concatenate(parts) if len(parts) > 1 else np.array(parts[0])

    def gather(self, id_: np.ndarray) -> np.ndarray:
        """fp32 vectors [..., E] of int ids [...]; a missing passage (-1) gets the zero vector."""
        id_ = np.asarray(id_)
        flat = id_.reshape(-1)
        if flat.size and not -1 <= flat.min() <= flat.max() < len(self):
            raise IndexError(f"passage ids from {flat.min()} to {flat.max()} in an index of {len(self)} passages")
        out = np.zeros((flat.size, self.shape[1]), np.float32)
        shards = np.where(flat >= 0, flat // self._shard_size, -1)
        for shard in np.unique(shards[shards >= 0]):
            places = np.flatnonzero(shards == shard)
            rows = flat[places] - shard * self._shard_size
            self._check(shard, np.unique(rows // BLOCK))
            out[places] = self._shards[shard][rows]
        return out.reshape(*id_.shape, self.shape[1])

    def check(self) -> None:
        """Reads every block; raises UserError naming a damaged one."""
        folder, total = self._paths[0].parent, len(self._crcs)
        for shard, crc in enumerate(counted(self._crcs, total, folder, "files of vectors compared")):
            self._check(shard, np.arange(len(crc)))

    def _check(self, shard: int, blocks: np.ndarray) -> None:
        for block in blocks[~self._checked[shard][blocks]]:
            rows = self._shards[shard][block * BLOCK : (block + 1) * BLOCK]
            if _crc(rows) != self._crcs[shard][block]:
                first = block * BLOCK
                fail(
                    f"{self._paths[shard]}: rows {first} to {first + len(rows) - 1} are damaged (checksum); "
                    "restore the file, or delete the index and build it again with "
                    "`python -m rag_jax.build_index`"
                )
            self._checked[shard][block] = True


def _crc(rows: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(rows).view(np.uint8).data)


def _crcs(vector_CE: np.ndarray) -> np.ndarray:
    return np.array([_crc(vector_CE[at : at + BLOCK]) for at in range(0, len(vector_CE), BLOCK)], np.uint32)


def crc_path(folder: str | Path, shard: int) -> Path:
    """Where the CRCs of shard number `shard` lie."""
    return Path(folder) / f"{VECTORS}{shard:05d}.crc.npy"


def _save(path: Path, array: np.ndarray) -> None:
    def save(temporary: Path) -> None:
        with open(temporary, "wb") as stream:
            np.save(stream, array)

    write_atomically(path, save)


def _map(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Memory-maps an npy file; numpy stores bf16 as raw two-byte items, so a view puts the dtype back."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        array = array.view(dtype) if array.dtype.itemsize == dtype.itemsize else array
    except Exception as error:  # as in is_whole
        fail(f"{path}: cannot be read as an array ({error}); restore it or build the index again")
    if array.shape != shape or array.dtype != dtype:
        fail(f"{path}: {array.dtype} {list(array.shape)}; expected {dtype} {list(shape)}; build it again")
    return array
