"""Builds an index: passages -> vectors, shard by shard -> searchers -> manifest; a killed build is resumed.

Everything happens in `<folder>.partial`, which takes the final name when it is whole: an older index stays in
use until then. `recipe.json` says what the vectors depend on; only vectors of the same recipe are taken over.
Of P processes, which see the same folders, process p encodes the shards p, p + P, ...; process 0 does all the rest.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rag_jax.data.embeddings import Embeddings
from rag_jax.data.passages import PassageStore
from rag_jax.errors import UserError, fail
from rag_jax.files import MANIFEST, check_files, read_json, read_object, read_sealed, write_json, writing
from rag_jax.folders import check_replaceable, link_folder, real, remove_older, replace_folder
from rag_jax.index import searchers, shards
from rag_jax.index.base import Contents, IndexManifest, read_index_manifest, write_index_manifest
from rag_jax.index.encoding import WIDTH, Encoder
from rag_jax.index.given import Given
from rag_jax.index.searchers import Parameters, has_vectors
from rag_jax.index.vectors import DTYPES, Vectors
from rag_jax.storage import keep, shown
from rag_jax.team import SINGLE, Team

RECIPE = "recipe.json"
BESIDES = ".lock", ".twin.json"  # of parts that were asked for in this folder by mistake: storage.py
Log = Callable[[str], None]


def build_index(
    folder: str | Path,
    *,
    encoder: Encoder | None,
    store: PassageStore,
    fingerprint: str,
    score_scale: float,
    kind: str,
    shard_size: int = 65536,
    dtype: str = "float32",
    search: Parameters | None = None,
    base: Contents | None = None,
    embeddings: Embeddings | None = None,
    team: Team = SINGLE,
    log: Log = print,
) -> None:
    """Builds `folder` from a passage store; does nothing when the same index is already there.

    encoder: named by `fingerprint`. None for kind 'bm25', which has no vectors.
    search: of each searcher, by its name, what config.index says: see searchers.parameters.
    base: an index of the store's first passages by the same encoder, whose vectors are taken as they are.
    embeddings: the other passages' vectors, made by that encoder elsewhere; only a sample is encoded, to verify them.
    Without either, an index in place of these passages keeps what they have brought: see _with_kept.
    team: the processes that build together; each calls this with the same arguments.
    Restarted after a kill, the vectors are bit-equal to those of an uninterrupted build.
    Raises UserError for bad settings, a vector not finite, another index's unfinished build, a process that failed.
    """
    folder = real(Path(folder))
    recipe = _recipe(store, fingerprint, dtype, shard_size, encoder, embeddings)
    recipe = _with_kept(folder, recipe) if base is None else _grown_from(base, recipe)
    manifest = IndexManifest(
        kind=kind,
        count=len(store),
        width=0,
        dtype=dtype,
        shard_size=shard_size,
        encoder_fingerprint=fingerprint,
        score_scale=score_scale,
        passages_checksum=store.checksum,
        search=searchers.parameters(kind, len(store), search or {}),
    )
    team.wait("what to build", json.dumps([asdict(manifest), _of_any_host(recipe)]))
    if _is_in_place(folder, store, recipe, manifest, team, log):
        return
    partial, given = _partial(folder), None
    if team.first:
        check_replaceable(folder)
        given = _aligned(embeddings, store, recipe, base, log)
        _start(partial, recipe, log)
        _take_over(folder, partial, recipe, base, log)
    team.wait("the start of the build")
    if encoder and has_vectors(kind) and (given or not embeddings):  # given vectors are process 0's alone
        shards.write_missing(partial, encoder, store, recipe, base, given, team, log)
    team.wait("the last vectors")
    if team.first:
        _finish(folder, partial, store, recipe, manifest, log)
    team.wait("the finished index")


def _recipe(
    store: PassageStore,
    fingerprint: str,
    dtype: str,
    shard_size: int,
    encoder: Encoder | None,
    embeddings: Embeddings | None,
) -> dict[str, Any]:
    """All that the vectors depend on."""
    if dtype not in DTYPES:
        fail(f"index.dtype: {dtype!r}; expected one of {list(DTYPES)}")
    if shard_size < 1 or (encoder and encoder.batch_size < 1):
        batch = encoder.batch_size if encoder else 0
        fail(f"index: shard {shard_size}, batch {batch}; both must be at least 1")
    recipe = {
        "encoder_fingerprint": fingerprint,
        "passages_checksum": store.checksum,
        "count": len(store),
        "dtype": dtype,
        "shard_size": shard_size,
    }
    if encoder:
        recipe |= {"batch_size": encoder.batch_size, "length": encoder.length, "width": WIDTH}
    return recipe | ({"embeddings": embeddings.stamps()} if embeddings else {})


def _of_any_host(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe without the folders and times of given files, which each host may have fetched for itself."""
    return {**recipe, "embeddings": [[Path(path).name, size] for path, size, _ in recipe.get("embeddings", [])]}


def recipe_of(folder: Path) -> dict[str, Any]:
    """The recipe of the finished index in `folder`; 'grown_from' in it says that passages were added. {} without one.

    Raises UserError where it, or the manifest that vouches for it, is damaged; of other files nothing is asked.
    """
    path = folder / MANIFEST
    if not path.exists():
        return {}
    files = read_sealed(path).get("files", {})
    if RECIPE not in files:
        fail(f"{path}: names no {RECIPE}, expected the manifest of an index; check the path")
    check_files(folder, {RECIPE: files[RECIPE]})
    return read_object(folder / RECIPE)


def name_finished(folder: Path) -> None:
    """Gives an index its name that was whole when its process was killed, where none stands there.

    Beside one that stands there, those before it are removed. UserError where something else stands there.
    """
    folder = real(folder)
    if not (folder / MANIFEST).exists():
        check_replaceable(folder)
    others = folder.is_dir() and any(not path.name.endswith(BESIDES) for path in folder.iterdir())
    if folder.is_file() or (others and not (folder / RECIPE).exists()):
        fail(f"{shown(folder)}: found what is no index (no {RECIPE}), expected one or an empty folder; give another")
    if not folder.exists() and (_partial(folder) / MANIFEST).exists():
        os.replace(_partial(folder), folder)
    if folder.exists():
        remove_older(folder)


def _partial(folder: Path) -> Path:
    return folder.with_name(folder.name + ".partial")


def _is_former(partial: Path, folder: Path) -> bool:
    """Whether a process was killed, as it seems, when the index in `folder` had just changed places with this one.

    A copy, or what is fetched again, is younger too: what would be built next is never taken for it.
    """
    before, now = partial / MANIFEST, folder / MANIFEST
    return before.exists() and now.exists() and before.stat().st_mtime_ns < now.stat().st_mtime_ns


def _with_kept(folder: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe, and what that of the index in place says beyond it, whose vectors a new searcher keeps.

    Another encoder's are made again; that some of the passages were added stays known.
    """
    try:
        found = recipe_of(folder)
    except UserError:  # it is built again
        return recipe
    if "grown_from" in found and found.get("passages_checksum") == recipe["passages_checksum"]:
        recipe = {**recipe, "grown_from": found["grown_from"]}
    return found if recipe.items() <= found.items() else recipe


def _aligned(
    embeddings: Embeddings | None, store: PassageStore, recipe: dict[str, Any], base: Contents | None, log: Log
) -> Given | None:
    """Vectors that exist already, by the passages that follow those of `base`; None where all are encoded."""
    if embeddings is None:
        return None
    return Given(embeddings, store, recipe, first=base.manifest.count if base else 0, log=log)


def _grown_from(base: Contents, recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe of an index that `base` grows to; UserError where `base` was made in another way."""
    for key in ("encoder_fingerprint", "dtype", "shard_size"):
        found = getattr(base.manifest, key)
        if found != recipe[key]:
            fail(f"index.{key}: {recipe[key]!r}; the index to be added to has {found!r}; use that or build anew")
    length = recipe.get("length")  # none where words are searched
    if (found := recipe_of(base.passages.folder.parent).get("length", length)) != length:
        fail(f"length.passage: {length}; the index to be added to has {found}; use that or build anew")
    return {**recipe, "grown_from": base.passages.checksum}


def _is_in_place(
    folder: Path, store: PassageStore, recipe: dict[str, Any], manifest: IndexManifest, team: Team, log: Log
) -> bool:
    """Whether a build would make the index in `folder` again; the one that it replaced goes, if a kill has left it.

    Process 0 alone looks, for all: it may be done and remove the passages before another one would have looked.
    """
    partial, name, found = _partial(folder), "the index in place", False
    if team.first:
        found = _finished(folder, store, recipe, manifest, log)
        if _is_former(partial, folder) and (found or not _has_recipe(partial, recipe)):
            shutil.rmtree(partial)
        if found:
            team.say(name, "finished")
    team.wait(f"a look at {name}")
    return found or bool(team.told(name))


def _finished(folder: Path, store: PassageStore, recipe: dict[str, Any], manifest: IndexManifest, log: Log) -> bool:
    """Whether the index in `folder` is what a build would make again; a damaged one is none."""
    if not (folder / MANIFEST).exists():
        return False
    try:
        found = read_index_manifest(folder)
        # Equal texts may have been tokenised again for another generator.
        same_store = read_json(folder / "passages" / MANIFEST) == read_json(store.folder / MANIFEST)
    except UserError as error:
        log(f"{error}; building it again")
        return False
    same = replace(manifest, width=found.width) == found and same_store
    if not same or not _has_recipe(folder, recipe):
        return False
    log(f"{folder}: already built from these passages and this encoder")
    return True


def _has_recipe(folder: Path, recipe: dict[str, Any]) -> bool:
    try:
        return read_json(folder / RECIPE) == recipe
    except UserError:
        return False


def _start(partial: Path, recipe: dict[str, Any], log: Log) -> None:
    """Makes the folder of the unfinished build, or resumes it; the leftovers of another build are an error."""
    partial.mkdir(parents=True, exist_ok=True)
    if not (partial / RECIPE).exists():
        write_json(partial / RECIPE, recipe)
        return
    found = read_json(partial / RECIPE)
    if found != recipe and not any(partial.glob("vectors-*")):  # nothing was made, as where given vectors did not fit
        write_json(partial / RECIPE, recipe)
    elif found != recipe:
        differs = ", ".join(
            f"{key} {found.get(key)!r} not {recipe.get(key)!r}"
            for key in found | recipe
            if found.get(key) != recipe.get(key)
        )
        fail(f"{partial}: an unfinished build of another index ({differs}); finish it or delete the folder")
    log(f"{partial}: going on with an unfinished build")
    (partial / MANIFEST).unlink(missing_ok=True)
    for leftover in partial.glob(".*.tmp"):
        leftover.unlink()


def _take_over(folder: Path, partial: Path, recipe: dict[str, Any], base: Contents | None, log: Log) -> None:
    """Links the vectors of a finished index of the same recipe: a new searcher needs no new encoding; and of `base`."""
    finished = (folder / MANIFEST).exists() and _has_recipe(folder, recipe)
    if finished and shards.take_over(folder, partial):
        log(f"{folder}: vectors taken over, only the searcher is built")
    if base is not None and base.vectors is not None:
        shards.take_over_full(base, partial)


def _finish(
    folder: Path, partial: Path, store: PassageStore, recipe: dict[str, Any], manifest: IndexManifest, log: Log
) -> None:
    """All that follows the vectors: the passages beside them, the searchers, the manifest, and the final name."""
    link_folder(store.folder, partial / "passages")
    vectors = None
    if has_vectors(manifest.kind):
        manifest = replace(manifest, width=shards.width(partial))
        vectors = Vectors(partial, manifest.count, manifest.width, manifest.dtype, manifest.shard_size)
    old = _parameters_of(folder, recipe)
    with writing(partial):
        searchers.build(partial, vectors, store, manifest.search, old=None if old is None else (folder, old), log=log)
        write_index_manifest(partial, manifest)
        keep(folder)
        replace_folder(partial, folder)


def _parameters_of(folder: Path, recipe: dict[str, Any]) -> Parameters | None:
    """Of the searchers of a finished index of the same recipe, if there is one.

    Its files are verified: a new manifest would else vouch for damage that it takes over.
    """
    try:
        return read_index_manifest(folder, verify=True).search if _has_recipe(folder, recipe) else None
    except UserError:
        return None
