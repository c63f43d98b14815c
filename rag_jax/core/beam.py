"""Beam search by transformers' rules, as one small state, one step and one finish; the model is the caller's.

B question, M beam (running or finished), C candidate of a step, N answer asked for. A question's search is its own:
once closed it changes no more, whatever its neighbours in the batch do.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rag_jax.core.constraints import Rules

NOWHERE = -1e9  # the score of a beam that is not there
WHEN_FULL, NEVER = 1, 2  # codes of early_stopping; 0: as soon as no beam, at its length now, beats the worst finished
_BLOCK = 256


class Hypotheses(NamedTuple):
    """Answers by falling score, and what is known of each: a tree of arrays [B, M, ...]."""

    score_BM: jax.Array
    said: Any


class BeamState(NamedTuple):
    """running: unfinished answers, scores summed log-probabilities; finished: scores divided by length ** penalty.

    position: tokens of a running answer. open_B: questions still searching. full_BM: finished places taken.
    """

    position: jax.Array
    open_B: jax.Array
    running: Hypotheses
    finished: Hypotheses
    full_BM: jax.Array


class Candidates(NamedTuple):
    """The best continuations of a step by falling score: `said` includes the new token; ends_BC: it was the last."""

    score_BC: jax.Array
    said: Any
    ends_BC: jax.Array


def start(said: Any, open_B: jax.Array, beams: int) -> BeamState:
    """A state in which nothing was said; `said` describes that, a tree of arrays [B, M, ...].

    Only the first beam is there: the others would say the same.
    """
    shape = (open_B.shape[0], beams)
    nowhere_BM = jnp.full(shape, NOWHERE, jnp.float32)
    return BeamState(
        jnp.int32(0),
        open_B,
        Hypotheses(nowhere_BM.at[:, 0].set(0.0), said),
        Hypotheses(nowhere_BM, said),
        jnp.zeros(shape, bool),
    )


def best(score_BMV: jax.Array, count: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The `count` largest of all beams' continuations by falling score, then beam, then token: (score, beam, token).

    A block's maximum says whether it can hold one of them; only so many blocks are looked into.
    """
    B, M, V = score_BMV.shape
    blocks = -(-M * V // _BLOCK)
    score_BN = jnp.pad(score_BMV.reshape(B, M * V), ((0, 0), (0, blocks * _BLOCK - M * V)), constant_values=-jnp.inf)
    score_BNW = score_BN.reshape(B, blocks, _BLOCK)
    _, block_BC = jax.lax.top_k(jnp.max(score_BNW, axis=2), min(count, blocks))
    block_BC = jnp.sort(block_BC, axis=1)  # so that of equals the earlier stays the earlier
    score_BCW = jnp.take_along_axis(score_BNW, block_BC[:, :, None], axis=1)
    score_BC, place_BC = jax.lax.top_k(score_BCW.reshape(B, -1), count)
    flat_BC = jnp.take_along_axis(block_BC, place_BC // _BLOCK, axis=1) * _BLOCK + place_BC % _BLOCK
    flat_BC = jnp.minimum(flat_BC, M * V - 1)  # fewer continuations than asked for: some are padding, -inf
    return score_BC, (flat_BC // V).astype(jnp.int32), (flat_BC % V).astype(jnp.int32)


def step(rules: Rules[jax.Array], state: BeamState, candidates: Candidates) -> tuple[BeamState, jax.Array]:
    """Takes C >= M candidates of one more token: (state, which candidate every running beam now is [B, M]).

    Among the first M, those that end become answers if they beat the worst finished; the best that do not end go on.
    """
    M = state.full_BM.shape[1]
    length = state.position + 1
    score_BC, said, ends_BC = candidates
    onward_BC = score_BC + jnp.where(ends_BC, NOWHERE, 0.0)
    onward_BM, chosen_BM = jax.lax.top_k(onward_BC, M)
    running = Hypotheses(onward_BM, _take(said, chosen_BM))

    # Of a beam that is not there nothing ends: it would say again what another says.
    ends_BC = ends_BC & (jnp.arange(score_BC.shape[1]) < M)[None] & (score_BC > NOWHERE / 2)
    penalty = length.astype(jnp.float32) ** rules.length_penalty
    final_BC = score_BC / penalty + jnp.where(ends_BC, 0.0, NOWHERE)
    merged_BX = jnp.concatenate([state.finished.score_BM, final_BC], axis=1)
    score_BM, order_BM = jax.lax.top_k(merged_BX, M)
    both = jax.tree.map(lambda old, new: jnp.concatenate([old, new], axis=1), state.finished.said, said)
    full_BM = jnp.take_along_axis(jnp.concatenate([state.full_BM, ends_BC], axis=1), order_BM, axis=1)
    merged = BeamState(length, state.open_B, running, Hypotheses(score_BM, _take(both, order_BM)), full_BM)
    kept = jax.tree.map(lambda new, old: _where(state.open_B, new, old), merged[2:], state[2:])
    state = BeamState(length, state.open_B, *kept)
    return state._replace(open_B=state.open_B & _can_improve(rules, state)), chosen_BM


def _can_improve(rules: Rules[jax.Array], state: BeamState) -> jax.Array:
    """Whether a question's search goes on: a beam may yet beat the worst finished answer, or a place is free.

    What the best beam may reach is judged at its present length; under NEVER and a penalty that favours long
    answers, at the longest.
    """
    longest = (rules.early_stopping == NEVER) & (rules.length_penalty > 0)
    length = jnp.where(longest, rules.max_length, state.position).astype(jnp.float32)
    reach_B = state.running.score_BM[:, 0] / length**rules.length_penalty
    full_B = jnp.all(state.full_BM, axis=1)
    worst_B = jnp.where(full_B, jnp.min(state.finished.score_BM, axis=1), NOWHERE)
    stops_B = full_B & (rules.early_stopping == WHEN_FULL)
    return (reach_B > worst_B) & ~stops_B & (state.position < rules.max_length)


def finish(state: BeamState, count: int) -> Hypotheses:
    """The `count` best answers of every question; where there are fewer, score -inf and what `start` was given."""
    score_BM = jnp.where(state.full_BM, state.finished.score_BM, -jnp.inf)
    return jax.tree.map(lambda x: x[:, :count], Hypotheses(score_BM, state.finished.said))


def _take(tree: Any, index_BM: jax.Array) -> Any:
    def take(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, index_BM.reshape(*index_BM.shape, *(1,) * (x.ndim - 2)), axis=1)

    return jax.tree.map(take, tree)


def _where(mask_B: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(mask_B.reshape(-1, *(1,) * (new.ndim - 1)), new, old)
