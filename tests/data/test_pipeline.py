"""The order of training examples: permutations, asked in any order; the host's random numbers."""

import numpy as np
import pytest

from rag_jax.data.pipeline import Batches, step_rng


@pytest.mark.parametrize("count, batch", [(12, 4), (10, 4), (7, 7), (5, 8), (1, 3)])
def test_every_epoch_is_a_permutation_and_another_one(count, batch):
    batches = Batches(count, batch, seed=3)
    epochs = 6
    flat = np.concatenate([batches[step] for step in range(-(-epochs * count // batch))])[: epochs * count]
    orders = flat.reshape(epochs, count)
    assert (np.sort(orders, axis=1) == np.arange(count)).all()
    if count >= 7:
        assert len({tuple(order) for order in orders.tolist()}) == epochs
        assert orders[0].tolist() != list(range(count))


def test_a_batch_depends_on_seed_and_step_alone():
    forward = [Batches(50, 8, seed=0)[step].tolist() for step in range(20)]
    batches = Batches(50, 8, seed=0)
    assert [batches[step].tolist() for step in reversed(range(20))] == forward[::-1]
    assert batches[7].dtype == np.int64 and batches[7].shape == (8,)
    assert batches[10**6].tolist() == Batches(50, 8, seed=0)[10**6].tolist()
    other = [Batches(50, 8, seed=1)[step].tolist() for step in range(20)]
    assert not any(one == two for one, two in zip(forward, other, strict=True))


def test_random_numbers_differ_by_seed_stage_and_step():
    def draw(*key):
        return step_rng(*key).integers(2**62).item()

    assert draw(0, "joint", 3) == draw(0, "joint", 3)
    drawn = {
        draw(seed, stage, step) for seed in (0, 1) for stage in ("joint", "reader", "denoise") for step in range(9)
    }
    assert len(drawn) == 2 * 3 * 9
