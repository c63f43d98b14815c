"""The two halves of RAG: a question encoder that scores documents, a generator that reads one at a time.

Source: Lewis et al. 2020, "Retrieval-Augmented Generation for Knowledge-Intensive NLP Tasks", section 2.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from rag_jax.core import likelihood
from rag_jax.models.bart import Bart, BartConfig
from rag_jax.models.bert import BertConfig, BertEncoder


@dataclass(frozen=True)
class RagConfig:
    """Both halves' configs, the marginal ('token' or 'sequence') and the scale of the document scores.

    score_scale: the factor on the inner products, or where a learned one starts (learn_score_scale).
    """

    question_encoder: BertConfig = field(default_factory=BertConfig)
    generator: BartConfig = field(default_factory=BartConfig)
    kind: str = "token"
    score_scale: float = 1.0
    learn_score_scale: bool = False


def init_params(config: RagConfig, key: jax.Array) -> dict[str, Any]:
    """Returns fresh fp32 parameters {'question_encoder': ..., 'generator': ...} and, if learned, 'log_score_scale'."""
    key_encoder, key_generator = jax.random.split(key)
    ids, mask = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
    encoder, generator = BertEncoder(config.question_encoder), Bart(config.generator)
    return {
        "question_encoder": jax.jit(encoder.init)(key_encoder, ids, mask)["params"],
        "generator": jax.jit(generator.init)(key_generator, ids, mask, ids)["params"],
        **init_score_scale(config),
    }


def init_score_scale(config: RagConfig) -> dict[str, jax.Array]:
    """The parameter {'log_score_scale'} where it is learned, else nothing. The logarithm keeps the scale positive."""
    return {"log_score_scale": jnp.log(jnp.float32(config.score_scale))} if config.learn_score_scale else {}


def score_scale(params: dict[str, Any], constant: float) -> jax.Array | float:
    """The learned scale where the parameters hold one, else the constant."""
    return jnp.exp(params["log_score_scale"]) if "log_score_scale" in params else constant


def _rngs(dropout_key: jax.Array | None) -> dict[str, Any]:
    return (
        {"deterministic": True} if dropout_key is None else {"deterministic": False, "rngs": {"dropout": dropout_key}}
    )


def encode_questions(
    config: RagConfig, params: dict[str, Any], ids_BQ: jax.Array, *, dropout_key: jax.Array | None = None
) -> jax.Array:
    """Returns query_BE in fp32: the question's embedding times the score scale, so that score = <query, document>.

    A positive factor changes the prior, never the order. Padding is told by the encoder's pad id; dropout only when
    given a key.
    """
    encoder = BertEncoder(config.question_encoder)
    mask_BQ = ids_BQ != config.question_encoder.pad_id
    embedding_BE = encoder.apply({"params": params["question_encoder"]}, ids_BQ, mask_BQ, **_rngs(dropout_key))
    return score_scale(params, config.score_scale) * embedding_BE


def document_scores(query_BE: jax.Array, document_BKE: jax.Array) -> jax.Array:
    """Returns score_BK = <query, document> in fp32 (Lewis et al. 2020, section 2.2).

    DPR's scores are 60 to 75 with gaps of 0.5, so neither bf16 nor a device's default precision will do.
    """
    query_BE, document_BKE = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (query_BE, document_BKE))
    return jnp.einsum("BE,BKE->BK", query_BE, document_BKE, precision=jax.lax.Precision.HIGHEST)


def token_likelihood(
    config: RagConfig,
    params: dict[str, Any],
    source_BKS: jax.Array,
    token_BT: jax.Array,
    target_BT: jax.Array,
    prior_BK: jax.Array,
    *,
    smoothing: bool = False,
    dropout_key: jax.Array | None = None,
) -> likelihood.TokenLikelihood:
    """Returns log p(target | source, earlier tokens) of every document, as core.likelihood.TokenLikelihood.

    source_BKS: generator inputs, padded with the generator's pad id. token_BT: the decoder's input.
    target_BT: what it should say at each place. prior_BK: log p(document | question). dropout only with a key.
    """
    B, K, S = source_BKS.shape
    T = token_BT.shape[1]
    source_RS = source_BKS.reshape(B * K, S)
    token_RT = jnp.broadcast_to(token_BT[:, None], (B, K, T)).reshape(B * K, T)
    generator = params["generator"]
    hidden_RTD = Bart(config.generator).apply(
        {"params": generator}, source_RS, source_RS != config.generator.pad_id, token_RT, **_rngs(dropout_key)
    )
    return likelihood.token_log_likelihood(
        hidden_RTD.reshape(B, K, T, -1),
        generator["shared"]["embedding"],
        generator["final_logits_bias"],
        target_BT,
        prior_BK,
        smoothing=smoothing,
    )
