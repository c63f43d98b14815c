"""What an index finds and what it costs: recall against exact search, questions a second, bytes now and at size."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.core.topk import MISSING, merge, topk
from rag_jax.index import scann
from rag_jax.index.base import Index, Queries
from rag_jax.index.scann import ScannSearcher
from rag_jax.index.vectors import Vectors
from rag_jax.progress import blocks

WIKIPEDIA = 21_015_324  # passages of the paper's index (Lewis et al. 2020, section 3)
RECALL_AT = (1, 5, 10, 20)
ENOUGH = 0.95  # recall@10
BLOCK = 65536  # vectors read at a time
REPEATS = 5


def report(
    index: Index, queries: Queries, asked: str, *, batch: int, k: int, log: Callable[[str], None] = print
) -> dict[int, float]:
    """Prints what a search with `queries` finds and costs; returns recall by place, empty where nothing is approximate.

    asked: what the queries are, in words. batch, k: of the timed searches. Recall at n: the share of the n passages
    with the largest inner products that the searcher has among its first n; a hybrid index is asked by vector alone.
    """
    log(f"{index.folder}: {index.manifest.count:,} passages, asked with {asked}")
    recall: dict[int, float] = {}
    query_BE, exact_BK = queries.vector_BE, np.zeros((0, 0), np.int32)
    if index.searcher is not None and index.vectors is not None and query_BE is not None:
        exact_BK = exact_search(index.vectors, query_BE, max(RECALL_AT))
        recall = recall_of(index.searcher.search(query_BE, exact_BK.shape[1])[0], exact_BK)
        log("  recall against exact search " + ", ".join(f"@{at} {share:.3f}" for at, share in recall.items()))
    else:
        log("  searched by words: there is nothing approximate")
    log(f"  {per_second(index, queries, batch, k):,.0f} questions a second, {batch} at a time, {k} passages each")
    now, then = _bytes(index, index.manifest.count), _bytes(index, WIKIPEDIA)
    log(f"  {'':<34}{'now':>10} {'at ' + format(WIKIPEDIA, ',') + ' passages':>26}")
    for name in now:
        log(f"  {name:<34}{_size(now[name]):>10} {_size(then[name]):>26}")
    if query_BE is not None and recall.get(10, 1.0) < ENOUGH:
        _warn(index, query_BE, exact_BK, recall[10], log)
    return recall


def exact_search(vectors: Vectors, query_BE: np.ndarray, k: int, *, block: int = BLOCK) -> np.ndarray:
    """Rows of the k largest inner products, id_BK int32 (fewer where there are fewer vectors), by reading them all."""
    N, winners = len(vectors), []
    for start in blocks(N, block, "exact search", "vectors gone over"):
        score_BK, id_BK = _topk(query_BE, vectors.read(start, min(start + block, N)), k)
        winners.append((score_BK, jnp.where(id_BK == MISSING, MISSING, id_BK + start)))
    _, id_BK = merge(*map(jnp.stack, zip(*winners, strict=True)))
    return np.asarray(id_BK)[:, :N]


_topk = jax.jit(topk, static_argnums=2)


def recall_of(found_BK: np.ndarray, exact_BK: np.ndarray) -> dict[int, float]:
    """Recall by place: |found among the first n and exact among the first n| / n, averaged over questions."""
    recall = {}
    for at in sorted({min(at, exact_BK.shape[1]) for at in RECALL_AT}):
        rows = zip(found_BK[:, :at].tolist(), exact_BK[:, :at].tolist(), strict=True)
        recall[at] = statistics.fmean(len(set(found) & set(exact)) / at for found, exact in rows)
    return recall


def per_second(index: Index, queries: Queries, batch: int, k: int) -> float:
    """Questions a second that the search alone answers: the median over batches, after a first one."""
    count, seconds = len(queries.text_B), []
    rows = [np.arange(start, start + batch) % count for start in range(0, batch * (REPEATS + 1), batch)]
    for row_B in rows:
        vector_BE = None if queries.vector_BE is None else queries.vector_BE[row_B]
        some = Queries([queries.text_B[row] for row in row_B], vector_BE)
        began = time.perf_counter()
        index.search(some, k)
        seconds.append(time.perf_counter() - began)
    return batch / statistics.median(seconds[1:])


def _bytes(index: Index, count: int) -> dict[str, float]:
    """Bytes by what holds them, of an index of `count` passages that is otherwise like this one."""
    held: dict[str, float] = {}
    growth, searcher, stored = count / index.manifest.count, index.searcher, 0
    if searcher is not None and index.vectors is not None:
        itemsize = index.vectors.dtype.itemsize
        stored = count * index.manifest.width * itemsize
        if isinstance(searcher, ScannSearcher):
            chosen = scann.parameters(count, _kept(searcher.chosen)) if growth != 1 else searcher.chosen
            held["ScaNN, in memory"] = scann.memory(chosen, count, index.manifest.width, itemsize)
        else:
            held["exact search, on the devices"] = stored
    if index.bm25 is not None:
        held["BM25, files read as needed"] = growth * _on_disk(index.folder / "bm25")
    if index.by_vector:
        held["vectors, files read as needed"] = stored
    held["passages, files read as needed"] = growth * _on_disk(index.folder / "passages")
    return held


def _kept(chosen: dict[str, Any]) -> dict[str, Any]:
    """What of ScaNN's parameters does not depend on the number of passages."""
    return {name: value for name, value in chosen.items() if name in ("block_width", "reorder_dtype")}


def _on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _size(count: float) -> str:
    """Bytes in words."""
    for unit in ("kB", "MB"):
        count /= 1000
        if count < 1000:
            return f"{count:,.1f} {unit}"
    return f"{count / 1000:,.1f} GB"


def _warn(index: Index, vector_BE: np.ndarray, exact_BK: np.ndarray, found: float, log: Callable[[str], None]) -> None:
    """Says loudly that recall@10 is low, and what four times each setting of the search would make of it."""
    log(f"  !!! recall@10 is {found:.3f}, below {ENOUGH}: passages are missed that exact search would find")
    searcher = index.searcher
    if not isinstance(searcher, ScannSearcher) or not searcher.chosen.keys() >= scann.AT_SEARCH:
        return  # there is nothing to set, as where index.recall_target lets a TPU approximate
    for name in sorted(scann.AT_SEARCH):
        now = searcher.chosen[name]
        more = min(4 * now, searcher.chosen["leaves"] if name == "leaves_to_search" else index.manifest.count)
        id_BK, _ = searcher.changed(**{name: more}).search(vector_BE, exact_BK.shape[1])
        log(f"  !!! config.index.scann.{name} = {more} instead of {now} makes it {recall_of(id_BK, exact_BK)[10]:.3f}")
    log("  !!! build_index with these takes moments: nothing is encoded or trained again")
