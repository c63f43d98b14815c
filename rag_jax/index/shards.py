"""The vectors of an index, shard by shard: encoded, or given; a shard that is there whole is kept."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial as bind
from pathlib import Path
from typing import Any

import numpy as np

from rag_jax.data.passages import PassageStore
from rag_jax.errors import fail
from rag_jax.folders import link
from rag_jax.index.base import Contents
from rag_jax.index.encoding import Encoder, Work, ahead
from rag_jax.index.given import Given
from rag_jax.index.vectors import DTYPES, VECTORS, crc_path, first_not_finite, is_whole, shard_path, write_shard
from rag_jax.progress import counted
from rag_jax.team import SINGLE, Team

Log = Callable[[str], None]


def take_over(folder: Path, partial: Path) -> int:
    """Links the shards of an index of the same recipe; returns how many files."""
    files = sorted(folder.glob(f"{VECTORS}*.npy"))  # a shard's CRCs, then the shard
    for path in files:
        link(path, partial / path.name)
    return len(files)


def take_over_full(base: Contents, partial: Path) -> None:
    """Links the shards of an older index that nothing is added to.

    Raises UserError that names a damaged one before any is linked: its vectors may have been given, and are not made
    again.
    """
    assert base.vectors is not None  # of an index of words there is nothing to take over
    base.vectors.check()
    folder = base.passages.folder.parent
    for shard in range(base.manifest.count // base.manifest.shard_size):
        for path in (crc_path(folder, shard), shard_path(folder, shard)):
            link(path, partial / path.name)


def width(partial: Path) -> int:
    """How many numbers a vector has."""
    return np.load(shard_path(partial, 0), mmap_mode="r").shape[1]


def write_missing(
    partial: Path,
    encoder: Encoder,
    store: PassageStore,
    recipe: dict[str, Any],
    base: Contents | None,
    given: Given | None,
    team: Team,
    log: Log,
) -> None:
    """Writes those of this process's shards that are not there whole; given vectors, if any, in place of encoding."""
    first, size = base.manifest.count if base is not None else 0, recipe["shard_size"]
    missing = _missing(partial, len(store), size, first, team if given is None else SINGLE)
    if given is None:
        vectors = _encoded(partial, encoder, store, recipe["dtype"], missing, team, log)
    else:
        vectors = _given(partial, encoder, store, given, missing, log)
    for (shard, rows), vector_CE in zip(missing.items(), vectors, strict=True):
        if rows.start > shard * size:
            assert base is not None and base.vectors is not None  # else shards begin where they begin
            vector_CE = np.concatenate([base.vectors.read(shard * size, rows.start), vector_CE])
        write_shard(partial, shard, vector_CE)


def _missing(partial: Path, count: int, size: int, first: int, team: Team) -> dict[int, range]:
    """The rows to be made, from `first` on, of each of this process's shards that is not there whole.

    The full shards before `first` are whole: take_over_full has read them.
    Whose a shard is goes by its number alone: the others' come into being while this one looks.
    """
    missing = {}
    for shard, start in list(enumerate(range(0, count, size)))[team.process :: team.processes]:
        if start + size > first and not is_whole(partial, shard):
            stop = min(start + size, count)
            missing[shard] = range(first if start < first < stop else start, stop)
    return missing


def _encoded(
    partial: Path, encoder: Encoder, store: PassageStore, dtype: str, missing: dict[int, range], team: Team, log: Log
) -> Iterator[np.ndarray]:
    work = Work(partial, sum(map(len, missing.values())), log)
    rows_of_shards = missing.values()
    for rows, ids_CP in zip(rows_of_shards, ahead(bind(_ids, encoder, store), rows_of_shards), strict=True):
        vector_CE = encoder.vectors(ids_CP, work, team.check).astype(DTYPES[dtype])
        if (bad := first_not_finite(vector_CE)) is not None:
            fail(
                f"passage {store[rows[bad]].id!r} (row {rows[bad]}): its vector is not finite in {dtype}; "
                "the passage encoder has diverged; use an earlier checkpoint"
            )
        yield vector_CE


def _given(
    partial: Path, encoder: Encoder, store: PassageStore, given: Given, missing: dict[int, range], log: Log
) -> Iterator[np.ndarray]:
    def again(rows: np.ndarray) -> np.ndarray:
        silent = Work(partial, len(rows), lambda line: None)
        return encoder.vectors(_ids(encoder, store, rows), silent, lambda: None)

    total = sum(map(len, missing.values()))
    for rows in counted(missing.values(), total, partial, "passages given their vectors", size=len, log=log):
        yield given.shard(rows, partial, again)
    given.close()


def _ids(encoder: Encoder, store: PassageStore, rows: Iterable[int]) -> np.ndarray:
    passages = [store[int(row)] for row in rows]
    return encoder.passage_ids([p.title for p in passages], [p.text for p in passages])
