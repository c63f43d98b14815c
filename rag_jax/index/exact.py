"""Exact search on the accelerators: vectors lie split over the process's devices, each finds its winners."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.core.bucket import bucket
from rag_jax.core.topk import MISSING, merge, topk
from rag_jax.errors import fail
from rag_jax.index.vectors import Vectors

BLOCK = 8192  # passages scored at a time; also the least that is worth a further device
LIMIT = 2**31 - 1  # ids are int32 on a device


class ExactSearcher:
    """All vectors on the devices, in their stored dtype; compiled once per k and power of two of questions."""

    def __init__(self, vectors: Vectors, *, devices: Sequence[jax.Device] | None = None, block: int = BLOCK):
        N = len(vectors)
        if N > LIMIT:
            fail(f"exact index: {N} passages; at most {LIMIT} have int32 ids; use index.kind = 'scann'")
        devices = jax.local_devices() if devices is None else list(devices)
        rows = max(-(-N // len(devices)), min(block, N))
        self._block = block
        self._shards = []
        for device, start in zip(devices, range(0, N, rows), strict=False):
            shard_NE = vectors.read(start, min(start + rows, N))
            self._shards.append(jax.device_put((shard_NE, np.int32(start)), device))
        self._devices = devices[: len(self._shards)]

    def search(self, vector_BE: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (id_BK int64, score_BK fp32), best first, ties by lower id; -1 and -inf past the corpus."""
        vector_BE = np.asarray(vector_BE, np.float32)
        count = len(vector_BE)
        vector_BE = np.pad(vector_BE, ((0, bucket(count) - count), (0, 0)))
        winners = [
            _search(jax.device_put(vector_BE, device), *shard, k=k, block=self._block)
            for device, shard in zip(self._devices, self._shards, strict=True)
        ]
        best = winners[0] if len(winners) == 1 else _merge(*jax.device_put(winners, self._devices[0]))
        score_BK, id_BK = jax.device_get(best)
        return id_BK[:count].astype(np.int64), score_BK[:count]


@partial(jax.jit, static_argnames=("k", "block"))
def _search(query_BE, vector_NE, start, *, k: int, block: int):
    score_BK, id_BK = topk(query_BE, vector_NE, k, block=block)
    return score_BK, jnp.where(id_BK == MISSING, MISSING, id_BK + start)


@jax.jit
def _merge(*winners):
    return merge(*(jnp.stack(part) for part in zip(*winners, strict=True)))
