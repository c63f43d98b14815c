"""What each index.kind searches with: the searchers' parameters, their files, and how they are opened."""

import operator
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rag_jax.data.passages import PassageStore
from rag_jax.errors import fail
from rag_jax.folders import link_folder
from rag_jax.index import bm25, exact, scann
from rag_jax.index.bm25 import Bm25Searcher
from rag_jax.index.exact import ExactSearcher
from rag_jax.index.scann import ScannSearcher
from rag_jax.index.vectors import Vectors
from rag_jax.progress import waiting

SEARCHERS = {"scann": ("scann",), "exact": ("exact",), "bm25": ("bm25",), "hybrid": ("scann", "bm25")}
Parameters = Mapping[str, Mapping[str, Any]]  # of each searcher, by its name


class Searcher(Protocol):
    """What compares vectors."""

    def search(self, vector_BE: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]: ...


def has_vectors(kind: str) -> bool:
    """Whether an index of this kind holds passages' vectors, and asks for questions' embeddings."""
    return kind not in ("bm25", "none")


def parameters(kind: str, count: int, told: Parameters) -> dict[str, dict[str, Any]]:
    """How the searchers of this kind search `count` passages; told: config.index's group of each searcher.

    Raises UserError for what no searcher can be built with, hours of encoding before one is.
    """
    if kind not in SEARCHERS:
        fail(f"index.kind: {kind!r}; expected one of {list(SEARCHERS)}")
    overrides = sorted(name for name, value in told.get("scann", {}).items() if value)
    if overrides and "scann" not in SEARCHERS[kind]:
        fail(f"index.scann: {overrides} are parameters of ScaNN; index.kind {kind!r} has none; remove them")
    makers = {
        "scann": lambda: scann.parameters(count, told.get("scann")),
        "exact": lambda: exact.parameters(told.get("exact")),
        "bm25": lambda: bm25.parameters(told["bm25"]),
    }
    return {name: makers[name]() for name in SEARCHERS[kind]}


def build(
    folder: Path,
    vectors: Vectors | None,
    store: PassageStore,
    chosen: Parameters,
    *,
    old: tuple[Path, Parameters] | None,
    log: Callable[[str], None],
) -> None:
    """Writes the searchers' files into `folder`.

    old: an index of the same passages and vectors, with its parameters: what another build would make again is taken.
    """
    same = {"scann": scann.same_files, "bm25": operator.eq}
    stated = {"scann": scann.stated, "bm25": bm25.stated}
    for name in ("scann", "bm25"):
        shutil.rmtree(folder / name, ignore_errors=True)
        if name not in chosen:
            continue
        ready = old if old and name in old[1] and same[name](old[1][name], chosen[name]) else None
        log(f"{folder}: {stated[name](chosen[name])}{'; its files are taken over' if ready else ''}")
        if ready:
            link_folder(ready[0] / name, folder / name)
            continue
        (folder / name).mkdir()
        with waiting(f"{folder / name}: being built", log):
            if name == "bm25":
                bm25.build(store, folder / name, chosen[name])
            else:
                assert vectors is not None  # which every kind with ScaNN has
                scann.build(vectors, folder / name, chosen[name])


def open_searchers(
    folder: Path, kind: str, made: str, chosen: Parameters, vectors: Vectors | None
) -> tuple[Searcher | None, Bm25Searcher | None]:
    """What compares vectors and what compares words, of what a kind of search needs; None where it needs none.

    made: the kind that the index was built for, with the parameters `chosen`.
    """
    needed = SEARCHERS.get(kind, (kind,))
    if kind == "exact" and vectors is not None:
        return ExactSearcher(vectors, **chosen.get("exact", {})), None
    if not set(needed) <= set(chosen):
        fail(
            f"{folder}: made for index.kind = {made!r}, it cannot be searched as {kind!r}; build it again with "
            "`python -m rag_jax.build_index`"
        )
    by_vector = None
    if "scann" in needed:
        assert vectors is not None  # which every kind with ScaNN has
        by_vector = ScannSearcher(folder / "scann", chosen["scann"], vectors)
    return by_vector, Bm25Searcher(folder / "bm25", chosen["bm25"]) if "bm25" in needed else None
