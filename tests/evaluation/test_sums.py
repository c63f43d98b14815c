"""Sums by hand: what they print, what they write, and that the parts of a corpus add up to the whole."""

import math

import pytest

from rag_jax.evaluation.sums import Bleu, Count, Diversity, Mean, Rate, added
from rag_jax.metrics.bleu import bleu_sums
from rag_jax.metrics.tokenise import treebank


def test_a_rate_prints_percent_wilson_interval_and_counts():
    """Wilson's interval of 1 in 4 is 4.6 to 69.9 percent."""
    assert Rate.of([0, 1, 0, 0]) == Rate(1.0, 4)
    assert str(Rate(1.0, 4)) == " 25.0  [4.6, 69.9]  1 of 4"
    found = Rate(1.0, 4).json()
    assert (found["percent"], found["sum"], found["count"]) == (25.0, 1.0, 4)
    assert found["low"] == pytest.approx(4.559, abs=1e-3) and found["high"] == pytest.approx(69.936, abs=1e-3)
    assert math.isnan(Rate.of([]).percent) and Rate.of([]).json()["percent"] is None


def test_a_mean_prints_the_interval_of_its_standard_error():
    """0, 0.5, 0.5, 1: variance 1/6, standard error sqrt(1/24), 1.96 of it 40.0 percent."""
    mean = Mean.of([0, 0.5, 0.5, 1])
    assert mean == Mean(2.0, 1.5, 4)
    assert str(mean) == " 50.0  [10.0, 90.0]  mean of 4"
    assert mean.json() == {
        "percent": 50.0, "low": pytest.approx(9.992, abs=1e-3), "high": pytest.approx(90.008, abs=1e-3), "sum": 2.0,
        "squares": 1.5, "count": 4,
    }  # fmt: skip


@pytest.mark.parametrize(("values", "interval"), [([0.5], (0, 100)), ([1, 1, 1], (100, 100)), ([1, 0], (0, 100))])
def test_a_mean_stays_between_0_and_100_and_one_value_knows_nothing(values, interval):
    assert Mean.of(values).interval == interval


def test_bleu_of_a_corpus_is_not_the_mean_of_its_parts():
    """One word of one, then one of three: 2 of 4; the references are 1 and 3 words long, so nothing is shortened."""
    parts = [Bleu(bleu_sums(*pair, treebank), "treebank") for pair in (("a", ["a"]), ("a b c", ["a d e"]))]
    whole = added(parts)
    assert whole.percent == pytest.approx(50) and parts[1].percent == pytest.approx(100 / 3)
    assert str(whole) == " 50.0  4 words for 4 of the references"
    found = whole.json()
    assert found["tokeniser"] == "treebank" and found["words"] == 4 and found["matches"][0] == 2


def test_diversity_counts_a_tri_gram_of_two_parts_once():
    parts = [Diversity((text,), "whitespace") for text in ("a b c d", "b c d", "a b")]
    whole = added(parts)
    assert str(whole) == " 66.7  2 of 3 in 3 texts"
    assert {"distinct": 2, "total": 3, "n": 3, "texts": 3, "tokeniser": "whitespace"}.items() <= whole.json().items()
    assert parts[2].json()["percent"] == 0.0


@pytest.mark.parametrize("kind", [Rate, Mean])
@pytest.mark.parametrize("cut", range(6))
def test_parts_add_up_wherever_they_are_cut(kind, cut):
    values = [1, 0, 0, 1, 1]
    assert kind.of(values[:cut]) + kind.of(values[cut:]) == kind.of(values)


@pytest.mark.parametrize("count", range(1, 9))
def test_added_keeps_order_and_loses_nothing(count):
    texts = [Diversity((str(n),), "whitespace") for n in range(count)]
    assert added(texts).texts == tuple(map(str, range(count)))
    assert added([Count(n) for n in range(count)]) == Count(sum(range(count)))
