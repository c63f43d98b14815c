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


def hold(key_RSHC: jax.Array, value_RSHC: jax.Array) -> dict[str, jax.Array]:
    """Keys [R, H, C, S] and values [R, H, S, C]: what lies together is multiplied together, in every later call."""
    return {"key": jnp.moveaxis(key_RSHC, 1, 3), "value": jnp.moveaxis(value_RSHC, 1, 2)}


def attention_weights(query_RTHC: jax.Array, key_RHCS: jax.Array, bias_RHTS: jax.Array | None) -> jax.Array:
    """Softmax over S of scaled scores, in fp32 or wider for any input (Vaswani et al. 2017, eq. 1).

    bias_RHTS: added to the scores; axes of size one are spread. Returns [R, H, T, S] in the query's dtype.
    """
    R, T, H, C = query_RTHC.shape
    wide = jnp.promote_types(query_RTHC.dtype, jnp.float32)
    query_XTC = jnp.moveaxis(query_RTHC * C**-0.5, 2, 1).reshape(R * H, T, C)
    # One batch axis: given R and H apart, XLA transposes on a CPU, and takes up to five times as long.
    score_XTS = jnp.matmul(query_XTC, key_RHCS.reshape(R * H, C, -1), preferred_element_type=wide)
    score_RHTS = score_XTS.reshape(R, H, T, -1)
    if bias_RHTS is not None:
        score_RHTS = score_RHTS + bias_RHTS.astype(wide)
    return jax.nn.softmax(score_RHTS, axis=-1).astype(query_RTHC.dtype)


def weighted_values(weight_RHTS: jax.Array, value_RHSC: jax.Array) -> jax.Array:
    """Returns [R, T, H, C]: each head's values averaged with its weights."""
    R, H, T, S = weight_RHTS.shape
    y_XTC = jnp.matmul(weight_RHTS.reshape(R * H, T, S), value_RHSC.reshape(R * H, S, -1))
    return jnp.moveaxis(y_XTC.reshape(R, H, T, -1), 1, 2)


def write_cache(cache: dict[str, jax.Array], new: dict[str, jax.Array], slot: jax.Array | int) -> dict[str, jax.Array]:
    """Returns the cache (key [..., H, C, P], value [..., H, P, C]) with new ones in the slots from `slot` on."""
    return {
        name: jax.lax.dynamic_update_slice_in_dim(cache[name], new[name].astype(cache[name].dtype), slot, axis=axis)
        for name, axis in (("key", cache["key"].ndim - 1), ("value", cache["value"].ndim - 2))
    }
