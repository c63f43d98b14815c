"""Passages and questions, and the reader for questions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_jax.data.lines import BadLine, brief, identity, read_records, string
from rag_jax.errors import fail


@dataclass(frozen=True)
class Passage:
    """One retrievable text."""

    id: str
    title: str
    text: str


@dataclass(frozen=True)
class Question:
    """One question, its accepted answers, and the ids of passages known to hold the answer."""

    id: str
    text: str
    answers: tuple[str, ...]
    passage_ids: tuple[str, ...] = ()
    group: str = ""


def read_questions(path: str | Path) -> list[Question]:
    """Reads a .jsonl file (also .gz) of {"question", "answer" | "answers", "id"?, "passage_ids"?, "group"?}.

    A line without an id gets its number, counted from 0. Raises UserError naming path:line for a malformed
    line, an empty question, a question without answers, a repeated id, and for a file without questions.
    """
    if Path(str(path).removesuffix(".gz")).suffix != ".jsonl":
        fail(f"{path}: unknown kind of file; expected .jsonl, also with .gz")
    questions: dict[str, Question] = {}
    for place, number, record in read_records(path):
        try:
            if isinstance(record, BadLine):
                raise record
            question = _question(number, record)
            if question.id in questions:
                raise BadLine(f"question id {question.id!r} stands on an earlier line too", "; ids must differ")
        except BadLine as problem:
            fail(f"{place}: {problem}")
        questions[question.id] = question
    if not questions:
        fail(f"{path}: holds no questions; expected one a line")
    return list(questions.values())


def _question(number: int, record: dict[str, Any]) -> Question:
    text = string(record, "question")
    if not text.strip():
        raise BadLine("empty question", "; expected some words; remove the line")
    if ("answer" in record) == ("answers" in record):
        found = "both" if "answer" in record else "neither"
        raise BadLine(f'{found} of "answer" and "answers"', "; expected one of them")
    answers = (string(record, "answer"),) if "answer" in record else _strings(record, "answers")
    if not answers or not all(answer.strip() for answer in answers):
        raise BadLine("no answer or an empty one", "; expected at least one answer, each with some text")
    return Question(
        id=identity(record.get("id", number)),
        text=text,
        answers=answers,
        passage_ids=tuple(identity(item) for item in _list(record, "passage_ids")),
        group=string(record, "group", ""),
    )


def _list(record: dict[str, Any], key: str) -> list[Any]:
    value = record.get(key, [])
    if not isinstance(value, list):
        raise BadLine(f'"{key}" is {brief(value)}', "; expected a list")
    return value


def _strings(record: dict[str, Any], key: str) -> tuple[str, ...]:
    value = _list(record, key)
    if not all(isinstance(item, str) for item in value):
        raise BadLine(f'"{key}" is {brief(value)}', "; expected a list of strings")
    return tuple(value)
