"""BART, the encoder-decoder that writes the answer (Lewis et al. 2019)."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rag_jax.core import attention
from rag_jax.models.layers import (
    Attention,
    Block,
    Dropout,
    EncoderLayer,
    FeedForward,
    LayerNorm,
    check_length,
    embed,
    scan_layers,
)

POSITION_OFFSET = 2  # BART's position tables begin with two rows that no position uses
NORM_EPS = 1e-5


@dataclass(frozen=True)
class BartConfig:
    """Sizes, rates and special ids; the defaults are BART-large.

    positions: longest sequence; the table has two rows more. position_init: how the learned position tables
    start, 'normal' or 'sinusoidal' (Vaswani et al. 2017, section 3.5, scaled to standard deviation init_std).
    remat: see layers.scan_layers.
    """

    vocab_size: int = 50265
    width: int = 1024
    encoder_layers: int = 12
    decoder_layers: int = 12
    heads: int = 16
    ffn: int = 4096
    positions: int = 1024
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    scale_embedding: bool = False
    pad_id: int = 1
    bos_id: int = 0
    eos_id: int = 2
    start_id: int = 2
    init_std: float = 0.02
    position_init: str = "normal"
    dtype: str = "float32"
    remat: str = "none"

    @property
    def block(self) -> Block:
        """What one layer needs."""
        return Block(
            self.width,
            self.heads,
            self.ffn,
            self.dropout,
            self.attention_dropout,
            self.activation_dropout,
            NORM_EPS,
            self.init_std,
            self.dtype,
        )


def sinusoidal_table(rows: int, width: int, std: float) -> np.ndarray:
    """Returns [rows, width] fp32: half sines, half cosines, of wavelengths 2 pi to 10000 * 2 pi."""
    half = (width + 1) // 2
    angle = np.arange(rows)[:, None] / 10000 ** (np.arange(half)[None, :] / half)
    table = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)[:, :width]
    return (table * (std * np.sqrt(2.0))).astype(np.float32)  # a sine's root mean square is 1 / sqrt(2)


class Embedding(nn.Module):
    """The token table [V, D] that encoder, decoder and logits share."""

    config: BartConfig

    def setup(self):
        config = self.config
        self.embedding = self.param(
            "embedding", nn.initializers.normal(config.init_std), (config.vocab_size, config.width)
        )

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Returns [..., D]."""
        x = embed(self.embedding, ids, self.config.dtype)
        return x * self.config.width**0.5 if self.config.scale_embedding else x


class Placement(nn.Module):
    """Adds learned positions to token embeddings and normalises: the way into either half."""

    config: BartConfig

    @nn.compact
    def __call__(self, x: jax.Array, position: jax.Array | int, deterministic: bool) -> jax.Array:
        """x [..., T, D] at places position .. position + T - 1."""
        config = self.config
        check_length(x.shape[-2], config.positions, "generator")
        shape = (config.positions + POSITION_OFFSET, config.width)
        if config.position_init == "sinusoidal":
            table_PD = self.param("position", lambda _: jnp.asarray(sinusoidal_table(*shape, config.init_std)))
        else:
            table_PD = self.param("position", nn.initializers.normal(config.init_std), shape)
        place_TD = jax.lax.dynamic_slice_in_dim(table_PD, position + POSITION_OFFSET, x.shape[-2])
        x = x + place_TD.astype(x.dtype).reshape((1,) * (x.ndim - 2) + place_TD.shape)
        return Dropout(config.dropout)(LayerNorm(NORM_EPS, name="norm")(x), deterministic)


class DecoderLayer(nn.Module):
    """One post-norm decoder layer: causal self-attention, attention to the memory, feed-forward."""

    block: Block

    def setup(self):
        self.self_attention = Attention(self.block)
        self.self_attention_norm = LayerNorm(self.block.norm_eps)
        self.cross_attention = Attention(self.block)
        self.cross_attention_norm = LayerNorm(self.block.norm_eps)
        self.feed_forward = FeedForward(self.block)
        self.dropout = Dropout(self.block.dropout)

    def cross(self, memory_RSD: jax.Array) -> dict[str, jax.Array]:
        """Returns the memory's keys and values, each [R, S, H, C]."""
        return dict(zip(("key", "value"), self.cross_attention.keys_values(memory_RSD), strict=True))

    def __call__(self, x_RMTD, cross, cache, position, causal_11TS, memory_R11S, deterministic):
        """Returns (x_RMTD, this call's self-attention keys and values [R, M, T, H, C]).

        cache: keys and values [R, M, T_max, H, C] of earlier positions, or None to attend within this call.
        """
        rows, beams, length, width = x_RMTD.shape
        key, value = self.self_attention.keys_values(x_RMTD)
        new = {"key": key, "value": value}
        if cache is not None:
            key, value = (attention.write_cache(cache[name], new[name], position) for name in ("key", "value"))
        key, value = (a.reshape(rows * beams, *a.shape[2:]) for a in (key, value))
        x = x_RMTD.reshape(rows * beams, length, width)
        y = self.self_attention.attend(x, key, value, causal_11TS, deterministic)
        x = self.self_attention_norm(x + self.dropout(y, deterministic))
        # All beams of a row ask the same memory: they are more queries, not more copies of the keys.
        x = x.reshape(rows, beams * length, width)
        y = self.cross_attention.attend(x, cross["key"], cross["value"], memory_R11S, deterministic)
        x = self.cross_attention_norm(x + self.dropout(y, deterministic))
        return self.feed_forward(x, deterministic).reshape(x_RMTD.shape), new


class Encoder(nn.Module):
    """Source embeddings [R, S, D] -> memory [R, S, D]."""

    config: BartConfig

    def setup(self):
        self.placement = Placement(self.config)
        self.layers = EncoderLayer(self.config.block)

    def __call__(self, x_RSD: jax.Array, mask_RS: jax.Array, deterministic: bool) -> jax.Array:
        """Positions where the mask is false are read by nobody."""
        bias_R11S = attention.padding_bias(mask_RS)

        def body(layer, x_RSD, _):
            return layer(x_RSD, bias_R11S, deterministic), None

        x_RSD = self.placement(x_RSD, 0, deterministic)
        config = self.config
        return scan_layers(body, self.layers, x_RSD, None, length=config.encoder_layers, remat=config.remat)[0]


class Decoder(nn.Module):
    """Target embeddings and crossing keys -> hidden states."""

    config: BartConfig

    def setup(self):
        self.placement = Placement(self.config)
        self.layers = DecoderLayer(self.config.block)

    def cross(self, memory_RSD: jax.Array) -> dict[str, jax.Array]:
        """Returns keys and values of every layer, each [L, R, S, H, C]."""

        def body(layer, carry, _):
            return carry, layer.cross(memory_RSD)

        config = self.config
        return scan_layers(body, self.layers, None, None, length=config.decoder_layers, remat=config.remat)[1]

    def __call__(self, x_RMTD, cross, mask_RS, cache, position, deterministic):
        """Returns (hidden_RMTD, cache); see Bart.decode."""
        length = x_RMTD.shape[2]
        causal = attention.causal_bias(length, length if cache is None else cache["key"].shape[3], position)
        memory = attention.padding_bias(mask_RS)

        def body(layer, x_RMTD, of_layer):
            x_RMTD, new = layer(x_RMTD, *of_layer, position, causal, memory, deterministic)
            return x_RMTD, None if cache is None else new

        x_RMTD = self.placement(x_RMTD, position, deterministic)
        config = self.config
        x_RMTD, new = scan_layers(
            body, self.layers, x_RMTD, (cross, cache), length=config.decoder_layers, remat=config.remat
        )
        if cache is not None:
            cache = jax.tree.map(lambda old, new: attention.write_cache(old, new, position), cache, new)
        return x_RMTD, cache


class Bart(nn.Module):
    """BART; use module.apply(variables, ..., method='encode') for its parts."""

    config: BartConfig

    def setup(self):
        self.shared = Embedding(self.config)
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)
        self.final_logits_bias = self.param("final_logits_bias", nn.initializers.zeros, (self.config.vocab_size,))

    def encode(self, source_RS: jax.Array, mask_RS: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """Returns memory_RSD; mask_RS is true at text, false at padding."""
        return self.encoder(self.shared(source_RS), mask_RS, deterministic)

    def cross(self, memory_RSD: jax.Array) -> dict[str, jax.Array]:
        """Returns the memory's keys and values for every decoder layer, each [L, R, S, H, C]."""
        return self.decoder.cross(memory_RSD)

    def init_cache(self, rows: int, beams: int, length: int) -> dict[str, jax.Array]:
        """Returns an empty cache, key and value [L, R, M, T_max, H, C]; beams are reordered along axis 2."""
        config = self.config
        shape = (config.decoder_layers, rows, beams, length, config.heads, config.width // config.heads)
        return {"key": jnp.zeros(shape, config.dtype), "value": jnp.zeros(shape, config.dtype)}

    def decode(
        self,
        token_RMT: jax.Array,
        cross: Any,
        mask_RS: jax.Array,
        *,
        cache: Any = None,
        position: jax.Array | int = 0,
        deterministic: bool = True,
    ) -> tuple[jax.Array, Any]:
        """Returns (hidden_RMTD, cache): M sequences a row, all attending to the one memory of their row.

        cross: from `cross`. Without a cache the T tokens see only one another, causally. With one (from
        init_cache) they stand at places position .. position + T - 1, see all earlier places, and are written
        into it; the caller keeps position + T within T_max.
        """
        return self.decoder(self.shared(token_RMT), cross, mask_RS, cache, position, deterministic)

    def __call__(
        self, source_RS: jax.Array, mask_RS: jax.Array, token_RT: jax.Array, *, deterministic: bool = True
    ) -> jax.Array:
        """Returns hidden_RTD for target tokens given whole, as in training."""
        cross = self.cross(self.encode(source_RS, mask_RS, deterministic=deterministic))
        return self.decode(token_RT[:, None], cross, mask_RS, deterministic=deterministic)[0][:, 0]

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Returns [..., V] in fp32: hidden [..., D] against the shared table, plus the bias."""
        wide = jnp.promote_types(hidden.dtype, jnp.float32)
        table_VD = self.shared.embedding
        scores = jnp.einsum("...D,VD->...V", hidden.astype(wide), table_VD.astype(wide), precision="highest")
        return scores + self.final_logits_bias.astype(wide).reshape((1,) * (hidden.ndim - 1) + (-1,))
