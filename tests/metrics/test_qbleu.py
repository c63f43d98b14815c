import math

import pytest

from rag_jax.metrics.qbleu import FUNCTION_WORDS, SQUAD, Weights, parts, q_bleu_1
from rag_jax.metrics.tokenise import treebank, whitespace


def test_parts_of_a_question():
    found = parts("In What year did Marie Curie win the Nobel prize ?")
    assert found.names == ["In", "What", "Marie", "Curie", "Nobel"]  # only a question word at the start is none
    assert found.question_words == ["what", "year"]
    assert found.content == ["win", "prize", "?"]
    assert found.function_words == ["in", "what", "did", "the"]


def test_parts_at_the_edges():
    assert parts("") == ([], [], [], [])
    assert parts("What") == ([], [], ["what"], ["what"])
    assert parts("Which what which river").question_words == ["which", "what", "which", "river"]
    assert parts("Élan vital").names == ["Élan"]
    assert parts("who is who").content == []


def test_function_words_are_the_usual_list():
    assert len(FUNCTION_WORDS) == 127
    assert all(word == word.lower() for word in FUNCTION_WORDS)


def test_by_hand():
    # Names: Oslo of Oslo, Norway: F1 2/3. Content: mayor of mayor, and '?' each: 1. Question words 'who', 'is': 1.
    # Function words: who is of / who is the of: 2 * 3 / 7.
    # BLEU-1: who is of Oslo mayor ? (6 words), all in the 8 of the reference.
    said, wanted = "Who is of Oslo mayor ?", "Who is the mayor of Oslo Norway ?"
    answerability = 0.41 * 2 / 3 + 0.36 + 0.20 + 0.03 * 6 / 7
    expected = 0.66 * answerability + 0.34 * math.exp(1 - 8 / 6)
    assert q_bleu_1(said, wanted, tokenise=whitespace) == pytest.approx(expected)
    even = Weights(0.25, 0.25, 0.25, 0.25, 1.0)
    assert q_bleu_1(said, wanted, tokenise=whitespace, weights=even) == pytest.approx((2 / 3 + 1 + 1 + 6 / 7) / 4)
    fluent = SQUAD._replace(answerability=0.0)
    assert q_bleu_1(said, wanted, tokenise=whitespace, weights=fluent) == pytest.approx(math.exp(1 - 8 / 6))


def test_the_rule_for_parts_that_neither_side_has():
    same = "who runs fast"  # no name
    assert q_bleu_1(same, same, tokenise=treebank) == pytest.approx(1.0)
    assert q_bleu_1(same, same, tokenise=treebank, empty=0.0) == pytest.approx(1 - 0.66 * 0.41)
    # A part that one side alone has is 0 under both rules.
    for empty in (0.0, 1.0):
        names = Weights(1.0, 0.0, 0.0, 0.0, 1.0)
        assert q_bleu_1("who runs", "who is Ann", tokenise=treebank, weights=names, empty=empty) == 0.0


def test_nothing_said():
    # The reference has no name either: that part counts as right, everything else as wrong.
    assert q_bleu_1("", "who runs fast", tokenise=treebank) == pytest.approx(0.66 * 0.41)
    assert q_bleu_1("", "", tokenise=treebank) == pytest.approx(0.66)
    assert q_bleu_1("", "", tokenise=treebank, empty=0.0) == 0.0


def test_the_tokeniser_cuts_parts_too():
    names = Weights(1.0, 0.0, 0.0, 0.0, 1.0)
    assert q_bleu_1("who saw Oslo?", "who saw Oslo ?", tokenise=treebank, weights=names) == 1.0
    assert q_bleu_1("who saw Oslo?", "who saw Oslo ?", tokenise=whitespace, weights=names) == 0.0


def test_weights_add_up():
    assert sum(SQUAD[:4]) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="expected 1"):
        q_bleu_1("x", "x", tokenise=treebank, weights=SQUAD._replace(names=0.6))
