"""The promises of the embedded demo: enough facts, a split that cannot be answered from memory, sound tables."""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from rag_jax.data import demo
from rag_jax.data.demo.relations import RELATIONS
from rag_jax.metrics.text import normalise

FOLDER = Path(demo.__file__).parent
OPTIONAL = {"aliases", "aliases_2016", "aliases_2018", "discovered", "year", "place", "subunit", "neighbour"}
NAMES = [relation.name for relation in RELATIONS]


def pair(question):
    """(entity, relation) as the id of the fact it asks for."""
    return question.passage_ids[0]


def phrasing(question):
    """The number of its template, in which its id ends."""
    return int(question.id.rpartition("/")[2])


def rows(relation):
    text = (FOLDER / f"{relation}.tsv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


def words(text):
    return f" {normalise(text)} "


@pytest.fixture(scope="module")
def split():
    return {name: demo.questions(name) for name in demo.SPLITS}


@pytest.fixture(scope="module")
def corpus():
    return {edition: {passage.id: passage for passage in demo.passages(edition)} for edition in demo.EDITIONS}


def test_it_is_large_enough(split, corpus):
    assert min(map(len, corpus.values())) >= 1500
    assert len(RELATIONS) >= 8
    assert len(split["test"]) >= 500
    assert all(len(relation.questions) >= 3 and len(relation.passages) >= 2 for relation in RELATIONS)


def test_the_docstring_of_the_shipped_configuration_counts_right(corpus):
    said = re.search(r"([\d,]+) facts", (FOLDER.parents[2] / "configs" / "demo.py").read_text(encoding="utf-8"))[1]
    assert int(said.replace(",", "")) == len(corpus["2016"]) == len(corpus["2018"])


def test_ids_differ(split, corpus):
    for questions in split.values():
        assert len({question.id for question in questions}) == len(questions)
    for edition in demo.EDITIONS:
        assert len(corpus[edition]) == len(demo.facts(edition))


def test_a_pair_belongs_to_one_split(split):
    pairs = {name: set(map(pair, split[name])) for name in ("train", "valid", "test")}
    assert pairs["train"].isdisjoint(pairs["valid"] | pairs["test"])
    assert pairs["valid"].isdisjoint(pairs["test"])
    assert set.union(*pairs.values()) == {fact.id for fact in demo.facts("2016")}
    assert {name for name in NAMES if any(id.startswith(f"{name}/") for id in pairs["test"])} == set(NAMES)


def test_most_answers_of_the_test_are_never_a_training_answer(split):
    trained = {normalise(answer) for question in split["train"] for answer in question.answers}
    fresh = [trained.isdisjoint(map(normalise, question.answers)) for question in split["test"]]
    assert sum(fresh) >= len(fresh) / 2


def test_no_question_of_the_test_is_asked_in_training(split):
    assert {q.text for q in split["train"]}.isdisjoint(q.text for q in split["test"])


def test_the_last_phrasing_of_a_relation_is_asked_in_the_test_alone(split):
    last = {relation.name: len(relation.questions) - 1 for relation in RELATIONS}
    asked = {name: {(q.group, phrasing(q)) for q in split[name]} for name in ("train", "valid", "test")}
    assert set(last.items()) <= asked["test"]
    assert asked["train"].isdisjoint(last.items()) and asked["valid"].isdisjoint(last.items())
    assert asked["train"] == {(r.name, n) for r in RELATIONS for n in range(last[r.name])}
    unseen = sum((q.group, phrasing(q)) in last.items() for q in split["test"])
    assert 0.4 < unseen / len(split["test"]) < 0.6


def test_every_answer_stands_in_its_passage_as_whole_words(split, corpus):
    for name, questions in split.items():
        edition = "2018" if name == "offices_2018" else "2016"
        for question in questions:
            passage = corpus[edition][pair(question)]
            assert words(question.answers[0]) in words(passage.text), question.id


def test_a_passage_and_a_question_name_the_entity(split, corpus):
    for edition in demo.EDITIONS:
        for fact in demo.facts(edition):
            passage = corpus[edition][fact.id]
            assert passage.title[1:] == fact.entity[1:] and fact.entity[1:] in passage.text
    for question in split["train"] + split["test"]:
        assert question.id.split("/", 1)[1].rpartition("/")[0] in question.text


def test_every_template_fills():
    for fact in demo.facts("2016") + demo.facts("2018"):
        for template in fact.relation.passages + fact.relation.questions:
            text = fact.fill(template)
            assert not re.search(r"[{}]|  | [.,?]|\. \.|:\s*\.|\bNone\b|^\s|\s$", text), text


def test_a_question_does_not_give_its_answer_away(split):
    for question in split["train"] + split["test"]:  # spelt as the answer is: "In" is indium's symbol
        assert not re.search(rf"\b{re.escape(question.answers[0])}\b", question.text), question.id


def test_the_offices_ask_for_what_changed(split):
    """The hot-swap square: same questions, other answers, both kinds of office."""
    before, after = split["offices_2016"], split["offices_2018"]
    assert [q.text for q in before] == [q.text for q in after]
    assert [q.group for q in before] == [q.group for q in after]
    assert [q.passage_ids for q in before] == [q.passage_ids for q in after]
    for old, new in zip(before, after, strict=True):
        assert {*map(normalise, old.answers)}.isdisjoint(map(normalise, new.answers)), old.id
    groups = Counter(q.group for q in before)
    assert set(groups) == {"trained", "never trained"} and min(groups.values()) >= 25 and groups.total() >= 80


def test_never_trained_offices_are_in_no_training_question(split):
    trained = set(map(pair, split["train"]))
    assert {q.group == "trained" for q in split["offices_2016"] if pair(q) in trained} == {True}
    assert {q.group == "trained" for q in split["offices_2016"] if pair(q) not in trained} == {False}


def test_the_editions_differ_in_the_offices_alone(corpus):
    before, after = corpus["2016"], corpus["2018"]
    assert list(before) == list(after)
    changed = {id for id in before if before[id] != after[id]}
    assert changed and all(id.startswith("offices/") for id in changed)
    assert changed == set(map(pair, demo.questions("offices_2016")))


def test_the_split_is_the_same_on_every_machine(split):
    known = {"capitals/Albania": "train", "books/War and Peace": "test", "offices/the President of France": "train"}
    assert {fact.id: demo.split_of(fact) for fact in demo.facts("2016") if fact.id in known} == known


@pytest.mark.parametrize("name", NAMES)
def test_a_table_is_whole(name):
    table = rows(name)
    entities = Counter(row["entity"].lower() for row in table)
    assert not [entity for entity, count in entities.items() if count > 1]
    for row in table:
        assert None not in row and None not in row.values(), row
        for column, value in row.items():
            assert value == value.strip() and "  " not in value
            assert value or column in OPTIONAL, (row["entity"], column)
            assert not column.startswith("aliases") or all(map(str.strip, value.split("|"))) or not value


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_is_not_in_its_entity(name):
    for fact in (fact for edition in demo.EDITIONS for fact in demo.facts(edition) if fact.relation.name == name):
        assert words(fact.answers[0]) not in words(fact.entity), fact.id
        assert len(set(fact.answers)) == len(fact.answers), fact.id


@pytest.mark.parametrize("name", NAMES)
def test_a_table_is_for_a_relation_and_has_its_columns(name):
    (relation,) = [relation for relation in RELATIONS if relation.name == name]
    columns = set(rows(name)[0]) | {"Entity", "Dated", "Found", "Placed", "answer"}
    for template in relation.passages + relation.questions:
        assert set(re.findall(r"{(\w+)}", template)) <= columns
    assert all("{answer}" not in template for template in relation.questions)
    assert all("{answer}" in template for template in relation.passages)


def test_every_table_has_a_relation():
    assert sorted(path.stem for path in FOLDER.glob("*.tsv")) == sorted(NAMES)
