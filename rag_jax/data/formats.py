"""Passages and questions, and readers for the files they are published in."""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rag_jax.errors import UserError, fail

TSV_HEADER = ["id", "text", "title"]


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


def read_passages(path: str | Path) -> Iterator[Passage]:
    """Yields the passages of a .jsonl file ({"id"?, "title"?, "text"}) or a DPR .tsv file (id, text, title),
    also .gz.

    A line without an id gets its number, counted from 0. Raises UserError naming path:line for a malformed
    line, an empty text, a repeated id, and for a file without passages.
    """
    suffix = _suffix(path, (".jsonl", ".tsv"))
    seen: set[str] = set()
    for place, passage in _tsv_passages(path) if suffix == ".tsv" else _jsonl_passages(path):
        if not passage.text.strip():
            fail(f"{place}: passage {passage.id!r} has an empty text; expected some words; remove the line")
        if passage.id in seen:
            fail(f"{place}: passage id {passage.id!r} stands on an earlier line too; ids must differ")
        seen.add(passage.id)
        yield passage
    if not seen:
        fail(f"{path}: holds no passages; expected one a line")


def read_questions(path: str | Path) -> list[Question]:
    """Reads a .jsonl file (also .gz) of {"question", "answer" | "answers", "id"?, "passage_ids"?, "group"?}.

    A line without an id gets its number, counted from 0. Raises UserError naming path:line for a malformed
    line, an empty question, a question without answers, a repeated id, and for a file without questions.
    """
    _suffix(path, (".jsonl",))
    questions: dict[str, Question] = {}
    for place, number, record in _records(path):
        question = _question(place, number, record)
        if question.id in questions:
            fail(f"{place}: question id {question.id!r} stands on an earlier line too; ids must differ")
        questions[question.id] = question
    if not questions:
        fail(f"{path}: holds no questions; expected one a line")
    return list(questions.values())


def _question(place: str, number: int, record: dict[str, Any]) -> Question:
    text = _string(place, record, "question")
    if not text.strip():
        fail(f"{place}: empty question; expected some words; remove the line")
    if ("answer" in record) == ("answers" in record):
        found = "both" if "answer" in record else "neither"
        fail(f'{place}: {found} of "answer" and "answers"; expected one of them')
    answers = (_string(place, record, "answer"),) if "answer" in record else _strings(place, record, "answers")
    if not answers or not all(answer.strip() for answer in answers):
        fail(f"{place}: no answer or an empty one; expected at least one answer, each with some text")
    return Question(
        id=_identity(place, record.get("id", number)),
        text=text,
        answers=answers,
        passage_ids=tuple(_identity(place, item) for item in _list(place, record, "passage_ids")),
        group=_string(place, record, "group", ""),
    )


def _jsonl_passages(path: str | Path) -> Iterator[tuple[str, Passage]]:
    for place, number, record in _records(path):
        title, text = _string(place, record, "title", ""), _string(place, record, "text")
        yield place, Passage(_identity(place, record.get("id", number)), title, text)


def _tsv_passages(path: str | Path) -> Iterator[tuple[str, Passage]]:
    with _lines(path, newline="") as stream:
        rows = csv.reader(stream, delimiter="\t")
        try:
            header = next(rows, [])
            if header != TSV_HEADER:
                fail(f"{path}:1: columns {header}; expected {TSV_HEADER}, tab-separated, as DPR has them")
            for row in rows:
                if len(row) != len(TSV_HEADER):
                    fail(f"{path}:{rows.line_num}: {len(row)} columns; expected 3: id, text, title")
                identity, text, title = row
                yield f"{path}:{rows.line_num}", Passage(identity, title, text)
        except csv.Error as error:
            fail(f"{path}:{rows.line_num}: {error}; expected a tab-separated line; is a quote left open?")


def _records(path: str | Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yields ("path:line", number of the record, record) for each line that is not blank."""
    number = 0
    with _lines(path) as stream:
        for line_number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            place = f"{path}:{line_number}"
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                fail(f"{place}: not JSON ({error.msg}, column {error.colno}); expected one JSON object a line")
            if not isinstance(record, dict):
                fail(f"{place}: {type(record).__name__}; expected a JSON object")
            yield place, number, record
            number += 1


@contextmanager
def _lines(path: str | Path, newline: str | None = None) -> Iterator[TextIO]:
    opener = gzip.open if str(path).endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline=newline) as stream:
            yield stream
    except UserError:
        raise
    except UnicodeDecodeError as error:
        fail(f"{path}: byte 0x{error.object[error.start]:02x} is not UTF-8; convert the file to UTF-8")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        fail(f"{path}: damaged gzip file ({error}); download it again")
    except OSError as error:
        fail(f"{path}: cannot be read ({error.strerror}); check the path")


def _suffix(path: str | Path, known: tuple[str, ...]) -> str:
    suffix = Path(str(path).removesuffix(".gz")).suffix
    if suffix not in known:
        fail(f"{path}: unknown kind of file; expected {' or '.join(known)}, also with .gz")
    return suffix


def _string(place: str, record: dict[str, Any], key: str, default: str | None = None) -> str:
    value = record.get(key, default)
    if not isinstance(value, str):
        found = f"is {json.dumps(value)[:40]}" if key in record else "is missing"
        fail(f'{place}: "{key}" {found}; expected a string')
    return value


def _list(place: str, record: dict[str, Any], key: str) -> list[Any]:
    value = record.get(key, [])
    if not isinstance(value, list):
        fail(f'{place}: "{key}" is {json.dumps(value)[:40]}; expected a list')
    return value


def _strings(place: str, record: dict[str, Any], key: str) -> tuple[str, ...]:
    value = _list(place, record, key)
    if not all(isinstance(item, str) for item in value):
        fail(f'{place}: "{key}" is {json.dumps(value)[:40]}; expected a list of strings')
    return tuple(value)


def _identity(place: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        fail(f"{place}: id {json.dumps(value)[:40]}; expected a string or a whole number")
    return str(value)
