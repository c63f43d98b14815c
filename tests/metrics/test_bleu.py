import math
import operator
from pathlib import Path

import jax
import pytest

from rag_jax.metrics.bleu import BleuSums, bleu_sums
from rag_jax.metrics.tokenise import TOKENISERS, whitespace

NLG_EVAL = Path(__file__).parents[3] / "shared" / "data" / "metrics" / "nlg_eval"
PUBLISHED = {1: 0.55, 2: 0.428174, 3: 0.284043, 4: 0.201143}


def sums(prediction, *references):
    return bleu_sums(prediction, references, whitespace)


def test_counts_by_hand():
    # 'the' stands 3 times in the prediction and at most twice in a reference; 'the cat' once in each.
    assert sums("the the the cat", "the cat the mat", "a cat") == BleuSums((3, 1, 0, 0), (4, 3, 2, 1), 4, 4)
    # What counts is the one reference that holds a word most often, not the references' sum.
    assert sums("b b", "b c", "d b").matches == (1, 0, 0, 0)


def test_closest_reference_length():
    for prediction, references, length in [
        ("a b c", ["x", "x x x x"], 4),
        ("a b c", ["x x x x", "x x"], 2),  # equally close: the shorter
        ("a b c", ["x x x x x", ""], 5),
        ("", ["x x", "x"], 1),
    ]:
        assert sums(prediction, *references).reference_words == length


def test_bleu_by_hand():
    one = sums("the cat sat", "the cat sat on the mat")
    assert one.bleu(1) == pytest.approx(math.exp(1 - 6 / 3))  # all right but half as long
    assert sums("the cat sat on it", "the cat").bleu(1) == pytest.approx(2 / 5)  # longer: no penalty, no reward
    assert sums("a b c d", "a b x d").bleu(2) == pytest.approx(math.sqrt(3 / 4 * 1 / 3))
    assert sums("a b", "a b").bleu(2) == 1.0
    assert sums("a b", "a b").bleu(3) == 0.0  # no tri-gram to match


def test_a_corpus_is_its_sums_not_the_mean_of_its_parts():
    parts = [sums("a", "a b c d"), sums("a b c x", "a b")]
    corpus = BleuSums.total(parts)
    assert corpus == BleuSums((3, 1, 0, 0), (5, 3, 2, 1), 5, 6)
    assert corpus.bleu(1) == pytest.approx(3 / 5 * math.exp(1 - 6 / 5))
    assert BleuSums.total(parts[::-1]) == corpus == jax.tree.map(operator.add, *parts)  # how hosts add them
    assert BleuSums.total([corpus, BleuSums.total([])]) == corpus


def test_nothing_said_and_nothing_wanted():
    assert sums("", "a b") == BleuSums(reference_words=2)
    assert sums("a b", "").bleu(1) == sums("", "a").bleu(1) == sums("", "").bleu(1) == BleuSums().bleu(4) == 0.0
    assert BleuSums.total([sums("a", "a"), sums("", "b b b")]).bleu(1) == pytest.approx(math.exp(1 - 4 / 1))


def test_mistakes_are_errors():
    for n in (0, 5):
        with pytest.raises(ValueError, match="expected 1 to 4"):
            BleuSums().bleu(n)
    with pytest.raises(TypeError, match="several strings"):
        bleu_sums("x", "xyz", whitespace)
    with pytest.raises(ValueError, match="at least one"):
        bleu_sums("x", [], whitespace)


def test_published_scores_from_their_counts():
    # nlg-eval's example: two predictions of 10 words each, whose closest references have 8 each.
    for n, score in PUBLISHED.items():
        assert BleuSums((11, 6, 2, 1), (20, 18, 16, 14), 20, 16).bleu(n) == pytest.approx(score, abs=5e-7)


@pytest.mark.parametrize("name", TOKENISERS)
def test_published_scores(name):
    if not NLG_EVAL.is_dir():
        pytest.skip(f"nlg-eval's example files are not at {NLG_EVAL}")
    rows = zip(*((NLG_EVAL / f"{part}.txt").read_text().splitlines() for part in ("hyp", "ref1", "ref2")), strict=True)
    corpus = BleuSums.total(bleu_sums(said, references, TOKENISERS[name]) for said, *references in rows)
    for n, score in PUBLISHED.items():
        assert corpus.bleu(n) == pytest.approx(score, abs=5e-7)
