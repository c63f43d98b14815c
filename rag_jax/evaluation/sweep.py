"""The measures against the number of passages read (Lewis et al. 2020, figure 3), from one search."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rag_jax.api import Rag
from rag_jax.data.formats import Question
from rag_jax.evaluation import plots
from rag_jax.evaluation.answers import Batch, Holding, Prediction, read
from rag_jax.evaluation.measures import KILT_RECALL, Totals, holding
from rag_jax.evaluation.sums import Sum
from rag_jax.evaluation.walks import Walks
from rag_jax.files import write_json
from rag_jax.storage import publish


def sweep(
    walks: Walks, questions: Sequence[Question], n_docs: Sequence[int], names: Sequence[str], path: Path,
    about: Mapping[str, Any],
) -> None:  # fmt: skip
    """Prints a row for every k, writes them to `path` with what they are `about`, and draws them beside it.

    Questions are encoded and searched for once; at each k the first k passages are read, with the prior over them.
    Of several processes the first does all that follows the answers.
    """
    depths = sorted(set(n_docs))
    readings = {str(k): partial(_read_first, walks.rag, k, holding(names)) for k in depths}
    walked = walks.walk("sweep", questions, readings, k=depths[-1], about=names)
    if not walks.team.first:
        return
    sums = {k: _by_label(walked.predictions(str(k)), names, k) for k in depths}
    percents = {
        k: {label: one.percent for label, one in found.items() if hasattr(one, "percent")} for k, found in sums.items()
    }
    labels = list(percents[max(sums)])
    print("  ".join([f"{'passages':>8}", *labels]))
    for k, found in percents.items():
        cells = [f"{found[label]:{len(label)}.1f}" for label in labels]
        print("  ".join([f"{k:8}", *cells]), flush=True)
    rows = {str(k): {label: one.json() for label, one in found.items()} for k, found in sums.items()}
    write_json(path, {**about, "questions": len(questions), "n_docs": rows})
    series = {label: [found[label] for found in percents.values()] for label in labels}
    picture = path.with_suffix(".png")
    if plots.installed():
        plots.against_k(picture, list(sums), series)
    else:
        print(f"{picture}: not drawn, {plots.MISSING}")
    publish(path, picture)


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
