"""MS-MARCO's rows, and the file in which answers to its hidden test are handed in (Bajaj et al. 2016)."""

import json
from collections.abc import Iterable
from typing import Any

from rag_jax.data.formats.records import Question, distinct
from rag_jax.data.lines import identity, string, strings
from rag_jax.metrics.msmarco import NO_ANSWER

LONG = 1000  # digits: that is no number of a query, and Python has a limit for it


def question(record: dict[str, Any], number: int) -> Question:
    """A query with its well-formed answers (version 2.1), or its answers where a file has no such field (1.1).

    None where the field is empty, '[]' or 'No Answer Present.'. The passages that come with it are not read.
    """
    key = "wellFormedAnswers" if "wellFormedAnswers" in record else "answers"
    found = () if record.get(key) == "[]" else strings(record, key)
    return Question(
        id=identity(record.get("query_id", number)),
        text=string(record, "query"),
        answers=distinct(answer for answer in found if answer.strip() not in ("", "[]", NO_ANSWER)),
    )


def submission(answers: Iterable[tuple[str, str]]) -> str:
    """The lines that MS-MARCO's evaluator takes, {"query_id": 7, "answers": ["one"]}, from (id, answer) pairs."""
    records = ({"query_id": _number(query_id), "answers": [answer]} for query_id, answer in answers)
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _number(query_id: str) -> int | str:
    return int(query_id) if query_id.isdecimal() and len(query_id) < LONG else query_id
