"""Vectors that exist already, in place of encoding: aligned with the passages by id, a sample of them encoded again."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rag_jax.data.embeddings import Embeddings
from rag_jax.data.ids import IdRows
from rag_jax.data.passages import PassageStore
from rag_jax.errors import fail
from rag_jax.files import writing
from rag_jax.index.vectors import DTYPES, first_not_finite
from rag_jax.progress import counted

# Between what half precision does to a real encoder's vectors (cosine 0.99994, norm 0.3%) and what the smallest mistake
# does, another framing of the title (0.995, 2.4%): tests/benchmarks/given.py.
SAMPLE, LEAST_COSINE, MOST_NORM = 64, 0.999, 0.02
SHOWN = 3
ROW_BYTES = 8  # of the row number before a vector that waits
PREFIX = "wiki:"  # DPR puts it before the ids of its own corpus
MEND = (
    "are they of these passages? try other settings of encoder.title, encoder.passage_prefix or length.passage, or "
    "the encoder that made them with --index_encoder"
)


class Given:
    """The vectors of one shard after the other, from a stream in any order.

    A stream in the order of the passages goes straight through. A vector that comes before its shard's turn waits on
    disk: no more is in memory than two shards, a block of the stream and some 40 bytes a passage.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        store: PassageStore,
        recipe: dict[str, Any],
        *,
        first: int,
        log: Callable[[str], None],
    ):
        """recipe: of the index, its 'dtype' and 'shard_size'. first: the row of the first passage without a vector.

        Raises UserError unless every passage has exactly one vector.
        """
        self._source, self._store, self._log = embeddings.source, store, log
        self._row_M = align(embeddings, store, first=first, log=log)
        self._blocks = self._placed(embeddings)
        self._shard_size, self._dtype = recipe["shard_size"], DTYPES[recipe["dtype"]]
        self._early, self._waits_N = set[Path](), np.zeros(len(store), bool)
        self._sample = np.unique(np.linspace(first, len(store) - 1, SAMPLE).astype(np.int64))
        self._compared, self._worst = 0, (1.0, 0.0)

    def shard(self, rows: range, folder: Path, encode: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Vectors [C, E] of `rows`, which lie in one shard; to be called for rising rows.

        folder: where vectors wait that come too early. encode: rows -> their vectors, by the encoder of the index.
        Raises UserError for a vector that is not finite, and where the encoder makes other ones of the sample.
        """
        vector_CE = self._collect(rows, folder)
        if (bad := first_not_finite(vector_CE)) is not None:
            fail(f"{self._source}: the vector of passage {self._store[rows[bad]].id!r} is not finite; make it again")
        sample = self._sample[(rows.start <= self._sample) & (self._sample < rows.stop)]
        if len(sample):
            self._compare(sample, vector_CE[sample - rows.start].astype(np.float32), encode(sample))
        return vector_CE

    def close(self) -> None:
        """Removes what waited for shards that were there already, and says how well the sample agreed."""
        for path in self._early:
            path.unlink()
        if self._compared:
            cosine, norm = self._worst
            self._log(
                f"{self._source}: {self._compared} passages encoded again: cosine at least {cosine:.6f}, norms within "
                f"{100 * norm:.2f}%"
            )

    def _collect(self, rows: range, folder: Path) -> np.ndarray:
        """The vectors of `rows`: those that wait, then the stream's, until all are there."""
        path = folder / f".given-{rows.start // self._shard_size:05d}.tmp"
        waits_C = self._waits_N[rows.start : rows.stop]
        vector_CE: np.ndarray | None = None
        waiting = int(waits_C.sum())
        missing = len(rows) - waiting
        if path in self._early:
            record_WR = np.memmap(path, np.uint8, "r").reshape(waiting, -1)
            row_W = record_WR[:, :ROW_BYTES].copy().view(np.int64)[:, 0]
            vector_CE = np.empty((len(rows), (record_WR.shape[1] - ROW_BYTES) // self._dtype.itemsize), self._dtype)
            vector_CE.view(np.uint8)[row_W - rows.start] = record_WR[:, ROW_BYTES:]
            del record_WR
            path.unlink()
            self._early.remove(path)
        while missing:
            row_R, vector_RE = next(self._blocks)
            if vector_CE is None:
                vector_CE = np.empty((len(rows), vector_RE.shape[1]), self._dtype)
            here = (rows.start <= row_R) & (row_R < rows.stop)
            vector_CE[row_R[here] - rows.start] = vector_RE[here]
            missing -= int(here.sum())
            early = row_R >= rows.stop
            self._set_aside(row_R[early], vector_RE[early], folder)
        assert vector_CE is not None  # there is no shard without rows
        return vector_CE

    def _set_aside(self, row_R: np.ndarray, vector_RE: np.ndarray, folder: Path) -> None:
        """Appends (row, vector) to the files of shards to come; a file is opened for the moment, so that many may be.

        Not through a memory map: where the disk is full, that ends the process without a word.
        """
        self._waits_N[row_R] = True
        record_RB = np.hstack([np.ascontiguousarray(part).view(np.uint8) for part in (row_R[:, None], vector_RE)])
        for shard in np.unique(row_R // self._shard_size):
            path, here = folder / f".given-{shard:05d}.tmp", row_R // self._shard_size == shard
            with writing(path), path.open("ab" if path in self._early else "wb") as stream:
                stream.write(record_RB[here].data)
            self._early.add(path)

    def _placed(self, embeddings: Embeddings) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows of a block, its vectors in the dtype of the index)."""
        done = 0
        for vector_RE in embeddings.vectors():
            row_R = self._row_M[done : done + len(vector_RE)]
            done += len(vector_RE)
            with np.errstate(over="ignore"):  # what becomes infinite is found and named
                stored_RE = vector_RE[: len(row_R)].astype(self._dtype)
            yield row_R, stored_RE
        fail(f"{self._source}: {done:,} vectors, expected {len(self._row_M):,}; the files were changed meanwhile")

    def _compare(self, rows: np.ndarray, given_SE: np.ndarray, again_SE: np.ndarray) -> None:
        if given_SE.shape != again_SE.shape:
            fail(
                f"{self._source}: vectors of width {given_SE.shape[1]}; the passage encoder's have "
                f"{again_SE.shape[1]}; give the encoder that made them, with --index_encoder"
            )
        given_S, again_S = (np.linalg.norm(vectors, axis=1) for vectors in (given_SE, again_SE))
        product_S = np.einsum("SE,SE->S", given_SE, again_SE)
        cosine_S = product_S / np.maximum(given_S * again_S, np.finfo(np.float32).tiny)
        norm_S = np.abs(given_S / np.maximum(again_S, np.finfo(np.float32).tiny) - 1)
        # The one that is furthest from what is allowed.
        worst = int(np.argmax(np.maximum((1 - cosine_S) / (1 - LEAST_COSINE), norm_S / MOST_NORM)))
        cosine, norm = float(cosine_S[worst]), float(norm_S[worst])
        if cosine < LEAST_COSINE or norm > MOST_NORM:
            fail(
                f"{self._source}: passage {self._store[int(rows[worst])].id!r}: its vector has cosine {cosine:.4f} and "
                f"{given_S[worst] / max(again_S[worst], 1e-30):.3f} times the norm of the one that the passage encoder "
                f"makes of it; expected at least {LEAST_COSINE} and 1 within {MOST_NORM}; {MEND}"
            )
        self._compared += len(rows)
        self._worst = min(self._worst[0], float(cosine_S.min())), max(self._worst[1], float(norm_S.max()))


def align(
    embeddings: Embeddings, store: PassageStore, *, first: int = 0, log: Callable[[str], None] = print
) -> np.ndarray:
    """The row of each vector's passage, row_M int64, -1 where the store has none from row `first` on.

    Raises UserError with counts and examples unless each of these passages has exactly one vector; vectors of
    other passages are counted and left out. Without ids the vectors must be as many as the passages.
    """
    needed, chunks = len(store) - first, embeddings.ids()
    if chunks is None:
        if (count := embeddings.count()) != needed:
            fail(
                f"{embeddings.source}: {count:,} vectors without ids for {needed:,} passages; expected as many, or ids "
                "beside them, one a line (as vectors.ids.txt beside vectors.npy)"
            )
        log(f"{embeddings.source}: without ids; its vectors are taken in the order of the passages")
        return np.arange(first, len(store))
    rows = counted(store.ids(), len(store), store.folder, "ids of passages read", log=log)
    known, parts = IdRows(rows), [np.zeros(0, np.int64)]
    others: list[str] = []
    for ids in counted(chunks, needed, embeddings.source, "ids of vectors read", size=len, log=log):
        row_R = known.rows(ids)
        if (row_R < first).any():
            row_R = np.where(row_R < 0, known.rows([name.removeprefix(PREFIX) for name in ids]), row_R)
        row_R[row_R < first] = -1
        if len(others) < SHOWN:
            others += [ids[at] for at in np.flatnonzero(row_R < 0)[:SHOWN]]
        parts.append(row_R)
    row_M = np.concatenate(parts)
    _check_each_once(embeddings.source, store, row_M, first, others)
    if unknown := int((row_M < 0).sum()):
        log(f"{embeddings.source}: left out {unknown:,} vectors of other passages{_as(others)}")
    return row_M


def _check_each_once(source: str, store: PassageStore, row_M: np.ndarray, first: int, others: list[str]) -> None:
    times_N = np.bincount(row_M[row_M >= 0] - first, minlength=len(store) - first)
    wrong = []
    for what, found_N in (("without a vector", times_N == 0), ("with several", times_N > 1)):
        if found_N.any():
            examples = [store[first + int(row)].id for row in np.flatnonzero(found_N)[:SHOWN]]
            wrong.append(f"{int(found_N.sum()):,} of {len(times_N):,} passages {what}{_as(examples)}")
    if wrong:
        strange = f"; of no passage are {int((row_M < 0).sum()):,} vectors{_as(others)}" if others else ""
        fail(f"{source}: {'; '.join(wrong)}{strange}; expected one vector for each passage, by its id")


def _as(examples: list[str]) -> str:
    return f", as {', '.join(map(repr, examples[:SHOWN]))}"
