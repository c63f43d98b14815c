import random
import re

import numpy as np
import pytest

from rag_jax.data.substitution import Form, NameMaker, Substitution, plain_word
from rag_jax.data.text import inner_pieces, title_pieces

BLOCKED = {"curie", "paris", "1898", "7", "fr", "usa"}


@pytest.fixture(scope="module")
def maker(bpe):
    return NameMaker(bpe, BLOCKED, seed=0, size=4000)


@pytest.fixture(scope="module")
def substitution(bpe):
    return Substitution(bpe)


def names(maker, answer, count=300, seed=0):
    rng = np.random.default_rng(seed)
    return [maker.fresh(answer, rng) for _ in range(count)]


@pytest.mark.parametrize(
    ("answer", "shape"),
    [
        ("Paris", r"[A-ZÀ-Ț]\w{2,13}"),
        ("red", r"\w{3,14}"),
        ("Marie Curie", r"[A-ZÀ-Ț]\w{2,13}( [A-ZÀ-Ț]\w{2,13}){0,4}"),
        ("Smith-Jones", r"[A-ZÀ-Ț]\w{2,13}-[A-ZÀ-Ț]\w{2,13}"),
        ("the old city", r"\w{3,14}( \w{3,14}){0,4}"),
        ("Panthera leo", r"([A-ZÀ-Ț]\w{2,13}|[^\W\dA-Z]{3,14})( ([A-ZÀ-Ț]\w{2,13}|[^\W\dA-Z]{3,14})){0,4}"),
        ("J. K. Rowling", r"([A-Z]\.|[A-ZÀ-Ț]\w{2,13})( ([A-Z]\.|[A-ZÀ-Ț]\w{2,13})){0,4}"),
        ("1898", r"[1-9]\d{3}"),
        ("007", r"\d{3}"),
        ("3.14", r"[1-9]\.\d\d"),
        ("1,000", r"[1-9],\d{3}"),
        ("$5", r"\$\d"),
        ("12 March 1990", r"[1-9]\d [A-ZÀ-Ț]\w{2,13} [1-9]\d{3}"),
        ("Fe", r"[B-DF-HJ-NP-TV-XZ][aeiouy]"),
        (".fr", r"\.[b-df-hj-np-tv-xz]{2}"),
        ("USA", r"[AEIOUY][B-DF-HJ-NP-TV-XZ][AEIOUY]"),
        ("H2O", r"[B-DF-HJ-NP-TV-XZ]\d[AEIOUY]"),
    ],
)
def test_names_have_the_shape_of_the_answer_and_no_blocked_word(maker, answer, shape):
    found = names(maker, answer)
    assert all(re.fullmatch(shape, name.text) for name in found)
    assert not BLOCKED & {plain_word(word) for name in found for word in name.text.split()}
    assert answer not in {name.text for name in found}
    assert len({name.text for name in found}) > 5


def test_single_digit_names_skip_blocked_digits_and_give_up_when_none_is_left(bpe, maker):
    assert {name.text for name in names(maker, "5")} == {"1", "2", "3", "4", "6", "8", "9"}
    none_left = NameMaker(bpe, set("123456789"), seed=0, size=10)
    assert none_left.fresh("5", np.random.default_rng(0)) is None
    assert none_left.fresh("5 May 1990", np.random.default_rng(0)) is None
    assert none_left.fresh(" ", np.random.default_rng(0)) is None
    assert none_left.fresh("?", np.random.default_rng(0)) is None


def test_names_carry_their_own_tokens(bpe, maker):
    for answer in ("Paris", "Marie Curie", "1898", "red"):
        for name in names(maker, answer, 50):
            assert name.spaced.tolist() == bpe.encode(" " + name.text)
            assert name.bare.tolist() == bpe.encode(name.text)


def test_names_are_deterministic_and_varied(bpe, maker, corpus):
    again = NameMaker(bpe, BLOCKED, seed=0, size=4000)
    other = NameMaker(bpe, BLOCKED, seed=1, size=4000)
    first, second, third = ([n.text for n in names(m, "Paris")] for m in (maker, again, other))
    assert first == second != third
    assert len(set(first)) > 250
    used = {token for name in names(maker, "Marie Curie", 3000) for token in name.spaced.tolist()}
    letters = [i for i, token in enumerate(bpe.tokens()) if re.fullmatch("Ġ?[A-Za-z]{1,5}", token)]
    assert len(used & set(letters)) > 0.6 * len(letters)


def replaced(bpe, substitution, texts, answer, name):
    pieces, count_K = substitution.substitute(inner_pieces(bpe, texts), Form.of(bpe, answer), Form.of(bpe, name))
    return [bpe.decode(ids).strip() for ids in pieces], count_K.tolist()


@pytest.mark.parametrize(
    ("text", "answer", "expected", "count"),
    [
        ("Paris and Paris, not Paris.", "Paris", "Xo and Xo, not Xo.", 3),
        ("(Paris) 'Paris' “Paris” [Paris] Paris's", "Paris", "(Xo) 'Xo' “Xo” [Xo] Xo's", 5),
        ("Parisian NotParis paris Paris2 2Paris", "Paris", "Parisian NotParis paris Paris2 2Paris", 0),
        ("Parisé Pariś", "Paris", "Parisé Pariś", 0),
        ("Marie Curie, Marie", "Marie Curie", "Xo, Marie", 1),
        ("Marie Marie Marie Marie Marie", "Marie Marie", "Xo Xo Marie", 2),
        (
            "5 of 5,000 or 5.5 is 5, and 5. (5) 55 1,5",
            "5",
            "Xo of 5,000 or 5.5 is Xo, and Xo. (Xo) 55 1,5",
            4,
        ),
        ("in 1898, 18980 or 1898-1899", "1898", "in Xo, 18980 or Xo-1899", 2),
        ("Fe, FeO and Fe-O", "Fe", "Xo, FeO and Xo-O", 2),
        ("nothing here", "Paris", "nothing here", 0),
    ],
)
def test_answers_are_replaced_as_whole_words(bpe, substitution, text, answer, expected, count):
    assert replaced(bpe, substitution, [text], answer, "Xo") == ([expected], [count])


def test_each_text_is_replaced_on_its_own(bpe, substitution):
    texts = ["Paris", "", "Marie", "Curie of Paris", "Paris Paris"]
    quoted, _ = replaced(bpe, substitution, ["“Paris”", "“Paris–", "– “Parisé"], "Paris", "Xo")
    assert quoted == ["“Xo”", "“Xo–", "– “Parisé"]
    found, count_K = replaced(bpe, substitution, texts, "Paris", "Xo Ya")
    assert found == ["Xo Ya", "", "Marie", "Curie of Xo Ya", "Xo Ya Xo Ya"]
    assert count_K == [1, 0, 0, 1, 2]
    assert replaced(bpe, substitution, ["Marie", "Curie"], "Marie Curie", "Xo")[1] == [0, 0]
    assert substitution.substitute([], Form.of(bpe, "a"), Form.of(bpe, "b"))[0] == []


def test_titles_are_replaced_too(bpe, substitution):
    titles = title_pieces(bpe, ["Paris", "Paris (Texas)", "Old Paris", "Parisian"])
    found, count_K = substitution.substitute(titles, Form.of(bpe, "Paris"), Form.of(bpe, "Xo"))
    assert [bpe.decode(ids) for ids in found] == ["Xo", "Xo (Texas)", "Old Xo", "Parisian"]
    assert count_K.tolist() == [1, 1, 1, 0]


def test_replaced_tokens_are_those_of_the_replaced_string(bpe, substitution, maker, corpus):
    """Over a corpus: replacing tokens and tokenising the replaced string come to the same."""
    random_, rng = random.Random(3), np.random.default_rng(3)
    total = 0
    for text in corpus:
        answer = " ".join(random_.sample(["Paris", "Marie", "Łódź", "by", "Turing", "museum"], 1))
        name = maker.fresh(answer, rng)
        expected = re.sub(rf"(?<![^\s('])({answer})(?!\w)", name.text, " " + text)
        ids = inner_pieces(bpe, [text])
        (found,), (count,) = substitution.substitute(ids, Form.of(bpe, answer), name)
        assert found.tolist() == bpe.encode(expected)
        assert count == len(re.findall(rf"(?<![^\s('])({answer})(?!\w)", text))
        total += count
    assert total > 200


def test_inputs_are_not_changed(bpe, substitution):
    texts = inner_pieces(bpe, ["Paris of old"])
    before = texts[0].copy()
    texts[0].flags.writeable = False
    substitution.substitute(texts, Form.of(bpe, "Paris"), Form.of(bpe, "Xo"))
    assert texts[0].tolist() == before.tolist()
