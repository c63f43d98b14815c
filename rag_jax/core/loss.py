"""The training loss: the negative marginal log-likelihood of an answer, with label smoothing."""

import jax.numpy as jnp
from jax import Array

from rag_jax.core.likelihood import TokenLikelihood
from rag_jax.core.marginal import logsumexp, rag_sequence_log_likelihood, rag_token_log_likelihood, widen

_LOG_LIKELIHOOD = {"sequence": rag_sequence_log_likelihood, "token": rag_token_log_likelihood}


def rag_loss(
    kind: str,
    likelihood: TokenLikelihood,
    prior_BK: Array,
    target_BT: Array,
    mask_BT: Array,
    *,
    label_smoothing: float = 0.0,
    exclude_bos: bool = False,
    bos_id: int | None = None,
    compat: str | None = None,
) -> Array:
    """-log p(y|x), summed over the scored tokens, not averaged (Lewis et al. 2020, section 2.4).

    By default each document's token log-likelihood is smoothed towards the uniform distribution,
    (1 - eps) log p(y_t) + eps mean_v log p(v), and then marginalised with the prior added once.
    compat='huggingface' is transformers' form to the letter: in RAG-Sequence the prior sits on the second
    target position, and is lost where that is padding; the smoothing terms are marginalised apart
    (RAG-Sequence's is a logsumexp over sums of the whole vocabulary, noise in fp32 when V is large);
    exclude_bos acts on RAG-Sequence alone, not on its smoothing term, and only if every row starts with BOS.

    Args:
        kind: 'sequence' or 'token'.
        likelihood: from `token_log_likelihood`, with smoothing=True if label_smoothing is not 0.
        prior_BK: log p(z|x).
        target_BT: token ids.
        mask_BT: True where a token is scored, usually target != pad.
        label_smoothing: eps, in [0, 1).
        exclude_bos: leave the first target out of the score of a row in which it is bos_id.
        bos_id: needed by exclude_bos.
        compat: None or 'huggingface'.

    Returns:
        [B] nats.

    Raises:
        ValueError: an unknown kind or compat, smoothing without its terms, exclude_bos without bos_id.
    """
    _check(kind, exclude_bos, bos_id, compat)
    if compat == "huggingface":
        if kind == "token":
            return _huggingface_token(likelihood, prior_BK, mask_BT, label_smoothing)
        drop_bos = jnp.all(target_BT[:, 0] == bos_id) if exclude_bos else False
        return _huggingface_sequence(likelihood, prior_BK, mask_BT, label_smoothing, drop_bos)
    if exclude_bos:
        first_T = jnp.arange(target_BT.shape[1]) == 0
        mask_BT = mask_BT & ~(first_T[None, :] & (target_BT[:, :1] == bos_id))
    logp_BKT = likelihood.logp_BKT
    if label_smoothing:
        logp_BKT = (1 - label_smoothing) * logp_BKT + label_smoothing * _there(likelihood.mean_logp_BKT)
    return -_LOG_LIKELIHOOD[kind](logp_BKT, prior_BK, mask_BT)


def _huggingface_token(likelihood: TokenLikelihood, prior_BK: Array, mask_BT: Array, label_smoothing: float) -> Array:
    nll_B = -rag_token_log_likelihood(likelihood.logp_BKT, prior_BK, mask_BT)
    if not label_smoothing:
        return nll_B
    smooth_B = -jnp.sum(jnp.where(mask_BT, _there(likelihood.marginal_sum_BT), 0.0), axis=1)
    return (1 - label_smoothing) * nll_B + label_smoothing / likelihood.vocabulary * smooth_B


def _huggingface_sequence(
    likelihood: TokenLikelihood,
    prior_BK: Array,
    mask_BT: Array,
    label_smoothing: float,
    drop_bos: Array | bool,
) -> Array:
    # Their prior is added at index 1, before padding is masked: lost where index 1 is padding or not there.
    # A missing document, which they do not know, stays out.
    prior_BK = widen(prior_BK)
    lost_B = ~mask_BT[:, 1] if mask_BT.shape[1] > 1 else jnp.ones_like(mask_BT[:, 0])
    placed_BK = jnp.where(lost_B[:, None] & (prior_BK != -jnp.inf), 0.0, prior_BK)
    kept_BT = mask_BT & ~((jnp.arange(mask_BT.shape[1]) == 0)[None, :] & drop_bos)
    nll_B = -rag_sequence_log_likelihood(likelihood.logp_BKT, placed_BK, kept_BT)
    if not label_smoothing:
        return nll_B
    mean_BK = jnp.sum(jnp.where(mask_BT[:, None, :], _there(likelihood.mean_logp_BKT), 0.0), axis=2)
    smooth_B = -logsumexp(likelihood.vocabulary * (mean_BK + placed_BK), axis=1)
    return (1 - label_smoothing) * nll_B + label_smoothing / likelihood.vocabulary * smooth_B


def _there(term: Array | None) -> Array:
    if term is None:
        raise ValueError("label_smoothing needs token_log_likelihood(..., smoothing=True)")
    return term


def _check(kind: str, exclude_bos: bool, bos_id: int | None, compat: str | None) -> None:
    if kind not in _LOG_LIKELIHOOD:
        raise ValueError(f"kind is {kind!r}, expected 'sequence' or 'token'")
    if compat not in (None, "huggingface"):
        raise ValueError(f"compat is {compat!r}, expected None or 'huggingface'")
    if exclude_bos and bos_id is None:
        raise ValueError("exclude_bos needs bos_id")
