import unicodedata

import pytest

from rag_jax.metrics.answers_in_passages import answer_hits_at, holding_answer, holding_match, passage_patterns

PASSAGES = ["Marie Curie found radium.", "The RADIUM girls, U.S. dial-painters", "Polonium", ""]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["Radium"], [1, 1, 0, 0]),
        (["radium girls"], [0, 1, 0, 0]),
        (["girls radium"], [0, 0, 0, 0]),  # in a row, in order
        (["rad"], [0, 0, 0, 0]),  # whole words
        (["radium."], [1, 0, 0, 0]),  # punctuation is a word
        (["the radium girls", "POLONIUM"], [0, 1, 1, 0]),
        (["u.s.", "dial painters"], [0, 1, 0, 0]),
        (["dial painters"], [0, 0, 0, 0]),
        (["", " \u200b"], [0, 0, 0, 0]),  # no word to find
    ],
)
def test_words_in_a_row(answers, expected):
    assert holding_answer(PASSAGES, answers) == [bool(value) for value in expected]


def test_two_spellings_of_a_letter_are_one_and_accents_count():
    assert holding_answer(["São Paulo", "Sa\u0303o Paulo", "Sao Paulo"], ["SÃO"]) == [True, True, False]
    assert holding_match(["São Paulo", "Sa\u0303o Paulo", "Sao Paulo"], passage_patterns(["sã"])) == [True, True, False]


def test_patterns_are_searched():
    patterns = passage_patterns([r"found\s+radium", r"\bdial"])
    assert holding_match(PASSAGES, patterns) == [True, True, False, False]


@pytest.mark.parametrize(
    ("pattern", "text"),
    # NFD would leave \u, \n and \e, \o: a broken escape, a line's end, two that do not exist.
    [(r"Jes\ús Gil", "Jesús Gil"), (r"Ni\ña", "Niña"), (r"Cath\édrale", "Cathédrale"), (r"Shinz\ō", "Shinzo\u0304")],
)
def test_an_escaped_letter_with_an_accent_is_that_letter(pattern, text):
    patterns = passage_patterns([pattern])
    assert patterns.broken == ()
    assert holding_match([text, text[:3]], patterns) == [True, False]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_class_that_taking_apart_would_break_is_found(form):
    patterns = passage_patterns([r"caf[à-ü]+", "é"])
    assert patterns.broken == ()
    texts = [unicodedata.normalize(form, text) for text in ("un café noir", "cafe", "thé")]
    assert holding_match(texts, passage_patterns([r"caf[à-ü]+"])) == [True, False, False]
    assert holding_match(texts, patterns) == [True, False, True]


def test_an_escaped_backslash_stays_one():
    assert holding_match(["a\\é", "aé"], passage_patterns([r"a\\é"])) == [True, False]


def test_broken_patterns_are_no_silent_zero():
    patterns = passage_patterns(["(", "radium"])
    assert patterns.broken == ("(",)
    assert holding_match(PASSAGES, patterns) == [True, True, False, False]
    with pytest.raises(ValueError, match="leave the question out"):
        holding_match(PASSAGES, passage_patterns(["("]))


def test_hits_by_hand():
    holding = [[False, True, False], [False, False, True], [True], []]
    assert answer_hits_at(holding, 1) == [False, False, True, False]
    assert answer_hits_at(holding, 2) == [True, False, True, False]
    assert answer_hits_at(holding, 50) == [True, True, True, False]
    with pytest.raises(ValueError, match="k is 0"):
        answer_hits_at(holding, 0)


def test_answers_must_be_several_and_some():
    for function in (lambda answers: holding_answer(PASSAGES, answers), passage_patterns):
        with pytest.raises(TypeError, match="several strings"):
            function("radium")
        with pytest.raises(ValueError, match="at least one"):
            function([])
