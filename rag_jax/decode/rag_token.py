"""RAG-Token decoding: one autoregressive generator whose next token is a mixture over the documents.

Lewis et al. 2020, section 2.5: p(y_i|x,y_<i) = sum_z p(z|x) p(y_i|x,z,y_<i) is an ordinary transition
probability, so an ordinary search runs on it: greedy, beams, or sampling. The search over a single document is plain
BART decoding; RAG-Sequence uses that.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rag_jax.core import beam
from rag_jax.core.constraints import Rules, constrain, warp
from rag_jax.core.marginal import logsumexp, next_token_marginal
from rag_jax.models.bart import Bart, BartConfig, apart, init_cache
from rag_jax.models.layers import applied
from rag_jax.models.rag import RagConfig


class Memory(NamedTuple):
    """What the decoder reads of each (question, document) row: made once, shared by all beams of the row."""

    cross: Any
    mask_RS: jax.Array


class Said(NamedTuple):
    """M answers of a question so far: tokens (then pads), log p(y|x), each token's log-posterior of documents; nats.

    A token's posterior is proportional to p(z|x) p(y_i|x,z,y_<i); where nothing was said it is the prior.
    """

    token_BMT: jax.Array
    log_prob_BM: jax.Array
    posterior_BMKT: jax.Array


class _State(NamedTuple):
    """ancestor_BMT: which beam's cache slot holds the key of place t of a beam's answer: the cache never moves."""

    beams: beam.BeamState
    ancestor_BMT: jax.Array
    cache: Any


def read(config: RagConfig, params: dict, source_BKS: jax.Array, *, padding: bool = False) -> Memory:
    """Encodes every (question, document) row of `source_BKS` and makes its cross keys and values.

    padding: whether padding is read as if it were text, as transformers' RAG-Sequence does when it proposes.
    """
    source_RS = source_BKS.reshape(-1, source_BKS.shape[-1])
    mask_RS = (source_RS != config.generator.pad_id) | padding
    generator = Bart(config.generator)
    memory_RSD = applied(generator, params["generator"], source_RS, mask_RS, method="encode")
    return Memory(applied(generator, params["generator"], memory_RSD, method="cross"), mask_RS)


def search(
    config: RagConfig,
    params: dict,
    memory: Memory,
    prior_BK: jax.Array,
    rules: Rules[jax.Array],
    *,
    length: int,
    beams: int,
) -> beam.Hypotheses:
    """The `beams` best answers found over documents already read, with their `Said`; by falling score.

    The rows of `memory` are B questions times K documents; a document whose prior is -inf is not there, a question
    without documents says nothing. One beam takes the likeliest next token each time (greedy search). length: how
    many tokens there is room for, at least rules.max_length.
    """
    if beams == 1:
        rules = rules._replace(early_stopping=jnp.int32(beam.WHEN_FULL))
        choose = partial(beam.best, count=1)
    else:
        choose = partial(beam.best, count=2 * beams)  # so many that M remain even if M of them end
    state = _run(config, params, memory, prior_BK, rules, length, 1, beams, lambda score, _: choose(score))
    return beam.finish(state, beams)


def sample(
    config: RagConfig,
    params: dict,
    memory: Memory,
    prior_BK: jax.Array,
    place_B: jax.Array,
    rules: Rules[jax.Array],
    *,
    length: int,
    draws: int,
) -> beam.Hypotheses:
    """Draws N answers from the mixture, reshaped by temperature, top k and top p; see `search`.

    A question's draws depend on the seed and on its place in the batch, not on how large or how divided the batch is.
    """
    B = prior_BK.shape[0]

    def choose(score_GMV: jax.Array, position: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        key = jax.random.fold_in(jax.random.key(rules.seed), position)
        key_B = jax.vmap(partial(jax.random.fold_in, key))(place_B)
        key_BN = jax.vmap(partial(jax.random.split, num=draws))(key_B)
        warped_GMV = warp(rules, score_GMV)
        token_GM = jax.vmap(jax.random.categorical)(key_BN.reshape(-1), warped_GMV[:, 0])[:, None].astype(jnp.int32)
        score_GM = jnp.take_along_axis(score_GMV[:, 0], token_GM, axis=1)
        return score_GM, jnp.zeros_like(token_GM), token_GM

    rules = rules._replace(early_stopping=jnp.int32(beam.WHEN_FULL))
    state = _run(config, params, memory, prior_BK, rules, length, draws, 1, choose)
    return jax.tree.map(lambda x: x.reshape(B, draws, *x.shape[2:]), beam.finish(state, 1))


def _run(config, params, memory, prior_BK, rules: Rules[jax.Array], length: int, groups: int, beams: int, choose):
    """Searches G = B * groups times with M beams each: groups of a question share its documents, not their beams.

    choose: (scores [G, M, V] of all continuations, position) -> (score, beam, token) of the candidates [G, C].
    """
    generator, (B, K) = config.generator, prior_BK.shape
    G = B * groups
    prior_GK = jnp.repeat(prior_BK, groups, axis=0)
    open_G = jnp.any(prior_GK > -jnp.inf, axis=1)
    nothing = Said(
        jnp.full((G, beams, length), generator.pad_id, jnp.int32),
        jnp.broadcast_to(jnp.where(open_G, 0.0, -jnp.inf)[:, None], (G, beams)),
        jnp.broadcast_to(prior_GK[:, None, :, None], (G, beams, K, length)),
    )
    state = _State(
        beam.start(nothing, open_G, beams),
        jnp.zeros((G, beams, length), jnp.int32),
        init_cache(generator, B * K, length * groups * beams),
    )

    layers = apart(generator, params["generator"], memory.cross)

    def step(state: _State) -> _State:
        position, said = state.beams.position, state.beams.running.said
        logits_RMV, cache = _next_logits(config, params, layers, memory.mask_RS, state, groups)
        logits_GKMV = _by_group(logits_RMV, B, K, groups)
        marginal_GMV, offset_GKM = next_token_marginal(logits_GKMV, prior_GK)
        logp_GMV = constrain(rules, generator.eos_id, marginal_GMV, said.token_BMT, position)
        # Several readers follow: without the barrier each would compute the marginal again.
        score_GMV = jax.lax.optimization_barrier(logp_GMV + state.beams.running.score_BM[:, :, None])
        score_GC, parent_GC, token_GC = choose(score_GMV, position)
        g, k = jnp.arange(G)[:, None, None], jnp.arange(K)[None, :, None]
        chosen = (g, k, parent_GC[:, None], token_GC[:, None])
        joint_GKC = logits_GKMV[chosen] + offset_GKM[chosen[:3]]
        said = _say(generator, said, parent_GC, token_GC, joint_GKC, position)
        ends_GC = (token_GC == generator.eos_id) | (position + 1 >= rules.max_length)
        beams_state, kept_GM = beam.step(rules, state.beams, beam.Candidates(score_GC, said, ends_GC))
        parent_GM = jnp.take_along_axis(parent_GC, kept_GM, axis=1)
        ancestor_GMT = jnp.take_along_axis(state.ancestor_BMT, parent_GM[:, :, None], axis=1)
        ancestor_GMT = ancestor_GMT.at[:, :, position].set(parent_GM)
        return _State(beams_state, ancestor_GMT, cache)

    return jax.lax.while_loop(lambda state: jnp.any(state.beams.open_B), step, state).beams


def _next_logits(config, params, layers, mask_RS, state: _State, groups: int) -> tuple[jax.Array, Any]:
    """Shows the last token of every beam of every group to all documents: (logits [R, groups * M, V] fp32, cache)."""
    generator, position = config.generator, state.beams.position
    token_GMT = state.beams.running.said.token_BMT
    G, M, T = token_GMT.shape
    B, Q = G // groups, groups * M
    K = mask_RS.shape[0] // B
    last_GM = jnp.where(position == 0, generator.start_id, token_GMT[:, :, position - 1])
    token_RQ = jnp.repeat(last_GM.reshape(B, Q), K, axis=0)

    # The key of place t of beam q lies in slot t * Q + (the beam that q's answer was then).
    beam_GM1, place_T = (jnp.arange(G)[:, None] % groups * M + jnp.arange(M)[None])[:, :, None], jnp.arange(T)
    slot_GMT = beam_GM1 - jnp.arange(M)[None, :, None] + state.ancestor_BMT
    slot_GMT = jnp.where((place_T == position)[None, None], beam_GM1, slot_GMT)
    sees_BQTQ = slot_GMT.reshape(B, Q, T)[..., None] == jnp.arange(Q)[None, None, None]
    sees_BQTQ = sees_BQTQ & (place_T <= position)[None, None, :, None]

    hidden_RQD, cache = applied(
        Bart(generator),
        params["generator"],
        token_RQ,
        layers,
        mask_RS,
        place_RT=jnp.broadcast_to(position, (1, Q)),
        sees_RTP=jnp.repeat(sees_BQTQ.reshape(B, Q, T * Q), K, axis=0),
        cache=state.cache,
        slot=position * Q,
        method="step",
    )
    return applied(Bart(generator), params["generator"], hidden_RQD, method="logits"), cache


def _by_group(logits_RQV: jax.Array, B: int, K: int, groups: int) -> jax.Array:
    """[B * K, groups * M, V] -> [B * groups, K, M, V]."""
    Q, V = logits_RQV.shape[1:]
    logits = logits_RQV.reshape(B, K, groups, Q // groups, V)
    return (logits if groups == 1 else jnp.moveaxis(logits, 2, 1)).reshape(B * groups, K, Q // groups, V)


def _say(
    generator: BartConfig,
    said: Said,
    parent_BC: jax.Array,
    token_BC: jax.Array,
    joint_BKC: jax.Array,
    position: jax.Array,
) -> Said:
    """What candidates have said: their parent's answer, the token, its probability and its posterior."""
    logp_BC = logsumexp(joint_BKC, axis=1)
    token_BMT, log_prob_BM, posterior_BMKT = jax.tree.map(
        lambda x: jnp.take_along_axis(x, parent_BC.reshape(*parent_BC.shape, *(1,) * (x.ndim - 2)), axis=1), said
    )
    counts_BC = (position > 0) | (token_BC != generator.bos_id)
    posterior_BCK = jnp.swapaxes(joint_BKC - jnp.where(logp_BC == -jnp.inf, 0.0, logp_BC)[:, None], 1, 2)
    return Said(
        token_BMT.at[:, :, position].set(token_BC),
        log_prob_BM + jnp.where(counts_BC, logp_BC, 0.0),
        posterior_BMKT.at[:, :, :, position].set(posterior_BCK),
    )


def counted(generator: BartConfig, token_XT: jax.Array) -> jax.Array:
    """Marks the tokens whose probability an answer pays, [..., T]: all up to `</s>`, but not a leading `<s>`.

    A pad said before `</s>` is paid for; transformers makes it free, so that an answer of pads wins.
    """
    ends_XT = (token_XT == generator.eos_id).astype(jnp.int32)
    leading_XT = token_XT == generator.bos_id
    leading_XT = leading_XT & (jnp.arange(token_XT.shape[-1]) == 0).reshape(*(1,) * (token_XT.ndim - 1), -1)
    return (jnp.cumsum(ends_XT, axis=-1) == ends_XT) & ~leading_XT
