import pytest

from rag_jax.metrics.kilt import accuracy, grounded, kilt_exact_match, kilt_f1, kilt_recall_at, r_precision

PAIR, LONE = {"1", "2"}, {"7"}


@pytest.mark.parametrize(
    ("pages", "evidence", "expected"),
    [
        (["7", "1"], [LONE], 1.0),
        (["1", "7"], [LONE], 0.0),  # R is 1: only the first page is looked at
        (["1", "3", "2"], [PAIR], 0.5),
        (["2", "1"], [PAIR], 1.0),  # in any order
        (["1", "7"], [PAIR, LONE], 0.5),  # the best set
        (["1", "1", "1", "2"], [PAIR], 1.0),  # three passages of a page are one page
        (["1"], [{"1", "2"}], 0.5),
        ([], [LONE], 0.0),
        (["7"], [], 0.0),
        (["7"], [set()], 0.0),
    ],
)
def test_r_precision(pages, evidence, expected):
    assert r_precision(pages, evidence) == expected


@pytest.mark.parametrize(
    ("pages", "evidence", "k", "expected"),
    [
        (["7", "9"], [LONE], 1, 1.0),
        (["9", "7"], [LONE], 1, 0.0),
        (["9", "7"], [LONE], 2, 1.0),
        (["1", "9"], [PAIR], 2, 0.0),  # half a set is none
        (["1", "9", "2"], [PAIR], 1, 0.0),
        (["1", "9", "2"], [PAIR], 2, 1.0),  # the set leaves its first page's place for its last one's
        (["1", "9", "2"], [PAIR], 3, 1.0),
        (["1", "9", "2", "7"], [PAIR, LONE], 2, 0.5),
        (["1", "9", "2", "7"], [PAIR, LONE], 3, 1.0),
        (["1", "3", "4", "5", "6", "2"], [PAIR], 5, 1.0),
        (["1", "3", "4", "5", "6", "8", "2"], [PAIR], 5, 0.0),
        (["1", "9", "2", "7"], [PAIR, LONE], 4, 1.0),
        (["7", "7", "8"], [{"8"}], 2, 1.0),  # places are of pages
        (["7"], [LONE, ["7"]], 1, 1.0),  # the same set twice is one set
        (["7"], [LONE, {"7", "8"}], 1, 0.5),
        # Page 7 completes one set and begins another: two places until page 8 moves the second set on.
        (["7", "8"], [LONE, {"7", "8"}], 2, 1.0),
        (["1", "7", "2"], [{"1", "2"}, {"7", "2"}], 3, 1.0),
        ([], [LONE], 5, 0.0),
        (["7"], [], 5, 0.0),
    ],
)
def test_recall(pages, evidence, k, expected):
    assert kilt_recall_at(pages, evidence, k) == expected


def test_a_page_of_two_sets_takes_two_places():
    assert kilt_recall_at(["8", "7"], [{"7", "8"}, {"7"}], 2) == 1.0
    # Ranking at k = 2: wrong, then a set that still lacks page 3, then the lone set, beyond the second place.
    assert kilt_recall_at(["9", "7"], [{"7", "3"}, {"7"}], 2) == 0.0
    assert kilt_recall_at(["9", "7"], [{"7"}, {"7", "3"}], 2) == 0.5


def test_answers_count_where_the_evidence_is_found():
    assert kilt_exact_match("The Oslo", ["oslo"], ["7"], [LONE]) == 1.0
    assert kilt_exact_match("The Oslo", ["oslo"], ["1", "7"], [LONE]) == 0.0
    assert kilt_exact_match("Rome", ["oslo"], ["7"], [LONE]) == 0.0
    assert kilt_f1("old Oslo", ["oslo"], ["7"], [LONE]) == pytest.approx(2 / 3)
    assert kilt_f1("old Oslo", ["oslo"], ["1", "2"], [{"1", "3"}]) == 0.0
    assert grounded(0.25, ["2", "1"], [PAIR]) == 0.25
    assert grounded(0.25, ["2", "3"], [PAIR]) == 0.0


def test_accuracy_is_to_the_letter():
    assert [accuracy(said, ["Rome", "Oslo "]) for said in (" Oslo\n", "oslo", "The Oslo", "")] == [1.0, 0.0, 0.0, 0.0]


def test_saying_nothing_scores_nothing():
    assert kilt_exact_match(" ", ["the"], ["7"], [LONE]) == 0.0
    assert kilt_exact_match("a", ["the"], ["7"], [LONE]) == 1.0  # KILT's rule is about blanks, before normalisation
    assert kilt_f1("a", ["the"], ["7"], [LONE]) == 0.0  # no word in common


def test_mistakes_are_errors():
    with pytest.raises(ValueError, match="k is 0"):
        kilt_recall_at(["7"], [LONE], 0)
    for answers, error in (("xyz", TypeError), ([], ValueError)):
        with pytest.raises(error):
            accuracy("x", answers)
    for score in (kilt_exact_match, kilt_f1):
        with pytest.raises(TypeError, match="several strings"):
            score("x", "xyz", ["7"], [LONE])
        with pytest.raises(ValueError, match="at least one"):
            score("", [], ["7"], [LONE])
    with pytest.raises(TypeError, match="several page ids"):
        r_precision(["7"], ["7"])
