"""Answer metrics on strings, as SQuAD (Rajpurkar et al. 2016) defines them and open-domain QA uses them."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, without ASCII punctuation, without English articles, words parted by single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Iterable[str]) -> float:
    """1.0 if the normalised prediction equals any normalised answer, else 0.0; ValueError without answers."""
    return max(float(normalise(prediction) == normalise(answer)) for answer in several(answers))


def exact_match_orqa(prediction: str, answers: Iterable[str]) -> float:
    """`exact_match` as ORQA has it (Lee et al. 2019): both sides go through Unicode's NFD first.

    So one letter's two spellings agree, an accent set apart from its letter still tells words apart, and the article
    is taken from 'à'. ValueError without answers.
    """
    answers = [unicodedata.normalize("NFD", answer) for answer in several(answers)]
    return exact_match(unicodedata.normalize("NFD", prediction), answers)


def f1(prediction: str, answers: Iterable[str]) -> float:
    """Harmonic mean of word precision and recall after normalisation, for the best answer, in [0, 1].

    Repeated words count as often as both sides hold them. If either side normalises to nothing, only two
    empty sides agree, so that a prediction with exact match 1 has F1 1. ValueError without answers.
    """
    return max(_f1(normalise(prediction).split(), normalise(answer).split()) for answer in several(answers))


def several(answers: Iterable[str]) -> tuple[str, ...]:
    """The answers, checked: TypeError for a single string, whose letters would pass as answers, ValueError for none."""
    if isinstance(answers, str):
        raise TypeError(f"answers is the string {answers!r}, expected several strings")
    found = tuple(answers)
    if not found:
        raise ValueError("no answers, expected at least one")
    return found


def _f1(prediction: list[str], answer: list[str]) -> float:
    if not prediction or not answer:
        return float(prediction == answer)
    common = (Counter(prediction) & Counter(answer)).total()
    return 2 * common / (len(prediction) + len(answer))
