"""The hot-swap square, counted by hand for one that reads and one that remembers."""

from dataclasses import replace

import pytest

from rag_jax.errors import UserError
from rag_jax.evaluation.hot_swap import square
from rag_jax.evaluation.sums import Rate


@pytest.fixture
def editions(questions):
    """The mayors of two towns change; one of each pair was a training target."""
    before = [replace(q, group=group) for q, group in zip(questions, ["never trained", "trained"] * 2, strict=True)]
    after = [*before[:2], replace(before[2], answers=("Eli Ulm", "Ulm")), replace(before[3], answers=("Fay Vane",))]
    return before, after


def test_one_that_reads_follows_the_index(walks, editions):
    rates = dict(square(walks("copies"), ["before", "after"], [editions[0][2:], editions[1][2:]]))
    whole = {name: rate for name, rate in rates.items() if name.count(",") == 1}
    assert whole == {
        "index 1, answers 1": Rate(2.0, 2),
        "index 1, answers 2": Rate(0.0, 2),
        "index 2, answers 1": Rate(0.0, 2),
        "index 2, answers 2": Rate(2.0, 2),
    }
    groups = {name: rate for name, rate in rates.items() if name.count(",") == 2}
    assert groups["index 2, answers 2, trained"] == groups["index 2, answers 2, never trained"] == Rate(1.0, 1)
    assert len(groups) == 8 and all(rate.count == 1 for rate in groups.values())


def test_one_that_remembers_does_not(walks, editions):
    rates = dict(square(walks("remembers"), ["before", "after"], editions))
    assert rates["index 2, answers 1"] == Rate(4.0, 4) and rates["index 2, answers 2"] == Rate(2.0, 4)
    assert rates["index 2, answers 2, trained"] == Rate(1.0, 2)


def test_the_first_index_is_open_afterwards(walks, editions):
    said = walks("copies")
    list(square(said, ["before", "after"], editions))
    assert said.rag.retriever.index.folder == "before"


def test_questions_without_groups(walks, questions):
    names = [name for name, _ in square(walks("copies"), ["before", "after"], [questions, questions])]
    assert names == [f"index {i}, answers {e}" for i in (1, 2) for e in (1, 2)]


@pytest.mark.parametrize("change", [lambda after: after[:3], lambda after: after[::-1]])
def test_editions_must_ask_the_same(walks, editions, change):
    with pytest.raises(UserError, match=r"config\.hot_swap\.questions: found other questions in the second file"):
        list(square(walks("copies"), ["before", "after"], [editions[0], change(editions[1])]))


def test_a_killed_square_does_not_go_on_with_answers_from_another_index(walks, editions):
    """The second index was made anew in between."""
    list(square(walks("copies"), ["before", "after"], editions))  # and keeps its answers
    rates = dict(square(walks("copies"), ["before", "before"], editions))
    assert rates["index 1, answers 2"] == rates["index 2, answers 2"] == Rate(2.0, 4)
