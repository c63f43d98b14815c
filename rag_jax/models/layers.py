"""What BERT and BART share: dense, layer norm, dropout, attention, the encoder layer, the scan over layers.

Parameters are fp32 and computed with in `dtype`; layer-norm statistics and softmax stay in fp32. R rows,
S source, T target, D width, H head, C channel of one head, L layer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from rag_jax.core import attention
from rag_jax.errors import UserError

_REMAT_POLICIES = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclass(frozen=True)
class Block:
    """The numbers one transformer layer needs; rates in [0, 1), `dtype` of the computation."""

    width: int
    heads: int
    ffn: int
    dropout: float
    attention_dropout: float
    activation_dropout: float
    norm_eps: float
    init_std: float
    dtype: str


def applied(module: nn.Module, params: Any, *args: Any, **kwargs: Any) -> Any:
    """What a module, or its `method`, makes of the arguments with these parameters, all that modules here have."""
    return module.apply({"params": params}, *args, **kwargs)


class Dense(nn.Module):
    """A dense layer [..., D] -> [..., features] with bias, computed in `dtype`."""

    features: int
    init_std: float
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(self.init_std), shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        # Of a plain matrix, the kernel's gradient needs no transposed copy (a sixth of a step's time on a CPU).
        y = x.astype(self.dtype).reshape(-1, x.shape[-1]) @ kernel + bias[None]
        return y.reshape(*x.shape[:-1], self.features)


def dense(block: Block, features: int) -> Dense:
    """A dense layer of a block's kind."""
    return Dense(features, block.init_std, block.dtype)


def gelu(x: jax.Array) -> jax.Array:
    """x * Phi(x) by erf, as BERT and BART have it; jax.nn.gelu goes by erfc, which is slower on a CPU."""
    return x * (0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5))


class LayerNorm(nn.Module):
    """Layer norm over the last axis, statistics in fp32 or wider, result in the input's dtype."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale_D = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias_D = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        wide = jnp.promote_types(x.dtype, jnp.float32)
        y = x.astype(wide)
        y = y - y.mean(axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt((y * y).mean(axis=-1, keepdims=True) + self.eps)
        spread = (1,) * (x.ndim - 1) + (-1,)
        return (y * scale_D.astype(wide).reshape(spread) + bias_D.astype(wide).reshape(spread)).astype(x.dtype)


class Dropout(nn.Module):
    """Zeroes a share `rate` of the values and scales the rest up; random bits from the stream 'dropout'."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        # The rate is rounded to 1/65536, and the scale follows the rounded rate: the mean is kept exactly.
        dropped = round(self.rate * 65536)
        if deterministic or dropped == 0:
            return x
        keep = jax.random.bits(self.make_rng("dropout"), x.shape, jnp.uint16) >= dropped
        return jnp.where(keep, x * (65536 / (65536 - dropped)), jnp.zeros_like(x))


class Attention(nn.Module):
    """Multi-head attention; keys and values are made apart from queries, so that a caller may keep them."""

    block: Block

    def setup(self):
        self.query, self.key, self.value, self.out = (dense(self.block, self.block.width) for _ in range(4))
        self.dropout = Dropout(self.block.attention_dropout)

    def _heads(self, x_RSD: jax.Array) -> jax.Array:
        return x_RSD.reshape(*x_RSD.shape[:-1], self.block.heads, -1)

    def keys_values(self, source_RSD: jax.Array) -> dict[str, jax.Array]:
        """Returns key [R, H, C, S] and value [R, H, S, C]."""
        return attention.hold(self._heads(self.key(source_RSD)), self._heads(self.value(source_RSD)))

    def attend(self, x_RTD, held: dict[str, jax.Array], bias_RHTS, deterministic: bool) -> jax.Array:
        """Returns [R, T, D]: what each position of x reads from keys and values."""
        weight_RHTS = attention.attention_weights(self._heads(self.query(x_RTD)), held["key"], bias_RHTS)
        weight_RHTS = self.dropout(weight_RHTS, deterministic)
        return self.out(attention.weighted_values(weight_RHTS, held["value"]).reshape(x_RTD.shape))

    def __call__(self, x_RTD, bias_RHTS, deterministic: bool) -> jax.Array:
        """Self-attention [R, T, D] -> [R, T, D]."""
        return self.attend(x_RTD, self.keys_values(x_RTD), bias_RHTS, deterministic)


class FeedForward(nn.Module):
    """The post-norm feed-forward half of a layer, erf GELU, residual and norm included."""

    block: Block

    def setup(self):
        self.up, self.down = dense(self.block, self.block.ffn), dense(self.block, self.block.width)
        self.activation_dropout = Dropout(self.block.activation_dropout)
        self.dropout = Dropout(self.block.dropout)
        self.norm = LayerNorm(self.block.norm_eps)

    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        y = self.activation_dropout(gelu(self.up(x)), deterministic)
        return self.norm(x + self.dropout(self.down(y), deterministic))


class EncoderLayer(nn.Module):
    """One post-norm encoder layer [R, S, D] -> [R, S, D], the same in BERT and BART."""

    block: Block

    def setup(self):
        self.self_attention = Attention(self.block)
        self.self_attention_norm = LayerNorm(self.block.norm_eps)
        self.feed_forward = FeedForward(self.block)
        self.dropout = Dropout(self.block.dropout)

    def __call__(self, x_RSD: jax.Array, bias_R11S: jax.Array, deterministic: bool) -> jax.Array:
        y_RSD = self.dropout(self.self_attention(x_RSD, bias_R11S, deterministic), deterministic)
        return self.feed_forward(self.self_attention_norm(x_RSD + y_RSD), deterministic)


def scan_layers(
    body: Callable[[nn.Module, Any, Any], tuple[Any, Any]],
    layer: nn.Module,
    carry: Any,
    xs: Any,
    *,
    length: int,
    remat: str,
) -> tuple[Any, Any]:
    """Runs body(layer, carry, x_of_layer) -> (carry, y_of_layer) over L layers; returns (carry, stacked ys).

    The layer's parameters carry a leading axis L. remat: 'none' keeps what the backward pass needs,
    'full' recomputes the layer, 'dots' keeps only the results of its dense layers.
    """
    if remat != "none":
        body = nn.remat(body, policy=_REMAT_POLICIES[remat], prevent_cse=False)
    # Two layers compile no slower unrolled than in a loop, and run a few per cent faster on a CPU.
    unroll = length if length <= 2 and remat == "none" else 1
    scanned = nn.scan(
        body,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        length=length,
        unroll=unroll,
    )
    return scanned(layer, carry, xs)


def embed(table_ND: jax.Array, ids: jax.Array, dtype: str) -> jax.Array:
    """Returns table_ND[ids] in `dtype`; an id outside the table gives NaN rather than another row."""
    return jnp.take(table_ND, ids, axis=0, mode="fill", fill_value=jnp.nan).astype(dtype)


def check_length(length: int, positions: int, part: str) -> None:
    """Raises UserError if a sequence is longer than its model's position table."""
    if length > positions:
        raise UserError(
            f"{part}: a sequence of {length} tokens, expected at most {positions} (its table of positions); "
            "shorten the sequences or enlarge `positions`"
        )
