import math

import pytest

from rag_jax.metrics.qbleu import FUNCTION_WORDS, SQUAD, Weights, parts, q_bleu_1
from rag_jax.metrics.tokenise import treebank, whitespace


def test_parts_of_a_question():
    found = parts("In What year did Marie Curie win the Nobel prize ?")
    assert found.names == ["In", "What", "Marie", "Curie", "Nobel"]  # only a question word at the start is none
    assert found.question_words == ["what", "year"]
    assert found.content == ["win", "prize", "?"]
    assert found.function_words == ["in", "did", "the"]


def test_parts_at_the_edges():
    assert parts("") == ([], [], [], [])
    assert parts("What") == ([], [], ["what"], [])
    assert parts("WHAT River").question_words == [], "as the script, which knows What and what"
    assert parts("WHAT River").names == ["River"], "as the script, which drops a question word in any case"
    assert parts("River WHAT").names == ["River", "WHAT"]
    assert parts("Which what which river").question_words == ["which", "what", "which", "river"]
    assert parts("Élan vital").names == ["Élan"]
    assert parts("who is who").content == []


def test_function_words_are_the_usual_list():
    assert len(FUNCTION_WORDS) == 119
    assert all(word == word.lower() for word in FUNCTION_WORDS)


def harmonic(a, b):
    return 2 * a * b / (a + b)


def test_the_scripts_own_test():
    """Its expected value is 0.765, rounded, with ROUGE-L for BLEU-1; both are 0.8 of this pair."""
    weights = Weights(names=0.6, content=0.1, question_words=0.2, function_words=0.1, answerability=0.7)
    pair = "Is this a great question?", "Is this a good question?"
    assert q_bleu_1(*pair, tokenise=treebank, weights=weights, empty=0.0) == pytest.approx(0.765, abs=5e-4)


def test_by_hand():
    # Names: Oslo of Oslo, Norway: 1 * exp(1 - 2) and 1/2. Content: 'mayor', '?': 1. Question word 'who': 1. Function
    # words: is of / is the of: 1 * exp(1 - 3/2) and 2/3.
    # BLEU-1: who is of Oslo mayor ? (6 words), all in the 8 of the reference.
    said, wanted = "Who is of Oslo mayor ?", "Who is the mayor of Oslo Norway ?"
    names, function_words = harmonic(math.exp(-1), 1 / 2), harmonic(math.exp(-1 / 2), 2 / 3)
    answerability = 0.41 * names + 0.36 + 0.20 + 0.03 * function_words
    expected = 0.66 * answerability + 0.34 * math.exp(1 - 8 / 6)
    assert q_bleu_1(said, wanted, tokenise=whitespace) == pytest.approx(expected)
    even = Weights(0.25, 0.25, 0.25, 0.25, 1.0)
    assert q_bleu_1(said, wanted, tokenise=whitespace, weights=even) == pytest.approx((names + 2 + function_words) / 4)
    fluent = SQUAD._replace(answerability=0.0)
    assert q_bleu_1(said, wanted, tokenise=whitespace, weights=fluent) == pytest.approx(math.exp(1 - 8 / 6))


def test_the_rule_for_parts_that_neither_side_has():
    same = "who is fast"  # no name
    assert q_bleu_1(same, same, tokenise=treebank) == pytest.approx(1.0)
    assert q_bleu_1(same, same, tokenise=treebank, empty=0.0) == pytest.approx(1 - 0.66 * 0.41)
    # A part that one side alone has is 0 under both rules.
    for empty in (0.0, 1.0):
        names = Weights(1.0, 0.0, 0.0, 0.0, 1.0)
        assert q_bleu_1("who runs", "who is Ann", tokenise=treebank, weights=names, empty=empty) == 0.0


def test_nothing_said():
    # The reference has no name either: that part counts as right, everything else as wrong.
    assert q_bleu_1("", "who is fast", tokenise=treebank) == pytest.approx(0.66 * 0.41)
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
