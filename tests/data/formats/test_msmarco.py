"""MS-MARCO in lines and in columns, and what is handed in for its hidden test."""

import json

import pytest

from rag_jax.data.formats import Question, read_questions
from rag_jax.data.formats.msmarco import submission
from rag_jax.errors import UserError

PASSAGES = [{"is_selected": 1, "passage_text": "t", "url": "u"}]
ROWS = [
    {"query": "a?", "query_id": 7, "answers": ["Yes"], "wellFormedAnswers": ["Yes, a.", "a."], "passages": PASSAGES},
    {"query": "b?", "query_id": 8, "answers": ["No"], "wellFormedAnswers": "[]", "passages": PASSAGES},
    {"query": "c?", "query_id": 9, "answers": ["No Answer Present."], "wellFormedAnswers": []},
    {"query": "d?", "query_id": 10, "answers": ["x"], "wellFormedAnswers": ["No Answer Present."]},
]
QUESTIONS = [Question("7", "a?", ("Yes, a.", "a.")), *(Question(str(8 + n), f"{x}?", ()) for n, x in enumerate("bcd"))]


def columns(rows):
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: {str(key): row[name] for key, row in enumerate(rows, 40) if name in row} for name in names}


def test_version_2_in_columns_and_in_lines(write, lines, zipped):
    assert read_questions(write(f"dev_v2.1.json{zipped}", json.dumps(columns(ROWS)))) == QUESTIONS
    assert read_questions(write(f"dev_v2.1.json{zipped}", lines(*ROWS))) == QUESTIONS


def test_version_1_has_no_well_formed_answers_and_the_test_none_at_all(write, lines):
    first = {"query": "a?", "query_id": 7, "answers": ["Yes", "Yes", ""], "passages": PASSAGES}
    assert read_questions(write("dev_v1.1.json", lines(first))) == [Question("7", "a?", ("Yes",))]
    hidden = [{"query": "a?", "query_id": 7, "passages": PASSAGES}]
    assert read_questions(write("eval_v2.1.json", json.dumps(columns(hidden)))) == [Question("7", "a?", ())]


def test_a_malformed_row(write):
    rows = [ROWS[0], ROWS[1] | {"wellFormedAnswers": "No"}]
    with pytest.raises(UserError, match=r'q\.json: row 1: "wellFormedAnswers" is "No"; expected a list'):
        read_questions(write("q.json", json.dumps(columns(rows))))


def test_submission():
    said = submission([("7", "Ja, ß."), ("x7", ""), ("8", "a\nb")])
    assert list(map(json.loads, said.splitlines())) == [
        {"query_id": 7, "answers": ["Ja, ß."]},
        {"query_id": "x7", "answers": [""]},
        {"query_id": 8, "answers": ["a\nb"]},
    ]
