"""What a search may say next: rules on log-probabilities, and the reshaping of a distribution to sample from.

All rules are arrays, so that a compiled search serves every setting. Letters beside the usual: N forbidden word,
L its tokens, H places of the history, the token before the answer included.
"""

from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

Leaf = TypeVar("Leaf")  # an array of jax, or one of numpy that will become one


class Rules(NamedTuple, Generic[Leaf]):
    """Scalars int32, but for `length_penalty`, `temperature` and `top_p` (fp32).

    An answer has at most `max_length` tokens and at least `min_length` before `</s>`. Forced ids: -1 for none.
    early_stopping: see core.beam. no_repeat: no n-gram of this size twice; 0 for any. bad_word_NL: sequences never
    said, aligned on the right, -1 in front. before: what stands before the answer when n-grams and words are matched,
    -1 for nothing.
    """

    max_length: Leaf
    min_length: Leaf
    length_penalty: Leaf
    early_stopping: Leaf
    forced_bos_id: Leaf
    forced_eos_id: Leaf
    no_repeat: Leaf
    bad_word_NL: Leaf
    before: Leaf
    temperature: Leaf
    top_k: Leaf
    top_p: Leaf
    seed: Leaf


def constrain(
    rules: Rules[jax.Array], eos_id: int, logp_BMV: jax.Array, token_BMT: jax.Array, position: jax.Array
) -> jax.Array:
    """Log-probabilities of the token at `position` after token_BMT[:, :, :position]: forbidden ones become -inf.

    Where a token is forced it becomes 0 and all others -inf, whatever was forbidden.
    """
    B, M, V = logp_BMV.shape
    before_BM1 = jnp.broadcast_to(rules.before, (B, M, 1))
    history_BMH = jnp.concatenate([before_BM1, token_BMT], axis=2)
    early_BM1 = jnp.broadcast_to(jnp.where(position < rules.min_length, eos_id, V), (B, M, 1))
    banned = [_repeated(rules.no_repeat, history_BMH, position, V), early_BM1]
    if rules.bad_word_NL.size:
        banned.append(_bad(rules.bad_word_NL, history_BMH, position, V))
    banned_BMN = jnp.concatenate(banned, axis=2)

    first, last = position == 0, position == rules.max_length - 1
    forced = jnp.where(first, rules.forced_bos_id, -1)
    forced = jnp.where(last & (rules.forced_eos_id >= 0), rules.forced_eos_id, forced)
    only_BMV = jnp.where(jnp.arange(V)[None, None] == forced, 0.0, -jnp.inf)
    logp_BMV = jnp.where(forced < 0, logp_BMV, only_BMV)
    banned_BMN = jnp.where(forced < 0, banned_BMN, V)  # V is nowhere: dropped
    b, m = jnp.arange(B)[:, None, None], jnp.arange(M)[None, :, None]
    return logp_BMV.at[b, m, banned_BMN].set(-jnp.inf, mode="drop")


def _repeated(size: jax.Array, history_BMH: jax.Array, position: jax.Array, V: int) -> jax.Array:
    """For every place of the history its token, if saying it again would complete an n-gram again; else V."""
    place_H = jnp.arange(history_BMH.shape[2])[None, None]

    def same_before(j: jax.Array, same_BMH: jax.Array) -> jax.Array:
        """Whether also the token j places back is the one that stands j places before the next."""
        back_BMH = jnp.roll(history_BMH, j, axis=2)
        ours_BM1 = jax.lax.dynamic_slice_in_dim(history_BMH, position + 1 - j, 1, axis=2)
        return same_BMH & (back_BMH == ours_BM1)

    seen_BMH = jnp.broadcast_to((place_H <= position) & (place_H >= size - 1) & (size > 0), history_BMH.shape)
    again_BMH = jax.lax.fori_loop(1, size, same_before, seen_BMH & (history_BMH >= 0))
    return jnp.where(again_BMH, history_BMH, V)


def _bad(word_NL: jax.Array, history_BMH: jax.Array, position: jax.Array, V: int) -> jax.Array:
    """For every forbidden word its last token, if the others have just been said; else V."""
    (B, M, _), (N, L) = history_BMH.shape, word_NL.shape
    said_BML = jnp.pad(history_BMH, ((0, 0), (0, 0), (L - 1, 0)), constant_values=-2)  # -2 equals no token
    said_BML = jax.lax.dynamic_slice_in_dim(said_BML, position + 1, L - 1, axis=2)
    front_NL = word_NL[:, :-1]
    same_BMNL = (said_BML[:, :, None] == front_NL[None, None]) | (front_NL < 0)[None, None]
    last_BMN = jnp.broadcast_to(word_NL[:, -1], (B, M, N))
    return jnp.where(jnp.all(same_BMNL, axis=3) & (last_BMN >= 0), last_BMN, V)


def warp(rules: Rules[jax.Array], logp_BMV: jax.Array) -> jax.Array:
    """Scores to sample from, not normalised: divided by the temperature, -inf outside the top k and the top p.

    top_k: the likeliest tokens, equals of the last of them included; 0 keeps all. top_p: the fewest likeliest tokens
    whose probabilities sum to p or more (Holtzman et al. 2020, section 3.1); 1 keeps all.
    """
    V = logp_BMV.shape[2]
    score_BMV = logp_BMV / rules.temperature
    sorted_BMV = jnp.sort(score_BMV, axis=2)
    first = jnp.where(rules.top_k > 0, jnp.maximum(V - rules.top_k, 0), 0)
    least_BM1 = jax.lax.dynamic_slice_in_dim(sorted_BMV, first, 1, axis=2)
    sorted_BMV = jnp.where(sorted_BMV < least_BM1, -jnp.inf, sorted_BMV)
    below_BMV = jnp.cumsum(jax.nn.softmax(sorted_BMV, axis=2), axis=2)
    keep_BMV = (below_BMV > 1 - rules.top_p) | (rules.top_p >= 1) | (jnp.arange(V) == V - 1)[None, None]
    keep_BMV = keep_BMV & (sorted_BMV > -jnp.inf)
    least_BM1 = jnp.min(jnp.where(keep_BMV, sorted_BMV, jnp.inf), axis=2, keepdims=True)
    return jnp.where(score_BMV < least_BM1, -jnp.inf, score_BMV)
