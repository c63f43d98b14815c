"""Maximum inner product search: a blocked product with a running top-k, and the merge of shard winners.

The order is total, higher score first, then lower passage id: the answer does not depend on blocks or shards.
Places without a passage (k larger than the corpus) hold id -1 and score -inf.
"""

from functools import partial

import jax.numpy as jnp
from jax import lax

MISSING = -1


def topk(query_BE, vector_NE, k: int, *, count=None, block: int = 8192, recall: float = 1.0, of: int = -1):
    """Returns (score_BK fp32, id_BK int32): the k rows of `vector_NE` with the largest inner products.

    Only [B, block] scores exist at a time. `vector_NE` may be bf16: a block is widened when its turn comes.
    The product runs at HIGHEST precision: DPR scores lie near 70 with gaps of 0.5, which bf16 passes blur.
    count: rows from there on are no passages; traced, so that one program serves every number of them.
    recall: below 1, a TPU finds a block's best by TPU-KNN (arXiv:2206.14286), faster, so that this share of the k is
    expected among the k best of all rows that are searched, here or elsewhere: `of`, padding included. Ties then come
    in any order. Other devices stay exact.
    """
    N = vector_NE.shape[0]
    block = min(block, N)
    query_BE = query_BE.astype(jnp.float32)
    starts = jnp.arange(0, N, block, dtype=jnp.int32)

    if recall < 1:
        best_of = partial(lax.approx_max_k, k=min(k, block), recall_target=recall, reduction_input_size_override=of)
    else:
        best_of = partial(lax.top_k, k=min(k, block))

    def fold(best, start):
        # The last block is moved back to end at row N; its rows below `start` were seen before: masked.
        first = jnp.minimum(start, N - block)
        vector_CE = lax.dynamic_slice_in_dim(vector_NE, first, block).astype(jnp.float32)
        score_BC = jnp.einsum("be,ce->bc", query_BE, vector_CE, precision=lax.Precision.HIGHEST)
        id_C = first + jnp.arange(block, dtype=jnp.int32)
        there_C = id_C >= start if count is None else (id_C >= start) & (id_C < count)
        score_BC = jnp.where(there_C[None, :], score_BC, -jnp.inf)
        score_BK, position_BK = best_of(_positive_zero(score_BC))
        return _keep_first(best, (score_BK, first + position_BK.astype(jnp.int32)), k), None

    best, _ = lax.scan(fold, _nothing(query_BE.shape[0], k), starts)
    return best


def merge(score_SBK, id_SBK):
    """Returns (score_BK, id_BK): the K best of the winners of S shards, whose ids are already global."""
    S, B, K = score_SBK.shape
    id_BM = jnp.moveaxis(id_SBK, 0, 1).reshape(B, S * K)
    score_BM = jnp.moveaxis(score_SBK, 0, 1).reshape(B, S * K)
    # Missing places carry -inf; the largest id makes them last among equals.
    order_BM = jnp.where(id_BM == MISSING, jnp.iinfo(id_BM.dtype).max, id_BM)
    negated_BM, _, id_BM = lax.sort((_positive_zero(-score_BM), order_BM, id_BM), dimension=1, num_keys=2)
    return _positive_zero(-negated_BM[:, :K]), id_BM[:, :K]


def _nothing(B: int, k: int):
    return jnp.full((B, k), -jnp.inf, jnp.float32), jnp.full((B, k), MISSING, jnp.int32)


def _keep_first(best, new, k: int):
    """Top k of (best, new): `best` has lower ids and stands first; lax.top_k keeps the earlier of equals."""
    score_BM, id_BM = (jnp.concatenate(pair, axis=1) for pair in zip(best, new, strict=True))
    score_BK, position_BK = lax.top_k(score_BM, k)
    id_BK = jnp.take_along_axis(id_BM, position_BK, axis=1)
    return score_BK, jnp.where(score_BK == -jnp.inf, MISSING, id_BK)


def _positive_zero(score):
    """Turns -0.0 into 0.0, which XLA's total order would otherwise rank below it."""
    return jnp.where(score == 0, 0.0, score)
