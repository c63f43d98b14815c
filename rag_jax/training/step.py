"""One training step of the joint model as a pure function: query, prior, marginal likelihood, gradient, update."""

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from rag_jax.core.loss import rag_loss
from rag_jax.core.marginal import document_log_prior, rag_sequence_log_likelihood, rag_token_log_likelihood
from rag_jax.models import null_document, rag
from rag_jax.parallel import Across

Leaf = TypeVar("Leaf")  # an array of jax, one of numpy that will become one, or its shape


class TrainState(NamedTuple, Generic[Leaf]):
    """Everything a step changes. step: int32, of the stage; params: of the model, as models/rag.py has them."""

    step: Leaf
    params: dict[str, Any]
    opt_state: optax.OptState


class Batch(NamedTuple, Generic[Leaf]):
    """What a step reads. question_BQ, source_BKS, token_BT, target_BT: token ids; document_BKE: passage vectors;

    mask_BK: True where a document was found; weight_B: 1 for a question, 0 for padding of the batch. score_BK: logits
    of p(z|x) where a retriever brings its own; then question_BQ and document_BKE are None. label_B: classes, for a
    model that tells them by a head; then token_BT is the claim again, and target_BT None. Where source_BKS has one
    document more than mask_BK, it is the null document.
    """

    question_BQ: Leaf | None
    document_BKE: Leaf | None
    mask_BK: Leaf
    source_BKS: Leaf
    token_BT: Leaf
    target_BT: Leaf | None
    weight_B: Leaf
    score_BK: Leaf | None = None
    label_B: Leaf | None = None


class Objective(NamedTuple):
    """What is trained, and how: see config.py's stages."""

    train_question_encoder: bool
    label_smoothing: float
    accumulation: int
    seed: int


class Sums(NamedTuple):
    """What devices add up: the loss and the tokens it scores; log-likelihood and tokens without BOS or smoothing."""

    loss: jax.Array
    tokens: jax.Array
    log_likelihood: jax.Array
    text_tokens: jax.Array


def train_step(
    state: TrainState[jax.Array],
    batch: Batch[jax.Array],
    *,
    across: Across,
    config: rag.RagConfig,
    optimizer: optax.GradientTransformation,
    objective: Objective,
) -> tuple[TrainState[jax.Array], dict[str, jax.Array]]:
    """One update from the gradient of the mean loss per target token over all devices' questions.

    Returns the new state and {'loss': nats per text token, 'gradient_norm': of the mean gradient}.
    """
    key = jax.random.key(objective.seed)
    key = jax.random.fold_in(jax.random.fold_in(key, state.step), across.index())
    loss = partial(loss_sums, config=config, objective=objective)
    sums, gradient = _accumulate(loss, state.params, batch, key, objective.accumulation)
    sums, gradient = across.sum((sums, gradient))
    gradient = jax.tree.map(lambda g: g / jnp.maximum(sums.tokens, 1.0), gradient)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    metrics = {
        "loss": -sums.log_likelihood / jnp.maximum(sums.text_tokens, 1.0),
        "gradient_norm": optax.tree.norm(gradient),
    }
    return TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state), metrics


def loss_sums(
    params: dict[str, Any],
    batch: Batch[jax.Array],
    key: jax.Array | None,
    *,
    config: rag.RagConfig,
    objective: Objective,
) -> tuple[jax.Array, Sums]:
    """The summed loss of a batch (Lewis et al. 2020, section 2.4) and the sums that devices exchange."""
    encoder_key, generator_key = (None, None) if key is None else jax.random.split(key)
    score_BK, mask_BK, query_BE = batch.score_BK, batch.mask_BK, None
    if score_BK is None:
        assert batch.question_BQ is not None and batch.document_BKE is not None
        query_BE = rag.encode_questions(config, params, batch.question_BQ, dropout_key=encoder_key)
        score_BK = rag.document_scores(query_BE, batch.document_BKE)
    if batch.source_BKS.shape[1] > mask_BK.shape[1]:
        learned_B = null_document.learned(config.null_document, params["null_document"], query_BE)
        score_BK, mask_BK = null_document.appended(score_BK, mask_BK, learned_B)
    # Beside the scores that a retriever brings, which has no encoder to freeze, the null document is always learned.
    if batch.score_BK is None and not objective.train_question_encoder:
        score_BK = jax.lax.stop_gradient(score_BK)
    prior_BK = document_log_prior(score_BK, mask_BK)
    if batch.label_B is None:
        assert batch.target_BT is not None
        target_BT = batch.target_BT
        mask_BT = target_BT != config.generator.pad_id
        text_BT = mask_BT & (target_BT != config.generator.bos_id)
        likelihood = rag.token_likelihood(
            config, params, batch.source_BKS, batch.token_BT, target_BT, prior_BK,
            smoothing=objective.label_smoothing > 0, dropout_key=generator_key,
        )  # fmt: skip
    else:  # an answer of one token
        target_BT = batch.label_B[:, None]
        mask_BT = text_BT = jnp.ones_like(target_BT, bool)
        likelihood = rag.label_likelihood(
            config, params, batch.source_BKS, batch.token_BT, batch.label_B, dropout_key=generator_key
        )
    loss_B = rag_loss(config.kind, likelihood, prior_BK, target_BT, mask_BT, label_smoothing=objective.label_smoothing)
    marginal = rag_token_log_likelihood if config.kind == "token" else rag_sequence_log_likelihood
    log_likelihood_B = marginal(likelihood.logp_BKT, prior_BK, text_BT)
    asked_B = batch.weight_B > 0  # padding may have no document, hence an infinite loss, which 0 does not undo
    loss = jnp.sum(jnp.where(asked_B, loss_B * batch.weight_B, 0.0))
    return loss, Sums(
        loss=loss,
        tokens=jnp.sum(mask_BT * batch.weight_B[:, None]),
        log_likelihood=jnp.sum(jnp.where(asked_B, log_likelihood_B * batch.weight_B, 0.0)),
        text_tokens=jnp.sum(text_BT * batch.weight_B[:, None]),
    )


def _accumulate(
    loss: Callable[..., Any], params: dict[str, Any], batch: Batch[jax.Array], key: jax.Array, parts: int
) -> tuple[Sums, Any]:
    """Sums and their gradient, over `parts` equal parts of the batch one after another."""
    gradient_of = jax.grad(loss, has_aux=True)
    if parts == 1:
        gradient, sums = gradient_of(params, batch, key)
        return sums, gradient

    def add(total, part):
        gradient, sums = gradient_of(params, part[0], part[1])
        return jax.tree.map(jnp.add, total, (sums, gradient)), None

    # Every part takes rows of all devices, where the batch is one array that is split over them.
    split = jax.tree.map(lambda array: array.reshape(-1, parts, *array.shape[1:]).swapaxes(0, 1), batch)
    zeros = (Sums(*[jnp.zeros(())] * len(Sums._fields)), jax.tree.map(jnp.zeros_like, params))
    return jax.lax.scan(add, zeros, (split, jax.random.split(key, parts)))[0]
