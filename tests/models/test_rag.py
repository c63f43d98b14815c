"""Losses and gradients against transformers' RAG; who gets gradient and who gets exactly none."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from rag_jax.hub import rules
from rag_jax.hub.convert import from_huggingface
from rag_jax.models import rag

from .losses import B, forward, make_batch, our_loss, pull, their_loss

THEIRS = {"token": transformers.RagTokenForGeneration, "sequence": transformers.RagSequenceForGeneration}


@pytest.fixture(scope="module")
def config(oracle):
    return rag.RagConfig(oracle.bert(), oracle.bart())


@pytest.fixture(scope="module")
def shapes(config):
    return jax.eval_shape(partial(rag.init_params, config), jax.random.key(0))


@pytest.fixture(scope="module")
def theirs(oracle):
    """Both of their models with the same weights."""
    config = transformers.RagConfig.from_question_encoder_generator_configs(oracle.dpr_config(), oracle.bart_config())
    token = oracle.randomise(transformers.RagTokenForGeneration(config))
    sequence = transformers.RagSequenceForGeneration(config).eval()
    sequence.load_state_dict(token.state_dict())
    return {"token": token, "sequence": sequence}


@pytest.fixture(scope="module")
def params(theirs, shapes, oracle):
    return from_huggingface(oracle.state(theirs["token"]), rules.rag(), shapes)


def test_the_score_scale_is_in_the_query_constant_or_learned(config, params, oracle):
    question, _, _, document = make_batch(3)
    encode = jax.jit(rag.encode_questions, static_argnums=0)
    plain = rag.document_scores(encode(config, params, question), document)
    constant = rag.document_scores(encode(replace(config, score_scale=20.0), params, question), document)
    learned = params | rag.init_score_scale(replace(config, score_scale=20.0, learn_score_scale=True))
    np.testing.assert_allclose(constant, 20 * plain, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(rag.document_scores(encode(config, learned, question), document), constant, rtol=1e-6)
    shapes = jax.eval_shape(
        lambda: rag.init_params(replace(config, score_scale=20.0, learn_score_scale=True), jax.random.key(0))
    )
    assert shapes["log_score_scale"].shape == () and set(shapes) == {*params, "log_score_scale"}


@pytest.mark.parametrize("documents", [1, 2, 3, 4])
@pytest.mark.parametrize("eps", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["token", "sequence"])
def test_losses_match(theirs, config, params, oracle, kind, eps, documents):
    batch = make_batch(documents, seed=documents)
    for exclude_bos in (False, True):
        with torch.no_grad():
            expected = their_loss(theirs[kind], batch, eps, exclude_bos)
        got = our_loss(*forward(config, params, *batch), batch[2], kind, eps, exclude_bos)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("eps", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["token", "sequence"])
def test_gradients_of_all_parameters_match(theirs, config, params, shapes, oracle, kind, eps):
    model, batch = theirs[kind], make_batch(3)
    model.zero_grad()
    their_loss(model, batch, eps, False).mean().backward()
    expected = from_huggingface({name: p.grad.numpy() for name, p in model.named_parameters()}, rules.rag(), shapes)
    outputs = forward(config, params, *batch)
    by_outputs = jax.jit(jax.grad(lambda x: our_loss(*x, batch[2], kind, eps, False).mean()))(outputs)
    grads = pull(config, params, batch, *by_outputs)
    for tree in (grads, expected):
        del tree["generator"]["final_logits_bias"]  # a buffer there
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-4), grads, expected)
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(grads["question_encoder"]["layers"]))


def test_document_scores_are_fp32_at_highest_precision():
    query, document = jnp.ones((2, 4), jnp.bfloat16), jnp.ones((2, 3, 4), jnp.bfloat16)
    jaxpr = jax.make_jaxpr(rag.document_scores)(query, document)
    (dot,) = (e for e in jaxpr.eqns if e.primitive.name == "dot_general")
    assert dot.params["precision"] == (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
    assert {v.aval.dtype for v in (*dot.invars, *dot.outvars)} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(rag.document_scores(query, document), np.full((2, 3), 4.0))


def test_gradients_reach_only_what_was_read(config, params):
    # All source ids differ, so that a row of the token table is one position of one document.
    source = jnp.arange(5, 21).reshape(2, 8).at[1, 6:].set(1)
    labels = jnp.array([[2, 0, 30, 31, 2]])

    @jax.jit
    def grads(params, k):
        """Of one token's log-likelihood under document k: by all parameters, by the encoder's own table."""

        def logp(params, table):
            generator = rag.Bart(config.generator)
            cross = generator.apply(
                {"params": params["generator"]},
                generator.apply(
                    {"params": params["generator"] | {"shared": {"embedding": table}}},
                    source,
                    source != 1,
                    method="encode",
                ),
                method="cross",
            )
            token = jnp.tile(labels, (2, 1))
            hidden = generator.apply({"params": params["generator"]}, token, cross, source != 1, method="decode")
            logits = generator.apply({"params": params["generator"]}, hidden, method="logits")
            return jax.nn.log_softmax(logits)[k, 1, 30]

        return jax.grad(logp, (0, 1))(params, params["generator"]["shared"]["embedding"])

    (by_all, first), (_, second) = grads(params, 0), grads(params, 1)
    first, second = (jnp.abs(table).sum(axis=1) for table in (first, second))
    assert (first[5:13] > 0).all() and (first[13:21] == 0).all(), "the other document"
    assert (second[5:13] == 0).all() and (second[13:19] > 0).all(), "the other document"
    assert second[1] == 0, "padding"
    assert (by_all["generator"]["decoder"]["placement"]["position"][2 + 2 :] == 0).all(), "later tokens"


def test_question_encoder_learns_only_through_the_prior(config, params, oracle):
    batch = make_batch(3)
    likelihood, prior = jax.tree.map(np.zeros_like, forward(config, params, *batch))
    through_words = pull(config, params, batch, likelihood._replace(logp_BKT=likelihood.logp_BKT + 1), prior)
    assert all((x == 0).all() for x in jax.tree.leaves(through_words["question_encoder"]))
    assert any((x != 0).any() for x in jax.tree.leaves(through_words["generator"]))
    through_prior = pull(config, params, batch, likelihood, np.eye(B, dtype=np.float32))
    assert all((x == 0).all() for x in jax.tree.leaves(through_prior["generator"]))
    assert all((x != 0).any() for x in jax.tree.leaves(through_prior["question_encoder"]["embeddings"]))
