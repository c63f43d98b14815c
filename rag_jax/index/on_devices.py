"""Exact search as a part of a larger program: vectors and passages lie split over all devices that share a step.

Nothing leaves the devices between a question and its passages. Every function runs where a device has rows of its own
(parallel.Across), and knows the others through `across`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.core.bucket import bucket
from rag_jax.core.topk import MISSING, merge, topk
from rag_jax.data.passages import PassageStore
from rag_jax.errors import fail
from rag_jax.index.exact import BLOCK, LIMIT, padded, read
from rag_jax.index.vectors import Vectors
from rag_jax.parallel import Across, Devices


class Rows(NamedTuple):
    """Which passages a device has, `count` of them from `start` on, and their vectors; what is behind is padding.

    With one more axis in front where it is not mapped away: all functions here look through it.
    """

    start: jax.Array
    count: jax.Array
    vector_NE: jax.Array


class Texts(NamedTuple):
    """The passages' generator tokens: the title's, then the text's, as many as fit; and how many each would have."""

    token_NP: jax.Array
    title_N: jax.Array
    text_N: jax.Array


def winners(across: Across, rows: Rows, query_BE: jax.Array, *, k: int, recall: float = 1.0) -> tuple[Any, Any]:
    """Returns (score_BK fp32, id_BK int32) of this device's questions among the passages of all; as core.topk."""
    start, count, vector_NE = _plain(rows)
    held = vector_NE.shape[0]
    query_AE = across.gather(query_BE)
    devices = query_AE.shape[0] // query_BE.shape[0]
    score_AK, id_AK = topk(query_AE, vector_NE, k, count=count, block=BLOCK, recall=recall, of=held * devices)
    id_AK = jnp.where(id_AK == MISSING, MISSING, id_AK + start)
    score_AK, id_AK = merge(across.gather(score_AK[None]), across.gather(id_AK[None]))
    own = partial(_own, across, query_BE.shape[0])
    return own(score_AK), own(id_AK)


def fetch(across: Across, rows: Rows, table: Any, id_BK: jax.Array) -> Any:
    """The rows of a tree of arrays [N, ...], split as `rows` are, for this device's ids; zeros where there is none."""
    start, count, _ = _plain(rows)
    id_AK = across.gather(id_BK) - start
    mine_AK = (id_AK >= 0) & (id_AK < count)
    row_AK = jnp.where(mine_AK, id_AK, 0)

    def rows_of(array: jax.Array) -> jax.Array:
        found = _flat(array, rows)[row_AK]
        mine = mine_AK.reshape(*mine_AK.shape, *[1] * (found.ndim - 2))
        return _own(across, id_BK.shape[0], across.sum(jnp.where(mine, found, jnp.zeros_like(found))))

    return jax.tree.map(rows_of, table)


class OnDevices:
    """An index's vectors, and its passages' tokens if asked for, on all devices of a step; also a searcher of its own.

    tokens: of the generator's source, as many of a passage as can be needed. All processes search together.
    """

    def __init__(
        self, vectors: Vectors, passages: PassageStore, parallel: Devices, *, tokens: int, recall_target: float = 1.0
    ):
        count = len(vectors)
        if count > LIMIT:
            fail(f"exact index: {count} passages; at most {LIMIT} have int32 ids; use index.kind = 'scann'")
        share = -(-count // len(parallel.devices))
        held = padded(share)
        self._parallel, self._programs, self._recall = parallel, {}, recall_target

        def rows(device: int) -> Rows:
            start = min(device * share, count)
            own = min(share, count - start)
            return Rows(np.int32(start), np.int32(own), read(vectors, start, own, held))

        def texts(device: int) -> Texts:
            start = min(device * share, count)
            return _texts(passages, range(start, start + min(share, count - start)), held, tokens)

        self.rows, self.texts = parallel.put_parts(rows), parallel.put_parts(texts)

    def search(self, vector_BE: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (id_BK int64, score_BK fp32) as index.exact.ExactSearcher does, for this process's questions."""
        vector_BE, devices = np.asarray(vector_BE, np.float32), len(self._parallel.local)
        rows = -(-bucket(len(vector_BE)) // devices) * devices
        padded_BE = np.pad(vector_BE, ((0, rows - len(vector_BE)), (0, 0)))
        if k not in self._programs:
            find = partial(winners, k=k, recall=self._recall)
            self._programs[k] = self._parallel.each(lambda across, rows, query_BE: find(across, rows, query_BE))
        found = self._programs[k](self.rows, self._parallel.put_batch(padded_BE))
        score_BK, id_BK = (array[: len(vector_BE)] for array in self._parallel.to_host(found))
        return id_BK.astype(np.int64), score_BK


def _texts(passages: PassageStore, numbers: range, held: int, tokens: int) -> Texts:
    found = [passages.tokens_of(numbers[at : at + BLOCK]) for at in range(0, len(numbers), BLOCK)]
    pairs = [pair for block in found for pair in block]
    token_NP = np.zeros((held, tokens), np.int32)
    lengths = np.zeros((2, held), np.int32)
    for row, (title, text) in enumerate(pairs):
        whole = np.concatenate([title, text])[:tokens]
        token_NP[row, : len(whole)] = whole
        lengths[:, row] = len(title), len(text)
    return Texts(token_NP, *lengths)


def _plain(rows: Rows) -> Rows:
    return Rows(rows.start.reshape(()), rows.count.reshape(()), _flat(rows.vector_NE, rows))


def _flat(array: jax.Array, rows: Rows) -> jax.Array:
    return array.reshape(array.shape[rows.start.ndim :])


def _own(across: Across, rows: int, array: jax.Array) -> jax.Array:
    """Of an array [A, ...] that all devices have, this one's rows."""
    return jax.lax.dynamic_slice_in_dim(array, across.index() * rows, rows)
