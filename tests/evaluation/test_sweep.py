"""The sweep over the number of passages, against runs of their own at each number."""

import json
import sys

import pytest

from rag_jax.data import tasks
from rag_jax.evaluation.answers import predict
from rag_jax.evaluation.measures import Totals
from rag_jax.evaluation.sweep import sweep

NAMES = ("exact_match", "f1", "gold_recall", "answer_recall")


@pytest.fixture(scope="module")
def questions(tiny_run):
    return tasks.TASKS["qa"].questions(str(tiny_run.folder / "test.jsonl"))


def test_at_every_k_it_is_a_run_of_its_own(tiny_rag, questions, tmp_path, monkeypatch, capsys):
    """From one search: of the deepest k, a batch after the other."""
    pytest.importorskip("matplotlib")
    retrieve, searched = tiny_rag.retrieve, []
    monkeypatch.setattr(tiny_rag, "retrieve", lambda texts, k: searched.append(k) or retrieve(texts, k=k))
    sweep(tiny_rag, questions, (3, 1, 1), NAMES, tmp_path / "sweep.json", {"of": "model"})
    assert searched == [3, 3]
    swept = json.loads((tmp_path / "sweep.json").read_text())
    assert list(swept) == ["of", "questions", "n_docs"] and list(swept["n_docs"]) == ["1", "3"]
    for k in (1, 3):
        totals = Totals(NAMES, (k,))
        for prediction in predict(tiny_rag, questions, k=k):
            totals.add(prediction)
        alone, found = totals.sums(), swept["n_docs"][str(k)]
        assert found["EM"] == alone["exact_match"]["EM"].json() and found["F1"] == alone["f1"]["F1"].json()
        assert found["recall@k"] == alone["gold_recall"][f"recall@{k}"].json()
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["passages", "1", "3"]
    recall = [swept["n_docs"][k]["answer recall@k"] for k in ("1", "3")]
    assert said[2].split()[-1] == f"{recall[-1]['percent']:.1f}"
    assert recall[0]["sum"] <= recall[1]["sum"]
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_numbers_are_written_and_the_picture_is_missed(
    tiny_rag, questions, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    sweep(tiny_rag, questions[:2], (1,), NAMES, tmp_path / "sweep.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]
    assert "sweep.png: not drawn, found no package 'matplotlib'" in capsys.readouterr().out
