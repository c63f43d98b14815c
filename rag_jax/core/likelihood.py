"""Token log-likelihoods from decoder states, never holding the logits of the whole vocabulary.

The vocabulary goes by in blocks of words: a block's logits are made, summed up and dropped, and made again in the
backward pass. So each word's vector is read twice and its gradient written once, however many positions there are.
R positions of all questions and documents, W words of a block.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rag_jax.core.marginal import logsumexp, widen

# Few enough for a CPU's cache: at B=4, K=5, T=16, D=768, V=50265 a step takes 1.03 of its time with whole logits,
# which are not made twice. Where rows are many, enough words that an accelerator's time goes into products.
_LOGITS_PER_BLOCK, _LEAST_WORDS = 1 << 19, 1024
_TILE = 128  # of a matrix unit


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


class _Words(NamedTuple):
    """A block of the output layer: the words' vectors, biases and ids; new_W: False of words seen in an earlier one."""

    table_WD: Array
    bias_W: Array
    id_W: Array
    new_W: Array


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

    See `output_scores` for the precision.

    Args:
        hidden_BKTD: decoder states of every (question, document).
        embedding_VD, bias_V: the output layer.
        target_BT: token ids in [0, V), shared by a question's documents; mask padding afterwards.
        prior_BK: log p(z|x), used by marginal_sum_BT alone.
        smoothing: whether to compute what label smoothing needs; what the loss does not use of it costs nothing.
        block: words per block; None for 2 MiB of logits, or 1024 words where positions are many.
    """
    (B, K, T, D), V = hidden_BKTD.shape, embedding_VD.shape[0]
    block = block or _block(B * K * T, V)
    target_R = jnp.broadcast_to(target_BT[:, None], (B, K, T)).reshape(-1)
    hidden_RD = hidden_BKTD.reshape(-1, D)
    sums = _vocabulary_sums(block, hidden_RD, embedding_VD, bias_V, target_R)
    total_BKT, logp_BKT, mean_logp_BKT = (x.reshape(B, K, T) for x in sums)
    if not smoothing:
        return TokenLikelihood(logp_BKT, None, None, V)
    offset_BKT = widen(prior_BK)[:, :, None] - total_BKT
    marginal_sum_BT = _marginal_sum(block, hidden_RD, embedding_VD, bias_V, offset_BKT)
    return TokenLikelihood(logp_BKT, mean_logp_BKT, marginal_sum_BT, V)


def log_normaliser(hidden_RTD: Array, embedding_VD: Array, bias_V: Array) -> Array:
    """log sum_v exp(logit of v) at every position, [R, T] in fp32."""
    hidden_RD = hidden_RTD.reshape(-1, hidden_RTD.shape[-1])
    nothing_R = jnp.full(len(hidden_RD), -1)
    block = _block(len(hidden_RD), len(embedding_VD))
    total_R, _, _ = _vocabulary_sums(block, hidden_RD, embedding_VD, bias_V, nothing_R)
    return total_R.reshape(hidden_RTD.shape[:2])


def output_scores(hidden: Array, table_VD: Array) -> Array:
    """hidden table^T [..., V] in fp32, precision HIGHEST, and as exact as the states are.

    States in fp32 are contracted in fp32. States in bf16 meet a table rounded to bf16: the products are exact and their
    sums fp32, which a matrix unit does in one pass instead of six. It moves a log-likelihood less than the states'
    own roundings did (0.005 nats against 0.021, root mean squares in a trained BART of five layers).
    """
    return _contract("...d,vd->...v", hidden, table_VD.astype(hidden.dtype))


def _contract(axes: str, x: Array, y: Array) -> Array:
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.einsum(axes, x, y, precision="highest", preferred_element_type=wide)


def _logits(hidden: Array, words: _Words) -> Array:
    bias_W = widen(words.bias_W).reshape((1,) * (hidden.ndim - 1) + (-1,))
    return output_scores(hidden, words.table_WD) + bias_W


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _vocabulary_sums(block: int, hidden_RD: Array, embedding_VD: Array, bias_V: Array, target_R: Array):
    """logsumexp of the logits, and the target's and the mean logit less that, [R] each."""
    return _vocabulary_sums_forward(block, hidden_RD, embedding_VD, bias_V, target_R)[0]


def _vocabulary_sums_forward(block: int, hidden_RD: Array, embedding_VD: Array, bias_V: Array, target_R: Array):
    def fold(sums: tuple[Array, ...], words: _Words):
        top_R, exp_R, said_R, sum_R = sums
        logit_RW, new_RW = _logits(hidden_RD, words), words.new_W[None]
        higher_R = jnp.maximum(top_R, jnp.max(logit_RW, axis=1, where=new_RW, initial=-jnp.inf))
        finite_R = jnp.where(higher_R == -jnp.inf, 0.0, higher_R)
        exp_R = exp_R * jnp.exp(top_R - finite_R) + jnp.sum(jnp.exp(logit_RW - finite_R[:, None]), axis=1, where=new_RW)
        said_R = said_R + jnp.sum(logit_RW, axis=1, where=_said(words, target_R))
        return higher_R, exp_R, said_R, sum_R + jnp.sum(logit_RW, axis=1, where=new_RW)

    zero_R = jnp.zeros(hidden_RD.shape[0], jnp.promote_types(hidden_RD.dtype, jnp.float32))
    start = zero_R - jnp.inf, zero_R, zero_R, zero_R
    top_R, exp_R, said_R, sum_R = _scan(fold, start, block, embedding_VD, bias_V)
    finite_R = jnp.where(top_R == -jnp.inf, 0.0, top_R)
    kept = hidden_RD, embedding_VD, bias_V, target_R, finite_R, exp_R
    # The largest logit goes first: a sum of small numbers keeps more digits.
    log_R, mean_R = jnp.log(exp_R), sum_R / embedding_VD.shape[0]
    return (finite_R + log_R, (said_R - finite_R) - log_R, (mean_R - finite_R) - log_R), kept


def _said(words: _Words, target_R: Array) -> Array:
    return (target_R[:, None] == words.id_W[None]) & words.new_W[None]


def _vocabulary_sums_backward(block: int, kept: tuple[Array, ...], above: tuple[Array, Array, Array]):
    *inputs, target_R, top_R, exp_R = kept
    of_total_R, of_said_R, of_mean_R = above
    of_total_R, V = of_total_R - of_said_R - of_mean_R, inputs[1].shape[0]

    def of_logits(logit_RW: Array, words: _Words) -> Array:
        # By what was summed: exp(logit - logsumexp) would sum to one but for the rounding of the logsumexp.
        p_RW = jnp.exp(logit_RW - top_R[:, None]) / exp_R[:, None]
        everywhere_RW = p_RW * of_total_R[:, None] + of_mean_R[:, None] / V
        said_RW = jnp.where(_said(words, target_R), of_said_R[:, None], 0.0)
        return jnp.where(words.new_W[None], everywhere_RW, 0.0) + said_RW

    return *_pull(of_logits, block, *inputs)[:3], None


_vocabulary_sums.defvjp(_vocabulary_sums_forward, _vocabulary_sums_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _marginal_sum(block: int, hidden_RD: Array, embedding_VD: Array, bias_V: Array, offset_BKT: Array) -> Array:
    """sum_v log sum_z exp(logit + offset) [B, T]; where offset is log p(z|x) - logsumexp, of marginal probabilities."""

    def fold(sum_BT: Array, words: _Words):
        joint_BKTW = _joint(_logits(hidden_RD, words), offset_BKT)
        return sum_BT + jnp.sum(logsumexp(joint_BKTW, axis=1), axis=2, where=words.new_W[None, None])

    return _scan(fold, jnp.zeros_like(offset_BKT[:, 0]), block, embedding_VD, bias_V)


def _joint(logit_RW: Array, offset_BKT: Array) -> Array:
    return logit_RW.reshape(*offset_BKT.shape, -1) + offset_BKT[..., None]


def _marginal_sum_forward(block: int, *inputs: Array):
    return _marginal_sum(block, *inputs), inputs


def _marginal_sum_backward(block: int, inputs: tuple[Array, ...], above_BT: Array):
    *layer, offset_BKT = inputs

    def of_logits(logit_RW: Array, words: _Words) -> Array:
        joint_BKTW = _joint(logit_RW, offset_BKT)
        marginal_BTW = logsumexp(joint_BKTW, axis=1)
        marginal_BTW = jnp.where(marginal_BTW == -jnp.inf, 0.0, marginal_BTW)
        above_BTW = jnp.where(words.new_W[None, None], above_BT[..., None], 0.0)
        return (jnp.exp(joint_BKTW - marginal_BTW[:, None]) * above_BTW[:, None]).reshape(logit_RW.shape)

    *of_layer, of_rows_R = _pull(of_logits, block, *layer)
    return *of_layer, of_rows_R.reshape(offset_BKT.shape)


_marginal_sum.defvjp(_marginal_sum_forward, _marginal_sum_backward)


def _pull(
    of_logits: Callable[[Array, _Words], Array], block: int, hidden_RD: Array, embedding_VD: Array, bias_V: Array
):
    """Gradients by states, table, bias and by a number added to all logits of a row [R], from that by the logits.

    What comes from above is rounded as the states are; the table's gradient is summed in fp32.
    """

    def fold(found: tuple[Array, ...], words: _Words):
        of_hidden_RD, of_table_VD, of_bias_V, of_rows_R = found
        above_RW = of_logits(_logits(hidden_RD, words), words)
        low_RW = above_RW.astype(hidden_RD.dtype)
        return (
            of_hidden_RD + _contract("rw,wd->rd", low_RW, words.table_WD.astype(hidden_RD.dtype)),
            _add(of_table_VD, words, _contract("rw,rd->wd", low_RW, hidden_RD)),
            _add(of_bias_V, words, jnp.sum(above_RW, axis=0)),
            of_rows_R + jnp.sum(above_RW, axis=1),
        )

    inputs = hidden_RD, embedding_VD, bias_V
    zeros = [jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)) for x in (*inputs, hidden_RD[:, 0])]
    *of_inputs, of_rows_R = _scan(fold, tuple(zeros), block, embedding_VD, bias_V)
    return *(of_x.astype(x.dtype) for of_x, x in zip(of_inputs, inputs, strict=True)), of_rows_R


def _add(whole: Array, words: _Words, rows: Array) -> Array:
    rows = rows + lax.dynamic_slice_in_dim(whole, words.id_W[0], len(rows))
    return lax.dynamic_update_slice_in_dim(whole, rows, words.id_W[0], 0)


def _scan(fold: Callable[[Any, _Words], Any], carry: Any, block: int, embedding_VD: Array, bias_V: Array) -> Any:
    """fold(carry, words) -> carry, over the vocabulary in blocks of words."""
    V = embedding_VD.shape[0]
    W = min(block, V)

    def step(carry: Any, start: Array) -> tuple[Any, None]:
        first = jnp.minimum(start, V - W)  # the last block is moved back to end at word V
        id_W = first + jnp.arange(W)
        table_WD, bias_W = (lax.dynamic_slice_in_dim(x, first, W) for x in (embedding_VD, bias_V))
        return fold(carry, _Words(table_WD, bias_W, id_W, id_W >= start)), None

    return lax.scan(step, carry, jnp.arange(0, V, W))[0]


def _block(rows: int, V: int) -> int:
    """How many words of so many rows make a block: equal ones, but for whole tiles."""
    blocks = -(-V // max(_LEAST_WORDS, _LOGITS_PER_BLOCK // rows))
    return -(-V // (blocks * _TILE)) * _TILE
