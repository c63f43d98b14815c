"""Rows whose answers stand on pages: KILT's of any task, FEVER's."""

import unicodedata
from typing import Any

from rag_jax.data.formats.records import Question, distinct
from rag_jax.data.lines import BadLine, brief, identity, items, objects, string
from rag_jax.metrics.labels import THREE_WAY

_BRACKETS = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-COLON-": ":", "_": " "}


def kilt(record: dict[str, Any], number: int) -> Question:
    """KILT (Petroni et al. 2021): each output's pages are an evidence set; no outputs in the tests."""
    if "input" not in record:
        raise BadLine('"input" is missing', "; KILT has TriviaQA without questions: add them with KILT's own script")
    outputs = objects(record, "output")
    pages = [distinct(identity(page.get("wikipedia_id")) for page in objects(o, "provenance")) for o in outputs]
    answers = [string(output, "answer") for output in outputs if "answer" in output]
    return Question(
        id=identity(record.get("id", number)),
        text=string(record, "input"),
        answers=distinct(answer for answer in answers if answer.strip()),
        evidence=distinct(filter(None, pages)),
    )


def fever(record: dict[str, Any], number: int) -> Question:
    """FEVER (Thorne et al. 2018): the label is the answer, evidence sets are of page titles; no label in the tests."""
    label = record.get("label")
    if "label" in record and label not in THREE_WAY:
        raise BadLine(f'"label" is {brief(label)}', f"; expected {', '.join(THREE_WAY)}")
    # FeverSymmetric has the text of the evidence in its place.
    sets = items(record, "evidence") if not isinstance(record.get("evidence"), str) else []
    return Question(
        id=identity(record.get("id", number)),
        text=string(record, "claim"),
        answers=(label,) if label else (),
        evidence=distinct(filter(None, map(_pages, sets))),
    )


def _pages(sentences: Any) -> tuple[str, ...]:
    """The titles in one evidence set, each of its rows being [annotation, evidence, page, sentence]."""
    if not isinstance(sentences, list) or not all(isinstance(row, list) and len(row) == 4 for row in sentences):
        raise BadLine('bad "evidence"', f" {brief(sentences)}; expected a list of [annotation, id, page, sentence]")
    pages = [row[2] for row in sentences if row[2] is not None]  # null where there is not enough information
    if not all(isinstance(page, str) for page in pages):
        raise BadLine('bad "evidence"', f" {brief(pages)}; expected the names of pages")
    return distinct(filter(None, map(page_title, pages)))


def page_title(page: str) -> str:
    """A page's name in FEVER's files, 'Red_Kite_-LRB-song-RRB-', as Wikipedia writes it: 'Red Kite (song)'."""
    for written, meant in _BRACKETS.items():
        page = page.replace(written, meant)
    return unicodedata.normalize("NFC", page)
