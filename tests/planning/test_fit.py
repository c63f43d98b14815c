"""The search for the largest batch."""

import pytest

from rag_jax.planning.fit import MOST_TRIES, largest, tries


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


def test_batches_are_multiples_of_the_accumulation():
    tried = tries(lambda batch: float(batch), 22.5, 4, multiple=4)
    assert largest(tried, 22.5) == 20
    assert all(batch % 4 == 0 for batch in tried)


def test_where_nothing_fits_the_least_batch_was_tried():
    tried = tries(lambda batch: 100.0 + batch, 50.0, 8)
    assert largest(tried, 50.0) == 0
    assert min(tried) == 1
