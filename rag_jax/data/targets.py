"""What the generator learns to say: training answers made from a question and the passages that are found for it.

As Lewis et al. (2020) make them, appendix D: on open-domain questions each annotated answer is an example of its own,
answers that no passage holds are left out, and a pattern gives way to what it matches.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rag_jax.data import expansion
from rag_jax.data.formats import Question
from rag_jax.data.labels import WORDS
from rag_jax.metrics.answers_in_passages import passage_patterns, spelt_alike
from rag_jax.metrics.tokenise import simple

DEPTH = 1000  # passages that the paper looks at
Texts = Sequence[str] | None  # of the passages that are found for a question; None in a closed book


class Targets(NamedTuple):
    """The answers to learn, each an example; and what they are, for the count."""

    answers: tuple[str, ...]
    what: str


def first(question: Question, texts: Texts) -> Targets:
    """The first answer."""
    return Targets(question.answers[:1], "the first answer")


def word(question: Question, texts: Texts) -> Targets:
    """The word that stands for the label, one token of the generator (FEVER; section 3.4)."""
    return Targets(tuple(WORDS[label] for label in question.answers[:1]), "the word for the label")


def each(question: Question, texts: Texts) -> Targets:
    """Every answer (the paper's Natural Questions and WebQuestions)."""
    return Targets(question.answers, "every answer")


def held(question: Question, texts: Texts) -> Targets:
    """Every answer whose words stand in a row in some text (TriviaQA; words and rule are DPR's, `holding_answer`).

    In a closed book every answer.
    """
    if texts is None:
        return each(question, texts)
    wanted = {answer: f" {' '.join(words)} " for answer in question.answers if (words := simple(answer))}
    missing = set(wanted.values())
    for text in texts:
        if not missing:
            break
        if near := _near(missing, text):
            found = f" {' '.join(simple(text))} "
            missing -= {words for words in near if words in found}
    answers = tuple(answer for answer, words in wanted.items() if words not in missing)
    return Targets(answers, "answers that a passage holds" if answers else "no answer in any passage")


def mined(question: Question, texts: Texts) -> Targets:
    """The string that the answer patterns match most often; of several, the first (CuratedTREC).

    Where they match nothing, every expansion of the patterns, as far as they are finite.
    """
    patterns = passage_patterns(question.answers).compiled
    matches = (found.strip() for text in texts or () for pattern in patterns for found in _matches(pattern, text))
    counts = Counter(unicodedata.normalize("NFC", match) for match in matches if match)
    if counts:
        return Targets((counts.most_common(1)[0][0],), "the most frequent match")
    strings = [string for pattern in question.answers for string in expansion.expand(pattern) or ()]
    if strings:
        return Targets(tuple(dict.fromkeys(strings)), "no match, every expansion of the pattern")
    return Targets((), "no match, and a pattern without a finite expansion")


def _near(answers: set[str], text: str) -> list[str]:
    """The answers whose words all stand in the text as letters: few texts have to be cut into words."""
    plain = unicodedata.normalize("NFD", text).lower().replace("ς", "σ")  # which of the two depends on what follows
    return [words for words in answers if all(word in plain for word in words.replace("ς", "σ").split())]


def _matches(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    return (match[0] for match in pattern.finditer(spelt_alike(text, pattern)))
