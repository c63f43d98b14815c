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


def causal_bias(queries: int, keys: int, position: jax.Array | int = 0) -> jax.Array:
    """Returns [1, 1, T, keys] fp32: query t stands at `position + t` and sees keys 0 .. position + t."""
    seen = jnp.arange(keys)[None, :] <= jnp.arange(queries)[:, None] + position
    return jnp.where(seen, 0.0, MASKED).astype(jnp.float32)[None, None]


def attention_weights(query_RTHC: jax.Array, key_RSHC: jax.Array, bias_RHTS: jax.Array | None) -> jax.Array:
    """Softmax over S of scaled scores, in fp32 or wider for any input (Vaswani et al. 2017, eq. 1).

    bias_RHTS: added to the scores; axes of size one are spread. Returns [R, H, T, S] in the query's dtype.
    """
    wide = jnp.promote_types(query_RTHC.dtype, jnp.float32)
    query_RTHC = query_RTHC * query_RTHC.shape[-1] ** -0.5
    score_RHTS = jnp.einsum("RTHC,RSHC->RHTS", query_RTHC, key_RSHC, preferred_element_type=wide)
    if bias_RHTS is not None:
        score_RHTS = score_RHTS + bias_RHTS.astype(wide)
    return jax.nn.softmax(score_RHTS, axis=-1).astype(query_RTHC.dtype)


def weighted_values(weight_RHTS: jax.Array, value_RSHC: jax.Array) -> jax.Array:
    """Returns [R, T, H, C]: each head's values averaged with its weights."""
    return jnp.einsum("RHTS,RSHC->RTHC", weight_RHTS, value_RSHC)


def write_cache(cache: jax.Array, new: jax.Array, position: jax.Array | int) -> jax.Array:
    """Returns cache [..., T_max, H, C] with new [..., T, H, C] in places position .. position + T - 1."""
    return jax.lax.dynamic_update_slice_in_dim(cache, new.astype(cache.dtype), position, axis=cache.ndim - 3)
