import math

import numpy as np
import pytest

from rag_jax.metrics.retrieval import hits_at, interval, precision_at

IDS = np.array([[4, 2, 9], [1, 3, 5], [7, 8, -1], [0, -1, -1]])
GOLD = [{2}, {5, 6}, {9}, {0, 4}]


def test_recall_by_hand():
    assert [sum(hits_at(IDS, GOLD, k)) for k in (1, 2, 3, 10)] == [1, 2, 3, 3]
    assert hits_at(IDS, GOLD, 2) == [True, False, False, True]
    assert sum(hits_at(IDS.tolist(), [list(gold) for gold in GOLD], 3)) == 3


def test_surplus_places_match_nothing_and_ids_may_be_strings():
    assert hits_at([[-1, -1]], [{-1}], 2) == [False]
    assert hits_at([["b", "a"]], [{"a"}], 2) == [True]


def test_page_precision_by_hand():
    titles = [["Oslo", "Oslo", "Rome"], ["Rome"], ["Bonn", "Paris", "Oslo"]]
    gold = [{"Oslo", "Rome"}, {"Rome"}, {"Lima"}]
    assert precision_at(titles, gold, 1) == [1.0, 1.0, 0.0]
    assert precision_at(titles, gold, 2) == [0.5, 0.5, 0.0]  # a page twice, and a page too few
    assert precision_at(iter(titles), iter(gold), 3) == pytest.approx([2 / 3, 1 / 3, 0.0])
    assert precision_at([[-1]], [{-1}], 1) == [0.0]


def test_mistakes_are_errors():
    for ids, gold, k in [(IDS, GOLD, 0), (IDS, GOLD[:2], 1), ([[1]], [set()], 1)]:
        for measure in (hits_at, precision_at):
            with pytest.raises(ValueError):
                measure(ids, gold, k)


def test_interval_against_published_values():
    # Newcombe (1998), table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for successes, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_interval_ends_solve_the_score_equation():
    for end in interval(7, 25):
        assert abs(7 / 25 - end) == pytest.approx(1.959963984540054 * math.sqrt(end * (1 - end) / 25))


def test_interval_at_the_edges():
    assert interval(0, 0) == (0.0, 1.0)
    assert interval(0, 5)[0] == 0.0
    assert interval(5, 5)[1] == 1.0
    assert interval(5, 5)[0] == pytest.approx(1 - interval(0, 5)[1])
    for successes, n in [(-1, 5), (6, 5)]:
        with pytest.raises(ValueError, match="expected 0 to 5"):
            interval(successes, n)
