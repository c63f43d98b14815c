"""Owns matplotlib: the paper's two figures, as PNG files."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

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


def against_k(path: Path, n_docs: Sequence[int], series: Mapping[str, Sequence[float]]) -> None:
    """Draws each measure, in percent, against the number of passages (Lewis et al. 2020, figure 3)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for label, percents in series.items():
        axes.plot(n_docs, percents, marker="o", label=label)
    axes.set(xlabel="passages read", ylabel="percent", xticks=n_docs)
    axes.grid(alpha=0.3)
    axes.legend()
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))


def token_posterior(path: Path, answer: Answer) -> None:
    """Draws p(z|x,y_1..y_i) of every document z and token y_i of an answer (Lewis et al. 2020, figure 2).

    The answer comes with its tokens; UserError where it has none.
    """
    if not answer.tokens:
        fail(f"--plot: the answer to '{answer.question}' is empty, expected tokens to draw")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    titles = [document.title[:40] if document.id else "no document" for document in answer.documents]
    tokens, share_TK = zip(*((token.text.strip(), token.posterior) for token in answer.tokens), strict=True)
    with rc_context({"text.parse_math": False}):  # a dollar is a dollar
        figure = Figure(figsize=(2.5 + 0.5 * len(tokens), 1.2 + 0.35 * len(titles)), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(list(zip(*share_TK, strict=True)), cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(tokens)), tokens, rotation=45, ha="right")
        axes.set_yticks(range(len(titles)), titles)
        axes.set_title(answer.question, wrap=True)
        figure.colorbar(image, label="p(z|x,y)")
        write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))
