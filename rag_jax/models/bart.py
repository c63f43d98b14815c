"""BART, the encoder-decoder that writes the answer (Lewis et al. 2019)."""

from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rag_jax.core import attention
from rag_jax.core.likelihood import output_scores
from rag_jax.models.layers import (
    Attention,
    Block,
    Dropout,
    EncoderLayer,
    FeedForward,
    LayerNorm,
    applied,
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
    def __call__(self, x_RTD: jax.Array, place_RT: jax.Array | None, deterministic: bool) -> jax.Array:
        """x_RTD at the given places, or at 0 .. T - 1."""
        config = self.config
        length = x_RTD.shape[1]
        shape = (config.positions + POSITION_OFFSET, config.width)
        if config.position_init == "sinusoidal":
            table_PD = self.param("position", lambda _: jnp.asarray(sinusoidal_table(*shape, config.init_std)))
        else:
            table_PD = self.param("position", nn.initializers.normal(config.init_std), shape)
        if place_RT is None:
            check_length(length, config.positions, "generator")
            place_RTD = table_PD[None, POSITION_OFFSET : POSITION_OFFSET + length]
        else:
            place_RTD = table_PD[place_RT + POSITION_OFFSET]
        x_RTD = x_RTD + place_RTD.astype(x_RTD.dtype)
        return Dropout(config.dropout)(LayerNorm(NORM_EPS, name="norm")(x_RTD), deterministic)


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
        """Returns the memory's keys [R, H, C, S] and values [R, H, S, C]."""
        return self.cross_attention.keys_values(memory_RSD)

    def __call__(self, x_RTD, cross, cache, slot, bias_RHTP, memory_R11S, deterministic):
        """Returns (x_RTD, cache): attends to the cache with these tokens written from `slot` on, or without a cache

        to these tokens alone.
        """
        held = self.self_attention.keys_values(x_RTD)
        if cache is not None:
            held = cache = attention.write_cache(cache, held, slot)
        y = self.self_attention.attend(x_RTD, held, bias_RHTP, deterministic)
        x = self.self_attention_norm(x_RTD + self.dropout(y, deterministic))
        y = self.cross_attention.attend(x, cross, memory_R11S, deterministic)
        x = self.cross_attention_norm(x + self.dropout(y, deterministic))
        return self.feed_forward(x, deterministic), cache


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

        x_RSD = self.placement(x_RSD, None, deterministic)
        config = self.config
        return scan_layers(body, self.layers, x_RSD, None, length=config.encoder_layers, remat=config.remat)[0]


class Decoder(nn.Module):
    """Target embeddings and crossing keys -> hidden states."""

    config: BartConfig

    def setup(self):
        self.placement = Placement(self.config)
        self.layers = DecoderLayer(self.config.block)

    def cross(self, memory_RSD: jax.Array) -> dict[str, jax.Array]:
        """Returns keys [L, R, H, C, S] and values [L, R, H, S, C] of every layer."""

        def body(layer, carry, _):
            return carry, layer.cross(memory_RSD)

        config = self.config
        return scan_layers(body, self.layers, None, None, length=config.decoder_layers, remat=config.remat)[1]

    def __call__(self, x_RTD, cross, mask_RS, place_RT, sees_RTT, deterministic):
        """Returns hidden_RTD; see Bart.decode."""
        bias = attention.causal_bias(x_RTD.shape[1]) if sees_RTT is None else attention.seen_bias(sees_RTT)
        memory = attention.padding_bias(mask_RS)

        def body(layer, x_RTD, cross):
            return layer(x_RTD, cross, None, 0, bias, memory, deterministic)

        x_RTD = self.placement(x_RTD, place_RT, deterministic)
        config = self.config
        return scan_layers(body, self.layers, x_RTD, cross, length=config.decoder_layers, remat=config.remat)[0]

    def step(self, x_RTD, layers, mask_RS, place_RT, sees_RTP, cache, slot):
        """Returns (hidden_RTD, cache); see Bart.step."""
        bias, memory = attention.seen_bias(sees_RTP), attention.padding_bias(mask_RS)
        x_RTD, written = self.placement(x_RTD, place_RT, True), []
        for (params, cross), cache_of_layer in zip(layers, cache, strict=True):
            layer = DecoderLayer(self.config.block, parent=None)
            x_RTD, new = applied(layer, params, x_RTD, cross, cache_of_layer, slot, bias, memory, True)
            written.append(new)
        return x_RTD, tuple(written)


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
        """Returns the memory's keys [L, R, H, C, S] and values [L, R, H, S, C] for every decoder layer."""
        return self.decoder.cross(memory_RSD)

    def decode(
        self,
        token_RT: jax.Array,
        cross: Any,
        mask_RS: jax.Array,
        *,
        place_RT: jax.Array | None = None,
        sees_RTT: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Returns hidden_RTD: the T tokens of a row all attend to the one memory of their row.

        By themselves they are a sequence from place 0 on, each seeing itself and those before it. Several sequences
        of a row, or a tree of them, stand side by side when `place_RT` says where each token stands and `sees_RTT`
        which tokens it sees. cross: from `cross`.
        """
        return self.decoder(self.shared(token_RT), cross, mask_RS, place_RT, sees_RTT, deterministic)

    def step(
        self,
        token_RT: jax.Array,
        layers: Any,
        mask_RS: jax.Array,
        *,
        place_RT: jax.Array,
        sees_RTP: jax.Array,
        cache: Any,
        slot: jax.Array | int,
    ) -> tuple[jax.Array, Any]:
        """`decode` with a cache (from init_cache): the tokens are written into its slots from `slot` on, and each

        sees those of its P slots that `sees_RTP` says, its own among them. Nothing in it is ever moved. layers: from
        `apart`. Returns (hidden_RTD, cache).
        """
        return self.decoder.step(self.shared(token_RT), layers, mask_RS, place_RT, sees_RTP, cache, slot)

    def __call__(
        self, source_RS: jax.Array, mask_RS: jax.Array, token_RT: jax.Array, *, deterministic: bool = True
    ) -> jax.Array:
        """Returns hidden_RTD for target tokens given whole, as in training."""
        cross = self.cross(self.encode(source_RS, mask_RS, deterministic=deterministic))
        return self.decode(token_RT, cross, mask_RS, deterministic=deterministic)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Returns [..., V] in fp32: hidden [..., D] against the shared table, plus the bias."""
        scores = output_scores(hidden, self.shared.embedding)
        return scores + self.final_logits_bias.astype(scores.dtype).reshape((1,) * (hidden.ndim - 1) + (-1,))


def apart(config: BartConfig, params: Any, cross: Any) -> tuple[Any, ...]:
    """The decoder's layers one by one, each (parameters, crossing keys and values), for `Bart.step`.

    A scan copies each layer's slice before it is read, which is nothing beside a training step's work, and half of a
    step's of one token a row.
    """
    stacked = (params["decoder"]["layers"], cross)
    layers = tuple(jax.tree.map(itemgetter(i), stacked) for i in range(config.decoder_layers))
    return jax.lax.optimization_barrier(layers)


def init_cache(config: BartConfig, rows: int, slots: int) -> tuple[dict[str, jax.Array], ...]:
    """An empty cache of P slots a row for every layer, key [R, H, C, P] and value [R, H, P, C]."""
    channels = config.width // config.heads
    empty = {
        "key": jnp.zeros((rows, config.heads, channels, slots), config.dtype),
        "value": jnp.zeros((rows, config.heads, slots, channels), config.dtype),
    }
    return (empty,) * config.decoder_layers
