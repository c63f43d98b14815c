"""How varied a set of generations is: distinct n-grams against all n-grams."""

from collections.abc import Iterable
from typing import NamedTuple

from rag_jax.metrics.tokenise import Tokenise


class Distinct(NamedTuple):
    """Distinct and all n-grams of a corpus, the n, and the number of texts: the ratio falls as texts are added.

    Distinct counts of two parts of a corpus cannot be added: bring the texts together first.
    """

    distinct: int
    total: int
    n: int
    texts: int

    @property
    def ratio(self) -> float:
        """distinct / total in [0, 1]; NaN where no text has n words."""
        return self.distinct / self.total if self.total else float("nan")


def distinct_ngrams(texts: Iterable[str], n: int, tokenise: Tokenise) -> Distinct:
    """One ratio over all texts, n-grams within a text (Li et al. 2016; n = 3 in Lewis et al. 2020, table 5).

    ValueError for n below 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}, expected at least 1")
    corpus = [tokenise(text) for text in texts]
    ngrams = [ngram for words in corpus for ngram in zip(*(words[start:] for start in range(n)), strict=False)]
    return Distinct(len(set(ngrams)), len(ngrams), n, len(corpus))
