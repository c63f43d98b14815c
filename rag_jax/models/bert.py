"""BERT as an encoder of questions and passages (Devlin et al. 2019; DPR, Karpukhin et al. 2020)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from rag_jax.core import attention
from rag_jax.models.layers import (
    Block,
    Dropout,
    EncoderLayer,
    LayerNorm,
    check_length,
    dense,
    embed,
    scan_layers,
)


@dataclass(frozen=True)
class BertConfig:
    """Sizes and rates; the defaults are BERT-base as DPR uses it.

    projection: width of a dense layer after pooling, 0 for none. pooling: 'cls' takes the first position
    (DPR), 'mean' averages the unmasked ones (sentence encoders). normalize: scale the embedding to length 1.
    question_prefix, passage_prefix, title: the text that it was trained to read, see data.tokenizer.Framing.
    remat: see layers.scan_layers.
    """

    vocab_size: int = 30522
    width: int = 768
    layers: int = 12
    heads: int = 12
    ffn: int = 3072
    positions: int = 512
    type_vocab: int = 2
    dropout: float = 0.1
    attention_dropout: float = 0.1
    norm_eps: float = 1e-12
    projection: int = 0
    pooling: str = "cls"
    normalize: bool = False
    question_prefix: str = ""
    passage_prefix: str = ""
    title: str = "pair"
    pad_id: int = 0
    init_std: float = 0.02
    dtype: str = "float32"
    remat: str = "none"

    @property
    def embedding_width(self) -> int:
        """E, the width of what the encoder returns."""
        return self.projection or self.width

    @property
    def block(self) -> Block:
        """What one layer needs."""
        return Block(
            self.width,
            self.heads,
            self.ffn,
            self.dropout,
            self.attention_dropout,
            0.0,
            self.norm_eps,
            self.init_std,
            self.dtype,
        )


class BertEmbeddings(nn.Module):
    """Token, position and token-type embeddings, summed and normalised; every token has type 0, as in DPR."""

    config: BertConfig

    @nn.compact
    def __call__(self, ids_BQ: jax.Array, deterministic: bool) -> jax.Array:
        config, init = self.config, nn.initializers.normal(self.config.init_std)
        check_length(ids_BQ.shape[1], config.positions, "question_encoder")
        token_VD = self.param("token", init, (config.vocab_size, config.width))
        position_PD = self.param("position", init, (config.positions, config.width))
        type_YD = self.param("type", init, (config.type_vocab, config.width))
        place_QD = (position_PD[: ids_BQ.shape[1]] + type_YD[:1]).astype(config.dtype)
        x_BQD = embed(token_VD, ids_BQ, config.dtype) + place_QD[None]
        x_BQD = LayerNorm(config.norm_eps, name="norm")(x_BQD)
        return Dropout(config.dropout)(x_BQD, deterministic)


class BertEncoder(nn.Module):
    """Token ids [B, Q] -> one fp32 embedding [B, E] a row."""

    config: BertConfig

    def setup(self):
        self.embeddings = BertEmbeddings(self.config)
        self.layers = EncoderLayer(self.config.block)
        if self.config.projection:
            self.projection = dense(self.config.block, self.config.projection)

    def hidden(self, ids_BQ: jax.Array, mask_BQ: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """Returns the last layer's states [B, Q, D]; positions where the mask is false are read by nobody."""
        bias_B11Q = attention.padding_bias(mask_BQ)

        def body(layer, x_BQD, _):
            return layer(x_BQD, bias_B11Q, deterministic), None

        x_BQD = self.embeddings(ids_BQ, deterministic)
        return scan_layers(body, self.layers, x_BQD, None, length=self.config.layers, remat=self.config.remat)[0]

    def __call__(self, ids_BQ: jax.Array, mask_BQ: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """Returns embedding_BE in fp32: pooled, projected, normalised as the config says."""
        x_BQD = self.hidden(ids_BQ, mask_BQ, deterministic=deterministic)
        wide = jnp.promote_types(x_BQD.dtype, jnp.float32)
        pooled_BD = x_BQD[:, 0] if self.config.pooling == "cls" else mean_pool(x_BQD.astype(wide), mask_BQ)
        embedding_BE = self.projection(pooled_BD) if self.config.projection else pooled_BD
        embedding_BE = embedding_BE.astype(wide)
        return unit_length(embedding_BE) if self.config.normalize else embedding_BE


def mean_pool(x_BQD: jax.Array, mask_BQ: jax.Array) -> jax.Array:
    """Returns [B, D], the mean over the positions where the mask is true; zeros for a row without any."""
    weight_BQ = mask_BQ.astype(x_BQD.dtype)
    count_B = jnp.maximum(weight_BQ.sum(axis=1), 1)
    return jnp.einsum("BQD,BQ->BD", x_BQD, weight_BQ, precision="highest") / count_B[:, None]


def unit_length(x_BE: jax.Array) -> jax.Array:
    """Returns x scaled to Euclidean length 1; a zero row stays zero, with finite gradients."""
    square_B1 = (x_BE * x_BE).sum(axis=-1, keepdims=True)
    return x_BE * jax.lax.rsqrt(jnp.maximum(square_B1, 1e-24))
