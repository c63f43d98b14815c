"""The measures against the number of passages read (Lewis et al. 2020, figure 3), from one search."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rag_jax.api import Rag
from rag_jax.data.formats import Question
from rag_jax.data.tasks import checksum
from rag_jax.errors import fail
from rag_jax.evaluation import plots
from rag_jax.evaluation.answers import Batch, Holding, Prediction, read
from rag_jax.evaluation.measures import KILT_RECALL, Totals, holding
from rag_jax.evaluation.sums import Sum
from rag_jax.evaluation.walks import Walks
from rag_jax.files import read_sealed, write_sealed
from rag_jax.storage import publish, pull, shown, twin

Percents = dict[str, dict[int, float]]  # of a measure, at each number of passages
RECALL = "answer recall@k"


def sweep(
    walks: Walks, questions: Sequence[Question], n_docs: Sequence[int], names: Sequence[str], path: Path,
    about: Mapping[str, Any], beside: Iterable[str] = (),
) -> None:  # fmt: skip
    """Prints a row for every k, writes them to `path` with what they are `about`, and draws them beside it.

    Questions are encoded and searched for once; at each k the first k passages are read, with the prior over them.
    Of several processes the first does all that follows the answers. beside: folders of other runs that were swept over
    the same questions; they and this one are drawn together.
    """
    asked = {"questions": len(questions), "questions_checksum": checksum(questions)}
    others, depths = {folder: _swept(folder, path.name, asked) for folder in beside}, sorted(set(n_docs))
    readings = {str(k): partial(_read_first, walks.rag, k, holding(names)) for k in depths}
    walked = walks.walk("sweep", questions, readings, k=depths[-1], about=names)
    if not walks.team.first:
        return
    sums = {k: _by_label(walked.predictions(str(k)), names, k) for k in depths}
    rows = {str(k): {label: one.json() for label, one in found.items()} for k, found in sums.items()}
    lines = _percents(rows)
    print("  ".join([f"{'passages':>8}", *lines]))
    for k in depths:
        cells = [f"{line[k]:{len(label)}.1f}" for label, line in lines.items()]
        print("  ".join([f"{k:8}", *cells]), flush=True)
    write_sealed(path, {**about, **asked, "n_docs": rows})
    pictures = {path.with_suffix(".png"): {"percent": lines}}
    if others:
        pictures[path.with_name(f"{path.stem}_beside.png")] = _together({shown(path.parent): lines, **others})
    for picture, panels in pictures.items():
        if plots.installed():
            plots.against_k(picture, panels)
        else:
            print(f"{picture}: not drawn, {plots.MISSING}")
    publish(path, *pictures)


def _percents(rows: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Percents:
    """The lines of the rows of a sweep.json: of all measures that have a percent."""
    depths = sorted(rows, key=int)
    labels = [label for label, found in rows[depths[-1]].items() if "percent" in found]
    return {label: {int(k): rows[k][label]["percent"] for k in depths} for label in labels}


def _swept(folder: str, name: str, asked: Mapping[str, Any]) -> Percents:
    """The lines of another run's sweep over the same questions."""
    path = pull(twin(folder) / name)
    if not path.is_file():
        again = f"`python -m rag_jax.evaluate --workdir={folder} --sweep=...` first, with the same --split and --limit"
        fail(f"--beside={folder}: found no {name}, expected a run that was swept; run {again}")
    found = read_sealed(path)
    if any(found.get(key) != value for key, value in asked.items()):
        count = asked["questions"]
        fail(
            f"--beside={folder}: found a sweep of {found.get('questions')} others, expected the same {count} questions"
        )
    return _percents(found["n_docs"])


def _together(runs: Mapping[str, Percents]) -> dict[str, Percents]:
    """The panels of the paper's figure 3, the headline and answer recall, with a line for each run that has them."""
    headline = next(iter(next(iter(runs.values()))))
    panels = {label: {name: run[label] for name, run in runs.items() if label in run} for label in (headline, RECALL)}
    return {f"{label} (percent)": lines for label, lines in panels.items() if lines}


def _read_first(rag: Rag, k: int, held: Holding | None, batch: Batch) -> list[Prediction]:
    return read(rag, batch._replace(found=batch.found.first(k)), holding=held)


def _by_label(predictions: Iterable[Prediction], names: Sequence[str], k: int) -> dict[str, Sum]:
    """The sums of the measures themselves, named alike at every k."""
    total = Totals(names, (k,))
    for prediction in predictions:
        total.add(prediction)
    sums = total.sums()
    named = ((label, found) for name in names for label, found in sums[name].items())
    return {label if label == KILT_RECALL else label.replace(f"@{k}", "@k"): found for label, found in named}
