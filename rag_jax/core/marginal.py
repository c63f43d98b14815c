"""The two marginals of retrieval-augmented generation, in log-space, over the documents of a question.

Lewis et al. (2020), section 2.1. `score_BK` is <q(x), d(z)>, `prior_BK` is log p(z|x), `logp_BKT` is
log p(y_t | x, z, y_<t), `mask_BT` is True where a target token is scored. Everything is computed in fp32
(float64 stays float64). A document with prior -inf takes no part: its gradient is exactly zero.
"""

import jax
import jax.numpy as jnp
from jax import Array


def document_log_prior(score_BK: Array, mask_BK: Array | None = None) -> Array:
    """log p(z|x), the log-softmax of the retrieved documents' scores (section 2.2).

    Args:
        score_BK: inner products; a score of -inf is a missing document.
        mask_BK: True where a document is there; None for all.

    Returns:
        [B, K] nats; -inf for missing documents, with gradient zero, also where a row has no document.
    """
    score_BK = widen(score_BK)
    there_BK = score_BK != -jnp.inf  # a score that came as -inf gets no gradient either
    if mask_BK is not None:
        there_BK = there_BK & mask_BK
    return _log_normalise(jnp.where(there_BK, score_BK, -jnp.inf), axis=1)


def rag_sequence_log_likelihood(logp_BKT: Array, prior_BK: Array, mask_BT: Array) -> Array:
    """log p(y|x) = log sum_z p(z|x) prod_t p(y_t|x,z,y_<t): one document for the whole answer (section 2.1).

    Args:
        logp_BKT: each document's token log-likelihood.
        prior_BK: log p(z|x).
        mask_BT: True where a token is scored; a row without any has p(y|x) = sum_z p(z|x) = 1.

    Returns:
        [B] nats.
    """
    return logsumexp(_sequence_joint(logp_BKT, prior_BK, mask_BT), axis=1)


def rag_token_log_likelihood(logp_BKT: Array, prior_BK: Array, mask_BT: Array) -> Array:
    """log p(y|x) = sum_t log sum_z p(z|x) p(y_t|x,z,y_<t): a document for every token (section 2.1).

    Args:
        logp_BKT: each document's token log-likelihood.
        prior_BK: log p(z|x).
        mask_BT: True where a token is scored; a row without any has log-likelihood 0.

    Returns:
        [B] nats.
    """
    marginal_BT = logsumexp(_token_joint(logp_BKT, prior_BK, mask_BT), axis=1)
    return jnp.sum(jnp.where(mask_BT, marginal_BT, 0.0), axis=1)


def next_token_marginal(logits_BKMV: Array, prior_BK: Array) -> tuple[Array, Array]:
    """log sum_z p(z|x) p(v|x,z,y_<i) for every next token v of M beginnings of an answer (section 2.1, RAG-Token).

    Args:
        logits_BKMV: each document's output layer.
        prior_BK: log p(z|x).

    Returns:
        marginal_BMV in nats, and offset_BKM: logits + offset = log p(z|x) + log p(v|x,z,y_<i). A question without
        documents has -inf throughout.
    """
    logits_BKMV = widen(logits_BKMV)
    offset_BKM = widen(prior_BK)[:, :, None] - jax.nn.logsumexp(logits_BKMV, axis=3)
    joints = [logits_BKMV[:, k] + offset_BKM[:, k, :, None] for k in range(prior_BK.shape[1])]
    if len(joints) == 1:
        return joints[0], offset_BKM
    # One document after the other: a reduction over an axis in the middle is three times slower on a CPU.
    top_BMV = joints[0]
    for joint_BMV in joints[1:]:
        top_BMV = jnp.maximum(top_BMV, joint_BMV)
    top_BMV = jnp.where(top_BMV == -jnp.inf, 0.0, top_BMV)
    total_BMV = sum(jnp.exp(joint_BMV - top_BMV) for joint_BMV in joints)
    return top_BMV + jnp.log(total_BMV), offset_BKM


def label_marginal(logp_BKC: Array, prior_BK: Array) -> tuple[Array, Array]:
    """log p(c|x) = log sum_z p(z|x) p(c|x,z) of each label c, and which documents speak for it.

    For a target of one token RAG-Sequence and RAG-Token are one (section 2.1).

    Args:
        logp_BKC: each document's log p(c|x,z); the labels need not be all that could be said.
        prior_BK: log p(z|x).

    Returns:
        Nats: [B, C], normalised over the labels, and log p(z|x,c) [B, K, C]; -inf where a question has no document.
    """
    joint_BKC = widen(prior_BK)[:, :, None] + widen(logp_BKC)
    return _log_normalise(logsumexp(joint_BKC, axis=1), axis=1), _log_normalise(joint_BKC, axis=1)


def document_posterior(logp_BKT: Array, prior_BK: Array, mask_BT: Array, kind: str) -> Array:
    """How probable each document is once the answer is known: the marginal's summands, normalised over z.

    Args:
        logp_BKT: each document's token log-likelihood.
        prior_BK: log p(z|x).
        mask_BT: True where a token is scored.
        kind: 'sequence' for p(z|x,y); 'token' for, at every t, p(z|x) p(y_t|x,z,y_<t) over its sum.

    Returns:
        Nats, [B, K] for 'sequence', [B, K, T] for 'token'; where nothing is scored, the prior.

    Raises:
        ValueError: kind is neither.
    """
    if kind == "sequence":
        return _log_normalise(_sequence_joint(logp_BKT, prior_BK, mask_BT), axis=1)
    if kind == "token":
        return _log_normalise(_token_joint(logp_BKT, prior_BK, mask_BT), axis=1)
    raise ValueError(f"kind is {kind!r}, expected 'sequence' or 'token'")


def mean_token_posterior(posterior_BKT: Array, mask_BT: Array) -> Array:
    """The mean over tokens of RAG-Token's posterior: a summary of an answer, not a posterior of one.

    Args:
        posterior_BKT: log posteriors, from `document_posterior(..., kind='token')`.
        mask_BT: True at the tokens that count, at least at one of a row.

    Returns:
        [B, K] probabilities.
    """
    weight_BT = mask_BT.astype(posterior_BKT.dtype)
    weight_BT = weight_BT / jnp.sum(weight_BT, axis=1, keepdims=True)
    return jnp.sum(jnp.exp(posterior_BKT) * weight_BT[:, None, :], axis=2)


def widen(x: Array) -> Array:
    """x in fp32, or in its own type where that is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def logsumexp(x: Array, axis: int) -> Array:
    """log sum exp along an axis; a slice of nothing but -inf gives -inf with gradient zero instead of NaN."""
    dead = jnp.max(x, axis=axis, keepdims=True) == -jnp.inf
    value = jax.nn.logsumexp(jnp.where(dead, 0.0, x), axis=axis)
    return jnp.where(jnp.squeeze(dead, axis), -jnp.inf, value)


def _sequence_joint(logp_BKT: Array, prior_BK: Array, mask_BT: Array) -> Array:
    return widen(prior_BK) + jnp.sum(_scored(logp_BKT, mask_BT), axis=2)


def _token_joint(logp_BKT: Array, prior_BK: Array, mask_BT: Array) -> Array:
    return widen(prior_BK)[:, :, None] + _scored(logp_BKT, mask_BT)


def _scored(logp_BKT: Array, mask_BT: Array) -> Array:
    return jnp.where(mask_BT[:, None, :], widen(logp_BKT), 0.0)


def _log_normalise(x: Array, axis: int) -> Array:
    # The maximum goes first: a score of 70 minus a logsumexp of 70 would keep five digits of the difference.
    top = jax.lax.stop_gradient(jnp.max(x, axis=axis, keepdims=True))
    x = x - jnp.where(top == -jnp.inf, 0.0, top)
    total = jnp.expand_dims(logsumexp(x, axis), axis)
    return x - jnp.where(total == -jnp.inf, 0.0, total)
