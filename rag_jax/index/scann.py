"""ScaNN on the host: brute force for small corpora; tree, anisotropic hashing and exact reordering for large.

The one file that imports scann. Two builds of the same vectors give two searchers: one is built, saved with
relative paths, and from then on only loaded.
"""

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rag_jax.errors import fail
from rag_jax.index.vectors import Stored

BRUTE_FORCE_BELOW = 20_000  # passages; a batch of 64 takes a few milliseconds there and nothing is missed
LEAST_LEAVES = 100  # questions lie further from the passages than these from each other: benchmarks/retrieval.py
AT_SEARCH = {"leaves_to_search", "reorder"}  # a searcher that is built takes other values of these
SOAR_LAMBDA = 1.5  # of every vector's second leaf (Sun et al. 2023, arXiv 2404.00774), by ScaNN's documentation
METHODS = {
    "brute_force": set(),
    "tree": {"leaves", "training_sample", "block_width", "anisotropy", "reorder_dtype", *AT_SEARCH},
}


def parameters(count: int, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """How to search `count` passages; `overrides` (config.index.scann) replaces values but for 0 and ''.

    method: below BRUTE_FORCE_BELOW 'brute_force', which misses nothing; else 'tree', of which:
    leaves: 2 sqrt(N); each vector lies in two (SOAR).
    leaves_to_search: 2.5 sqrt(leaves), at least LEAST_LEAVES: a third of them at 20,000 passages, a fortieth at 21M.
    training_sample: how many vectors train tree and codebooks.  block_width: dimensions per code of 4 bits.
    anisotropy: threshold as a fraction of the vectors' mean length (Guo et al. 2020, section 3).
    reorder: how many candidates are scored again, 12 N^(1/5): more neighbours lie closer together, and codes confuse
      them.  reorder_dtype: of the vectors for that, '' being the index's.
    Chosen so that recall@20 is 0.98 or so on real and made vectors: tests/benchmarks/scann.py.
    Raises UserError for an unknown name, or a number that is not positive.
    """
    given = {name: value for name, value in (overrides or {}).items() if value != "" and value != 0}
    method = given.pop("method", "brute_force" if count < BRUTE_FORCE_BELOW else "tree")
    if method not in METHODS:
        fail(f"index.scann.method: {method!r}; expected one of {sorted(METHODS)}")
    if unknown := sorted(given.keys() - METHODS[method]):
        fail(
            f"index.scann: {unknown} unknown to method {method!r}, which {count:,} passages are searched with; it has "
            f"{sorted(METHODS[method])}; remove them or set index.scann.method = 'tree'"
        )
    for name, value in given.items():
        if name != "reorder_dtype" and (value < 0 or (name != "anisotropy" and value != int(value))):
            fail(f"index.scann.{name}: {value!r}; expected a positive number (whole, but for anisotropy)")
    if method == "brute_force":
        return {"method": method}
    leaves = given.get("leaves", min(count, round(2 * count**0.5)))
    defaults = {
        "leaves": leaves,
        "leaves_to_search": min(leaves, max(LEAST_LEAVES, round(2.5 * leaves**0.5))),
        "training_sample": min(count, max(100_000, 50 * leaves)),
        "block_width": 2,
        "anisotropy": 0.2,
        "reorder": round(12 * count**0.2),
        "reorder_dtype": "",
    }
    chosen = {**defaults, **given}
    if not chosen["leaves_to_search"] <= chosen["leaves"] <= count:
        fail(
            f"index.scann: leaves_to_search {chosen['leaves_to_search']}, leaves {chosen['leaves']}, "
            f"passages {count}; expected leaves_to_search <= leaves <= passages"
        )
    return {"method": method, **chosen}


def stated(chosen: Mapping[str, Any]) -> str:
    """The parameters in words, for people."""
    return "ScaNN: " + ", ".join(f"{name} {value}" for name, value in chosen.items() if value != "")


def same_files(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two sets of parameters make the same searcher of the same vectors, and differ when it searches."""
    differ = {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}
    return differ <= AT_SEARCH


def memory(chosen: Mapping[str, Any], count: int, width: int, itemsize: int) -> int:
    """Bytes that an open searcher of `count` vectors [E] holds, which the index stores in `itemsize` bytes a number."""
    scored = count * width * (1 if chosen.get("reorder_dtype") == "int8" else itemsize)
    if chosen["method"] == "brute_force":
        return scored
    codes = -(-width // chosen["block_width"])  # of half a byte; each vector lies in two leaves
    return scored + count * 2 * (-(-codes // 2) + 4) + chosen["leaves"] * width * 4


def building(chosen: Mapping[str, Any], count: int, width: int) -> int:
    """Bytes that `build` holds at the most, as measured with ScaNN 1.4.2.

    All vectors as fp32 three times, here, in ScaNN, and less the centres of their leaves; of a tree its sample twice.
    The searcher comes when the third is gone, and is smaller.
    """
    return 4 * width * (3 * count + 2 * chosen.get("training_sample", 0))


def build(vectors: Stored, folder: Path, chosen: Mapping[str, Any]) -> None:
    """Trains a searcher over all vectors and saves it in the empty `folder`; what that holds is told by `building`."""
    ops = require()
    vector_NE = np.asarray(vectors.read(0, len(vectors)), np.float32)
    kinds = ops.scann_builder.ReorderType
    # bf16 vectors are their own bf16 copies: half the memory, the same scores.
    exact = kinds.FLOAT32 if vectors.dtype == np.float32 else kinds.BFLOAT16
    builder = ops.builder(vector_NE, 10, "dot_product")
    if chosen["method"] == "brute_force":
        builder = builder.score_brute_force(exact)
    else:
        # Not np.linalg.norm, which holds the squares of all numbers at once: another copy.
        length = float(np.sqrt(np.einsum("NE,NE->N", vector_NE, vector_NE)).mean())
        sample = chosen["training_sample"]
        builder = (
            builder.tree(
                chosen["leaves"], chosen["leaves_to_search"], training_sample_size=sample, soar_lambda=SOAR_LAMBDA
            )
            .score_ah(chosen["block_width"], chosen["anisotropy"] * length, training_sample_size=sample)
            .reorder(chosen["reorder"], kinds.INT8 if chosen["reorder_dtype"] == "int8" else exact)
        )
    # relative_path: scann_assets.pbtxt would otherwise hold absolute paths and a moved index would not open.
    builder.build().serialize(str(folder), relative_path=True)


class ScannSearcher:
    """A saved searcher of `vectors`, opened."""

    def __init__(self, folder: Path, chosen: Mapping[str, Any], vectors: Stored):
        ops = require()
        self.chosen = dict(chosen)
        self._vectors = vectors
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

    def changed(self, **parameters: int) -> "ScannSearcher":
        """The same searcher with other parameters of AT_SEARCH."""
        other = copy.copy(self)
        other.chosen = self.chosen | parameters
        return other

    def search(self, vector_BE: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (id_BK int64, score_BK fp32), score descending, then id ascending.

        Scores are the inner products themselves. Places that ScaNN leaves empty (k above the
        corpus, or above what the searched leaves hold) get id -1 and score -inf.
        """
        by_int8 = self.chosen.get("reorder_dtype") == "int8"
        wanted = k + k // 4 + 4 if by_int8 else k  # int8 takes close neighbours for one another
        candidates = leaves = None
        if self.chosen["method"] == "tree":
            candidates, leaves = max(self.chosen["reorder"], 4 * k), self.chosen["leaves_to_search"]
        share = -(-len(vector_BE) // self._threads)
        vector_BE = np.ascontiguousarray(vector_BE, np.float32)
        id_BM, score_BM = self._searcher.search_batched_parallel(
            vector_BE, wanted, candidates, leaves, batch_size=share
        )
        missing_BM = np.isnan(score_BM)
        id_BM = np.where(missing_BM, -1, id_BM.astype(np.int64))
        if by_int8:
            # The document prior is made of these scores: they come from the vectors themselves.
            score_BM = np.matmul(self._vectors.gather(id_BM), vector_BE[:, :, None])[:, :, 0]
        score_BM = np.where(missing_BM, np.float32(-np.inf), score_BM)
        order_BK = np.lexsort((id_BM, -score_BM), axis=-1)[:, :k]
        return np.take_along_axis(id_BM, order_BK, 1), np.take_along_axis(score_BM, order_BK, 1)


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
