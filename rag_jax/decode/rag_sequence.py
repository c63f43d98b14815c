"""RAG-Sequence decoding: each document proposes answers; thorough, every document judges them; fast, none does.

Lewis et al. 2020, section 2.5: p(y|x) is no product of per-token mixtures, so each document is searched alone,
and the answers are then scored as sum_z p(z|x) p(y|x,z). Thorough decoding scores an answer also under the documents
that did not find it; fast decoding takes p(y|x,z) to be 0 there. Letters beside the usual: C candidate.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rag_jax.core.constraints import Rules
from rag_jax.core.marginal import logsumexp
from rag_jax.decode.rag_token import Memory, counted, read, search
from rag_jax.decode.rescoring import judge
from rag_jax.models.bart import BartConfig
from rag_jax.models.rag import RagConfig


class Proposals(NamedTuple):
    """Different answers, in front, as many as `there_BC` marks; log p(y|x,z) where z found y itself, else -inf."""

    token_BCT: jax.Array
    there_BC: jax.Array
    logp_BKC: jax.Array


class Judged(NamedTuple):
    """The N best answers: tokens, log p(y|x), log p(z|x,y); in nats. Where there are fewer: pads, -inf, the prior."""

    token_BNT: jax.Array
    log_prob_BN: jax.Array
    posterior_BNK: jax.Array


def thorough(
    config: RagConfig,
    params: dict,
    source_BKS: jax.Array,
    prior_BK: jax.Array,
    rules: Rules[jax.Array],
    *,
    length: int,
    beams: int,
    count: int,
) -> Judged:
    """The `count` best of all documents' answers, judged by them all; only what a document did not find is read again.

    `source_BKS` are generator inputs, `prior_BK` log p(z|x) with -inf for a document that is not there: it
    neither proposes nor judges.
    """
    memory = read(config, params, source_BKS)
    proposals = propose(config, params, memory, prior_BK, rules, length=length, beams=beams)
    token_BCT, there_BC, logp_BKC = proposals
    missing_BKC = (logp_BKC == -jnp.inf) & there_BC[:, None] & (prior_BK > -jnp.inf)[:, :, None]
    paid_BCT = counted(config.generator, token_BCT) & (jnp.arange(length) < rules.max_length)[None, None]
    most = (prior_BK.shape[1] - 1) * beams  # all that the other documents found
    judged_BKC = judge(config, params, memory, token_BCT, missing_BKC, paid_BCT, most)
    return _rank(
        config.generator, proposals._replace(logp_BKC=jnp.where(missing_BKC, judged_BKC, logp_BKC)), prior_BK, count
    )


def fast(
    config: RagConfig,
    params: dict,
    source_BKS: jax.Array,
    prior_BK: jax.Array,
    rules: Rules[jax.Array],
    *,
    length: int,
    beams: int,
    count: int,
) -> Judged:
    """As `thorough`, but a document contributes only to the answers it found: log p(y|x) is a lower bound."""
    memory = read(config, params, source_BKS)
    proposals = propose(config, params, memory, prior_BK, rules, length=length, beams=beams)
    return _rank(config.generator, proposals, prior_BK, count)


def as_huggingface(
    config: RagConfig,
    params: dict,
    source_BKS: jax.Array,
    prior_BK: jax.Array,
    rules: Rules[jax.Array],
    *,
    length: int,
    beams: int,
    count: int,
) -> Judged:
    """Thorough as transformers 5.23 does it: its proposals read padding; pads are free wherever they stand;

    an answer of one token has no prior; a leading `<s>` is free only if all candidates of the question have it.
    """
    generator, there_BK = config.generator, prior_BK > -jnp.inf
    unmasked = read(config, params, source_BKS, padding=True)
    proposals = propose(config, params, unmasked, prior_BK, rules, length=length, beams=beams)
    token_BCT, there_BC, _ = proposals
    begins_B = jnp.all((token_BCT[:, :, 0] == generator.bos_id) | ~there_BC, axis=1)
    first_T = jnp.arange(length) == 0
    paid_BCT = (token_BCT != generator.pad_id) & ~(begins_B[:, None, None] & first_T[None, None])
    missing_BKC = there_BC[:, None] & there_BK[:, :, None]
    masked = read(config, params, source_BKS)
    judged_BKC = judge(config, params, masked, token_BCT, missing_BKC, paid_BCT, token_BCT.shape[1])
    single_BC = token_BCT[:, :, 1] == generator.pad_id
    judged_BKC = judged_BKC - jnp.where(single_BC[:, None] & there_BK[:, :, None], prior_BK[:, :, None], 0.0)
    judged_BKC = jnp.where(missing_BKC, judged_BKC, -jnp.inf)
    return _rank(generator, proposals._replace(logp_BKC=judged_BKC), prior_BK, count)


def propose(
    config: RagConfig,
    params: dict,
    memory: Memory,
    prior_BK: jax.Array,
    rules: Rules[jax.Array],
    *,
    length: int,
    beams: int,
) -> Proposals:
    """Searches every document alone: its `beams` best answers, those of all documents without repetition."""
    (B, K), C = prior_BK.shape, prior_BK.shape[1] * beams
    alone_R1 = jnp.where(prior_BK > -jnp.inf, 0.0, -jnp.inf).reshape(B * K, 1)
    score_RM, said = search(config, params, memory, alone_R1, rules, length=length, beams=beams)
    found_BC = (score_RM > -jnp.inf).reshape(B, C)
    token_BCT, log_prob_BC = said.token_BMT.reshape(B, C, length), said.log_prob_BM.reshape(B, C)
    order_BC, there_BC, same_BCC = distinct(token_BCT, found_BC)
    same_BCKM = same_BCC.reshape(B, C, K, beams)
    logp_BCKM = jnp.where(same_BCKM, log_prob_BC.reshape(B, 1, K, beams), -jnp.inf)
    return Proposals(
        jnp.take_along_axis(token_BCT, order_BC[:, :, None], axis=1),
        there_BC,
        jnp.swapaxes(jnp.max(logp_BCKM, axis=3), 1, 2),
    )


def distinct(candidate_BCT: jax.Array, found_BC: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The found candidates, less repetitions, in front: (their order [B, C], which places hold one [B, C],

    whether the candidate in a place, first axis, equals a found candidate, second axis, [B, C, C]).
    """
    C = candidate_BCT.shape[1]
    same_BCC = jnp.all(candidate_BCT[:, :, None] == candidate_BCT[:, None, :], axis=-1) & found_BC[:, None, :]
    earlier_CC = jnp.arange(C)[None, :] < jnp.arange(C)[:, None]
    keep_BC = found_BC & ~jnp.any(same_BCC & earlier_CC[None], axis=2)
    order_BC = jnp.argsort(~keep_BC, axis=1, stable=True)
    there_BC = jnp.arange(C)[None] < jnp.sum(keep_BC, axis=1, keepdims=True)
    return order_BC, there_BC, jnp.take_along_axis(same_BCC, order_BC[:, :, None], axis=1) & there_BC[:, :, None]


def _rank(generator: BartConfig, proposals: Proposals, prior_BK: jax.Array, count: int) -> Judged:
    token_BCT, there_BC, logp_BKC = proposals
    joint_BKC = jnp.where(there_BC[:, None], prior_BK[:, :, None] + logp_BKC, -jnp.inf)
    log_prob_BN, best_BN = jax.lax.top_k(logsumexp(joint_BKC, axis=1), count)
    joint_BKN = jnp.take_along_axis(joint_BKC, best_BN[:, None], axis=2)
    said_BN = log_prob_BN > -jnp.inf
    posterior_BKN = joint_BKN - jnp.where(said_BN, log_prob_BN, 0.0)[:, None]
    posterior_BKN = jnp.where(said_BN[:, None], posterior_BKN, prior_BK[:, :, None])
    token_BNT = jnp.take_along_axis(token_BCT, best_BN[:, :, None], axis=1)
    return Judged(
        jnp.where(said_BN[:, :, None], token_BNT, generator.pad_id), log_prob_BN, jnp.swapaxes(posterior_BKN, 1, 2)
    )
