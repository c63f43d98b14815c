"""The curves of a run: what the records say becomes lines, and the lines a picture of the right size."""

import sys

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from rag_jax.evaluation import plots
from rag_jax.evaluation.plots import Curves, running_mean
from rag_jax.training import curves
from rag_jax.training.logging import RETRIEVER, RunLog

STAGES = ["denoise"] * 2 + ["joint"] * 3


@pytest.fixture
def run(tmp_path):
    """A folder with the numbers of five steps of two stages, the second evaluated twice at its end."""
    with RunLog(tmp_path) as log:
        for step, stage in enumerate(STAGES):
            log.write(step, {"stage": stage, "loss": 8.0 - step})
        for step, value in ((4, 0.25), (5, 0.5), (5, 0.75)):
            log.score(step, "joint", "F1", value)
    return tmp_path


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is saved."""
    saved, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (saved.append(figure), save(figure, *a, **k)))
    return saved


def test_records_become_stages(run):
    denoise, joint = (
        Curves("denoise", [(1, 8), (2, 7)], []),
        Curves("joint", [(3, 6), (4, 5), (5, 4)], [(4, 25), (5, 75)]),
    )
    assert curves.of_run(run) == ([denoise, joint], "validation F1")


def test_what_is_damaged_or_missing_is_not_drawn(run):
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join([*lines[:3], lines[3].replace(b"5.0", b"9.0"), lines[4][:10]]))
    (run / "validation.jsonl").unlink()
    assert curves.of_run(run) == ([Curves("denoise", [(1, 8), (2, 7)], []), Curves("joint", [(3, 6)], [])], "score")
    assert curves.of_run(run / "elsewhere") == ([], "score")


def test_a_retriever_is_one_stage_with_a_score_at_every_step(tmp_path):
    with RunLog(tmp_path, kind=RETRIEVER) as log:
        for step in range(3):
            log.write(step, {"loss": 3.0 - step, "in_batch_accuracy": step / 2})
    (found,), measure = curves.of_retriever(tmp_path)
    assert found == Curves("retriever", [(1, 3), (2, 2), (3, 1)], [(1, 0), (2, 50), (3, 100)])
    assert measure == "right passage in its batch" and curves.of_retriever(tmp_path / "no") == ([], measure)


def test_the_picture_shows_the_stages_side_by_side(run, figures, capsys):
    curves.draw(run / "curves.png", *curves.of_run(run))
    assert capsys.readouterr().out == f"{run / 'curves.png'}: the run's curves\n"
    height, width, _ = imread(run / "curves.png").shape
    assert (width, height) == (1200, 720) and not list(run.glob(".*"))
    above, beside, below, last = figures[0].axes
    assert (above.get_title(), beside.get_title()) == ("denoise", "joint")
    assert (above.get_ylabel(), below.get_ylabel()) == ("loss (nats)", "validation F1 (percent)")
    lines = [[list(line.get_xydata().ravel()) for line in axes.lines] for axes in (above, beside, below, last)]
    assert lines == [[[1, 8, 2, 7]], [[3, 6, 4, 5, 5, 4]], [], [[4, 25, 5, 75]]]
    assert below.texts[0].get_text() == "not\nmeasured" and below.get_ylim() == last.get_ylim() == (0, 1.05 * 75)


def test_without_scores_there_is_one_row(tmp_path, figures):
    plots.training(tmp_path / "a.png", [Curves("joint", [(1, 2.0), (2, 1.0)], [])], "score")
    assert len(figures[0].axes) == 1 and imread(tmp_path / "a.png").shape[:2] == (420, 900)


def test_many_steps_have_a_running_mean(tmp_path, figures):
    losses = [(step, float(step % 2)) for step in range(1, 201)]
    plots.training(tmp_path / "a.png", [Curves("joint", losses, [])], "score")
    thin, mean = figures[0].axes[0].lines
    assert list(thin.get_ydata()[:4]) == [1, 0, 1, 0] and len(thin.get_ydata()) == 200
    assert list(mean.get_ydata()[3:]) == [0.5] * 197 and mean.get_label() == "mean of 4 steps"


def test_a_running_mean_begins_with_what_there_is():
    assert running_mean([4, 2, 6, 0], 2) == [4, 3, 4, 3]
    assert running_mean([4, 2], 5) == [4, 3] and running_mean([], 3) == []


def test_without_matplotlib_training_ends_well(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    curves.draw(run / "curves.png", *curves.of_run(run))
    assert capsys.readouterr().out == (
        f"{run / 'curves.png'}: not drawn, found no package 'matplotlib', expected it installed; "
        "run `pip install rag_jax[plot]` and give the same command again\n"
    )
    assert not (run / "curves.png").exists()


def test_a_run_without_steps_has_no_picture(tmp_path, capsys):
    curves.draw(tmp_path / "curves.png", *curves.of_run(tmp_path))
    assert not list(tmp_path.iterdir()) and capsys.readouterr().out == ""
