"""Builds an index: passages -> vectors, shard by shard -> searcher -> manifest; a killed build is resumed.

Everything happens in `<folder>.partial`, which takes the final name when it is whole: an older index stays in
use until then. `recipe.json` says what the vectors depend on; only vectors of the same recipe are taken over.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rag_jax.data.passages import PassageStore
from rag_jax.errors import UserError, fail
from rag_jax.files import MANIFEST, read_json, replace_folder, write_json
from rag_jax.index import scann
from rag_jax.index.base import KINDS, Contents, IndexManifest, read_index_manifest, write_index_manifest
from rag_jax.index.vectors import DTYPES, Vectors, crc_path, is_whole, shard_path, write_shard

RECIPE = "recipe.json"


def build_index(
    folder: str | Path,
    *,
    encode: Callable[[np.ndarray], Any],
    store: PassageStore,
    passage_ids: Callable[[list[str], list[str]], np.ndarray],
    fingerprint: str,
    score_scale: float,
    kind: str,
    shard_size: int = 65536,
    batch_size: int = 256,
    dtype: str = "float32",
    search: dict[str, Any] | None = None,
    base: Contents | None = None,
    log: Callable[[str], None] = print,
) -> IndexManifest:
    """Builds `folder` from a passage store; does nothing when the same index is already there.

    encode: token ids [batch_size, P] -> vectors [batch_size, E] of the encoder named by `fingerprint`;
      may return before the device has finished.
    passage_ids: titles and texts of one batch -> its token ids.
    search: overrides of ScaNN's parameters.
    base: an index of the store's first passages by the same encoder, whose vectors are taken as they are.
    Restarted after a kill, the vectors are bit-equal to those of an uninterrupted build.
    Raises UserError for bad settings, a vector that is not finite, or the unfinished build of
    another index in the way.
    """
    folder = Path(folder)
    settings = _search_settings(kind, len(store), search)
    recipe = _recipe(store, fingerprint, dtype, shard_size, batch_size)
    if base is not None:
        _check_base(base, recipe)
        recipe["grown_from"] = base.passages.checksum
    manifest = IndexManifest(
        kind=kind,
        count=len(store),
        width=0,
        dtype=dtype,
        shard_size=shard_size,
        encoder_fingerprint=fingerprint,
        score_scale=score_scale,
        passages_checksum=store.checksum,
        search=settings,
    )
    if (found := _finished(folder, store, recipe, manifest, log)) is not None:
        log(f"{folder}: already built from these passages and this encoder")
        return found
    partial = _start(folder, recipe, log)
    _take_over_vectors(folder, partial, recipe, log)
    if base is not None:
        _take_over_full_shards(base, partial)
    width = _encode_missing_shards(partial, encode, store, passage_ids, recipe, base, log)
    _link_folder(store.folder, partial / "passages")
    _build_searcher(partial, kind, Vectors(partial, len(store), width, dtype, shard_size), settings)
    manifest = replace(manifest, width=width)
    write_index_manifest(partial, manifest)
    replace_folder(partial, folder)
    return manifest


def _search_settings(kind: str, count: int, overrides: dict[str, Any] | None) -> dict[str, Any]:
    """Checks all that can be wrong about the searcher before hours of encoding."""
    if kind not in KINDS:
        fail(f"index.kind: {kind!r}; expected one of {list(KINDS)}")
    if kind == "scann":
        scann.require()
        return scann.parameters(count, overrides)
    if overrides:
        fail(f"index.search: {sorted(overrides)} are parameters of ScaNN; an exact index has none; remove them")
    return {}


def _recipe(store: PassageStore, fingerprint: str, dtype: str, shard_size: int, batch_size: int) -> dict[str, Any]:
    if dtype not in DTYPES:
        fail(f"index.dtype: {dtype!r}; expected one of {list(DTYPES)}")
    if shard_size < 1 or batch_size < 1:
        fail(f"index: shard {shard_size}, batch {batch_size}; both must be at least 1")
    return {
        "encoder_fingerprint": fingerprint,
        "passages_checksum": store.checksum,
        "count": len(store),
        "dtype": dtype,
        "shard_size": shard_size,
        "batch_size": batch_size,
    }


def _check_base(base: Contents, recipe: dict[str, Any]) -> None:
    for key in ("encoder_fingerprint", "dtype", "shard_size"):
        found = getattr(base.manifest, key)
        if found != recipe[key]:
            fail(f"index.{key}: {recipe[key]!r}; the index to be added to has {found!r}; use that or build anew")


def _finished(
    folder: Path, store: PassageStore, recipe: dict, manifest: IndexManifest, log: Callable[[str], None]
) -> IndexManifest | None:
    """The manifest in `folder` if a build would make that index again; a damaged index counts as none."""
    if not (folder / MANIFEST).exists():
        return None
    try:
        found = read_index_manifest(folder)
        # Equal texts may have been tokenised again for another generator.
        same_store = read_json(folder / "passages" / MANIFEST) == read_json(store.folder / MANIFEST)
    except UserError as error:
        log(f"{error}; building it again")
        return None
    same = replace(manifest, width=found.width) == found and same_store
    return found if same and _has_recipe(folder, recipe) else None


def _has_recipe(folder: Path, recipe: dict[str, Any]) -> bool:
    try:
        return read_json(folder / RECIPE) == recipe
    except UserError:
        return False


def _start(folder: Path, recipe: dict[str, Any], log: Callable[[str], None]) -> Path:
    """The folder of the unfinished build, new or resumed; the leftovers of another build are an error."""
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    if not (partial / RECIPE).exists():
        write_json(partial / RECIPE, recipe)
        return partial
    found = read_json(partial / RECIPE)
    if found != recipe:
        differs = ", ".join(
            f"{key} {found.get(key)!r} not {value!r}" for key, value in recipe.items() if found.get(key) != value
        )
        fail(f"{partial}: an unfinished build of another index ({differs}); finish it or delete the folder")
    log(f"{partial}: going on with an unfinished build")
    (partial / MANIFEST).unlink(missing_ok=True)
    for leftover in partial.glob(".*.tmp"):
        leftover.unlink()
    return partial


def _take_over_vectors(folder: Path, partial: Path, recipe: dict[str, Any], log: Callable[[str], None]) -> None:
    """Links the vectors of a finished index of the same recipe: a new searcher needs no new encoding."""
    if not (folder / MANIFEST).exists() or not _has_recipe(folder, recipe):
        return
    for path in sorted(folder.glob("vectors-*.crc.npy")) + sorted(folder.glob("vectors-?????.npy")):
        _link(path, partial / path.name)
    log(f"{folder}: vectors taken over, only the searcher is built")


def _take_over_full_shards(base: Contents, partial: Path) -> None:
    """Links the shards of an older index that nothing is added to."""
    folder = base.passages.folder.parent
    for shard in range(base.manifest.count // base.manifest.shard_size):
        for path in (crc_path(folder, shard), shard_path(folder, shard)):
            _link(path, partial / path.name)


def _encode_missing_shards(
    partial: Path,
    encode: Callable,
    store: PassageStore,
    passage_ids: Callable,
    recipe: dict[str, Any],
    base: Contents | None,
    log: Callable[[str], None],
) -> int:
    """Writes the shards that are not there whole; returns the vectors' width."""
    old = base.manifest.count if base is not None else 0
    began, fresh, shard_size = time.monotonic(), 0, recipe["shard_size"]
    for shard, start in enumerate(range(0, len(store), shard_size)):
        stop = min(start + shard_size, len(store))
        if is_whole(partial, shard):
            continue
        rows = range(old if start < old < stop else start, stop)
        vectors = _encode_shard(encode, store, passage_ids, rows, recipe["batch_size"], recipe["dtype"])
        if rows.start > start:
            vectors = np.concatenate([base.vectors.read(start, old), vectors])
        write_shard(partial, shard, vectors)
        fresh += len(rows)
        rate = fresh / max(time.monotonic() - began, 1e-9)
        log(f"{partial}: {stop:,} of {len(store):,} passages encoded, {rate:,.0f} a second")
    return np.load(shard_path(partial, 0), mmap_mode="r").shape[1]


def _encode_shard(
    encode: Callable, store: PassageStore, passage_ids: Callable, rows: range, batch_size: int, dtype: str
) -> np.ndarray:
    """Vectors [C, E] of `rows`, in store order, computed in order of length so that batches are even."""
    passages = [store[row] for row in rows]
    order = np.argsort([len(p.title) + len(p.text) for p in passages], kind="stable")
    shard = None
    for places, vectors in _batches(encode, passage_ids, passages, order, batch_size):
        vector_BE = np.asarray(vectors)
        if vector_BE.ndim != 2 or len(vector_BE) != batch_size:
            raise ValueError(f"encode returned {vector_BE.shape}; expected ({batch_size}, E)")
        if shard is None:
            shard = np.empty((len(passages), vector_BE.shape[1]), DTYPES[dtype])
        shard[places] = vector_BE[: len(places)]
    finite = np.isfinite(shard.astype(np.float32)).all(axis=1)
    if not finite.all():
        bad = int(np.flatnonzero(~finite)[0])
        fail(
            f"passage {passages[bad].id!r} (row {rows[bad]}): its vector is not finite in {dtype}; "
            "the passage encoder has diverged; use an earlier checkpoint"
        )
    return shard


def _batches(encode, passage_ids, passages, order, batch_size) -> Iterator[tuple[np.ndarray, Any]]:
    """(rows, vectors) of each batch, one behind: the next is tokenised while the device works on this one."""
    before = None
    for at in range(0, len(order), batch_size):
        rows = order[at : at + batch_size]
        # The last batch repeats its last passage: one shape, one compiled program.
        filled = np.pad(rows, (0, batch_size - len(rows)), mode="edge")
        vectors = encode(passage_ids([passages[r].title for r in filled], [passages[r].text for r in filled]))
        if before is not None:
            yield before
        before = rows, vectors
    yield before


def _build_searcher(partial: Path, kind: str, vectors: Vectors, settings: dict[str, Any]) -> None:
    shutil.rmtree(partial / "scann", ignore_errors=True)
    if kind == "scann":
        (partial / "scann").mkdir()
        scann.build(vectors, partial / "scann", settings)


def _link_folder(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=_link)


def _link(source: str | Path, target: str | Path) -> None:
    """A second name for a file that is never written in place; a copy where the file system has none."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
