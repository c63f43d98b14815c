"""Token log-likelihoods from decoder states, never holding the logits of all documents and positions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rag_jax.core.marginal import logsumexp, widen

# Enough rows to fill a matrix unit, and few enough that a small vocabulary's logits stay in a CPU's cache
# (1.6 times as fast as one large block for B=64, K=5, T=12, V=2000); never more than 64 MiB of fp32 logits.
_ROWS_PER_BLOCK = 512
_LOGITS_PER_BLOCK = 1 << 24


class TokenLikelihood(NamedTuple):
    """What a loss needs to know about the vocabulary, one number per position.

    Attributes:
        logp_BKT: log p(y_t | x, z, y_<t), nats.
        mean_logp_BKT: mean over the vocabulary of log p(v | x, z, y_<t); None without smoothing.
        marginal_sum_BT: sum over the vocabulary of log sum_z p(z|x) p(v | x, z, y_<t); None likewise.
        vocabulary: V.
    """

    logp_BKT: Array
    mean_logp_BKT: Array | None
    marginal_sum_BT: Array | None
    vocabulary: int


def token_log_likelihood(
    hidden_BKTD: Array,
    embedding_VD: Array,
    bias_V: Array,
    target_BT: Array,
    prior_BK: Array,
    smoothing: bool = False,
    block: int | None = None,
) -> TokenLikelihood:
    """log p(y_t | x, z, y_<t) = logit of y_t - logsumexp of logits, where logits = hidden embedding^T + bias.

    Only the logsumexp needs all logits: it runs over blocks of positions, each computed again in the backward
    pass, so that no more than one block of logits is ever held. Contractions in fp32, precision HIGHEST.

    Args:
        hidden_BKTD: decoder states of every (question, document).
        embedding_VD, bias_V: the output layer.
        target_BT: token ids in [0, V), shared by a question's documents; mask padding afterwards.
        prior_BK: log p(z|x), used by marginal_sum_BT alone.
        smoothing: whether to compute what label smoothing needs.
        block: positions per block; None for 512 rows of logits, fewer if those would exceed 64 MiB.
    """
    B, K, T, _ = hidden_BKTD.shape
    V = embedding_VD.shape[0]
    hidden_BKTD, embedding_VD, bias_V = widen(hidden_BKTD), widen(embedding_VD), widen(bias_V)

    def over_vocabulary(hidden_BKtD: Array) -> tuple[Array, Array | None]:
        logit_BKtV = jnp.einsum("bktd,vd->bktv", hidden_BKtD, embedding_VD, precision="highest")
        logit_BKtV = logit_BKtV + bias_V[None, None, None, :]
        total_BKt = jax.nn.logsumexp(logit_BKtV, axis=3)
        if not smoothing:
            return total_BKt, None
        joint_BKtV = logit_BKtV + (widen(prior_BK)[:, :, None] - total_BKt)[..., None]
        return total_BKt, jnp.sum(logsumexp(joint_BKtV, axis=1), axis=2)

    block = block or _block(B * K, V)
    total_BKT, marginal_sum_BT = _in_blocks(over_vocabulary, hidden_BKTD, -(-T // block))

    # A product and a sum: exact in fp32 on every device, and next to the logits they cost nothing.
    target_logit_BKT = jnp.sum(hidden_BKTD * embedding_VD[target_BT][:, None], axis=3)
    target_logit_BKT = target_logit_BKT + bias_V[target_BT][:, None]
    mean_logp_BKT = None
    if smoothing:
        mean_D = jnp.mean(embedding_VD, axis=0)[None, None, None, :]
        mean_logp_BKT = jnp.sum(hidden_BKTD * mean_D, axis=3) + jnp.mean(bias_V) - total_BKT
    return TokenLikelihood(target_logit_BKT - total_BKT, mean_logp_BKT, marginal_sum_BT, V)


def log_normaliser(hidden_RTD: Array, embedding_VD: Array, bias_V: Array) -> Array:
    """log sum_v exp(logit of v) at every position, [R, T] in fp32: blocked as above."""
    (R, T, _), V = hidden_RTD.shape, embedding_VD.shape[0]
    embedding_VD, bias_V = widen(embedding_VD), widen(bias_V)

    def total(hidden_RKtD: Array) -> tuple[Array, None]:
        logit_RKtV = jnp.einsum("rktd,vd->rktv", hidden_RKtD, embedding_VD, precision="highest")
        return jax.nn.logsumexp(logit_RKtV + bias_V[None, None, None, :], axis=3), None

    block = _block(R, V)
    return _in_blocks(total, widen(hidden_RTD)[:, None], -(-T // block))[0][:, 0]


def _block(rows: int, V: int) -> int:
    """How many positions of so many rows make a block of logits."""
    return max(1, min(-(-_ROWS_PER_BLOCK // rows), _LOGITS_PER_BLOCK // (rows * V)))


def _in_blocks(function, x_BKTD: Array, blocks: int) -> tuple[Array, Array | None]:
    """function(x_BKTD), arrays whose last axis is T: in equal blocks of T, recomputed for gradients."""
    B, K, T, D = x_BKTD.shape
    block = -(-T // blocks)
    x_BKTD = jnp.pad(x_BKTD, ((0, 0), (0, 0), (0, block * blocks - T), (0, 0)))
    x_NBKtD = jnp.moveaxis(x_BKTD.reshape(B, K, blocks, block, D), 2, 0)
    step = jax.checkpoint(function, prevent_cse=False)  # scan itself keeps the two passes apart
    _, outputs = jax.lax.scan(lambda carry, x_BKtD: (carry, step(x_BKtD)), None, x_NBKtD)
    return jax.tree.map(lambda y: jnp.moveaxis(y, 0, -2).reshape(*y.shape[1:-1], -1)[..., :T], outputs)
