import math

import pytest

from rag_jax.metrics.distinct import Distinct, distinct_ngrams
from rag_jax.metrics.tokenise import treebank, whitespace


def test_one_ratio_over_the_corpus():
    # 'a b c' twice, in two texts; no n-gram runs from one text into the next.
    found = distinct_ngrams(["a b c d", "a b c", "d e"], 3, whitespace)
    assert found == Distinct(distinct=2, total=3, n=3, texts=3)
    assert found.ratio == pytest.approx(2 / 3)
    assert distinct_ngrams(["a a a a"], 3, whitespace).ratio == 1 / 2
    assert distinct_ngrams(iter(["a b", "b a"]), 1, whitespace) == Distinct(2, 4, 1, 2)


def test_the_tokeniser_decides():
    assert distinct_ngrams(["A cat!", "a cat"], 2, whitespace).ratio == 1.0
    assert distinct_ngrams(["A cat!", "a cat"], 2, treebank).ratio == 0.5


def test_texts_too_short():
    found = distinct_ngrams(["a b", ""], 3, whitespace)
    assert found == Distinct(0, 0, 3, 2)
    assert math.isnan(found.ratio)
    assert math.isnan(distinct_ngrams([], 1, whitespace).ratio)
    with pytest.raises(ValueError, match="n is 0"):
        distinct_ngrams(["a"], 0, whitespace)
