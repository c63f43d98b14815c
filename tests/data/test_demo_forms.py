"""The demo's facts in the forms of the publishers: each is read by that form's reader, and says what is true."""

import json

import pytest

from rag_jax.data import demo
from rag_jax.data.demo import forms
from rag_jax.data.formats import read_questions
from rag_jax.data.tasks import TASKS
from rag_jax.errors import UserError
from rag_jax.metrics.labels import THREE_WAY


@pytest.mark.parametrize("task", forms.FORMS)
def test_a_task_asks_its_questions_of_the_demo(task):
    said = []
    for split, count in forms.COUNTS.items():
        read = forms.questions(task, split)
        asked = TASKS[task].questions(f"demo:{task}/{split}", log=said.append)
        assert len(read) == count and count / 2 < len(asked) <= count and all(q.answers for q in asked)
    assert bool(said) == (task in ("msmarco", "fever2"))


def test_questions_of_a_split_are_about_its_facts_alone():
    asked = {split: {q.passage_ids[0] for q in forms.questions("webquestions", split)} for split in forms.COUNTS}
    facts = {fact.id: demo.split_of(fact) for fact in demo.facts("2016")}
    for split, ids in asked.items():
        assert len(ids) == forms.COUNTS[split] and {facts[name] for name in ids} == {split}


def test_answers_patterns_and_claims_are_those_of_the_facts():
    facts = {fact.id: fact for fact in demo.facts("2016")}
    truth = [facts[question.passage_ids[0]] for question in forms.questions("webquestions", "test")]
    for fact, plain, pattern in zip(
        truth, forms.questions("nq", "test"), TASKS["curatedtrec"].questions("demo:curatedtrec/test"), strict=True
    ):
        assert plain.answers == fact.answers and plain.text == pattern.text
        assert TASKS["curatedtrec"].targets(pattern, [f"It is {fact.answers[0]}."]).answers == (fact.answers[0],)
    for fact, claim in zip(truth, forms.questions("fever3", "test"), strict=True):
        assert claim.answers[0] in THREE_WAY
        told = fact.fill(fact.relation.passages[0])
        assert (claim.text == told) == (claim.answers[0] == "SUPPORTS"), claim


def test_the_files_have_the_publishers_form(tmp_path):
    row = forms.write("nq", "test", tmp_path).read_text().splitlines()[0]
    assert row.count("\t") == 1 and row.endswith("]")
    columns = json.loads(forms.write("msmarco", "test", tmp_path).read_text())
    assert set(columns["query"]) == set(columns["wellFormedAnswers"]) and columns["wellFormedAnswers"]["0"] == "[]"
    path = forms.write("fever3", "test", tmp_path)
    evidence = json.loads(path.read_text().splitlines()[0])["evidence"]
    assert evidence[0][0][2].replace("_", " ") == read_questions(path)[0].evidence[0][0]


@pytest.mark.parametrize("name", ["nq/tset", "natural/test", "nq/offices_2016", "/"])
def test_an_unknown_form_lists_what_there_is(name):
    with pytest.raises(UserError, match=f"demo:{name}: found neither; expected one of nq, .*qa, then train, valid"):
        TASKS["qa"].questions(f"demo:{name}")
