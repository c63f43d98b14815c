"""ScaNN on the host: brute force for small corpora; tree, anisotropic hashing and exact reordering for large.

The one file that imports scann. Two builds of the same vectors give two searchers: one is built, saved with
relative paths, and from then on only loaded.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from rag_jax.errors import fail
from rag_jax.index.vectors import Vectors

BRUTE_FORCE_BELOW = 20_000  # passages; a batch of 64 takes a few milliseconds there and nothing is missed
METHODS = {
    "brute_force": set(),
    "tree": {"leaves", "leaves_to_search", "training_sample", "block_width", "anisotropy", "reorder"},
}


def parameters(count: int, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """How to search `count` passages; `overrides` replaces values, 'method' included.

    leaves: about 2 sqrt(N).  leaves_to_search: leaves^(3/4), a quarter at 20,000 passages, a tenth at 21M.
    training_sample: how many vectors train tree and codebooks.  block_width: dimensions per code.
    anisotropy: threshold as a fraction of the vectors' mean length (Guo et al. 2020, section 3).
    reorder: how many candidates are scored exactly.
    Raises UserError for an unknown name or a value that is no positive number.
    """
    overrides = dict(overrides or {})
    method = overrides.pop("method", "brute_force" if count < BRUTE_FORCE_BELOW else "tree")
    if method not in METHODS:
        fail(f"ScaNN parameter method: {method!r}; expected one of {sorted(METHODS)}")
    if unknown := sorted(overrides.keys() - METHODS[method]):
        fail(f"ScaNN parameters: {unknown} unknown to method {method!r}; it has {sorted(METHODS[method])}")
    for name, value in overrides.items():
        if not isinstance(value, int | float) or value <= 0 or (name != "anisotropy" and value != int(value)):
            fail(f"ScaNN parameter {name}: {value!r}; expected a positive number (whole, but for anisotropy)")
    if method == "brute_force":
        return {"method": method}
    leaves = int(overrides.get("leaves", max(1, round(2 * count**0.5))))
    defaults = {
        "leaves": leaves,
        "leaves_to_search": max(1, round(leaves**0.75)),
        "training_sample": min(count, max(100_000, 50 * leaves)),
        "block_width": 2,
        "anisotropy": 0.2,
        "reorder": 200,
    }
    chosen = {**defaults, **overrides}
    if not chosen["leaves_to_search"] <= chosen["leaves"] <= count:
        fail(
            f"ScaNN parameters: leaves_to_search {chosen['leaves_to_search']}, leaves {chosen['leaves']}, "
            f"passages {count}; expected leaves_to_search <= leaves <= passages"
        )
    return {"method": method, **chosen}


def build(vectors: Vectors, folder: Path, chosen: dict[str, Any]) -> None:
    """Trains a searcher over all vectors (held in memory as fp32) and saves it in the empty `folder`."""
    ops = require()
    vector_NE = np.asarray(vectors.read(0, len(vectors)), np.float32)
    # bf16 vectors are their own bf16 copies: half the memory, the same scores.
    exact = (
        ops.scann_builder.ReorderType.FLOAT32 if vectors.dtype == np.float32 else ops.scann_builder.ReorderType.BFLOAT16
    )
    builder = ops.builder(vector_NE, 10, "dot_product")
    if chosen["method"] == "brute_force":
        builder = builder.score_brute_force(exact)
    else:
        length = float(np.linalg.norm(vector_NE, axis=1).mean())
        sample = chosen["training_sample"]
        builder = (
            builder.tree(chosen["leaves"], chosen["leaves_to_search"], training_sample_size=sample)
            .score_ah(chosen["block_width"], chosen["anisotropy"] * length, training_sample_size=sample)
            .reorder(chosen["reorder"], exact)
        )
    # relative_path: scann_assets.pbtxt would otherwise hold absolute paths and a moved index would not open.
    builder.build().serialize(str(folder), relative_path=True)


class ScannSearcher:
    """A saved searcher, opened."""

    def __init__(self, folder: Path, chosen: dict[str, Any]):
        ops = require()
        self._reorder = chosen.get("reorder")
        self._threads = len(os.sched_getaffinity(0))
        # Not ops.load_searcher: it unpickles a file if it finds one.
        try:
            assets = (folder / "scann_assets.pbtxt").read_text()
            self._searcher = ops.ScannSearcher(ops.scann_pybind.ScannNumpy(str(folder), assets))
        except (OSError, RuntimeError) as error:
            fail(
                f"{folder}: ScaNN cannot load its files ({error}); restore them or build the index again "
                "with `python -m rag_jax.build_index`"
            )

    def search(self, vector_BE: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (id_BK int64, score_BK fp32), score descending, then id ascending.

        Scores are the inner products themselves. Places that ScaNN leaves empty (k above the
        corpus, or above what the searched leaves hold) get id -1 and score -inf.
        """
        candidates = None if self._reorder is None else max(self._reorder, 2 * k)
        share = -(-len(vector_BE) // self._threads)
        vector_BE = np.ascontiguousarray(vector_BE, np.float32)
        id_BK, score_BK = self._searcher.search_batched_parallel(vector_BE, k, candidates, batch_size=share)
        missing_BK = np.isnan(score_BK)
        id_BK = np.where(missing_BK, -1, id_BK.astype(np.int64))
        score_BK = np.where(missing_BK, np.float32(-np.inf), score_BK)
        order_BK = np.lexsort((id_BK, -score_BK), axis=-1)
        return np.take_along_axis(id_BK, order_BK, 1), np.take_along_axis(score_BK, order_BK, 1)


def require() -> Any:
    """Imports scann, or says in one line where it exists and what to use elsewhere."""
    try:
        from scann.scann_ops.py import scann_ops_pybind
    except ImportError as error:
        fail(
            f"ScaNN: cannot be imported ({error}); it has wheels for Linux x86_64 only: "
            "`pip install scann` there, elsewhere set index.kind = 'exact'"
        )
    return scann_ops_pybind
