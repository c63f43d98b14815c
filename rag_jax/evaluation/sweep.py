"""The measures against the number of passages read (Lewis et al. 2020, figure 3), from one search."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rag_jax.api import Rag
from rag_jax.data.formats import Question
from rag_jax.evaluation import plots
from rag_jax.evaluation.answers import read, retrieve
from rag_jax.evaluation.measures import Totals, holding
from rag_jax.evaluation.sums import Sum
from rag_jax.files import write_json


def sweep(
    rag: Rag, questions: Sequence[Question], n_docs: Sequence[int], names: Sequence[str], path: Path,
    about: Mapping[str, Any],
) -> None:  # fmt: skip
    """Prints a row for every k, writes them to `path` with what they are `about`, and draws them beside it.

    Questions are encoded and searched for once; at each k the first k passages are read, with the prior over them.
    """
    totals = {k: Totals(names, (k,)) for k in sorted(set(n_docs))}
    for batch in retrieve(rag, questions, k=max(totals)):
        for k, total in totals.items():
            for prediction in read(rag, batch._replace(found=batch.found.first(k)), holding=holding(names)):
                total.add(prediction)
    sums = {k: _by_label(total, names, k) for k, total in totals.items()}
    labels = [label for label, found in sums[max(sums)].items() if hasattr(found, "percent")]
    print("  ".join([f"{'passages':>8}", *labels]))
    for k, found in sums.items():
        cells = [f"{found[label].percent:{len(label)}.1f}" for label in labels]
        print("  ".join([f"{k:8}", *cells]), flush=True)
    rows = {str(k): {label: one.json() for label, one in found.items()} for k, found in sums.items()}
    write_json(path, {**about, "questions": len(questions), "n_docs": rows})
    series = {label: [found[label].percent for found in sums.values()] for label in labels}
    picture = path.with_suffix(".png")
    if plots.installed():
        plots.against_k(picture, list(sums), series)
    else:
        print(f"{picture}: not drawn, {plots.MISSING}")


def _by_label(total: Totals, names: Sequence[str], k: int) -> dict[str, Sum]:
    """The sums of the measures themselves, named alike at every k."""
    sums = total.sums()
    return {label.replace(f"@{k}", "@k"): found for name in names for label, found in sums[name].items()}
