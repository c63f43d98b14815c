"""Every measure by name, on predictions whose scores are counted by hand."""

import math

import pytest

from rag_jax.data.formats import Question
from rag_jax.evaluation.answers import Found, Prediction
from rag_jax.evaluation.measures import (
    MEASURES,
    Headline,
    Totals,
    headline,
    holding,
    of_closed_book,
    of_one,
    of_retrieval,
    page_id,
)
from rag_jax.evaluation.sums import Count, Diversity, Mean, Rate

QA = ("exact_match", "f1", "gold_recall", "answer_recall")
NAMES = (
    "exact_match exact_match_orqa f1 regex_match regex_search regex_fullmatch accuracy accuracy_2way_rows bleu_1 "
    "rouge_l_coco rouge_l_kilt q_bleu_1 distinct_3 distinct_3_gold answer_recall gold_recall page_precision kilt "
    "accuracy_kilt"
).split()


def found(*ids, held=(), titles=()):
    """Passages by id, best first."""
    held, titles = held or [None] * len(ids), titles or ids
    return tuple(Found(i, t, 0.0, 0.5, 0.5, h) for i, t, h in zip(ids, titles, held, strict=True))


def prediction(text, *answers, documents=(), **about):
    return Prediction(Question("q", "who?", answers, **about), text, -1.0, answers, documents)


def measured(names, *predictions, places=(1, 2)):
    """label -> sum, all measures together."""
    totals = Totals(names, places)
    for one in predictions:
        totals.add(one)
    return {label: total for sums in totals.sums().values() for label, total in sums.items()}


def test_every_agreed_name_is_there():
    assert set(NAMES) | {"kilt_pages"} == set(MEASURES)


def test_the_headline_is_the_first_measure_of_the_task():
    said = [prediction("the rook", "Rook"), prediction("no", "Rook")]
    assert headline(said, QA) == Headline("EM", 0.5)
    assert headline(said, ("f1", "exact_match")) == Headline("F1", 0.5)
    assert headline([prediction("rook", "ro+k"), prediction("a rook", "ro+k")], ("regex_match",)).value == 0.5


@pytest.mark.parametrize("said", [[], [prediction("rook", "(")], [prediction("rook")]])
def test_no_headline_where_nothing_can_be_judged(said):
    assert math.isnan(headline(said, ("regex_match",)).value)


def test_question_answering_by_hand():
    predictions = [
        prediction(
            "The Rook", "rook", documents=found("a", "b", held=(True, False)), passage_ids=("a",), group="mayor"
        ),
        prediction(
            "Ada Quist", "Ada Rook", "Bo", documents=found("b", "a", held=(False, True)), passage_ids=("a",),
            group="mayor",
        ),
        prediction("", "1101", documents=found("c", "d", held=(False, False)), passage_ids=("a", "e"), group="year"),
        prediction("Bo", "Fay", "Bo", documents=found("c", "a", held=(False, False))),
    ]  # fmt: skip
    sums = measured(QA, *predictions)
    assert sums == {
        "EM": Rate(2.0, 4),
        "F1": Mean(2.5, 2.25, 4),
        "recall@1": Rate(1.0, 3),
        "recall@2": Rate(2.0, 3),
        "answer recall@1": Rate(1.0, 4),
        "answer recall@2": Rate(2.0, 4),
        "EM where a passage holds the answer": Rate(1.0, 2),
        "EM where no passage holds the answer": Rate(1.0, 2),
        "EM mayor": Rate(1.0, 2),
        "EM year": Rate(0.0, 1),
    }
    assert list(sums)[-4:] == [
        "EM where a passage holds the answer", "EM where no passage holds the answer", "EM mayor", "EM year",
    ]  # fmt: skip


def test_the_order_does_not_hang_on_which_question_comes_first():
    late = prediction("x", "y", documents=found("a", held=(False,)), group="b")
    early = prediction("x", "y", documents=found("a", held=(True,)), group="a", passage_ids=("a",))
    assert list(measured(QA, late, early)) == list(measured(QA, early, late))


def test_nothing_is_said_of_gold_passages_groups_and_support_that_are_unknown():
    assert set(measured(QA, prediction("a", "b", documents=found("a")))) == {"EM", "F1"}


def test_the_two_spellings_of_a_letter_tell_orqas_match_apart():
    sums = measured(["exact_match", "exact_match_orqa"], prediction("caf\u00e9", "cafe\u0301"))
    assert sums == {"EM": Rate(0.0, 1), "EM (ORQA)": Rate(1.0, 1)}


def test_patterns_are_matched_three_ways_and_those_that_do_not_compile_are_counted():
    names = ["regex_match", "regex_search", "regex_fullmatch"]
    sums = measured(
        names,
        prediction("19 May 1980", r"\d+ May", "("),
        prediction("in 1980", "1980"),
        prediction("1980", "("),
    )
    assert sums == {
        "regex match": Rate(1.0, 2),
        "regex search": Rate(2.0, 2),
        "regex full match": Rate(0.0, 2),
        "questions left out, no pattern compiles": Count(1),
        "patterns that do not compile": Count(2),
    }


def test_right_patterns_are_told_apart_by_support_too():
    sums = measured(["regex_match"], prediction("1980", r"\d+", documents=found("a", held=(False,)), group="g"))
    assert sums["regex match where no passage holds the answer"] == sums["regex match g"] == Rate(1.0, 1)


def test_three_labels_on_rows_of_two_are_another_measure():
    said = [prediction("SUPPORTS", "SUPPORTS"), prediction("NOT ENOUGH INFO", "REFUTES")]
    sums = measured(["accuracy", "accuracy_2way_rows"], *said, prediction("SUPPORTS", "NOT ENOUGH INFO"))
    assert sums == {"accuracy": Rate(1.0, 3), "3-way accuracy on 2-way rows": Rate(1.0, 2)}


def test_ms_marco_leaves_out_questions_without_an_answer():
    """Two words of three match, in order: precision 2/3, recall 2/2, joined with beta 1.2."""
    names = ["rouge_l_coco", "bleu_1"]
    sums = measured(names, prediction("a b c", "a c"), prediction("x", "No Answer Present."))
    rouge, bleu = sums["ROUGE-L (coco, treebank)"], sums["BLEU-1 (treebank)"]
    assert rouge.count == 1 and rouge.total == pytest.approx(2.44 * (2 / 3) / (1 + 1.44 * 2 / 3))
    assert bleu.percent == pytest.approx(200 / 3)


def test_the_other_measures_of_words():
    names = ["rouge_l_kilt", "q_bleu_1", "distinct_3", "distinct_3_gold"]
    sums = measured(names, prediction("who is Ada Rook", "who is Ada Rook"))
    assert sums["ROUGE-L (kilt, whitespace)"].percent == pytest.approx(100)
    assert sums["Q-BLEU-1 (treebank)"].percent == pytest.approx(100)
    gold = sums.pop("distinct tri-grams of the first answers (treebank)")
    assert gold == sums["distinct tri-grams (treebank)"] == Diversity(("who is Ada Rook",), "treebank")


def test_pages_go_by_title_or_by_id_up_to_the_number_sign():
    by_title = prediction(
        "Bo", "Bo", documents=found("7", "8", "9", titles=("Ada", "Bo", "Bo")), evidence=(("Bo",), ("Cyd", "Bo"))
    )
    by_id = by_title._replace(
        documents=found("7#1", "8#1", "8#2", titles=("Ada", "Bo", "Bo")),
        question=Question("q", "who?", ("Bo",), evidence=(("8",),)),
    )
    for one in (by_title, by_id):
        sums = measured(["page_precision", "kilt"], one, prediction("Bo", "Bo", documents=found("7")), places=(1, 2))
        assert sums["gold page@1"] == Rate(0.0, 1) and sums["gold page@2"] == Rate(1.0, 1)
        assert sums["page precision@2"] == Mean(0.5, 0.25, 1)
        assert sums["R-precision"].count == sums["KILT-EM"].count == sums["KILT-F1"].count == 2
    assert measured(["kilt"], by_title)["R-precision"].total == 0.5 and measured(["kilt"], by_id)["KILT-EM"].total == 0
    first = by_id._replace(documents=by_id.documents[1:])
    assert measured(["kilt"], first) == {
        "KILT-EM": Rate(1.0, 1),
        "KILT-F1": Mean(1.0, 1.0, 1),
        "KILT-accuracy": Rate(1.0, 1),
        "KILT-ROUGE-L": Mean(1.0, 1.0, 1),
        "R-precision": Mean(1.0, 1.0, 1),
        "KILT recall@5": Mean(1.0, 1.0, 1),
    }
    assert page_id("7#1") == "7" == page_id("7")


def test_kilt_s_scores_beside_em_and_f1():
    """They count only where the page is found; accuracy is to the letter, ROUGE-L of the case as well."""
    found_7, found_8 = (found(page, titles=("",)) for page in ("7", "8"))
    said = [
        prediction(" Ada Rook ", "Ada Rook", "Rook", documents=found_7, evidence=(("7",),)),
        prediction("ada rook", "Ada Rook", documents=found_7, evidence=(("7",),)),
        prediction("old Ada", "Ada", documents=found_7, evidence=(("7",),)),
        prediction("Ada", "Ada", documents=found_8, evidence=(("7",),)),
    ]
    sums = measured(["accuracy_kilt", "kilt", "rouge_l_kilt"], *said)
    assert sums["accuracy (kilt)"] == Rate(2.0, 4) and sums["KILT-accuracy"] == Rate(1.0, 4)
    assert sums["KILT-ROUGE-L"].total == pytest.approx(1 + 0 + 2 / 3 + 0)
    assert sums["ROUGE-L (kilt, whitespace)"].total == pytest.approx(1 + 0 + 2 / 3 + 1)


def test_pages_of_fever_are_named_by_their_ids_where_they_have_no_title():
    pages = found("Red_Kite_-LRB-song-RRB-#0", "Ada", "Red_Kite_-LRB-song-RRB-#1", titles=("", "", ""))
    said = prediction("SUPPORTS", "SUPPORTS", documents=pages, evidence=(("Red Kite (song)",),))
    sums = measured(["page_precision"], said)
    assert sums["gold page@1"] == Rate(1.0, 1) and sums["page precision@2"] == Mean(0.5, 0.25, 1)
    by_id = said._replace(question=Question("q", "who?", ("x",), evidence=(("Red_Kite_-LRB-song-RRB-", "Ada"),)))
    assert measured(["page_precision"], by_id)["page precision@2"] == Mean(1.0, 1.0, 1)


def test_pages_are_named_by_their_ids_where_one_has_no_title():
    """Which is no title that evidence of ids could name."""
    said = prediction("a", "a", documents=found("7#0", "8#0", titles=("Red Kite", "")), evidence=(("7", "8"),))
    assert measured(["kilt_pages"], said)["R-precision"] == Mean(1.0, 1.0, 1)


def test_a_question_of_a_hidden_test_is_counted_alone():
    assert measured(QA, prediction("a", documents=found("a", held=(True,)))) == {"questions without answers": Count(1)}


def test_what_needs_no_generator():
    assert of_retrieval(QA) == ["gold_recall", "answer_recall"]
    assert of_retrieval(["kilt", "exact_match", "page_precision"]) == ["kilt_pages", "page_precision"]
    assert of_retrieval(["bleu_1"]) == []
    pages = prediction("", "a", documents=found("7"), evidence=(("7",),))
    assert set(measured(["kilt_pages"], pages)) == {"R-precision", "KILT recall@5"}


def test_the_rule_for_whether_a_passage_holds_the_answer_is_the_tasks():
    """Words in a row, or a pattern; a question whose patterns do not compile is not looked for."""
    texts = ["Ada Rook, born 1980", "Rook Ada"]
    assert holding(QA)(texts, ["ada rook"]) == [True, False] and holding(["answer_recall"])(texts, ["1"]) == [False] * 2
    assert holding(["regex_match"])(texts, [r"19\d+"]) == [True, False]
    assert not holding(["regex_match"])(texts, ["("])
    assert holding(["bleu_1", "distinct_3"]) is None


def test_of_one_names_the_measure_of_every_part():
    parts = list(of_one(prediction("a", "a", documents=found("a", held=(True,))), QA, (1,)))
    assert [name for name, *_ in parts] == ["exact_match", "f1", "answer_recall", "support"]


def test_the_null_document_is_no_passage():
    """It holds no answer, is on no page and does not move the places of the passages behind it."""
    null = Found("", "", 0.0, 0.5, 0.5, None)
    one = prediction(
        "Bo", "Bo", documents=(null, *found("7#1", "8", held=(False, True))), passage_ids=("7#1",), evidence=(("7",),)
    )
    without = one._replace(documents=one.documents[1:])
    names = [*QA, "page_precision", "kilt"]
    assert measured(names, one) == measured(names, without) and len(measured(names, one)) > 10
    assert one.passages == list(without.documents)


def test_a_closed_book_is_measured_by_what_it_says_alone():
    assert of_closed_book(QA) == ["exact_match", "f1"]
    assert of_closed_book(["kilt", "rouge_l_kilt", "page_precision"]) == ["rouge_l_kilt"]
    said = prediction("a", "a", passage_ids=("a",), group="g")
    assert set(measured(of_closed_book(QA), said)) == {"EM", "F1", "EM g"}
