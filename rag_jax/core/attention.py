"""Attention as functions of arrays: additive masks, softmax in fp32, functional cache write.

Letters of this file beside the usual ones: C channel of one head, so that D = H * C.
"""

import jax
import jax.numpy as jnp

# Finite, so that a fully masked row stays finite; exp of it is exactly zero beside any real score.
MASKED = -1e30


def padding_bias(mask_RS: jax.Array) -> jax.Array:
    """Returns [R, 1, 1, S] fp32 to add to scores: 0 where the mask is true, else low enough for weight 0."""
    return jnp.where(mask_RS, 0.0, MASKED).astype(jnp.float32)[:, None, None, :]


def seen_bias(seen: jax.Array) -> jax.Array:
    """Returns [..., 1, T, S] fp32 to add to scores: 0 where seen [..., T, S] is true, else low enough for weight 0."""
    return jnp.where(seen, 0.0, MASKED).astype(jnp.float32)[..., None, :, :]


def causal_bias(length: int) -> jax.Array:
    """Returns [1, 1, T, T] fp32: place t sees places 0 .. t."""
    return seen_bias(jnp.tril(jnp.ones((1, length, length), bool)))


def attention_weights(
    query_RTHC: jax.Array, key_RSHC: jax.Array | None, bias_RHTS: jax.Array | None, held_RHCP: jax.Array | None = None
) -> jax.Array:
    """Softmax over the keys of scaled scores, in fp32 or wider for any input (Vaswani et al. 2017, eq. 1).

    bias_RHTS: added to the scores; axes of size one are spread. held_RHCP: keys kept from earlier, laid out so that
    every product with few queries reads them as they lie; they stand before the others. Returns [R, H, T, P + S] in
    the query's dtype.
    """
    wide = jnp.promote_types(query_RTHC.dtype, jnp.float32)
    query_RTHC = query_RTHC * query_RTHC.shape[-1] ** -0.5
    scores = []
    if held_RHCP is not None:
        scores.append(jnp.einsum("RTHC,RHCP->RHTP", query_RTHC, held_RHCP, preferred_element_type=wide))
    if key_RSHC is not None:
        scores.append(jnp.einsum("RTHC,RSHC->RHTS", query_RTHC, key_RSHC, preferred_element_type=wide))
    score_RHTS = scores[0] if len(scores) == 1 else jnp.concatenate(scores, axis=-1)
    if bias_RHTS is not None:
        score_RHTS = score_RHTS + bias_RHTS.astype(wide)
    return jax.nn.softmax(score_RHTS, axis=-1).astype(query_RTHC.dtype)


def weighted_values(
    weight_RHTS: jax.Array, value_RSHC: jax.Array | None, held_RHPC: jax.Array | None = None
) -> jax.Array:
    """Returns [R, T, H, C]: each head's values, held ones first, averaged with its weights."""
    held = 0 if held_RHPC is None else held_RHPC.shape[2]
    parts = []
    if held_RHPC is not None:
        parts.append(jnp.einsum("RHTP,RHPC->RTHC", weight_RHTS[..., :held], held_RHPC))
    if value_RSHC is not None:
        parts.append(jnp.einsum("RHTS,RSHC->RTHC", weight_RHTS[..., held:], value_RSHC))
    return sum(parts[1:], parts[0])


def hold(key_RSHC: jax.Array, value_RSHC: jax.Array) -> dict[str, jax.Array]:
    """Keys [R, H, C, S] and values [R, H, S, C] as later calls read them."""
    return {"key": jnp.moveaxis(key_RSHC, 1, 3), "value": jnp.moveaxis(value_RSHC, 1, 2)}


def write_cache(cache: dict[str, jax.Array], new: dict[str, jax.Array], slot: jax.Array | int) -> dict[str, jax.Array]:
    """Returns the cache (key [..., H, C, P], value [..., H, P, C]) with new ones in the slots from `slot` on."""
    return {
        name: jax.lax.dynamic_update_slice_in_dim(cache[name], new[name].astype(cache[name].dtype), slot, axis=axis)
        for name, axis in (("key", cache["key"].ndim - 1), ("value", cache["value"].ndim - 2))
    }
