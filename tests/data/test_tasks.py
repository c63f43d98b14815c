"""Passages and questions by name: 'demo:PART' is the embedded demo, everything else a file."""

import json

import pytest

from rag_jax.config import default_config
from rag_jax.data import demo, tasks
from rag_jax.data.formats import Passage, Question
from rag_jax.errors import UserError


@pytest.fixture
def data():
    return default_config().data


def test_a_demo_name_reads_the_demo(data):
    assert next(tasks.passages(data, "demo:2018")) == next(demo.passages("2018"))
    assert tasks.questions("demo:valid") == demo.questions("valid")


def test_a_path_reads_the_file(data, tmp_path):
    passages, questions = tmp_path / "passages.jsonl", tmp_path / "questions.jsonl"
    passages.write_text(json.dumps({"id": "a", "title": "T", "text": "Some words."}) + "\n")
    questions.write_text(json.dumps({"question": "what?", "answer": "words", "passage_ids": ["a"]}) + "\n")
    data.passages = str(passages)
    assert list(tasks.passages(data)) == [Passage("a", "T", "Some words.")]
    assert tasks.files(data.passages)[0][:2] == [str(passages), passages.stat().st_size]
    assert tasks.questions(str(questions)) == [Question("0", "what?", ("words",), ("a",))]


@pytest.mark.parametrize("source", ["demo:1999", "demo:", "missing.jsonl", "questions.csv"])
def test_a_wrong_name_is_a_line_that_says_what_there_is(data, source):
    for read in (lambda name: list(tasks.passages(data, name)), tasks.questions):
        with pytest.raises(UserError) as caught:
            read(source)
        assert "\n" not in str(caught.value)
        assert ("2016" in str(caught.value)) == source.startswith("demo:") or "train" in str(caught.value)


def test_an_unknown_edition_of_the_offices_lists_the_splits():
    with pytest.raises(UserError, match="no split 'offices_1999', only train, valid, test, offices_2016, offices_2018"):
        tasks.questions("demo:offices_1999")


def test_a_corpus_is_read_as_the_configuration_says(data, tmp_path):
    (tmp_path / "a.txt").write_text("one two three four five")
    (tmp_path / "b.txt").write_text("")
    data.update(passages=str(tmp_path), words=3, overlap=1, minimum=1, skip_bad=True)
    said = []
    assert [p.text for p in tasks.passages(data, log=said.append)] == ["one two three", "three four five"]
    assert said[-1].endswith("1 left out of 3: 1 x a file without words")


def test_facts_of_the_demo_that_are_taken_are_refused_too(data):
    known = [passage.id for passage in demo.passages("2016")]
    with pytest.raises(UserError, match="demo:2018: id in the index already"):
        list(tasks.passages(data, "demo:2018", known=known))
