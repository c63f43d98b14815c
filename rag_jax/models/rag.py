"""The two halves of RAG: a question encoder that scores documents, a generator that reads one at a time.

Source: Lewis et al. 2020, "Retrieval-Augmented Generation for Knowledge-Intensive NLP Tasks", section 2.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from rag_jax.core import likelihood
from rag_jax.models import null_document
from rag_jax.models.bart import Bart, BartConfig
from rag_jax.models.bert import BertConfig, BertEncoder
from rag_jax.models.classifier import Classifier
from rag_jax.models.layers import applied


@dataclass(frozen=True)
class RagConfig:
    """Both halves' configs, the marginal ('token' or 'sequence') and the scale of the document scores.

    question_encoder: None of a closed book, where the generator reads the question alone. score_scale: the factor on
    the inner products, or where a learned one starts (learn_score_scale). Where labels are told in place of answers,
    one of these says how: classes, the number of labels that a head of its own tells apart, or label_tokens, the one
    token that stands for each label. null_document: 'none', or how the logit of the question that is also read alone
    is learned, see models.null_document.
    """

    question_encoder: BertConfig | None = field(default_factory=BertConfig)
    generator: BartConfig = field(default_factory=BartConfig)
    kind: str = "token"
    score_scale: float = 1.0
    learn_score_scale: bool = False
    classes: int = 0
    label_tokens: tuple[int, ...] = ()
    null_document: str = "none"

    @property
    def encoder(self) -> BertConfig:
        """The question encoder's config, which nobody asks a closed book for."""
        assert self.question_encoder is not None
        return self.question_encoder


def init_params(config: RagConfig, key: jax.Array) -> dict[str, Any]:
    """Returns fresh fp32 parameters {'question_encoder', 'generator'}, of a closed book {'generator'};

    with them 'log_score_scale', 'classifier' and 'null_document' where the model has such.
    """
    key_encoder, key_generator = jax.random.split(key)
    ids, mask = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
    generator, first = Bart(config.generator), {}
    if config.question_encoder is not None:
        encoder = BertEncoder(config.question_encoder)
        first = {"question_encoder": jax.jit(encoder.init)(key_encoder, ids, mask)["params"]}
    return {
        **first,
        "generator": jax.jit(generator.init)(key_generator, ids, mask, ids)["params"],
        **init_score_scale(config),
        **init_classifier(config, key),
        **init_null_document(config, key),
    }


def init_score_scale(config: RagConfig) -> dict[str, jax.Array]:
    """The parameter {'log_score_scale'} where it is learned, else nothing. The logarithm keeps the scale positive."""
    return {"log_score_scale": jnp.log(jnp.float32(config.score_scale))} if config.learn_score_scale else {}


def init_classifier(config: RagConfig, key: jax.Array) -> dict[str, Any]:
    """Fresh parameters {'classifier'} of the head where labels are told by one, else nothing."""
    if not config.classes:
        return {}
    # 2: a split of the key gives what folding in 0 and 1 would.
    init = jax.jit(_classifier(config).init)
    return {"classifier": init(jax.random.fold_in(key, 2), jnp.zeros((1, config.generator.width)))["params"]}


def _classifier(config: RagConfig) -> Classifier:
    generator = config.generator
    return Classifier(generator.width, config.classes, generator.dropout, generator.init_std)


def init_null_document(config: RagConfig, key: jax.Array) -> dict[str, Any]:
    """Fresh parameters {'null_document'} where there is one, else nothing."""
    if config.null_document == "none":
        return {}
    width = config.encoder.embedding_width
    # 3: folding in 0 or 1 would give a half of the split key.
    return {"null_document": null_document.init(config.null_document, width, jax.random.fold_in(key, 3))}


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
    encoder = BertEncoder(config.encoder)
    mask_BQ = ids_BQ != config.encoder.pad_id
    embedding_BE = applied(encoder, params["question_encoder"], ids_BQ, mask_BQ, **_rngs(dropout_key))
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
    hidden_BKTD = _states(config, params, source_BKS, token_BT, dropout_key)
    return likelihood.token_log_likelihood(
        hidden_BKTD, *_output_layer(params), target_BT, prior_BK, smoothing=smoothing
    )


def label_log_probs(
    config: RagConfig,
    params: dict[str, Any],
    source_BKS: jax.Array,
    token_BT: jax.Array,
    *,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Returns log p(label | source) [B, K, C] of every document, from the decoder's state at the last of token_BT.

    Of a model with `classes` it is the head's, once the decoder has read the claim again (Lewis et al. 2020, appendix
    E); else that of each of `label_tokens`, among all tokens, as the next one (section 3.4).
    """
    states_key, head_key = (None, None) if dropout_key is None else jax.random.split(dropout_key)
    hidden_BKTD = _states(config, params, source_BKS, token_BT, states_key)
    last_B = jnp.sum(token_BT != config.generator.pad_id, axis=1) - 1
    hidden_BK1D = jnp.take_along_axis(hidden_BKTD, last_B[:, None, None, None], axis=2)
    if config.classes:
        head, states_BKD = _classifier(config), hidden_BK1D[:, :, 0]
        return jax.nn.log_softmax(applied(head, params["classifier"], states_BKD, **_rngs(head_key)))
    (B, K, _, D), C = hidden_BK1D.shape, len(config.label_tokens)
    hidden_BKCD = jnp.broadcast_to(hidden_BK1D, (B, K, C, D))  # all labels at the one place
    label_BC = jnp.broadcast_to(jnp.array([config.label_tokens]), (B, C))
    return likelihood.token_log_likelihood(hidden_BKCD, *_output_layer(params), label_BC, jnp.zeros((B, K))).logp_BKT


def label_likelihood(
    config: RagConfig,
    params: dict[str, Any],
    source_BKS: jax.Array,
    token_BT: jax.Array,
    label_B: jax.Array,
    *,
    dropout_key: jax.Array | None = None,
) -> likelihood.TokenLikelihood:
    """Returns the head's log p(label | source), as of an answer of one token from a vocabulary of the C classes."""
    logp_BKC = label_log_probs(config, params, source_BKS, token_BT, dropout_key=dropout_key)
    logp_BK1 = jnp.take_along_axis(logp_BKC, label_B[:, None, None], axis=2)
    return likelihood.TokenLikelihood(logp_BK1, jnp.mean(logp_BKC, axis=2, keepdims=True), None, config.classes)


def _states(
    config: RagConfig,
    params: dict[str, Any],
    source_BKS: jax.Array,
    token_BT: jax.Array,
    dropout_key: jax.Array | None,
) -> jax.Array:
    """The decoder's states under every document, hidden_BKTD."""
    B, K, S = source_BKS.shape
    T = token_BT.shape[1]
    source_RS = source_BKS.reshape(B * K, S)
    token_RT = jnp.broadcast_to(token_BT[:, None], (B, K, T)).reshape(B * K, T)
    hidden_RTD = applied(
        Bart(config.generator),
        params["generator"],
        source_RS,
        source_RS != config.generator.pad_id,
        token_RT,
        **_rngs(dropout_key),
    )
    return hidden_RTD.reshape(B, K, T, -1)


def _output_layer(params: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
    """The generator's embedding_VD and bias_V."""
    return params["generator"]["shared"]["embedding"], params["generator"]["final_logits_bias"]
