"""Passages and questions, and the reader for questions in one's own form or their publishers'."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rag_jax.data.formats import evidence, msmarco, qa
from rag_jax.data.formats.records import Passage, Question
from rag_jax.data.formats.rows import rows
from rag_jax.data.lines import BadLine, is_unicode
from rag_jax.errors import fail

__all__ = ["Passage", "Question", "read_questions"]

READERS = {  # the key that this form has; a row without any of them is in one's own form
    "qText": qa.web_questions,
    "utterance": qa.web_questions_freebase,
    "Question": qa.trivia_qa,
    "qas": qa.squad,
    "query": msmarco.question,
    "claim": evidence.fever,
    "input": evidence.kilt,
    "output": evidence.kilt,
}


def read_questions(path: str | Path) -> list[Question]:
    """Reads the questions of a file or folder in any of these forms, also with .gz; rows tell their form themselves.

    One's own: .jsonl of {"question", "answer" | "answers", "id"?, "passage_id" | "passage_ids"?, "group"?}, an answer
    being a string or a list of them (NQ-open's form too). Natural Questions, TriviaQA, WebQuestions, CuratedTREC as
    DPR's tables (question TAB list of answers; .tsv or .csv) and DPR's bi-encoder files; TriviaQA's, WebQuestions'
    (both), SQuAD's, MS-MARCO's (lines or columns) and FEVER's own JSON; CuratedTREC's own table (id, kind, question,
    pattern); a folder of SearchQA's raw files; KILT's lines of any task; a .source with a .target beside it, as
    Hugging Face's RAG scripts have them.

    A row without an id gets its number, counted from 0. Raises UserError naming path:line, or path: row N in a JSON
    file that is one array or object, for a malformed row, an empty question, a repeated id, an answer that is missing
    where its form has one; and for a file without questions.
    """
    questions: dict[str, Question] = {}
    for place, number, record in rows(Path(path)):
        try:
            if isinstance(record, BadLine):
                raise record
            question = _reader(record)(record, number)
            if not question.text.strip():
                raise BadLine("empty question", "; expected some words; remove the line")
            if not is_unicode("".join(_strings(question))):
                raise BadLine("half a surrogate pair", "; expected Unicode text")
            if question.id in questions:
                raise BadLine(f"question id {question.id!r} stands on an earlier line too", "; ids must differ")
        except BadLine as problem:
            fail(f"{place}: {problem}")
        questions[question.id] = question
    if not questions:
        fail(f"{path}: holds no questions; expected some")
    return list(questions.values())


def _reader(record: dict[str, Any]) -> Callable[[dict[str, Any], int], Question]:
    """The reader of a row's form: DPR's contexts tell it, then a question with its answer, whatever else there is."""
    if "positive_ctxs" in record:
        return qa.biencoder
    if "question" in record and ("answer" in record or "answers" in record):
        return qa.own
    return next((READERS[key] for key in READERS if key in record), qa.own)


def _strings(question: Question) -> Iterator[str]:
    """All that a question holds."""
    pages = itertools.chain.from_iterable(question.evidence)
    yield from (question.id, question.text, question.group)
    yield from (*question.answers, *question.passage_ids, *question.hard_negatives, *pages)
