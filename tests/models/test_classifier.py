"""The head that tells labels against transformers' BART for classification, one document at a time."""

from functools import partial

import jax
import numpy as np
import pytest
import torch
import transformers

from rag_jax.hub import rules
from rag_jax.hub.convert import from_huggingface
from rag_jax.models import rag

pytestmark = pytest.mark.usefixtures("compiled_in_haste")
LENGTHS = (8, 4, 6)  # `<s>` and `</s>` counted
R, S, CLASSES = 3, 8, 3


@pytest.fixture(scope="module")
def theirs(oracle):
    return oracle.randomise(transformers.BartForSequenceClassification(oracle.bart_config(num_labels=CLASSES)))


@pytest.fixture(scope="module")
def config(oracle):
    return rag.RagConfig(oracle.bert(), oracle.bart(), classes=CLASSES)


@pytest.fixture(scope="module")
def take(config):
    """Their tensors -> our parameters."""
    shapes = jax.eval_shape(partial(rag.init_params, config), jax.random.key(0))

    def take(tensors):
        names = {"dense": "classification_head.dense", "out": "classification_head.out_proj"}
        head = {
            ours: {"kernel": tensors[f"{name}.weight"].T, "bias": tensors[f"{name}.bias"]}
            for ours, name in names.items()
        }
        assert jax.tree.map(np.shape, head) == jax.tree.map(lambda leaf: leaf.shape, shapes["classifier"])
        body = {name: tensor for name, tensor in tensors.items() if not name.startswith("classification_head.")}
        return {"generator": from_huggingface(body, rules.bart(), shapes["generator"]), "classifier": head}

    return take


def framed(oracle, seed):
    """`<s> .. </s>` of LENGTHS, padded to S."""
    ids = oracle.tokens((R, S), 44, LENGTHS, pad=1, seed=seed)
    ids[:, 0] = 0
    ids[np.arange(R), np.array(LENGTHS) - 1] = 2
    return ids


@pytest.mark.long
def test_a_claim_alone_is_classified_as_theirs_and_learned_alike(theirs, config, take, oracle):
    """They make the decoder's input from the encoder's, shifted by one: `</s> <s> claim`."""
    ids, label = framed(oracle, 0), np.array([2, 0, 1])
    theirs.zero_grad()
    expected = theirs(
        input_ids=torch.tensor(ids).long(), attention_mask=torch.tensor(ids != 1).long(), labels=torch.tensor(label)
    )
    token = np.where(np.arange(S) < np.array(LENGTHS)[:, None], np.roll(ids, 1, axis=1), 1)
    token[:, 0] = 2

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        logp_BKC = rag.label_log_probs(config, params, ids[:, None], token)
        told = rag.label_likelihood(config, params, ids[:, None], token, label)
        return -told.logp_BKT.mean(), (logp_BKC, told.mean_logp_BKT)

    (value, (logp_BKC, mean_BK1)), gradient = loss(take(oracle.state(theirs)))
    np.testing.assert_allclose(logp_BKC[:, 0], expected.logits.detach().log_softmax(-1), atol=1e-5)
    np.testing.assert_allclose(mean_BK1[..., 0], logp_BKC.mean(axis=2), rtol=1e-6)
    np.testing.assert_allclose(value, expected.loss.detach(), atol=1e-5)
    expected.loss.backward()
    expected = take({name: p.grad.numpy() for name, p in theirs.named_parameters()})
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-4), gradient, expected)


def test_a_claim_read_again_under_each_document_is_classified_as_theirs(theirs, config, take, oracle):
    """Theirs looks for the state at the place of the source's `</s>`: sources are as long as claims here."""
    sources = np.stack([framed(oracle, seed) for seed in (1, 2)], axis=1)
    token = np.where(np.arange(S) < np.array(LENGTHS)[:, None], oracle.tokens((R, S), 44, seed=3), 1)
    token[:, 0], token[:, 1] = 2, 0
    params = take(oracle.state(theirs))
    logp_BKC = jax.jit(partial(rag.label_log_probs, config))(params, sources, token)
    for k in (0, 1):
        source = torch.tensor(sources[:, k]).long()
        with torch.no_grad():
            logits = theirs(
                input_ids=source, attention_mask=(source != 1).long(), decoder_input_ids=torch.tensor(token).long()
            ).logits
        np.testing.assert_allclose(logp_BKC[:, k], logits.log_softmax(-1), atol=1e-5)


@pytest.mark.long
def test_a_fresh_head_and_its_dropout(oracle):
    config = rag.RagConfig(oracle.bert(), oracle.bart(dropout=0.5), classes=CLASSES)
    head = rag.init_classifier(config, jax.random.key(3))["classifier"]
    assert not head["out"]["bias"].any() and head["out"]["kernel"].std() == pytest.approx(0.02, rel=0.3)

    @jax.jit
    def told(key):
        rngs = {"dropout": key}
        return rag._classifier(config).apply({"params": head}, np.ones((1, 16), "f"), False, rngs=rngs)

    first, again, other = (told(key) for key in jax.random.split(jax.random.key(0))[np.array([0, 0, 1])])
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
