"""Exact match, F1 and recall as sums and counts, by hand; and the walk over questions with the tiny model."""

import math

import numpy as np
import pytest

from rag_jax.data.formats import Question
from rag_jax.evaluation.answers import Prediction, Rate, exact_match_of, predict, scores


def prediction(text, answers, *, found=(), gold=(), group=""):
    return Prediction(Question("q", "who?", answers, gold, group), text, -1.0, answers, found)


def test_rate_adds_and_shares():
    rate = Rate.of([1, 0.5, 0, 1])
    assert rate == Rate(2.5, 4) and rate.percent == 62.5
    assert math.isnan(Rate.of([]).percent)


def test_rate_prints_percent_wilson_interval_and_counts():
    """Wilson's interval of 1 in 4 is 4.6 to 69.9 percent."""
    assert str(Rate(1.0, 4)) == " 25.0  [4.6, 69.9]  1 of 4"


def test_scores_by_hand():
    predictions = [
        prediction("The Rook", ("rook",), found=("a", "b"), gold=("a",), group="mayor"),
        prediction("Ada Quist", ("Ada Rook", "Bo"), found=("b", "a"), gold=("a",), group="mayor"),
        prediction("", ("1101",), found=("c", "d"), gold=("a", "e"), group="year"),
        prediction("Bo", ("Fay", "Bo"), found=("c", "a")),
    ]
    assert dict(scores(predictions, (1, 2))) == {
        "EM": Rate(2.0, 4),
        "F1": Rate(2.5, 4),
        "recall@1": Rate(1.0, 3),
        "recall@2": Rate(2.0, 3),
        "EM mayor": Rate(1.0, 2),
        "EM year": Rate(0.0, 1),
    }


def test_scores_without_gold_passages_or_groups():
    assert [name for name, _ in scores([prediction("a", ("b",))], (1, 5))] == ["EM", "F1"]


@pytest.fixture(scope="module")
def questions(tiny_run):
    return [
        Question(str(number), record["question"], (record["answer"],), tuple(record["passage_ids"]))
        for number, record in enumerate(tiny_run.records("train.jsonl")[:11])
    ]


@pytest.fixture(scope="module")
def predictions(tiny_rag, questions):
    return list(predict(tiny_rag, questions))


def test_predict_answers_every_question_in_order(tiny_rag, questions, predictions):
    """Eleven questions are two batches of eight and three."""
    assert [p.question for p in predictions] == questions and [p.answers for p in predictions] == [
        q.answers for q in questions
    ]
    for said, answer in zip(predictions, tiny_rag.answer([q.text for q in questions]), strict=True):
        assert said.text == answer.text and said.log_prob == pytest.approx(answer.log_prob, abs=1e-4)
        assert set(said.passages) == {document.id for document in answer.documents}


def test_predict_names_passages_best_first(tiny_rag, questions, predictions):
    found = tiny_rag.retrieve([question.text for question in questions])
    rows = tiny_rag.retriever.index.passages
    assert [p.passages for p in predictions] == [tuple(rows[i].id for i in ids) for ids in found.ids_BK.tolist()]


def test_exact_match_is_the_mean(tiny_rag, questions, predictions):
    right = [Question(q.id, q.text, (p.text or "nothing",)) for q, p in zip(questions, predictions, strict=True)]
    expected = np.mean([p.exact_match for p in predict(tiny_rag, right)])
    assert exact_match_of(tiny_rag, right) == expected == np.mean([bool(p.text) for p in predictions])


def test_change_puts_other_passages_and_answers_before_the_reader(tiny_rag, questions):
    """The numbers count over all batches; what was retrieved stays on record, whatever was read."""
    seen = []

    def change(numbers, documents_BK):
        seen.append((list(numbers), [len(documents_K) for documents_K in documents_BK]))
        return [documents_K[::-1] for documents_K in documents_BK], [(f"answer {number}",) for number in numbers]

    changed = list(predict(tiny_rag, questions, change=change))
    assert seen == [([*range(8)], [3] * 8), ([8, 9, 10], [3] * 3)]
    assert [p.answers for p in changed] == [(f"answer {number}",) for number in range(11)]
    assert all(p.exact_match == (p.text == p.answers[0]) for p in changed)
