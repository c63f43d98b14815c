"""The optimizer: schedule by hand, AdamW by hand, frozen parts bit-equal, biases and norms without decay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from rag_jax.models import null_document, rag
from rag_jax.models.bart import BartConfig
from rag_jax.models.bert import BertConfig
from rag_jax.training.optim import decayed, learning_rate, optimizer


def stage(**changes):
    return ConfigDict({"steps": 100, "warmup": 10, "learning_rate": 0.5, "weight_decay": 0.25, "clip": 1.0} | changes)


@pytest.mark.parametrize(
    "changes, values",
    [
        ({}, {0: 0, 1: 0.05, 9: 0.45, 10: 0.5, 55: 0.25, 99: 0.5 / 90, 100: 0, 200: 0}),
        ({"warmup": 0}, {0: 0.5, 50: 0.25, 99: 0.005, 100: 0}),
        ({"warmup": 100}, {0: 0, 50: 0.25, 99: 0.495}),
        ({"warmup": 500}, {0: 0, 50: 0.25, 99: 0.495}),
        ({"steps": 1, "warmup": 0}, {0: 0.5}),
    ],
)
def test_the_schedule_rises_and_falls_in_straight_lines(changes, values):
    rate = learning_rate(stage(**changes))
    assert {step: float(rate(step)) for step in values} == pytest.approx(values, abs=1e-7)


@pytest.fixture(scope="module")
def shapes():
    """The real parameter tree, projection and all, by shape only."""
    bert = BertConfig(vocab_size=20, width=16, layers=3, heads=2, ffn=24, positions=12, projection=8)
    bart = BartConfig(vocab_size=24, width=16, encoder_layers=3, decoder_layers=2, heads=2, ffn=24, positions=12)
    return jax.eval_shape(lambda: rag.init_params(rag.RagConfig(bert, bart, learn_score_scale=True), jax.random.key(0)))


def test_what_is_decayed_in_the_real_parameter_tree(shapes):
    mask = {
        jax.tree_util.keystr(p, simple=True, separator="/"): on for p, on in jax.tree.leaves_with_path(decayed(shapes))
    }
    assert set(mask.values()) == {True, False}
    for name, leaf in jax.tree.leaves_with_path(shapes):
        name = jax.tree_util.keystr(name, simple=True, separator="/")
        vector = len(leaf.shape) - ("/layers/" in name) < 2  # layers are stacked
        assert mask[name] == (not vector), name
    assert {name.split("/")[-1] for name, on in mask.items() if on} == {
        "kernel",
        "embedding",
        "token",
        "position",
        "type",
    }
    assert {name.split("/")[-1] for name, on in mask.items() if not on} == {
        "bias", "scale", "final_logits_bias", "log_score_scale"
    }  # fmt: skip
    norms = {name for name in mask if "norm" in name}
    assert len(norms) == 2 * (3 + 3 + 4)  # BERT 1 + 2; BART's encoder 1 + 2, decoder 1 + 3
    assert not any(mask[name] for name in norms)


def test_one_update_is_adamw_by_hand_with_the_gradient_clipped():
    tx, params = (
        optimizer(stage(warmup=0, clip=1.0), ("a",)),
        {"a": {"kernel": jnp.array([[2.0, -4.0]]), "bias": jnp.array([3.0])}},
    )
    gradient = {"a": {"kernel": jnp.array([[6.0, 0.0]]), "bias": jnp.array([-8.0])}}  # of norm 10: clipped to a tenth
    state = tx.init(params)
    updates, state = tx.update(gradient, state, params)
    # The first step of Adam is g / (|g| + eps), whatever the size of g.
    np.testing.assert_allclose(updates["a"]["kernel"], [[-0.5 * (1 + 0.25 * 2), -0.5 * 0.25 * -4]], rtol=1e-5)
    np.testing.assert_allclose(updates["a"]["bias"], [0.5], rtol=1e-5)
    # The second, of half the gradient: clipping still makes the norm 1, so that moments are of equal gradients.
    second = jax.tree.map(lambda g: g / 2, gradient)
    updates, _ = tx.update(second, state, params)
    np.testing.assert_allclose(updates["a"]["bias"], [0.5 * 0.99], rtol=1e-4)
    # A gradient within the bound is not scaled up.
    small = jax.tree.map(lambda g: g / 100, gradient)
    updates, _ = tx.update(small, state, params)
    mean, square = (0.9 * 0.08 + 0.008) / 0.19, (0.999 * 0.00064 + 0.001 * 0.0064) / 0.001999
    np.testing.assert_allclose(updates["a"]["bias"], [0.495 * 10 * mean / np.sqrt(100 * square)], rtol=1e-4)


@pytest.mark.parametrize("trained", [("generator",), ("question_encoder", "generator")])
def test_what_is_not_trained_stays_bit_for_bit(trained):
    rng = np.random.default_rng(0)

    def draw():
        layer = {"kernel": rng.normal(size=(2, 3)), "bias": rng.normal(size=3), "norm": {"scale": rng.normal(size=3)}}
        return jax.tree.map(np.float32, {"question_encoder": layer, "generator": jax.tree.map(np.copy, layer)})

    tx, params = optimizer(stage(warmup=0), trained), draw()
    moved, state = params, tx.init(params)
    for _ in range(3):
        updates, state = tx.update(draw(), state, moved)
        moved = optax.apply_updates(moved, updates)
    for name, tree in params.items():
        same = [np.array_equal(*pair) for pair in zip(jax.tree.leaves(moved[name]), jax.tree.leaves(tree), strict=True)]
        assert not any(same) if name in trained else all(same)


def test_the_clip_measures_the_trained_part_alone():
    tx = optimizer(stage(warmup=0, weight_decay=0.0), ("a",))
    params = {"a": {"kernel": jnp.zeros((1, 1))}, "b": {"kernel": jnp.zeros((1, 1))}}
    state = tx.init(params)
    moments = []
    for other in (0.0, 1e6):
        gradient = {"a": {"kernel": jnp.full((1, 1), 0.5)}, "b": {"kernel": jnp.full((1, 1), other)}}
        moments.append(jax.tree.leaves(tx.update(gradient, state, params)[1]))
    assert all(np.array_equal(*pair) for pair in zip(*moments, strict=True))


@pytest.mark.parametrize("kind", ["embedding", "bias", "network"])
def test_a_null_document_s_kernels_and_embedding_are_decayed_and_its_biases_are_not(kind):
    shapes = jax.eval_shape(lambda: null_document.init(kind, 8, jax.random.key(0)))
    mask = {jax.tree_util.keystr(p, simple=True): on for p, on in jax.tree.leaves_with_path(decayed(shapes))}
    assert mask == {name: not name.endswith("bias") for name in mask} and mask
