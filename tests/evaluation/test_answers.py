"""The walk over questions with the tiny model: in order, in batches, with other passages, on any number of devices."""

import math

import jax
import numpy as np
import pytest

from rag_jax import Rag
from rag_jax.data.formats import Question
from rag_jax.evaluation.answers import Batch, Found, Prediction, predict, read, retrieve, unread
from rag_jax.evaluation.measures import Totals, holding
from rag_jax.parallel import Pmap

NAMES = ("exact_match", "f1", "gold_recall", "answer_recall")


@pytest.fixture(scope="module")
def questions(tiny_run):
    return [
        Question(str(number), record["question"], (record["answer"],), tuple(record["passage_ids"]))
        for number, record in enumerate(tiny_run.records("train.jsonl")[:11])
    ]


@pytest.fixture(scope="module")
def predictions(tiny_rag, questions):
    return list(predict(tiny_rag, questions))


def ids(prediction):
    return [document.id for document in prediction.documents]


def test_predict_answers_every_question_in_order(tiny_rag, questions, predictions):
    """Eleven questions are two batches of eight and three."""
    assert [p.question for p in predictions] == questions and [p.answers for p in predictions] == [
        q.answers for q in questions
    ]
    for said, answer in zip(predictions, tiny_rag.answer([q.text for q in questions]), strict=True):
        assert said.text == answer.text and said.log_prob == pytest.approx(answer.log_prob, abs=1e-4)
        there = {document.id: document for document in answer.documents}
        assert set(ids(said)) == set(there)
        for document in said.documents:
            other = there[document.id]
            assert document.title == other.title and document.holds_answer is None
            for name in ("score", "prior", "posterior"):
                assert getattr(document, name) == pytest.approx(getattr(other, name), abs=1e-4)


def test_predict_names_passages_best_first(tiny_rag, questions, predictions):
    found = tiny_rag.retrieve([question.text for question in questions])
    rows = tiny_rag.retriever.index.passages
    assert [ids(p) for p in predictions] == [[rows[i].id for i in ids] for ids in found.ids_BK.tolist()]


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


def test_passages_that_hold_the_answer_are_marked(tiny_rag, tiny_run, questions):
    """A question without answers has nothing to look for."""
    texts = {passage["id"]: passage["text"] for passage in tiny_run.records("passages_before.jsonl")}
    asked = [*questions[:3], Question("hidden", questions[3].text, ())]
    (batch,) = retrieve(tiny_rag, asked, k=30)
    for one, said in zip(asked, unread(tiny_rag, batch, holding=holding(NAMES)), strict=True):
        expected = {place: one.answers[0] in text if one.answers else None for place, text in texts.items()}
        assert {document.id: document.holds_answer for document in said.documents} == expected


def test_what_was_not_read_has_no_text_and_no_posterior(tiny_rag, questions, predictions):
    (batch,) = retrieve(tiny_rag, questions[8:])
    for said, other in zip(unread(tiny_rag, batch), predictions[8:], strict=True):
        assert said.text == "" and math.isnan(said.log_prob) and ids(said) == ids(other)
        assert {document.posterior for document in said.documents} == {None}


def test_places_past_the_corpus_are_no_documents(tiny_rag, questions):
    (batch,) = retrieve(tiny_rag, questions[:1], k=2)
    short = batch.found._replace(ids_BK=np.array([[4, -1]]))
    (said,) = unread(tiny_rag, Batch(range(1), questions[:1], short))
    assert ids(said) == [tiny_rag.retriever.index.passages[4].id]


def test_the_first_passages_of_a_deep_search_answer_like_a_shallow_one(tiny_rag, questions):
    (deep,), (shallow,) = (retrieve(tiny_rag, questions[:8], k=k) for k in (20, 1))
    first = deep.found.first(1)
    for one, other in zip(first, shallow.found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert read(tiny_rag, deep._replace(found=first)) == read(tiny_rag, shallow)


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.long)])
def test_the_number_of_devices_changes_no_count(tiny_rag, questions, count):
    """All others run on eight; six questions are padded. Answers may differ by near-ties alone, which are counted."""
    questions, devices = questions[:6], Pmap(jax.devices()[:count])
    params = devices.put_state(jax.device_get(tiny_rag.params))
    few = Rag(tiny_rag.model, params, tiny_rag.retriever, tiny_rag.config, devices)
    totals, said = [], []
    for rag in (tiny_rag, few):
        totals.append(Totals(NAMES, (1, 3)))
        said.append([p for b in retrieve(rag, questions) for p in read(rag, b, holding=holding(NAMES))])
        for prediction in said[-1]:
            totals[-1].add(prediction)
    whole, other = (total.sums() for total in totals)
    for name in ("exact_match", "gold_recall", "answer_recall", "support"):
        assert whole[name] == other[name]
    assert other["f1"]["F1"].total == pytest.approx(whole["f1"]["F1"].total, rel=1e-6)
    apart = [(one, two) for one, two in zip(*said, strict=True) if one.text != two.text]
    assert all(abs(one.log_prob - two.log_prob) < 1e-5 for one, two in apart) and len(apart) <= 1


def test_a_document_and_a_prediction_are_plain_records():
    document = Found("a", "A", 1.0, 0.5)
    assert document.posterior is None and document.holds_answer is None
    said = Prediction(Question("q", "who?", ("The Rook",)), "rook", -1.0, ("The Rook",), (document,))
    assert said.exact_match == 1.0
