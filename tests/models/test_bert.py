"""The encoder against transformers' DPR and BERT, by values, gradients and, at full size, shapes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from rag_jax.errors import UserError
from rag_jax.hub import rules
from rag_jax.hub.convert import from_huggingface
from rag_jax.models.bert import BertConfig, BertEncoder, unit_length

LENGTHS = (7, 3, 1)


def shapes_of(config):
    ids = jnp.zeros((1, 2), jnp.int32)
    return jax.eval_shape(BertEncoder(config).init, jax.random.key(0), ids, ids > 0)["params"]


@pytest.fixture(scope="module", params=[0, 6], ids=["plain", "projected"])
def dpr(request, oracle):
    """(their model, our config, our parameters, ids, mask, import of their names)."""
    theirs = oracle.randomise(transformers.DPRQuestionEncoder(oracle.dpr_config(projection_dim=request.param)))
    config = oracle.bert(projection=request.param)
    take = partial(from_huggingface, rows=rules.dpr("question_encoder"), shapes=shapes_of(config))
    ids = oracle.tokens((3, 7), 40, LENGTHS)
    return theirs, config, take(oracle.state(theirs)), ids, ids != 0, take


def test_embedding_and_gradients_match_dpr(dpr):
    theirs, config, params, ids, mask, take = dpr
    expected = theirs(torch.tensor(ids).long(), torch.tensor(mask))[0]
    weight = np.random.default_rng(1).normal(size=expected.shape).astype(np.float32)

    def loss(params):
        embedding = BertEncoder(config).apply({"params": params}, ids, mask)
        return (embedding * weight).sum(), embedding

    (_, got), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert got.shape == (3, config.embedding_width)
    np.testing.assert_allclose(got, expected.detach(), atol=1e-5)
    (expected * torch.tensor(weight)).sum().backward()
    expected_grads = take({name: p.grad.numpy() for name, p in theirs.named_parameters()})
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-4), grads, expected_grads)


@pytest.fixture(scope="module")
def sentence(oracle):
    """A BertModel with pooler, and our parameters."""
    config = transformers.BertConfig(**oracle.dpr_config().to_dict())
    theirs = oracle.randomise(transformers.BertModel(config))
    return theirs, from_huggingface(oracle.state(theirs), rules.bert(), shapes_of(oracle.bert()))


def test_hidden_and_mean_pooling_match_bert(sentence, oracle):
    theirs, params = sentence
    ids = oracle.tokens((3, 7), 40, LENGTHS)
    mask = ids != 0
    with torch.no_grad():
        states = theirs(torch.tensor(ids).long(), torch.tensor(mask)).last_hidden_state.numpy()
    encoder = BertEncoder(oracle.bert(pooling="mean", normalize=True))
    got = jax.jit(partial(encoder.apply, method="hidden"))({"params": params}, ids, mask)
    np.testing.assert_allclose(got, states, atol=1e-5)
    mean = (states * mask[..., None]).sum(1) / mask.sum(1)[:, None]
    got = jax.jit(encoder.apply)({"params": params}, ids, mask)
    np.testing.assert_allclose(got, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_padding_gets_exactly_zero_gradient(sentence, oracle, pooling):
    # All ids differ, so that a row of the token table is one position of the input.
    params, ids = sentence[1], jnp.arange(5, 12)[None]
    mask = jnp.arange(7)[None] < 4
    encoder = BertEncoder(oracle.bert(pooling=pooling))
    grads = jax.jit(jax.grad(lambda p: (encoder.apply({"params": p}, ids, mask) ** 2).sum()))(params)
    grads = grads["embeddings"]
    assert (jnp.abs(grads["token"][5:9]).sum(axis=1) > 0).all()
    assert (grads["token"][9:12] == 0).all() and (grads["position"][4:7] == 0).all()


def test_padding_does_not_change_the_embedding(sentence, oracle):
    ids = oracle.tokens((1, 4), 40)
    encode = jax.jit(BertEncoder(oracle.bert(pooling="mean")).apply)
    short = encode({"params": sentence[1]}, ids, ids != 0)
    padded = np.pad(ids, ((0, 0), (0, 5)))
    np.testing.assert_allclose(encode({"params": sentence[1]}, padded, padded != 0), short, atol=1e-6)


def test_remat_changes_nothing(sentence, oracle):
    ids = oracle.tokens((2, 4), 40)

    def grads(remat):
        encoder = BertEncoder(oracle.bert(remat=remat, dropout=0.2, attention_dropout=0.2))
        rngs = {"dropout": jax.random.key(1)}

        def loss(params):
            return encoder.apply({"params": params}, ids, ids > 0, deterministic=False, rngs=rngs)[:, 0].sum()

        return jax.jit(jax.grad(loss))(sentence[1])

    kept = grads("none")
    for remat in ("full", "dots"):
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5), grads(remat), kept)


def test_bf16_is_near_and_returns_fp32(sentence, oracle):
    ids = oracle.tokens((2, 4), 40)
    exact, rough = (
        jax.jit(BertEncoder(oracle.bert(dtype=d)).apply)({"params": sentence[1]}, ids, ids > 0)
        for d in ("float32", "bfloat16")
    )
    assert rough.dtype == jnp.float32
    assert 1e-4 < jnp.abs(exact - rough).max() < 0.2


def test_base_has_transformers_number_of_parameters():
    with torch.device("meta"):
        theirs = transformers.DPRQuestionEncoder(transformers.DPRConfig())
    count = sum(x.size for x in jax.tree.leaves(shapes_of(BertConfig())))
    assert count == sum(p.numel() for p in theirs.parameters()) == 108_891_648


def test_zero_embedding_normalises_finitely():
    value, grad = jax.value_and_grad(lambda x: unit_length(x).sum())(jnp.zeros((1, 4)))
    assert value == 0 and jnp.isfinite(grad).all()


def test_too_long_a_question_is_refused(sentence, oracle):
    ids = oracle.tokens((1, 13), 40)
    with pytest.raises(UserError, match="question_encoder: a sequence of 13 tokens, expected at most 12"):
        BertEncoder(oracle.bert()).apply({"params": sentence[1]}, ids, ids > 0)
