"""What is learned from a question: answers that passages hold, strings that match, expansions."""

import pytest

from rag_jax.data import targets
from rag_jax.data.formats import Question
from rag_jax.metrics.answers_in_passages import holding_answer


def question(*answers):
    return Question("q", "who?", answers)


def test_the_first_and_every_answer():
    assert targets.first(question("a", "b"), ()).answers == ("a",)
    assert targets.each(question("a", "b"), ()).answers == ("a", "b")
    assert targets.first(question(), ()).answers == targets.each(question(), ()).answers == ()


def test_the_word_for_the_label():
    labels = "SUPPORTS", "REFUTES", "NOT ENOUGH INFO"
    assert [targets.word(question(label), ()).answers for label in labels] == [("true",), ("false",), ("unknown",)]
    assert targets.word(question(), ()).answers == ()


def test_answers_that_a_passage_holds():
    texts = ["The Airship, a small one.", "Its Z-30 flew; so did U.S. craft", "naïve ΟΔΟΣ."]
    found = targets.held(question("🛸", "airship", "Airships", "a  SMALL one", "craft u.s", "U.S.", "οδος"), texts)
    assert found.answers == ("airship", "a  SMALL one", "U.S.", "οδος")
    assert found.what == "answers that a passage holds"
    assert targets.held(question("flew Its", "plane"), texts) == ((), "no answer in any passage")
    assert targets.held(question("a"), []) == ((), "no answer in any passage")


@pytest.mark.parametrize(
    "answer", ["Curie", "curie's", "pre-war", "Łódź", "lodz", "cafe", "café", "½ mile", "ΣΑΣ", "K", "..."]
)
def test_holding_is_dprs(answer):
    """The quick look at letters leaves out no passage that the rule would find."""
    texts = [
        "Marie Curie's", "the pre-war café", "cafe\u0301", "Łódź!", "LODZ", "a ½ mile", "σας ΣΑΣ.", "ΣΑΣ's",
        "5 \u212a", "... ",
    ]  # fmt: skip
    for text in texts:
        assert bool(targets.held(question(answer), [text]).answers) == any(holding_answer([text], [answer])), text


def test_the_string_that_matches_most_often():
    texts = ["In Oct and in october, then Jan.", "October; JANUARY", "october", "nothing", "cafe\u0301 Café"]
    pattern = question(r"Oct(ober)?|Jan(uary)?")
    assert targets.mined(pattern, texts) == (("october",), "the most frequent match")
    assert targets.mined(pattern, texts[:2]).answers == ("Oct",)  # of those that come once, the first
    assert targets.mined(question(r"\s*\w*\s*nothing|"), texts).answers == ("nothing",)  # an empty match is none
    assert targets.mined(question("caf\u00e9"), texts).answers == ("caf\u00e9",)  # composed, as texts have it
    assert targets.mined(question("caf[\u00e0-\u00fc]"), texts).answers == ("caf\u00e9",)  # which NFD would break
    assert targets.mined(question("x", "Jan"), texts).answers == ("Jan",)


def test_expansions_where_nothing_matches():
    what = "no match, every expansion of the pattern"
    assert targets.mined(question("Rome|Pari?s", "(ab)+", "Rome"), ["nothing"]) == (("Rome", "Pars", "Paris"), what)
    found = targets.mined(question("(ab)+", r"\d\d"), ["nothing"])
    assert found == ((), "no match, and a pattern without a finite expansion")


def test_a_closed_book_learns_what_needs_no_passages():
    assert targets.held(question("a", "b"), None) == (("a", "b"), "every answer")
    assert targets.mined(question("Rome|Paris"), None).answers == ("Rome", "Paris")
