"""KILT's scores of pages and of answers that stand on them (Petroni et al. 2021).

A question has one or more evidence sets, each a set of Wikipedia page ids that proves an answer together.
"""

from collections.abc import Collection, Iterable, Sequence

from rag_jax.metrics.text import exact_match, f1, normalise, several

Evidence = Iterable[Collection[str]]

WHOLE, WRONG = -1, -2


def r_precision(pages_K: Sequence[str], evidence: Evidence) -> float:
    """The share of an evidence set of R pages found among the first R pages retrieved, for the best set.

    Pages are ids, best first; of several passages of a page only the first counts. Without evidence, 0 as in KILT,
    whose mean runs over all questions.
    """
    pages = list(dict.fromkeys(pages_K))
    shares = [len(wanted.intersection(pages[: len(wanted)])) / len(wanted) for wanted in _sets(evidence)]
    return max(shares, default=0.0)


def kilt_recall_at(pages_K: Sequence[str], evidence: Evidence, k: int) -> float:
    """The share of a question's evidence sets found whole among the first k places; without evidence, 0 as in KILT.

    In KILT's ranking a set takes one place, that of its last page, so that pages beyond the k-th may move up; a page
    that belongs to two sets takes two places, the earlier set's first. ValueError for k below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1")
    missing = _sets(evidence)
    ranking: list[int] = []  # at each place WHOLE, WRONG or the number of a set that still lacks pages
    for page in dict.fromkeys(pages_K):
        owners = [number for number, wanted in enumerate(missing) if page in wanted]
        for number in owners:
            ranking = [place for place in ranking if place != number]
            missing[number].remove(page)
            ranking.append(number if missing[number] else WHOLE)
        if not owners:
            ranking.append(WRONG)
    return ranking[:k].count(WHOLE) / len(missing) if missing else 0.0


def grounded(score: float, pages_K: Sequence[str], evidence: Evidence) -> float:
    """Any downstream score the KILT way: as it is where R-precision is 1, else 0."""
    return score if r_precision(pages_K, evidence) == 1 else 0.0


def accuracy(prediction: str, answers: Iterable[str]) -> float:
    """1.0 if the prediction is an answer to the letter, but for white space around it; ValueError without answers.

    What KILT's board shows of FEVER, entity linking and slot filling.
    """
    return float(prediction.strip() in {answer.strip() for answer in several(answers)})


def kilt_exact_match(prediction: str, answers: Iterable[str], pages_K: Sequence[str], evidence: Evidence) -> float:
    """KILT-EM: `exact_match` where R-precision is 1; a blank prediction scores 0. ValueError without answers."""
    answers = several(answers)
    return grounded(exact_match(prediction, answers) if prediction.strip() else 0.0, pages_K, evidence)


def kilt_f1(prediction: str, answers: Iterable[str], pages_K: Sequence[str], evidence: Evidence) -> float:
    """KILT-F1: `f1` where R-precision is 1; a prediction of no words scores 0. ValueError without answers."""
    answers = several(answers)
    return grounded(f1(prediction, answers) if normalise(prediction) else 0.0, pages_K, evidence)


def _sets(evidence: Evidence) -> list[set[str]]:
    distinct: list[set[str]] = []
    for pages in evidence:
        if isinstance(pages, str):  # its letters would pass as pages
            raise TypeError(f"an evidence set is the string {pages!r}, expected several page ids")
        if pages and set(pages) not in distinct:
            distinct.append(set(pages))
    return distinct
