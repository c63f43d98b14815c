"""The picture of a run: loss and score of every step that metrics.jsonl and validation.jsonl tell of."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rag_jax.evaluation import plots
from rag_jax.evaluation.plots import Curves
from rag_jax.files import read_sealed_line
from rag_jax.storage import publish, shown
from rag_jax.training.logging import METRICS, RETRIEVER, SCORES

Record = dict[str, Any]


def of_run(folder: Path) -> tuple[list[Curves], str]:
    """The stages of the run in a folder, and what its score is called."""
    return stages(_records(folder / METRICS), _records(folder / SCORES))


def of_retriever(folder: Path) -> tuple[list[Curves], str]:
    """The one stage of train_retriever, whose score is measured in every step."""
    retriever = Curves("retriever", [], [])
    for record in _records(folder / f"{RETRIEVER}{METRICS}"):
        retriever.losses.append((record["step"] + 1, record["loss"]))
        retriever.scores.append((record["step"] + 1, 100 * record["in_batch_accuracy"]))
    return [retriever] if retriever.losses else [], "right passage in its batch"


def stages(metrics: Iterable[Record], scores: Iterable[Record]) -> tuple[list[Curves], str]:
    """The stages in the order of their steps, and what is measured.

    A step is told by how many were done with it; of two evaluations at one step, as after a kill, the later counts.
    """
    found: dict[str, Curves] = {}
    for record in metrics:
        stage = found.setdefault(record["stage"], Curves(record["stage"], [], []))
        stage.losses.append((record["step"] + 1, record["loss"]))
    measure, measured = "score", {record["step"]: record for record in scores}
    for step, record in sorted(measured.items()):
        if record["stage"] in found:
            found[record["stage"]].scores.append((step, 100 * record["value"]))
        measure = f"validation {record['measure']}"
    return list(found.values()), measure


def draw(path: Path, curves: list[Curves], measure: str) -> None:
    """Draws them, if there are any, and says where the picture is, or how to get it; training has ended well."""
    if not curves:
        return
    if not plots.installed():
        print(f"{shown(path)}: not drawn, {plots.MISSING} and give the same command again", flush=True)
        return
    plots.training(path, curves, measure)
    publish(path)
    print(f"{shown(path)}: the run's curves", flush=True)


def _records(path: Path) -> Iterator[Record]:
    """The lines of a file that are whole; none where there is no file."""
    if path.is_file():
        with path.open("rb") as file:
            yield from filter(None, map(read_sealed_line, file))
