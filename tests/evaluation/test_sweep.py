"""The sweep over the number of passages, against runs of their own at each number."""

import json
import sys

import pytest

from rag_jax.data import tasks
from rag_jax.errors import UserError
from rag_jax.evaluation import plots
from rag_jax.evaluation.answers import predict
from rag_jax.evaluation.measures import Totals
from rag_jax.evaluation.sweep import sweep
from rag_jax.evaluation.walks import Walks

NAMES = ("exact_match", "f1", "gold_recall", "answer_recall")


@pytest.fixture(scope="module")
def questions(tiny_run):
    """Ten, in batches of eight and two."""
    return tasks.TASKS["qa"].questions(str(tiny_run.folder / "test.jsonl"))


@pytest.fixture
def swept(tiny_rag, questions, tmp_path):
    """swept(numbers, questions) sweeps and returns what is written."""

    def run(n_docs=(3, 1, 1), asked=questions, names=NAMES, beside=()):
        walks = Walks(tiny_rag, tmp_path / "kept", "model")
        sweep(walks, asked, n_docs, names, tmp_path / "sweep.json", {"of": "model"}, beside)
        walks.clear()
        return json.loads((tmp_path / "sweep.json").read_text())

    return run


def test_kilts_own_place_is_no_number_of_passages_read(swept):
    found = swept((1, 5), names=("kilt",))["n_docs"]
    assert "KILT recall@5" in found["5"] and found["1"].keys() == found["5"].keys()


@pytest.fixture
def searched(tiny_rag, monkeypatch):
    """The depth of every search."""
    retrieve, depths = tiny_rag.retrieve, []
    monkeypatch.setattr(tiny_rag, "retrieve", lambda texts, k: depths.append(k) or retrieve(texts, k=k))
    return depths


def test_at_every_k_it_is_a_run_of_its_own(tiny_rag, questions, swept, searched, tmp_path, capsys):
    """From one search: of the deepest k, a batch after the other."""
    pytest.importorskip("matplotlib")
    found = swept()
    assert searched == [3, 3] and list(found) == ["of", "questions", "questions_checksum", "n_docs", "seal"]
    assert list(found["n_docs"]) == ["1", "3"]
    for k in (1, 3):
        totals = Totals(NAMES, (k,))
        for prediction in predict(tiny_rag, questions, k=k):
            totals.add(prediction)
        alone, one = totals.sums(), found["n_docs"][str(k)]
        assert one["EM"] == alone["exact_match"]["EM"].json() and one["F1"] == alone["f1"]["F1"].json()
        assert one["recall@k"] == alone["gold_recall"][f"recall@{k}"].json()
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["passages", "1", "3"]
    recall = [found["n_docs"][k]["answer recall@k"] for k in ("1", "3")]
    assert said[2].split()[-1] == f"{recall[-1]['percent']:.1f}"
    assert recall[0]["sum"] <= recall[1]["sum"]
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep.json", "sweep.png"]


def test_other_runs_are_drawn_beside_it(swept, questions, searched, tmp_path, monkeypatch):
    """The paper's two panels, with a line for each run that has the measure."""
    pytest.importorskip("matplotlib")
    rows = {"1": {"EM": {"percent": 10.0}, "answer recall@k": {"percent": 20.0}, "left out": {"count": 3}}}
    rows |= {"10": {"EM": {"percent": 30.0}}}
    for name, found in (("bm25", {"1": rows["1"]}), ("frozen", rows)):
        (tmp_path / name).mkdir()
        asked = {"questions": len(questions), "questions_checksum": tasks.checksum(questions)}
        (tmp_path / name / "sweep.json").write_text(json.dumps({**asked, "n_docs": found}))
    drawn = {}
    monkeypatch.setattr(plots, "against_k", lambda path, panels: drawn.update({path.name: panels}))
    bm25, frozen = (str(tmp_path / name) for name in ("bm25", "frozen"))
    own = swept(beside=[bm25, frozen])["n_docs"]
    panels = drawn["sweep_beside.png"]
    assert list(drawn) == ["sweep.png", "sweep_beside.png"] and list(panels) == [
        "EM (percent)",
        "answer recall@k (percent)",
    ]
    assert panels["EM (percent)"] == {
        str(tmp_path): {k: own[str(k)]["EM"]["percent"] for k in (1, 3)},
        bm25: {1: 10.0},
        frozen: {1: 10.0, 10: 30.0},
    }
    assert list(panels["answer recall@k (percent)"]) == [str(tmp_path), bm25]
    searched.clear()
    for asked in (questions[:2], questions[::-1]):
        count = len(asked)
        with pytest.raises(
            UserError, match=rf"--beside={bm25}: found a sweep of 10 others, expected the same {count} q"
        ):
            swept(asked=asked, beside=[bm25])
    with pytest.raises(UserError, match=r"--beside=none: found no sweep.json, expected .* --workdir=none --sweep="):
        swept(beside=["none"])
    assert searched == []


class Killed(BaseException):
    """Stops a sweep wherever it is."""


@pytest.mark.parametrize(("reads", "searches"), [(1, [3, 3]), (3, [3])])
def test_a_killed_sweep_goes_on_where_it_was(tiny_rag, swept, searched, tmp_path, monkeypatch, capsys, reads, searches):
    """Of two batches at two depths. A batch is searched for again where a depth of it is missing."""
    whole = swept(), (tmp_path / "sweep.json").read_bytes()
    (tmp_path / "sweep.json").unlink()
    read, left = tiny_rag.read, [reads]

    def killing(*arguments):
        if not left[0]:
            raise Killed
        left[0] -= 1
        return read(*arguments)

    monkeypatch.setattr(tiny_rag, "read", killing)
    with pytest.raises(Killed):
        swept()
    assert not (tmp_path / "sweep.json").exists()
    left[0] = 4 - reads  # what is missing, and no more
    searched.clear()
    capsys.readouterr()
    assert (swept(), (tmp_path / "sweep.json").read_bytes()) == whole and left == [0] and searched == searches
    assert f": going on, {reads} batches are there" in capsys.readouterr().out
    assert not (tmp_path / "kept").exists()


def test_without_matplotlib_the_numbers_are_written_and_the_picture_is_missed(
    questions, swept, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    swept((1,), questions[:2])
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]
    assert "sweep.png: not drawn, found no package 'matplotlib'" in capsys.readouterr().out
