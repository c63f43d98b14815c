"""Some of the demo's facts as the publishers of the paper's tasks would write them, read by the readers of their files.

'demo:nq/train' names them. They show a task at work from nothing but this package; a score on them means nothing.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from re import escape
from tempfile import TemporaryDirectory
from typing import Any

from rag_jax.data import demo
from rag_jax.data.demo import Fact
from rag_jax.data.formats import Question, read_questions
from rag_jax.errors import fail
from rag_jax.metrics.labels import NOT_ENOUGH_INFO, REFUTES, SUPPORTS

COUNTS = {"train": 320, "valid": 48, "test": 48}


def questions(task: str, split: str) -> list[Question]:
    """The questions of a small file in the form of the task; UserError for a task or split that there is not."""
    with TemporaryDirectory() as folder:
        return read_questions(write(task, split, Path(folder)))


def write(task: str, split: str, folder: Path) -> Path:
    """Writes the file of a split in the form of the task into the folder, and returns its path."""
    if task not in FORMS or split not in COUNTS:
        fail(f"demo:{task}/{split}: found neither; expected one of {', '.join(FORMS)}, then {', '.join(COUNTS)}")
    suffix, render = FORMS[task]
    facts = [fact for fact in demo.facts("2016") if demo.split_of(fact) == split]
    chosen = facts[:: len(facts) // COUNTS[split]][: COUNTS[split]]
    path = folder / f"{split}{suffix}"
    path.write_text(render(chosen), encoding="utf-8")
    return path


def _asked(fact: Fact) -> str:
    return fact.fill(fact.relation.questions[0])


def _told(fact: Fact, answer: str) -> str:
    """A passage of the fact that says `answer` in place of what is true."""
    return replace(fact, answers=(answer,)).fill(fact.relation.passages[0])


def _dpr_table(facts: Sequence[Fact]) -> str:
    """DPR's tables: the question, a tab, a list of answers in Python's form."""
    return "".join(f"{_asked(fact)}\t{list(fact.answers)!r}\n" for fact in facts)


def _patterns(facts: Sequence[Fact]) -> str:
    """DPR's table of CuratedTREC, whose one answer is a pattern."""
    patterns = ("|".join(escape(answer).replace("\\ ", r"\s+") for answer in fact.answers) for fact in facts)
    return "".join(f"{_asked(fact)}\t{[pattern]!r}\n" for fact, pattern in zip(facts, patterns, strict=True))


def _biencoder(facts: Sequence[Fact]) -> str:
    """DPR's bi-encoder files: the passage stands beside the question."""
    texts = {passage.id: passage for passage in demo.passages("2016")}
    return json.dumps(
        [
            {
                "dataset": "webquestions",
                "question": _asked(fact),
                "answers": list(fact.answers),
                "positive_ctxs": [{"title": texts[fact.id].title, "text": texts[fact.id].text, "passage_id": fact.id}],
                "negative_ctxs": [],
                "hard_negative_ctxs": [],
            }
            for fact in facts
        ]
    )


def _ms_marco(facts: Sequence[Fact]) -> str:
    """MS-MARCO 2.1: an object of columns; every fourth query has no well-formed answer."""
    columns: dict[str, dict[str, Any]] = {name: {} for name in ("query_id", "query", "answers", "wellFormedAnswers")}
    for number, fact in enumerate(facts):
        sentence = _told(fact, fact.answers[0])
        row = number, _asked(fact), [fact.answers[0]], [sentence] if number % 4 else "[]"
        for name, cell in zip(columns, row, strict=True):
            columns[name][str(number)] = cell
    return json.dumps(columns)


def _jeopardy(facts: Sequence[Fact]) -> str:
    """SearchQA's raw rows: the clue speaks of the answer as 'this'."""
    rows = (
        {
            "id": number,
            "category": fact.relation.name.upper(),
            "question": _told(fact, "this"),
            "answer": fact.answers[0],
            "search_results": [],
        }
        for number, fact in enumerate(facts)
    )
    return _lines(rows)


def _fever(facts: Sequence[Fact]) -> str:
    """FEVER's lines: every third claim is true, the next says another fact's answer, of the third nobody knows."""
    rows = []
    for number, fact in enumerate(facts):
        label = (SUPPORTS, REFUTES, NOT_ENOUGH_INFO)[number % 3]
        # Facts stand in the order of their relations: the nearest other answer is of the same kind.
        others = sorted((abs(place - number), place) for place in range(len(facts)))
        other = next(facts[place] for _, place in others if facts[place].answers[0] not in fact.answers)
        claim = _told(fact, (fact if label == SUPPORTS else other).answers[0])
        if label == NOT_ENOUGH_INFO:
            claim = f"{fact.entity} is better known than {other.entity}."
        page = None if label == NOT_ENOUGH_INFO else f"{fact.entity[:1].upper()}{fact.entity[1:]}".replace(" ", "_")
        evidence = [[[number, None if page is None else number, page, None if page is None else 0]]]
        rows.append({"id": number, "verifiable": "", "label": label, "claim": claim, "evidence": evidence})
    return _lines(rows)


def _own(facts: Sequence[Fact]) -> str:
    """One's own lines."""
    return _lines({"question": _asked(fact), "answers": list(fact.answers)} for fact in facts)


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


FORMS: dict[str, tuple[str, Callable[[Sequence[Fact]], str]]] = {  # task -> suffix of its file, what writes it
    "nq": (".qa.csv", _dpr_table),
    "triviaqa": (".qa.csv", _dpr_table),
    "webquestions": (".json", _biencoder),
    "curatedtrec": (".qa.csv", _patterns),
    "msmarco": (".json", _ms_marco),
    "jeopardy": (".jsonl", _jeopardy),
    "fever3": (".jsonl", _fever),
    "fever2": (".jsonl", _fever),
    "qa": (".jsonl", _own),
}
