import pytest

from rag_jax.metrics.text import exact_match, exact_match_orqa, f1, normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" The  Eiffel\tTower! ", "eiffel tower"),
        ("a man, an apple and the sea", "man apple and sea"),
        ("Theatre another an", "theatre another"),  # articles are whole words
        ("U.S.A.", "usa"),
        ("it's 3-4", "its 34"),
        ("the-end", "theend"),  # punctuation goes first, as in SQuAD
        ("Ünïted «États»", "ünïted «états»"),  # accents and non-ASCII punctuation stay
        ("the", ""),
        ("", ""),
    ],
)
def test_normalise(text, expected):
    assert normalise(text) == expected


def test_exact_match_takes_the_best_answer():
    assert exact_match("The Beatles", ["Rolling Stones", "beatles."]) == 1.0
    assert exact_match("Beatles band", ["beatles"]) == 0.0
    assert exact_match("", ["x"]) == 0.0


def test_orqa_takes_letters_apart_first():
    for prediction, answer, plain, orqa in [
        ("The Beatles", "beatles.", 1, 1),
        ("Beyonce\u0301", "Beyoncé", 0, 1),  # one letter, two spellings
        ("Beyonce", "Beyoncé", 0, 0),  # the accent stays
        ("à la carte", "\u0300 la carte", 0, 1),  # taken apart, 'à' begins with the article
        ("ﬁn", "fin", 0, 0),  # NFD is not NFKD
        ("", "", 1, 1),
    ]:
        assert exact_match(prediction, [answer]) == plain, prediction
        assert exact_match_orqa(prediction, ["x", answer]) == orqa, prediction


def test_f1_by_hand():
    # 2 shared words of 3 predicted and 4 expected: precision 2/3, recall 1/2.
    assert f1("big red dog", ["red dog runs home"]) == pytest.approx(4 / 7)
    assert f1("x", ["y", "the x"]) == 1.0
    assert f1("x", ["y"]) == 0.0
    # A repeated word counts as often as both sides hold it: 1 of 3 and 1 of 1.
    assert f1("no no no", ["no"]) == pytest.approx(0.5)
    assert f1("a b b", ["b b c"]) == pytest.approx(4 / 5)  # the article is gone


def test_f1_of_nothing_agrees_with_exact_match():
    assert f1("the", ["a"]) == exact_match("the", ["a"]) == 1.0
    assert f1("", ["x"]) == f1("x", [""]) == 0.0


def test_answers_must_be_several_and_some():
    for metric in (exact_match, exact_match_orqa, f1):
        with pytest.raises(TypeError, match="several strings"):
            metric("x", "xyz")
        with pytest.raises(ValueError):
            metric("x", [])
