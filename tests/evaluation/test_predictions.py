"""A line of predictions.jsonl says all of a prediction; and KILT's form."""

import json
import math

import pytest

from rag_jax.data.formats import Passage, Question
from rag_jax.evaluation import predictions
from rag_jax.evaluation.answers import Found, Prediction


def test_a_line_is_read_as_it_was_written(tmp_path):
    """Also of what nobody has read, and where other answers count than the question's."""
    questions = [Question(str(n), "who?", ("Ada",)) for n in range(3)]
    seen = Found("7#2", "Ada", 0.1 + 0.2, 1 / 3, posterior=2 / 3, holds_answer=True)
    said = [
        Prediction(questions[0], "Bo\n", -0.1, ("Bo", "B."), (seen,)),
        Prediction(questions[1], "", math.nan, ("Ada",), (Found("9", "Bö", 1.0, 0.5),)),
    ]
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(map(predictions.line, said)), encoding="utf-8")
    held = predictions.read_lines(path, questions)
    assert str([prediction for prediction, _ in held]) == str(said) and held[-1][1] == path.stat().st_size
    assert json.loads(predictions.line(said[0]))["measures"] == {}
    assert json.loads(predictions.line(said[0], ("exact_match",)))["measures"] == {
        "EM": 1.0, "EM where a passage holds the answer": 1.0,
    }  # fmt: skip


def test_a_fingerprint_is_of_model_questions_and_measures():
    questions = [Question(str(n), "who?", ("Ada",)) for n in range(3)]
    first = predictions.fingerprint("model", questions, ("f1",), (1, 5))
    assert len(first) == 16 and first == predictions.fingerprint("model", list(questions), ("f1",), (1, 5))
    others = {
        predictions.fingerprint("another", questions, ("f1",), (1, 5)),
        predictions.fingerprint("model", questions[1:], ("f1",), (1, 5)),
        predictions.fingerprint("model", questions, ("f1", "bleu_1"), (1, 5)),
        predictions.fingerprint("model", questions, ("f1",), (1,)),
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


class Corpus(list):
    """Passages by row, with their ids."""

    def ids(self):
        return (passage.id for passage in self)


@pytest.mark.parametrize(
    ("passages", "evidence", "note"),
    [
        ((("1", "Ada"), ("2", "Ada"), ("3", "Bo")), ("1",), "found 'Ada' as '1' and '2', expected ids of passages"),
        ((("7#1", "Ada"), ("7#2", "Ada"), ("9", "Bo")), ("7",), ""),
        (
            (("7#1", "Ada"), ("9#1", "Bo")),
            ("8", "6"),
            "found none of the 2 that prove the questions' answers, expected",
        ),
        ((("7#1", "Ada"), ("9#1", "Bo")), (), ""),
        ((("1", ""), ("2", "")), (), ""),
    ],
)
def test_ids_that_are_no_pages_of_wikipedia_are_told(passages, evidence, note):
    questions = [Question("q", "who?", ("Ada",), evidence=(evidence,))]
    told = predictions.kilt_note(Corpus(Passage(*one, "text") for one in passages), questions)
    assert note in told and bool(told) == bool(note)
