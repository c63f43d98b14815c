"""Exact search on the accelerators: vectors lie split over the process's devices, each finds its winners."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.core.bucket import bucket
from rag_jax.core.topk import MISSING, merge, topk
from rag_jax.errors import fail
from rag_jax.index.vectors import Stored
from rag_jax.progress import blocks

BLOCK = 8192  # passages scored at a time; also the least that is worth a further device
LIMIT = 2**31 - 1  # ids are int32 on a device


def parameters(overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """How to search: recall_target, 1 for exact search; below it see core.topk."""
    chosen = {"recall_target": 1.0, **(overrides or {})}
    if not 0 < chosen["recall_target"] <= 1:
        fail(f"index.recall_target: {chosen['recall_target']}; expected more than 0, at most 1")
    return chosen


class ExactSearcher:
    """All vectors on the devices, in their stored dtype.

    A program is compiled once per k, power of two of questions and size of a device's share, which is padded to few.
    """

    def __init__(
        self,
        vectors: Stored,
        *,
        recall_target: float = 1.0,
        devices: Sequence[jax.Device] | None = None,
        block: int = BLOCK,
    ):
        N = len(vectors)
        if N > LIMIT:
            fail(f"exact index: {N} passages; at most {LIMIT} have int32 ids; use index.kind = 'scann'")
        devices = jax.local_devices() if devices is None else list(devices)
        rows = max(-(-N // len(devices)), min(block, N))
        held = padded(rows, block)
        self._shards = []
        for device, start in zip(devices, range(0, N, rows), strict=False):
            count = min(rows, N - start)
            shard_NE = read(vectors, start, count, held)
            self._shards.append(jax.device_put((shard_NE, np.int32(start), np.int32(count)), device))
        self._devices = devices[: len(self._shards)]
        self._search = partial(search_shard, block=block, recall=recall_target, of=held * len(self._shards))

    def search(self, vector_BE: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (id_BK int64, score_BK fp32), best first, ties by lower id; -1 and -inf past the corpus."""
        vector_BE = np.asarray(vector_BE, np.float32)
        count = len(vector_BE)
        vector_BE = np.pad(vector_BE, ((0, bucket(count) - count), (0, 0)))
        winners = [
            self._search(jax.device_put(vector_BE, device), *shard, k=k)
            for device, shard in zip(self._devices, self._shards, strict=True)
        ]
        best = winners[0] if len(winners) == 1 else _merge(*jax.device_put(winners, self._devices[0]))
        score_BK, id_BK = jax.device_get(best)
        return id_BK[:count].astype(np.int64), score_BK[:count]


def padded(rows: int, block: int = BLOCK) -> int:
    """The rows that a device holds for so many passages: few sizes, at most an eighth of it empty above 8 blocks."""
    if rows <= block:
        return min(bucket(rows), block)
    step = max(block, bucket(rows) // 16)
    return -(-rows // step) * step


def read(vectors: Stored, start: int, count: int, rows: int) -> np.ndarray:
    """Vectors [rows, E] from `start` on, `count` of them and then zeros, with no second copy in memory."""
    shard_NE = np.zeros((rows, vectors.shape[1]), vectors.dtype)
    for at in blocks(count, BLOCK, "index", "vectors read for a device"):
        stop = min(at + BLOCK, count)
        shard_NE[at:stop] = vectors.read(start + at, start + stop)
    return shard_NE


@partial(jax.jit, static_argnames=("k", "block", "recall", "of"))
def search_shard(query_BE, vector_NE, start, count, *, k: int, block: int, recall: float, of: int):
    """(score_BK, id_BK) of the best of a device's share: `count` passages from `start` on, then padding; see topk."""
    score_BK, id_BK = topk(query_BE, vector_NE, k, count=count, block=block, recall=recall, of=of)
    return score_BK, jnp.where(id_BK == MISSING, MISSING, id_BK + start)


@jax.jit
def _merge(*winners):
    return merge(*(jnp.stack(part) for part in zip(*winners, strict=True)))
