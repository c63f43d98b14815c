"""Passages and questions, whatever they were read from."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Passage:
    """One retrievable text."""

    id: str
    title: str
    text: str


@dataclass(frozen=True)
class Question:
    """One question and what is known of its answer.

    answers: those accepted, none where a test is published without them. passage_ids: passages known to hold the
    answer. evidence: sets of pages, by title or KILT's page id, each of which proves it. hard_negatives: ids of
    passages that look right and are not.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    passage_ids: tuple[str, ...] = ()
    group: str = ""
    evidence: tuple[tuple[str, ...], ...] = ()
    hard_negatives: tuple[str, ...] = ()


def distinct(values: Iterable[T]) -> tuple[T, ...]:
    """The values in their order, each once."""
    return tuple(dict.fromkeys(values))
