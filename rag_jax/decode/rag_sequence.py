"""RAG-Sequence decoding, thorough: each document proposes an answer, every document judges every proposal.

Lewis et al. 2020, section 2.5: p(y|x) is no product of per-token mixtures, so each document is decoded alone,
and the answers are then scored as sum_z p(z|x) p(y|x,z), also under the documents that did not propose them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rag_jax.core.likelihood import token_log_likelihood
from rag_jax.core.marginal import document_posterior, rag_sequence_log_likelihood
from rag_jax.decode.rag_token import Memory, counted, read, search
from rag_jax.models.bart import Bart
from rag_jax.models.rag import RagConfig


class Generated(NamedTuple):
    """Answers: tokens (pad after `</s>`), log p(y|x), each document's log p(z|x,y); in nats."""

    token_BT: jax.Array
    log_prob_B: jax.Array
    posterior_BK: jax.Array


def thorough(
    config: RagConfig, params: dict, source_BKS: jax.Array, prior_BK: jax.Array, *, max_length: int
) -> Generated:
    """Returns the best of the documents' greedy answers of at most `max_length` tokens, judged by them all.

    `source_BKS` are generator inputs, `prior_BK` log p(z|x) with -inf for a document that is not there: it
    neither proposes nor judges. A question without documents gets only pads and log-probability -inf.
    """
    (B, K), there_BK = prior_BK.shape, prior_BK > -jnp.inf
    memory = read(config, params, source_BKS)
    alone_R1 = jnp.where(there_BK, 0.0, -jnp.inf).reshape(B * K, 1)
    proposed_RT = search(config, params, memory, alone_R1, max_length=max_length).token_BT
    candidate_BMT, count_B = distinct(proposed_RT.reshape(B, K, max_length), there_BK)
    log_prob_BM, posterior_BKM = score(config, params, memory, candidate_BMT, count_B, prior_BK)
    best_B = jnp.argmax(log_prob_BM, axis=1)
    return Generated(
        jnp.take_along_axis(candidate_BMT, best_B[:, None, None], axis=1)[:, 0],
        jnp.take_along_axis(log_prob_BM, best_B[:, None], axis=1)[:, 0],
        jnp.take_along_axis(posterior_BKM, best_B[:, None, None], axis=2)[:, :, 0],
    )


def distinct(candidate_BMT: jax.Array, valid_BM: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Moves the valid candidates, less repetitions, to the front in their order: (candidate_BMT, count_B)."""
    M = candidate_BMT.shape[1]
    same_BMM = jnp.all(candidate_BMT[:, :, None] == candidate_BMT[:, None, :], axis=-1)
    earlier_MM = jnp.arange(M)[None, :] < jnp.arange(M)[:, None]
    repeats_BM = jnp.any(same_BMM & earlier_MM[None] & valid_BM[:, None, :], axis=2)
    keep_BM = valid_BM & ~repeats_BM
    order_BM = jnp.argsort(~keep_BM, axis=1, stable=True)
    return jnp.take_along_axis(candidate_BMT, order_BM[:, :, None], axis=1), jnp.sum(keep_BM, axis=1)


def score(
    config: RagConfig,
    params: dict,
    memory: Memory,
    candidate_BMT: jax.Array,
    count_B: jax.Array,
    prior_BK: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Judges the first `count_B` candidates under all documents: (log p(y|x) [B, M], log p(z|x,y) [B, K, M]).

    In nats, not normalised by length, over what `counted` marks (section 2.1, equation RAG-Sequence). Beyond
    the count: -inf, and the prior as posterior. One candidate of every question at a time: K * T positions
    fill a device; all at once would hold M times the attention weights and hidden states.
    """
    (B, M, _), K = candidate_BMT.shape, prior_BK.shape[1]

    def judge(m: jax.Array, scored: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        log_prob_BM, posterior_BKM = scored
        candidate_BT = candidate_BMT[:, m]
        logp_BKT = _teacher_forced(config, params, memory, candidate_BT, prior_BK)
        mask_BT, new_B = counted(config.generator, candidate_BT), m < count_B
        log_prob_B = jnp.where(new_B, rag_sequence_log_likelihood(logp_BKT, prior_BK, mask_BT), -jnp.inf)
        posterior_BK = document_posterior(logp_BKT, prior_BK, mask_BT, kind="sequence")
        posterior_BK = jnp.where(new_B[:, None], posterior_BK, prior_BK)
        return log_prob_BM.at[:, m].set(log_prob_B), posterior_BKM.at[:, :, m].set(posterior_BK)

    nothing = jnp.full((B, M), -jnp.inf), jnp.broadcast_to(prior_BK[:, :, None], (B, K, M))
    return jax.lax.fori_loop(0, jnp.max(count_B), judge, nothing)


def _teacher_forced(
    config: RagConfig, params: dict, memory: Memory, target_BT: jax.Array, prior_BK: jax.Array
) -> jax.Array:
    """Log p(y_i|x,z,y_<i) of given answers under every document, logp_BKT."""
    generator, (B, K) = config.generator, prior_BK.shape
    token_BT = jnp.roll(target_BT, 1, axis=1).at[:, 0].set(generator.start_id)
    token_RMT = jnp.repeat(token_BT, K, axis=0)[:, None]
    hidden_RMTD, _ = Bart(generator).apply(
        {"params": params["generator"]}, token_RMT, memory.cross, memory.mask_RS, method="decode"
    )
    hidden_BKTD = hidden_RMTD.reshape(B, K, *hidden_RMTD.shape[2:])
    embedding_VD, bias_V = (
        params["generator"]["shared"]["embedding"],
        params["generator"]["final_logits_bias"],
    )
    return token_log_likelihood(hidden_BKTD, embedding_VD, bias_V, target_BT, prior_BK).logp_BKT
