"""Whether retrieved passages hold the answer: DPR's two rules, for answer recall@k."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from rag_jax.metrics.patterns import Patterns, compile_patterns
from rag_jax.metrics.text import several
from rag_jax.metrics.tokenise import simple

_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def holding_answer(passages_K: Iterable[str], answers: Iterable[str]) -> list[bool]:
    """For each passage, whether its words hold those of any answer, in a row (DPR's 'string' match).

    Words are `tokenise.simple`: uncased, after NFD, punctuation counting as words. DPR looks at a passage's text
    without its title. An answer without any word is in no passage; in DPR it is in all of them. ValueError without
    answers.
    """
    wanted = [words for answer in several(answers) if (words := simple(answer))]
    return [any(_in_a_row(words, found) for words in wanted) for found in map(simple, passages_K)]


def passage_patterns(answers: Iterable[str]) -> Patterns:
    """Answer patterns to look for in passages: after NFD, as DPR takes both; see `compile_patterns`.

    A backslash before a letter that NFD takes apart goes first: it would be left before the bare letter, where it
    is another escape or none at all. (CuratedTREC has 'Jes\\ús', which DPR never finds.) A pattern that NFD breaks,
    as the class '[à-ü]', is looked for after NFC.
    """
    return compile_patterns(map(_taken_apart, several(answers)))


def holding_match(passages_K: Iterable[str], patterns: Patterns) -> list[bool]:
    """For each passage, whether a search for any of `passage_patterns` finds something (DPR's 'regex' match).

    DPR takes a pattern that does not compile for one that is not found; here it stands in `patterns.broken`, and
    ValueError says that none compiled.
    """
    usable = patterns.usable()
    return [any(pattern.search(spelt_alike(passage, pattern)) for pattern in usable) for passage in passages_K]


def spelt_alike(text: str, pattern: re.Pattern[str]) -> str:
    """A text in the normal form of Unicode that one of `passage_patterns` is written in."""
    return unicodedata.normalize("NFD" if unicodedata.is_normalized("NFD", pattern.pattern) else "NFC", text)


def answer_hits_at(holding_BK: Iterable[Sequence[bool]], k: int) -> list[bool]:
    """Whether any of each question's first k passages holds the answer (answer recall@k: Karpukhin et al. 2020, 5).

    Rows are `holding_answer`'s or `holding_match`'s, best passage first, and may be shorter. ValueError for k below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1")
    return [any(holding_K[:k]) for holding_K in holding_BK]


def _in_a_row(words: list[str], found: list[str]) -> bool:
    # No word holds a space, so joined words match as whole words only.
    return f" {' '.join(words)} " in f" {' '.join(found)} "


def _taken_apart(answer: str) -> str:
    apart, whole = unicodedata.normalize("NFD", _ESCAPE.sub(_bare, answer)), unicodedata.normalize("NFC", answer)
    broken = compile_patterns([apart]).broken and compile_patterns([whole]).compiled
    return whole if broken else apart


def _bare(escape: re.Match[str]) -> str:
    return escape[0] if escape[1].isascii() else escape[1]
