"""Owns matplotlib: the paper's two figures and the curves of a training run, as PNG files."""

import os
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from rag_jax.api import Answer
from rag_jax.errors import fail
from rag_jax.files import write_atomically

MISSING = "found no package 'matplotlib', expected it installed; run `pip install rag_jax[plot]`"


def installed() -> bool:
    """Whether anything can be drawn."""
    return find_spec("matplotlib") is not None


def check_installed(flag: str) -> None:
    """UserError naming the flag without matplotlib."""
    if not installed():
        fail(f"{flag}: {MISSING}")


@cache
def _figure_class() -> Any:
    """matplotlib's Figure; its list of fonts is made anew, so that the user's folders stay as they are."""
    with TemporaryDirectory() as folder:
        kept = os.environ.setdefault("MPLCONFIGDIR", folder)
        try:
            from matplotlib.figure import Figure
        finally:
            if kept == folder:
                del os.environ["MPLCONFIGDIR"]
    return Figure


def against_k(path: Path, panels: Mapping[str, Mapping[str, Mapping[int, float]]]) -> None:
    """Draws percents against the number of passages (Lewis et al. 2020, figure 3): panel -> line -> k -> percent."""
    figure = _figure_class()(figsize=(6 * len(panels), 4), layout="constrained")
    columns = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (ylabel, lines) in zip(columns, panels.items(), strict=True):
        for label, percents in lines.items():
            axes.plot(list(percents), list(percents.values()), marker="o", label=label)
        axes.set(xlabel="passages read", ylabel=ylabel, xticks=sorted({k for line in lines.values() for k in line}))
        axes.grid(alpha=0.3)
        axes.legend()
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))


def token_posterior(path: Path, answer: Answer) -> None:
    """Draws p(z|x,y_1..y_i) of every document z and token y_i of an answer (Lewis et al. 2020, figure 2).

    The answer comes with its tokens; UserError where it has none.
    """
    if not answer.tokens:
        fail(f"--plot: the answer to '{answer.question}' is empty, expected tokens to draw")
    figure_class = _figure_class()
    from matplotlib import rc_context

    titles = [document.title[:40] if document.id else "no document" for document in answer.documents]
    tokens, share_TK = zip(*((token.text.strip(), token.posterior) for token in answer.tokens), strict=True)
    with rc_context({"text.parse_math": False}):  # a dollar is a dollar
        figure = figure_class(figsize=(2.5 + 0.5 * len(tokens), 1.2 + 0.35 * len(titles)), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(list(zip(*share_TK, strict=True)), cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(tokens)), tokens, rotation=45, ha="right")
        axes.set_yticks(range(len(titles)), titles)
        axes.set_title(answer.question, wrap=True)
        figure.colorbar(image, label="p(z|x,y)")
        write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))


class Curves(NamedTuple):
    """One stage of a training run: (step of the run, loss), and (step of the run, percent) where it was measured."""

    stage: str
    losses: list[tuple[int, float]]
    scores: list[tuple[int, float]]


def training(path: Path, stages: Sequence[Curves], measure: str) -> None:
    """Draws losses above and scores below, the stages side by side; without any score there is one row.

    measure: what the scores are called. Every stage has a scale of its own for its loss, all have one for the scores.
    """
    figure_class = _figure_class()
    from matplotlib import rc_context

    tops = [percent for stage in stages for _, percent in stage.scores]
    counts, rows = [len(stage.losses) for stage in stages], 1 + bool(tops)
    figure = figure_class(figsize=(5 + 2.5 * len(stages), 1 + 2.5 * rows), layout="constrained")
    widths = [max(count, sum(counts) / (2 * len(counts))) for count in counts]  # none is too narrow to be read
    panels = figure.subplots(rows, len(stages), sharex="col", squeeze=False, width_ratios=widths)
    for number, (stage, column) in enumerate(zip(stages, panels.T, strict=True)):
        column[0].set(title=stage.stage, ylabel="" if number else "loss (nats)")
        _line(column[0], stage.losses, "C0", "upper right")
        if tops:
            column[1].set(ylim=(0, max(1.0, 1.05 * max(tops))), ylabel="" if number else f"{measure} (percent)")
            _line(column[1], stage.scores, "C1", "lower right")
    figure.supxlabel("step of the run", fontsize="medium")
    with rc_context({"agg.path.chunksize": 10_000}):  # a line of a million steps is more than Agg takes at once
        write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))


def _line(axes: Any, points: Sequence[tuple[int, float]], color: str, free: str) -> None:
    """A thin line with its running mean over a fiftieth of it; few points are dots, and have no mean.

    free: the corner for the legend.
    """
    axes.grid(alpha=0.3)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if not points:
        axes.text(0.5, 0.5, "not\nmeasured", ha="center", transform=axes.transAxes, color="gray")
        return
    steps, values = zip(*points, strict=True)
    window = len(points) // 50
    if window < 2:
        axes.plot(steps, values, color=color, marker=".")
        return
    axes.plot(steps, values, color=color, alpha=0.3, linewidth=0.7, label="every step")
    axes.plot(steps, running_mean(values, window), color=color, label=f"mean of {window} steps")
    axes.legend(loc=free)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Of each value and those before it, so many in all as the window holds, or as there are."""
    sums = [0.0, *accumulate(values)]
    return [(sums[stop] - sums[max(stop - window, 0)]) / min(stop, window) for stop in range(1, len(sums))]
