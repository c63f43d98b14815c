"""The search for the largest batch."""

import math

import pytest

from rag_jax.planning.fit import MOST_TRIES, largest, tries

LIMIT = 15.75


@pytest.mark.parametrize("start", [1, 8, 300])
@pytest.mark.parametrize("most", [1, 7, 19, 131])
def test_it_finds_the_largest_of_an_even_growth_in_few_tries(start, most):
    tried = tries(lambda batch: 5.0 + 2.0 * batch, 5.0 + 2.0 * most + 1.0, start)
    assert largest(tried, 5.0 + 2.0 * most + 1.0) == most
    assert len(tried) <= 5


def test_growth_that_is_uneven_costs_tries_and_no_wrong_answer():
    def need(batch):
        return 10.0 + batch + (4.0 if batch > 12 else 0.0) + 0.01 * batch**2

    tried = tries(need, 30.0, 4)
    assert len(tried) <= MOST_TRIES
    best = largest(tried, 30.0)
    assert need(best) <= 30.0 < need(best + 2)


def bent(batch):
    return 0.3 + 0.002 * batch + 1e-6 * batch**2


def steep_stairs(batch):
    return 0.5 + 0.5 * 8 * math.ceil(batch / 8)


def flat_stairs(batch):
    return 4 + 0.01 * 8 * math.ceil(batch / 8)


def other_program(batch):
    """Answers need more than the step of a small batch."""
    return max(9.0, 3.0 + 0.05 * batch)


def jumping(batch):
    """What exceeds some size is laid out anew."""
    return 2.0 + 0.02 * batch + 6.0 * (batch > 200)


@pytest.mark.parametrize("start", [4, 8, 64, 500])
@pytest.mark.parametrize("need", [bent, steep_stairs, flat_stairs, other_program, jumping])
def test_what_it_finds_is_near_the_largest(need, start):
    def said(batch):
        """A program that is refused is told with two digits."""
        return need(batch) if need(batch) <= LIMIT else max(round(need(batch), 2), LIMIT + 1e-9)

    tried = tries(said, LIMIT, start)
    most = max(batch for batch in range(1, 10_000) if need(batch) <= LIMIT)
    assert 0.95 * most <= largest(tried, LIMIT) <= most
    assert len(tried) <= 8


@pytest.mark.parametrize("start", [1, 5, 64, 4096])
def test_where_one_fits_it_is_found(start):
    """However much more all others need, and however little they differ."""
    assert largest(tries(lambda batch: 1.0 if batch == 1 else 20.0, LIMIT, start), LIMIT) == 1


def test_batches_are_multiples_of_the_accumulation():
    tried = tries(lambda batch: float(batch), 22.5, 4, multiple=4)
    assert largest(tried, 22.5) == 20
    assert all(batch % 4 == 0 for batch in tried)


def test_where_nothing_fits_the_least_batch_was_tried():
    tried = tries(lambda batch: 100.0 + batch, 50.0, 8)
    assert largest(tried, 50.0) == 0
    assert min(tried) == 1
