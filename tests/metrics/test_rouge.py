from itertools import combinations, product
from pathlib import Path

import pytest

from rag_jax.metrics.rouge import _common_subsequence, rouge_l
from rag_jax.metrics.tokenise import TOKENISERS, whitespace

NLG_EVAL = Path(__file__).parents[3] / "shared" / "data" / "metrics" / "nlg_eval"


def coco(prediction, *references):
    return rouge_l(prediction, references, definition="coco", tokenise=whitespace)


def kilt(prediction, *references):
    return rouge_l(prediction, references, definition="kilt", tokenise=whitespace)


def f(precision, recall, beta):
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision)


def test_two_references_tell_the_rules_apart():
    # Of 4 words said, the short reference 'a' is found whole (precision 1/4, recall 1); the long one holds 3 of
    # them among its 9 (precision 3/4, recall 1/3). coco takes 3/4 from one and 1 from the other; kilt the better F1:
    # 2 * 1 / 5 or 2 * 3 / 13.
    said, short, long = "a b c d", "a", "z a y b x w c v u"
    assert coco(said, short, long) == pytest.approx(f(3 / 4, 1, 1.2))
    assert kilt(said, short, long) == pytest.approx(6 / 13)
    assert max(coco(said, short), coco(said, long)) == pytest.approx(max(f(1 / 4, 1, 1.2), f(3 / 4, 1 / 3, 1.2)))
    assert kilt(said, long) == pytest.approx(f(3 / 4, 1 / 3, 1))


def test_coco_by_hand():
    assert coco("a b c d e", "a x c e") == pytest.approx(f(3 / 5, 3 / 4, 1.2))
    assert coco("c b a", "a b c") == pytest.approx(1 / 3)  # in order
    assert coco("a a a", "a a") == pytest.approx(f(2 / 3, 1, 1.2))  # repeated words count


def test_kilt_counts_distinct_words():
    assert kilt("a b c d e", "a x c e") == pytest.approx(2 * 3 / 9)
    assert kilt("a a a", "a a") == 1.0


def test_kilt_unites_what_sentences_have_in_common():
    # The reference sentence 'a b c d' has 'a b' with one predicted sentence and 'd' with the other: 3 of 4 and 4
    # distinct words. Read as one sentence, 'd a b' would share 'a b' only.
    assert kilt("d. a b x", "a b c d") == pytest.approx(2 * 3 / 8)
    assert coco("d a b x", "a b c d") == pytest.approx(2 / 4)
    assert kilt("a b. c", "c. a b") == 1.0  # each sentence looks at all
    assert kilt(".", ".") == 0.0


@pytest.mark.parametrize(
    ("said", "reference", "common", "distinct"),
    [
        ("a", "a . . b", 1, 4),  # the reference: a, '', b
        (". .. a", "a ...", 1, 3),  # the prediction: '', a
        ("well . . . maybe", "it was . . . fine", 1, 7),  # well, '', maybe; it, was, '', fine
        ("a .. ", "a", 1, 2),  # at the ends is nothing
    ],
)
def test_kilt_has_an_empty_word_between_dots(said, reference, common, distinct):
    assert kilt(said, reference) == kilt(reference, said) == pytest.approx(2 * common / distinct)


def test_case_and_punctuation_are_the_tokenisers_business():
    assert coco("The cat", "the cat") == pytest.approx(1 / 2)
    assert rouge_l("The cat!", ["the cat"], definition="coco", tokenise=TOKENISERS["treebank"]) == 1.0


@pytest.mark.parametrize("score", [coco, kilt])
def test_nothing_said_or_wanted(score):
    assert score("", "a") == score("a", "") == score("", "") == score("x", "y") == 0.0
    assert score("a", "", "a") == 1.0
    assert score("é à", "é à") == 1.0


@pytest.mark.parametrize("definition", ["coco", "kilt"])
def test_mistakes_are_errors(definition):
    with pytest.raises(TypeError, match="several strings"):
        rouge_l("x", "xyz", definition=definition, tokenise=whitespace)
    with pytest.raises(ValueError, match="at least one"):
        rouge_l("x", [], definition=definition, tokenise=whitespace)
    with pytest.raises(ValueError, match="expected 'coco' or 'kilt'"):
        rouge_l("x", ["x"], definition="lin", tokenise=whitespace)


def test_longest_common_subsequence_against_all_subsequences():
    for a, b in product(("abcab", "bbaca", "c", "", "aabbc"), repeat=2):
        inside = {s for n in range(6) for s in combinations(a, n)} & {s for n in range(6) for s in combinations(b, n)}
        found = tuple(_common_subsequence(list(a), list(b)))[::-1]
        assert found in inside and len(found) == max(map(len, inside))


def test_published_score():
    if not NLG_EVAL.is_dir():
        pytest.skip(f"nlg-eval's example files are not at {NLG_EVAL}")
    rows = zip(*((NLG_EVAL / f"{part}.txt").read_text().splitlines() for part in ("hyp", "ref1", "ref2")), strict=True)
    scores = [coco(said, *references) for said, *references in rows]
    assert sum(scores) / len(scores) == pytest.approx(0.522104, abs=5e-7)


def test_the_published_score_from_its_counts():
    # nlg-eval's example: 10 words said in each row. Of the first row's references, 7 and 8 words long, 3 and 3
    # words are common; of the second row's, 13 and 8 words long, 8 and 3.
    parts = [f(3 / 10, 3 / 7, 1.2), f(8 / 10, 8 / 13, 1.2)]
    assert sum(parts) / 2 == pytest.approx(0.522104, abs=5e-7)
