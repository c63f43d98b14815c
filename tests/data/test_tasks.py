"""Passages and questions by name: 'demo:PART' is the embedded demo, everything else a file."""

import json

import pytest

from rag_jax.data import demo, tasks
from rag_jax.data.formats import Passage, Question
from rag_jax.errors import UserError


def test_a_demo_name_reads_the_demo():
    assert next(tasks.passages("demo:2018")) == next(demo.passages("2018"))
    assert tasks.questions("demo:valid") == demo.questions("valid")


def test_a_path_reads_the_file(tmp_path):
    passages, questions = tmp_path / "passages.jsonl", tmp_path / "questions.jsonl"
    passages.write_text(json.dumps({"id": "a", "title": "T", "text": "Some words."}) + "\n")
    questions.write_text(json.dumps({"question": "what?", "answer": "words", "passage_ids": ["a"]}) + "\n")
    assert list(tasks.passages(str(passages))) == [Passage("a", "T", "Some words.")]
    assert tasks.questions(str(questions)) == [Question("0", "what?", ("words",), ("a",))]


@pytest.mark.parametrize("source", ["demo:1999", "demo:", "missing.jsonl", "questions.csv"])
def test_a_wrong_name_is_a_line_that_says_what_there_is(source):
    for read in (lambda name: list(tasks.passages(name)), tasks.questions):
        with pytest.raises(UserError) as caught:
            read(source)
        assert "\n" not in str(caught.value)
        assert ("2016" in str(caught.value)) == source.startswith("demo:") or "train" in str(caught.value)


def test_an_unknown_edition_of_the_offices_lists_the_splits():
    with pytest.raises(UserError, match="no split 'offices_1999', only train, valid, test, offices_2016, offices_2018"):
        tasks.questions("demo:offices_1999")
