"""Which ids have been seen, and in which rows, of a corpus that does not fit into memory."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

CHUNK = 65536


class IdSet:
    """A set of ids that keeps 8 bytes of each: sorted runs of hashes, merged as they grow.

    Two different ids out of 21 million share a hash with a probability of 1 in 80,000; the later one then counts as
    repeated.
    """

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._runs: list[np.ndarray] = []
        for chunk in _chunks(ids):
            self.add(chunk)

    def add(self, ids: Sequence[str]) -> np.ndarray:
        """Adds ids; for each, whether it was new: bool [len(ids)]."""
        hashes = _hashes(ids)
        unique, first = np.unique(hashes, return_index=True)
        old = self._held(unique)
        new = np.zeros(len(ids), bool)
        new[first[~old]] = True
        if not old.all():
            self._runs.append(unique[~old])
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            merged = np.concatenate([self._runs.pop(), self._runs.pop()])
            merged.sort(kind="stable")  # which knows sorted runs
            self._runs.append(merged)
        return new

    def holds(self, ids: Sequence[str]) -> np.ndarray:
        """For each id, whether it is in the set: bool [len(ids)]."""
        return self._held(_hashes(ids)) if self._runs else np.zeros(len(ids), bool)

    def _held(self, hashes: np.ndarray) -> np.ndarray:
        held = np.zeros(len(hashes), bool)
        for run in self._runs:
            if len(run):
                held |= run[np.minimum(np.searchsorted(run, hashes), len(run) - 1)] == hashes
        return held


class IdRows:
    """The row of each id of a corpus, whose ids differ: 16 bytes an id, compared by hash as in IdSet."""

    def __init__(self, ids: Iterable[str]) -> None:
        hashes = np.concatenate([_hashes(chunk) for chunk in _chunks(ids)])
        self._row = np.argsort(hashes)
        self._hash = hashes[self._row]

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """For each id its row, -1 where the corpus has none such: int64 [len(ids)]."""
        hashes = _hashes(ids)
        place = np.minimum(np.searchsorted(self._hash, hashes), len(self._hash) - 1)
        return np.where(self._hash[place] == hashes, self._row[place], -1)


def _chunks(ids: Iterable[str]) -> Iterator[list[str]]:
    stream = iter(ids)
    while chunk := list(itertools.islice(stream, CHUNK)):
        yield chunk


def _hashes(ids: Sequence[str]) -> np.ndarray:
    return np.frombuffer(b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in ids), np.uint64)
