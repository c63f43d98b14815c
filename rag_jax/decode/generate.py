"""Chooses the decoding of a model and compiles it once per shape; turns tokens into text."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.core.marginal import mean_token_posterior
from rag_jax.decode import rag_sequence, rag_token
from rag_jax.errors import UserError
from rag_jax.models.rag import RagConfig


@dataclass(frozen=True)
class DecodeConfig:
    """How to answer: the marginal ('token' or 'sequence') and the longest answer in tokens.

    `<s>` and `</s>` are counted, the start token is not: Hugging Face's max_length is one more.
    """

    kind: Literal["token", "sequence"] = "token"
    max_length: int = 50


def generate(
    config: RagConfig, decode: DecodeConfig, params: dict, source_BKS: jax.Array, prior_BK: jax.Array
) -> rag_token.Generated | rag_sequence.Generated:
    """Decodes answers from generator inputs [B, K, S] and log p(z|x) [B, K]; compiled once per shape.

    Raises UserError for an unknown kind and for answers longer than the generator's position table.
    """
    if decode.kind not in ("token", "sequence"):
        raise UserError(f"decode.kind: found {decode.kind!r}, expected 'token' or 'sequence'")
    if not 1 <= decode.max_length <= config.generator.positions:
        raise UserError(
            f"decode.max_length: found {decode.max_length}, expected 1 to {config.generator.positions}, "
            "the generator's positions; choose a length in that range"
        )
    return _compiled(config, decode, params, source_BKS, prior_BK)


@partial(jax.jit, static_argnums=(0, 1))
def _compiled(
    config: RagConfig, decode: DecodeConfig, params: dict, source_BKS: jax.Array, prior_BK: jax.Array
) -> rag_token.Generated | rag_sequence.Generated:
    if decode.kind == "token":
        return rag_token.greedy(config, params, source_BKS, prior_BK, max_length=decode.max_length)
    return rag_sequence.thorough(config, params, source_BKS, prior_BK, max_length=decode.max_length)


def answer_posterior(config: RagConfig, generated: rag_token.Generated | rag_sequence.Generated) -> jax.Array:
    """Each document's share in the answer, probabilities [B, K]: p(z|x,y), or RAG-Token's mean over its text.

    A RAG-Token answer without text has the mean over all positions.
    """
    if isinstance(generated, rag_sequence.Generated):
        return jnp.exp(generated.posterior_BK)
    generator, token_BT = config.generator, generated.token_BT
    special = jnp.isin(token_BT, jnp.array([generator.pad_id, generator.bos_id, generator.eos_id]))
    return mean_token_posterior(generated.posterior_BKT, ~special)


def texts(token_BT: jax.Array | np.ndarray, tokenizer: Any) -> list[str]:
    """Turns answers into strings on the host, without special tokens and the space that answers begin with.

    `tokenizer.decode(ids)` skips special tokens.
    """
    return [tokenizer.decode(row).removeprefix(" ") for row in np.asarray(token_BT).tolist()]
