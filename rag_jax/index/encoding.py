"""Passages to vectors: batches of like length, padded to few widths; the next passages are tokenised meanwhile."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rag_jax.progress import Progress

# Tokens: a batch is as wide as its longest passage, rounded up to a multiple of this; each width is a program. Over
# SQuAD's 20,958 paragraphs, cut at 256, padding adds 5% to the tokens; multiples of 8, 32 and 64 add 3%, 10% and 18%.
WIDTH = 16


class Encoder(NamedTuple):
    """How passages become vectors.

    encode: token ids [batch_size, P] -> vectors [batch_size, E], or the same split over devices, [devices, rows, E];
      P is `length` or a smaller multiple of WIDTH; it may return before the devices have finished.
    passage_ids: titles and texts -> their token ids [C, length], padded with `pad_id`, which stands for nothing else.
    """

    encode: Callable[[np.ndarray], Any]
    passage_ids: Callable[[list[str], list[str]], np.ndarray]
    pad_id: int
    length: int
    batch_size: int

    def vectors(self, ids_CP: np.ndarray, work: "Work", check: Callable[[], None]) -> np.ndarray:
        """fp32 vectors [C, E] of passages' ids, in their order; the batches are a pure function of the ids.

        check: called after every batch; may raise, to stop.
        """
        length_C = lengths(ids_CP, self.pad_id)
        work.expect(len(length_C), int(length_C.sum()))
        out: np.ndarray | None = None
        for row_B, found in self._batches(ids_CP, length_C, np.argsort(-length_C, kind="stable")):
            vector_BE = np.asarray(jax.device_get(found))
            vector_BE = vector_BE.reshape(-1, vector_BE.shape[-1])
            if len(vector_BE) != self.batch_size:
                raise ValueError(f"encode returned {len(vector_BE)} vectors; expected {self.batch_size}")
            if out is None:
                out = np.empty((len(ids_CP), vector_BE.shape[1]), np.float32)
            out[row_B] = vector_BE[: len(row_B)]
            work.add(len(row_B), int(length_C[row_B].sum()))
            check()
        assert out is not None  # there is no shard without rows
        return out

    def _batches(
        self, ids_CP: np.ndarray, length_C: np.ndarray, order_C: np.ndarray
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """(rows, vectors) of each batch, one behind: the devices have work while the last vectors are fetched."""
        before = None
        for at in range(0, len(order_C), self.batch_size):
            row_B = order_C[at : at + self.batch_size]
            width = min(-(-length_C[row_B[0]] // WIDTH) * WIDTH, self.length)
            # The last batch, of the shortest, repeats one of them: every batch has the same number of rows.
            filled_B = np.pad(row_B, (0, self.batch_size - len(row_B)), mode="edge")
            found = self.encode(ids_CP[filled_B, :width])
            if before is not None:
                yield before
            before = row_B, found
        if before is not None:
            yield before


def lengths(ids_CP: np.ndarray, pad_id: int) -> np.ndarray:
    """How many tokens each row holds before its padding."""
    return ids_CP.shape[1] - np.argmax(ids_CP[:, ::-1] != pad_id, axis=1)


def ahead(make: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """make(item) of each item in turn; while the caller works on one, a thread makes the next."""
    with ThreadPoolExecutor(1) as thread:
        before: Future | None = None
        for item in items:
            coming = thread.submit(make, item)
            if before is not None:
                yield before.result()
            before = coming
        if before is not None:
            yield before.result()


class Work:
    """How much of encoding `count` passages is done, told now and then; by tokens, as long passages come first."""

    def __init__(self, folder: Path, count: int, log: Callable[[str], None]) -> None:
        self._count, self._done, self._met = count, np.zeros(2), np.zeros(2)  # passages and tokens
        self._progress = Progress(folder, self.share, log, f"of {count:,} passages encoded")

    def expect(self, passages: int, tokens: int) -> None:
        """Counts what comes next; what lies behind it is taken to be as long on average as what was met so far."""
        self._met += passages, tokens

    def add(self, passages: int, tokens: int) -> None:
        """Counts what is encoded."""
        self._done += passages, tokens
        self._progress.show(int(self._done[0]), last=self._done[0] == self._count)

    def share(self) -> float:
        """How much is done, from 0 to 1."""
        return float(self._done[1] / (self._met[1] / self._met[0] * self._count))
