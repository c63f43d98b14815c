"""Losses of a RAG batch and their gradients, transformers' and ours, for models of the oracle's sizes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch

from rag_jax.core.loss import rag_loss
from rag_jax.core.marginal import document_log_prior
from rag_jax.models import rag

from .oracle import Oracle

B, Q, S, E = 3, 6, 8, 16
TARGET_LENGTHS = (6, 4, 5)


def make_batch(documents, seed=0):
    """A batch with padded questions, sources and targets; labels are `</s> <s> answer </s>`."""
    rng = np.random.default_rng(seed)
    question = Oracle.tokens((B, Q), 40, rng.integers(2, Q + 1, B), pad=0, seed=seed)
    source = Oracle.tokens((B, documents, S), 44, rng.integers(2, S + 1, (B, documents)), pad=1, seed=seed)
    labels = Oracle.tokens((B, 6), 44, TARGET_LENGTHS, pad=1, seed=seed)
    labels[:, 0], labels[:, 1] = 2, 0
    for b, length in enumerate(TARGET_LENGTHS):
        labels[b, length - 1] = 2
    document = rng.normal(size=(B, documents, E)).astype(np.float32) * 0.5
    return question, source, labels, document


def their_loss(model, batch, eps, exclude_bos):
    """Their loss [B], the documents' scores computed under the gradient as in their training."""
    question, source, labels, document = (torch.tensor(x) for x in batch)
    model.config.label_smoothing = eps
    query = model.question_encoder(question.long(), question != 0)[0]
    scores = torch.einsum("be,bke->bk", query, document.to(query.dtype))
    flat = source.reshape(-1, S).long()
    extra = {"exclude_bos_score": exclude_bos} if "Sequence" in type(model).__name__ else {}
    return model(
        context_input_ids=flat,
        context_attention_mask=(flat != 1).long(),
        doc_scores=scores,
        labels=labels.long(),
        n_docs=source.shape[1],
        **extra,
    ).loss


def targets(labels):
    return np.pad(labels[:, 1:], ((0, 0), (0, 1)), constant_values=1)


@partial(jax.jit, static_argnums=0)
def forward(config, params, question, source, labels, document):
    """(likelihood, prior) of a batch."""
    target = jnp.pad(labels[:, 1:], ((0, 0), (0, 1)), constant_values=1)
    scores = rag.document_scores(rag.encode_questions(config, params, question), document)
    prior = document_log_prior(scores)
    likelihood = rag.token_likelihood(config, params, source, labels, target, prior, smoothing=True)
    return likelihood._replace(vocabulary=None), prior


@partial(jax.jit, static_argnums=0)
def pull(config, params, batch, by_likelihood, by_prior):
    """Gradients by all parameters, given those by the outputs of `forward`: one program for every loss."""
    return jax.vjp(lambda p: forward(config, p, *batch), params)[1]((by_likelihood, by_prior))[0]


def our_loss(likelihood, prior, labels, kind, eps, exclude_bos):
    target = targets(labels)
    return rag_loss(
        kind,
        likelihood._replace(vocabulary=44),
        prior,
        target,
        target != 1,
        label_smoothing=eps,
        exclude_bos=exclude_bos,
        bos_id=0,
        compat="huggingface",
    )
