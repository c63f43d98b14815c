"""Answers that are regular expressions, as CuratedTREC has them."""

import re
import warnings
from collections.abc import Iterable
from typing import Literal, NamedTuple

from rag_jax.metrics.text import several

FLAGS = re.IGNORECASE | re.UNICODE | re.MULTILINE


class Patterns(NamedTuple):
    """One question's answer patterns: those that compile, and the text of those that do not, to be counted."""

    compiled: tuple[re.Pattern[str], ...]
    broken: tuple[str, ...]

    def usable(self) -> tuple[re.Pattern[str], ...]:
        """The compiled patterns; ValueError if there are none: such a question cannot be judged, only counted."""
        if not self.compiled:
            raise ValueError(f"no pattern compiles of {', '.join(map(repr, self.broken))}: leave the question out")
        return self.compiled


def compile_patterns(answers: Iterable[str]) -> Patterns:
    """Compiles a question's answers under `FLAGS`, setting apart those that are no regular expressions.

    TypeError for a single string, ValueError without answers.
    """
    compiled, broken = [], []
    for answer in several(answers):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # '[[': a future Python may read it as a nested set
                compiled.append(re.compile(answer, FLAGS))
        except (re.error, OverflowError, RecursionError, ValueError):  # ValueError: '(?a)', thousands of digits
            broken.append(answer)
    return Patterns(tuple(compiled), tuple(broken))


def regex_match(prediction: str, patterns: Patterns, how: Literal["match", "search", "fullmatch"] = "match") -> float:
    """1.0 if any pattern matches the prediction as it stands, else 0.0.

    'match' is ORQA's rule (Lee et al. 2019): from the prediction's first character, which lets a right start pass
    whatever follows; 'search' finds the pattern anywhere; 'fullmatch' wants the whole prediction.

    Raises:
        ValueError: no pattern compiled.
    """
    if how not in ("match", "search", "fullmatch"):
        raise ValueError(f"how is {how!r}, expected 'match', 'search' or 'fullmatch'")
    return float(any(getattr(pattern, how)(prediction) for pattern in patterns.usable()))
