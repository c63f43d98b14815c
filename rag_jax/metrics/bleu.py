"""BLEU of a corpus as coco-caption computes it, from sums that processes may add."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from rag_jax.metrics.text import several
from rag_jax.metrics.tokenise import Tokenise

MOST_WORDS = 4


class BleuSums(NamedTuple):
    """What BLEU adds up over predictions; places n - 1 of `matches` and `ngrams` belong to n-grams, n = 1 to 4.

    A pytree of whole numbers: adding corresponding fields joins two parts of a corpus.
    """

    matches: tuple[int, ...] = (0,) * MOST_WORDS  # n-grams of the predictions that a reference holds as often
    ngrams: tuple[int, ...] = (0,) * MOST_WORDS  # n-grams of the predictions
    words: int = 0  # of the predictions
    reference_words: int = 0  # of the references closest in length

    @classmethod
    def total(cls, parts: Iterable["BleuSums"]) -> "BleuSums":
        """The sums of all parts together; zeros for none."""
        matches, ngrams, words, reference_words = zip(cls(), *parts, strict=True)
        return cls(_added(matches), _added(ngrams), sum(words), sum(reference_words))

    def bleu(self, n: int) -> float:
        """BLEU-n in [0, 1] (Papineni et al. 2002): geometric mean of n precisions, times the brevity penalty.

        The penalty compares the whole corpus's length with the closest references'. 0 if no n-gram matches or
        there is no word: nothing is smoothed. (coco-caption adds 1e-15 to the matches, which leaves BLEU-1 as it is
        and makes a BLEU-4 without matches some 1e-4.)

        Raises:
            ValueError: n outside 1 to 4.
        """
        if not 1 <= n <= MOST_WORDS:
            raise ValueError(f"n is {n}, expected 1 to {MOST_WORDS}")
        if not all(self.matches[:n]):
            return 0.0
        log_precisions = [math.log(m / total) for m, total in zip(self.matches[:n], self.ngrams[:n], strict=True)]
        penalty = min(0.0, 1 - self.reference_words / self.words)
        return math.exp(sum(log_precisions) / n + penalty)


def bleu_sums(prediction: str, references: Iterable[str], tokenise: Tokenise) -> BleuSums:
    """One prediction's part of a corpus's BLEU, as coco-caption counts it (Chen et al. 2015).

    An n-gram matches as often as the reference that holds it most often. Of references equally close in length the
    shorter counts. An empty prediction adds its reference's length only. sacrebleu's rules are the same but for its
    own tokenisers and smoothing. ValueError without references.
    """
    words, references_words = tokenise(prediction), [tokenise(reference) for reference in several(references)]
    matches, ngrams = [], []
    for n in range(1, MOST_WORDS + 1):
        said = _ngrams(words, n)
        allowed: Counter[tuple[str, ...]] = Counter()
        for reference_words in references_words:
            allowed |= _ngrams(reference_words, n)
        matches.append((said & allowed).total())
        ngrams.append(said.total())
    closest = min((abs(len(reference) - len(words)), len(reference)) for reference in references_words)[1]
    return BleuSums(tuple(matches), tuple(ngrams), len(words), closest)


def _ngrams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))


def _added(rows: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*rows, strict=True)))
