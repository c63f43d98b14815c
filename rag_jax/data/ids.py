"""Which ids have been seen, of a corpus that does not fit into memory."""

import hashlib
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

CHUNK = 65536


class IdSet:
    """A set of ids that keeps 8 bytes of each: sorted runs of hashes, merged as they grow.

    Two different ids out of 21 million share a hash with a probability of 1 in 80,000; the later one then counts as
    repeated.
    """

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._runs: list[np.ndarray] = []
        stream = iter(ids)
        while chunk := list(itertools.islice(stream, CHUNK)):
            self.add(chunk)

    def add(self, ids: Sequence[str]) -> np.ndarray:
        """Adds ids; for each, whether it was new: bool [len(ids)]."""
        hashes = _hashes(ids)
        unique, first = np.unique(hashes, return_index=True)
        old = self._held(unique)
        new = np.zeros(len(ids), bool)
        new[first[~old]] = True
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


def _hashes(ids: Sequence[str]) -> np.ndarray:
    return np.frombuffer(b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in ids), np.uint64)
