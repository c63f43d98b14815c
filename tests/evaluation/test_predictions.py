"""predictions.jsonl: stopped anywhere and begun again it ends in the same bytes; and KILT's form."""

import json

import pytest

from rag_jax.data import tasks
from rag_jax.data.formats import Question
from rag_jax.evaluation import predictions
from rag_jax.evaluation.answers import Found, Prediction, predict

NAMES = ("exact_match", "f1", "gold_recall", "answer_recall")


@pytest.fixture(scope="module")
def questions(tiny_run):
    """Twenty, in batches of eight, eight and four."""
    return tasks.TASKS["qa"].questions(str(tiny_run.folder / "train.jsonl"))[:20]


def walk(rag, questions, path):
    return list(predictions.predict(rag, questions, path, names=NAMES, places=(1, 3)))


@pytest.fixture(scope="module")
def whole(tiny_rag, questions, tmp_path_factory):
    """What a run that was never stopped yields, and the bytes it writes."""
    path = tmp_path_factory.mktemp("whole") / "predictions.jsonl"
    return walk(tiny_rag, questions, path), path.read_bytes()


@pytest.fixture
def counting(tiny_rag, monkeypatch):
    """How many questions each call of the generator reads."""
    read, counts = tiny_rag.read, []
    monkeypatch.setattr(tiny_rag, "read", lambda texts, *rest: counts.append(len(texts)) or read(texts, *rest))
    return counts


def test_a_line_a_question_with_all_that_is_known_of_it(whole, questions):
    said, content = whole
    records = [json.loads(line) for line in content.decode().splitlines()]
    assert [record["id"] for record in records] == [question.id for question in questions]
    assert list(records[0]) == ["id", "question", "answers", "prediction", "score", "measures", "documents"]
    assert list(records[0]["documents"][0]) == ["id", "title", "score", "prior", "posterior", "holds_answer"]
    for record, one in zip(records, said, strict=True):
        assert (record["prediction"], record["score"]) == (one.text, one.log_prob)
        assert record["measures"]["EM"] == one.exact_match and record["measures"]["answer recall@3"] in (0.0, 1.0)
        assert record["documents"] == [document._asdict() for document in one.documents]


def test_they_are_the_answers_of_the_plain_walk(tiny_rag, whole, questions):
    plain = list(predict(tiny_rag, questions))
    assert [p.text for p in plain] == [p.text for p in whole[0]]
    assert [p.log_prob for p in plain] == [p.log_prob for p in whole[0]]


@pytest.mark.parametrize(
    ("lines", "more", "read"),
    [(0, 0, [8, 8, 4]), (0, 7, [8, 8, 4]), (8, -1, [8, 8, 4]), (11, 40, [8, 4]), (19, 0, [4]), (20, 0, [])],
)  # fmt: skip
def test_a_run_stopped_anywhere_ends_in_the_same_bytes(
    tiny_rag, questions, whole, counting, tmp_path, lines, more, read
):
    """After `lines` whole lines and `more` bytes of the next: only batches that are not whole are read again."""
    said, content = whole
    ends = [0, *(n + 1 for n, byte in enumerate(content) if byte == ord("\n"))]
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(content[: ends[lines] + more])
    assert walk(tiny_rag, questions, path) == said
    assert path.read_bytes() == content and counting == read


def test_a_damaged_line_and_what_follows_it_are_answered_again(tiny_rag, questions, whole, counting, tmp_path):
    said, content = whole
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(content.replace(b'"id": "9"', b'"id": "x"', 1))
    assert walk(tiny_rag, questions, path) == said and path.read_bytes() == content and counting == [8, 4]
    path.write_bytes(content.replace(b'"score"', b'"scope"', 1))
    assert walk(tiny_rag, questions, path) == said and path.read_bytes() == content


def test_fewer_questions_leave_the_file_whole_and_more_go_on(tiny_rag, questions, whole, counting, tmp_path):
    said, content = whole
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(content)
    assert walk(tiny_rag, questions[:9], path) == said[:9] and path.read_bytes() == content and counting == []
    path.unlink()
    assert [p.text for p in walk(tiny_rag, questions[:9], path)] == [p.text for p in said[:9]]
    assert walk(tiny_rag, questions, path) == said and path.read_bytes() == content and counting == [8, 1, 8, 4]


def test_a_fingerprint_is_of_model_questions_and_measures(questions):
    first = predictions.fingerprint("model", questions, NAMES, (1, 5))
    assert len(first) == 16 and first == predictions.fingerprint("model", list(questions), NAMES, (1, 5))
    others = {
        predictions.fingerprint("another", questions, NAMES, (1, 5)),
        predictions.fingerprint("model", questions[1:], NAMES, (1, 5)),
        predictions.fingerprint("model", questions, NAMES[:1], (1, 5)),
        predictions.fingerprint("model", questions, NAMES, (1,)),
    }
    assert len(others) == 4 and first not in others


def test_kilts_form_names_every_page_once(tmp_path):
    documents = tuple(Found(i, t, 1.0, 0.2) for i, t in (("7#2", "Ada"), ("9", "Bo"), ("7#1", "Ada")))
    one = Prediction(Question("q1", "who?", ()), "Ada", -1.0, (), documents)
    predictions.write_kilt(tmp_path / "kilt.jsonl", [one, one._replace(documents=())])
    first, second = map(json.loads, (tmp_path / "kilt.jsonl").read_text().splitlines())
    provenance = [{"wikipedia_id": "7", "title": "Ada"}, {"wikipedia_id": "9", "title": "Bo"}]
    assert first == {"id": "q1", "input": "who?", "output": [{"answer": "Ada", "provenance": provenance}]}
    assert second["output"][0]["provenance"] == []
