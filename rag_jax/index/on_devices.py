"""Exact search as a part of a larger program: vectors and passages lie split over all devices that share a step.

Nothing leaves the devices between a question and its passages. Every function runs where a device has rows of its own
(parallel.Across), and knows the others through `across`.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, Generic, NamedTuple, TypeVar

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
from rag_jax.progress import blocks

Leaf = TypeVar("Leaf")  # an array of jax, one of numpy that will become one, or its shape


class Rows(NamedTuple, Generic[Leaf]):
    """Which passages a device has, `held` of them from `start` on, and their vectors; what is behind is padding.

    As all arrays here, with one more axis in front where that is not mapped away.
    """

    start: Leaf
    held: Leaf
    vector_NE: Leaf


class Texts(NamedTuple, Generic[Leaf]):
    """The passages' generator tokens, one behind the other: of each the title's, then the text's, as many as fit.

    start_N: where a passage's begin; title_N, text_N: how many it would have.
    """

    token_F: Leaf
    start_N: Leaf
    title_N: Leaf
    text_N: Leaf


class Documents(NamedTuple):
    """What is read of the passages that were found: vectors in the stored dtype, tokens, and their numbers."""

    vector_BKE: jax.Array
    token_BKP: jax.Array
    title_BK: jax.Array
    text_BK: jax.Array


def winners(
    across: Across, rows: Rows[jax.Array], query_BE: jax.Array, *, k: int, recall: float = 1.0
) -> tuple[jax.Array, jax.Array]:
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


def fetch(
    across: Across, rows: Rows[jax.Array], texts: Texts[jax.Array], id_BK: jax.Array, *, tokens: int
) -> Documents:
    """The passages of this device's ids, from whichever devices have them; zeros where there is none."""
    start, count, vector_NE = _plain(rows)
    token_F, start_N, title_N, text_N = (array.reshape(-1) for array in texts)
    id_AK = across.gather(id_BK) - start
    mine_AK = (id_AK >= 0) & (id_AK < count)
    row_AK = jnp.where(mine_AK, id_AK, 0)

    def one(row: jax.Array) -> tuple[jax.Array, jax.Array]:
        token_P = jax.lax.dynamic_slice_in_dim(token_F, start_N[row], tokens)
        return jax.lax.dynamic_slice_in_dim(vector_NE, row, 1)[0], token_P.astype(jnp.int32)

    # One after the other: to gather from an array of that size, XLA would copy it on a TPU, in fp32.
    vector_RE, token_RP = jax.lax.map(one, row_AK.reshape(-1))
    vector_AKE, token_AKP = (found.reshape(*row_AK.shape, -1) for found in (vector_RE, token_RP))

    def of_all(found: jax.Array) -> jax.Array:
        mine = mine_AK.reshape(*mine_AK.shape, *[1] * (found.ndim - 2))
        return _own(across, id_BK.shape[0], across.sum(jnp.where(mine, found, jnp.zeros_like(found))))

    return Documents(*map(of_all, (vector_AKE, token_AKP, title_N[row_AK], text_N[row_AK])))


class OnDevices:
    """An index's vectors and its passages' tokens on all devices of a step; also a searcher of its own.

    tokens: of the generator's source, as many of a passage as can be needed; vocabulary: the ids there are. All
    processes search together.
    """

    def __init__(
        self,
        vectors: Vectors,
        passages: PassageStore,
        parallel: Devices,
        *,
        tokens: int,
        vocabulary: int,
        recall_target: float = 1.0,
    ):
        count = len(vectors)
        if count > LIMIT:
            fail(f"exact index: {count} passages; at most {LIMIT} have int32 ids; use index.kind = 'scann'")
        share = -(-count // len(parallel.devices))
        held = padded(share)
        self._parallel, self._recall = parallel, recall_target
        self._programs: dict[int, Callable[..., Any]] = {}  # by k
        starts = [min(number * share, count) for number in range(len(parallel.devices) + 1)]
        own = [range(*pair) for pair in pairwise(starts)]
        longest = max(int(_kept(passages, numbers, tokens).sum()) for numbers in own)
        if longest + tokens > LIMIT:
            fail(
                f"exact index: {longest:,} tokens of passages on a device; at most {LIMIT - tokens:,} have int32 "
                "places; use more devices, retrieval.lag = 1 or index.kind = 'scann'"
            )
        dtype = np.uint16 if vocabulary <= 1 << 16 else np.int32

        def rows(device: int) -> Rows[np.generic | np.ndarray]:
            numbers = own[device]
            return Rows(
                np.int32(numbers.start), np.int32(len(numbers)), read(vectors, numbers.start, len(numbers), held)
            )

        def texts(device: int) -> Texts[np.ndarray]:
            return _texts(passages, own[device], held, tokens, np.zeros(longest + tokens, dtype))

        self.rows, self.texts = parallel.put_parts(rows), parallel.put_parts(texts)

    def search(self, vector_BE: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (id_BK int64, score_BK fp32) as index.exact.ExactSearcher does, for this process's questions."""
        vector_BE, devices = np.asarray(vector_BE, np.float32), len(self._parallel.local)
        rows = -(-bucket(len(vector_BE)) // devices) * devices
        padded_BE = np.pad(vector_BE, ((0, rows - len(vector_BE)), (0, 0)))
        if k not in self._programs:
            self._programs[k] = self._parallel.each(partial(winners, k=k, recall=self._recall))
        found = self._programs[k](self.rows, self._parallel.put_batch(padded_BE))
        score_BK, id_BK = (array[: len(vector_BE)] for array in self._parallel.to_host(found))
        return id_BK.astype(np.int64), score_BK


def _kept(passages: PassageStore, numbers: range, tokens: int) -> np.ndarray:
    """How many tokens of each passage are kept."""
    return np.minimum(sum(passages.token_counts(numbers)), tokens)


def _texts(passages: PassageStore, numbers: range, held: int, tokens: int, token_F: np.ndarray) -> Texts[np.ndarray]:
    start_N, title_N, text_N = np.zeros((3, held), np.int32)
    kept, at = _kept(passages, numbers, tokens), 0
    start_N[: len(numbers)] = np.cumsum(kept) - kept
    title_N[: len(numbers)], text_N[: len(numbers)] = passages.token_counts(numbers)
    for first in blocks(len(numbers), BLOCK, "index", "passages read for a device"):
        for pair in passages.tokens_of(numbers[first : first + BLOCK]):
            whole = np.concatenate(pair)[:tokens]
            token_F[at : at + len(whole)] = whole
            at += len(whole)
    return Texts(token_F, start_N, title_N, text_N)


def _plain(rows: Rows[jax.Array]) -> Rows[jax.Array]:
    vector_NE = rows.vector_NE
    return Rows(rows.start.reshape(()), rows.held.reshape(()), vector_NE.reshape(vector_NE.shape[-2:]))


def _own(across: Across, rows: int, array: jax.Array) -> jax.Array:
    """Of an array [A, ...] that all devices have, this one's rows."""
    return jax.lax.dynamic_slice_in_dim(array, across.index() * rows, rows)
