"""Ten steps on one device, on eight that keep the state whole, and on eight that split it: the same run."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rag_jax import parallel
from rag_jax.training.step import Objective, TrainState, train_step

STEPS, OBJECTIVE = 10, Objective(train_question_encoder=True, label_smoothing=0.0, accumulation=1, seed=0)
OPTIMIZERS = {"sgd": optax.sgd(0.1, momentum=0.0), "adamw": optax.adamw(1e-3, weight_decay=0.01)}


@pytest.fixture(scope="module")
def trained(tiny, params, devices):
    """(mode, optimizer) -> (state, losses) in fp32 after STEPS steps, each with a padding question."""

    @cache
    def run(mode, name):
        on, optimizer = devices[mode], OPTIMIZERS[name]
        step = on.step(train_step, config=tiny.config("token"), optimizer=optimizer, objective=OBJECTIVE)
        state, losses = on.put_state(TrainState(jnp.int32(0), params, optimizer.init(params))), []
        for seed in range(STEPS):
            state, metrics = step(state, on.put_batch(tiny.batch(seed)))
            losses.append(float(metrics["loss"]))
        return jax.device_get(state), losses

    return run


@pytest.fixture(scope="module", autouse=True)
def small_arrays_are_split():
    """The tiny model has none that are worth it."""
    before, parallel.SMALL = parallel.SMALL, 64
    yield
    parallel.SMALL = before


@pytest.mark.parametrize("mode", [8, "sharded"])
def test_ten_steps_of_sgd_are_those_of_one_device(tiny, trained, mode):
    (state, losses), (alone, expected) = trained(mode, "sgd"), trained(1, "sgd")
    tiny.assert_close(state.params, alone.params, 1e-6)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("mode", [pytest.param(8, marks=pytest.mark.long), "sharded"])
def test_ten_steps_of_adamw_are_those_of_one_device(trained, mode):
    """But for the biases of keys, which no softmax feels: their gradient is rounding, and Adam makes steps of it."""
    (state, losses), (alone, expected) = trained(mode, "adamw"), trained(1, "adamw")
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    pairs = zip(jax.tree.leaves_with_path(alone.params), jax.tree.leaves(state.params), strict=True)
    for path, leaf, other in ((jax.tree_util.keystr(path), leaf, other) for (path, leaf), other in pairs):
        if not ("key" in path and "bias" in path):
            assert np.linalg.norm(other - leaf) <= 1e-5 * max(np.linalg.norm(leaf), 1), path


def test_a_split_state_lies_in_parts_and_comes_back_as_it_went(tiny, params, devices):
    on = devices["sharded"]
    placed = on.put_state(params)
    table = placed["generator"]["shared"]["embedding"]
    assert table.addressable_shards[0].data.size * 8 == table.size
    split = [leaf for leaf in jax.tree.leaves(placed) if not leaf.is_fully_replicated]
    assert sum(leaf.size for leaf in split) > 0.9 * sum(leaf.size for leaf in jax.tree.leaves(placed))
    assert tiny.bits(on.read(placed)) == tiny.bits(params)
    for leaf, abstract in zip(jax.tree.leaves(placed), jax.tree.leaves(on.abstract_state(params)), strict=True):
        assert leaf.sharding.is_equivalent_to(abstract.sharding, leaf.ndim)
