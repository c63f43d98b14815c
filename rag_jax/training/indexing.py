"""Builds an index with the passage encoder of a trained retriever, or with BM25, which needs none."""

import itertools
import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from rag_jax.api import rag_config
from rag_jax.data import tasks
from rag_jax.data.embeddings import open_embeddings
from rag_jax.data.lines import Meter
from rag_jax.data.passages import PassageStore, build_store
from rag_jax.data.tokenizer import Tokenizer
from rag_jax.data.vocabulary import load_or_train
from rag_jax.errors import PassingError, UserError, fail
from rag_jax.files import read_json, write_json
from rag_jax.folders import link_folder, real
from rag_jax.hub.resolve import resolve
from rag_jax.index import bm25
from rag_jax.index.base import Contents, open_contents, read_index_manifest
from rag_jax.index.builder import build_index, name_finished, recipe_of
from rag_jax.index.encoding import Encoder
from rag_jax.index.searchers import has_vectors
from rag_jax.models import rag
from rag_jax.parallel import Pmap
from rag_jax.progress import counted, waiting
from rag_jax.storage import publish, shown
from rag_jax.team import SINGLE, Team
from rag_jax.training import encoders
from rag_jax.training.retriever import encode_passages, passage_encoder
from rag_jax.workdir import Workdir

MADE_FROM = "made_from.json"


def build(
    config: ConfigDict,
    place: Workdir,
    folder: str | Path,
    *,
    add: str = "",
    embeddings: str = "",
    index_encoder: str = "",
    team: Team = SINGLE,
) -> None:
    """Passages of config.data -> store -> vectors over all devices -> searcher, as an index in `folder`.

    add: a source of further passages for the index there, in use until the larger one is whole; see with_added, too.
    embeddings: the passages' vectors, which exist already (see data.embeddings); with `add`, the further passages'.
    index_encoder: a folder or hub name in place of the passage encoder that this run has trained or names.
    team: the processes that build together; each encodes on its own devices.
    """
    config, folder, parallel = resolve(_with_encoder(config, index_encoder)), Path(folder), Pmap(jax.local_devices())
    parallel.check_batch("index.batch", config.index.batch)
    _check_sources(config, place, embeddings, index_encoder)  # before anything is written
    if team.first:
        name_finished(folder)
    team.wait("the index's name")
    if add:
        read_index_manifest(folder)
    given = open_embeddings(embeddings) if embeddings else None
    encoder_tokenizer, generator_tokenizer = _tokenizers(config, place, team)
    model = rag_config(config, encoder_tokenizer, generator_tokenizer)
    with waiting(f"{place.folder}: parameters are loaded"):
        params = _encoders(config, place, model, parallel, index_encoder)
    maker = _maker(config, model, params, encoder_tokenizer, parallel)
    base = open_contents(folder, expect_fingerprint=maker.fingerprint, tokenizer=generator_tokenizer) if add else None
    temporary = real(folder).with_name(f".{folder.name}.passages")
    try:
        store = _shared_store(config.data, temporary, generator_tokenizer, add, base, team)
        store = store if add else with_added(folder, store, generator_tokenizer, embeddings)
        if base and base.passages.checksum == store.checksum:  # they were added before
            base = given = None
        build_index(
            folder,
            **maker._asdict(),
            store=store,
            kind=config.index.kind,
            shard_size=config.index.shard,
            dtype=config.index.dtype,
            search=_search(config.index),
            base=base,
            embeddings=given,
            team=team,
        )
    except UserError as error:
        if team.first and not given and not isinstance(error, PassingError):  # else they are kept for the next attempt
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    if team.first:
        by = f"passage encoder {maker.fingerprint}" if maker.encoder else maker.fingerprint
        print(f"{folder}: {len(store):,} passages, {config.index.kind} index by {by}")
        publish(folder)
        del store  # NFS keeps the name of a file that is open, and so its folder
        shutil.rmtree(temporary, ignore_errors=True)


def _search(index: ConfigDict) -> dict[str, Any]:
    """What the configuration says of each searcher."""
    return {"scann": index.scann, "exact": {"recall_target": index.recall_target}, "bm25": index.bm25}


class Maker(NamedTuple):
    """What makes an index's vectors; no encoder for BM25, whose settings have the fingerprint."""

    encoder: Encoder | None
    fingerprint: str
    score_scale: float


def _check_sources(config: ConfigDict, place: Workdir, embeddings: str, index_encoder: str) -> None:
    """UserError where nothing is to be had that makes vectors, or where they have no use."""
    if has_vectors(config.index.kind):
        if not index_encoder:
            encoders.check_retriever(config, place)
        return
    for flag, value in {"embeddings": embeddings, "index_encoder": index_encoder}.items():
        if value:
            raise UserError(f"--{flag}: found {value}, but index.kind 'bm25' has no vectors; remove it")


def _tokenizers(config: ConfigDict, place: Workdir, team: Team) -> tuple[Tokenizer | None, Tokenizer]:
    """The encoder's and the generator's, which process 0 trains where they are not there."""
    if team.first:
        load_or_train(config, place.tokenizers)
    team.wait("the tokenizers", str(config))
    return load_or_train(config, place.tokenizers)


def _encoders(
    config: ConfigDict, place: Workdir, model: rag.RagConfig, parallel: Pmap, index_encoder: str
) -> dict[str, Any] | None:
    if not has_vectors(config.index.kind):
        return None
    if index_encoder:
        return encoders.named_passage_encoder(config, model, parallel)
    return encoders.retriever_params(config, place, model, parallel)


def _maker(
    config: ConfigDict, model: rag.RagConfig, params: dict[str, Any] | None, tokenizer: Tokenizer | None, parallel: Pmap
) -> Maker:
    if params is None:
        return Maker(None, bm25.fingerprint(config.index.bm25), 1.0)
    assert tokenizer is not None  # vectors are of no closed book
    weights, run = passage_encoder(params), parallel.batch(partial(encode_passages, model.encoder))
    length = config.length.passage
    encoder = Encoder(
        encode=lambda ids_BP: run(weights, parallel.put_batch(ids_BP)),
        passage_ids=partial(tokenizer.passage_ids, length=length),
        pad_id=tokenizer.pad_id,
        length=length,
        batch_size=config.index.batch,
    )
    fingerprint = encoders.passage_fingerprint(model.encoder, params)
    return Maker(encoder, fingerprint, float(rag.score_scale(params, model.score_scale)))


def _with_encoder(config: ConfigDict, name: str) -> ConfigDict:
    """A copy with `name` as the passage encoder, if there is a name."""
    config = config.copy_and_resolve_references()
    if name:
        config.parts.passage_encoder, config.retriever.shared = name, False
    return config


def _shared_store(
    data: ConfigDict, folder: Path, tokenizer: Tokenizer, add: str, base: Contents | None, team: Team
) -> PassageStore:
    """The passage store that process 0 makes, open in all."""
    team.share(folder, "a place for the passages")
    team.wait("a look at it")  # before process 0 clears it
    if team.first:
        passage_store(data, folder, tokenizer, source=add, base=base)
    team.wait("the passages")
    return PassageStore.open(folder / "passages", tokenizer=tokenizer)


def passage_store(
    data: ConfigDict, folder: Path, tokenizer: Tokenizer, *, source: str = "", base: Contents | None = None
) -> PassageStore:
    """The passages of data.passages or `source`, tokenised, behind those of `base`, in a folder of their own.

    One that a killed build has left there is taken, if it was made from the same files in the same way; the passages
    of `base` as they are, if its last ones are those of `source` already: the command is given again.
    """
    source = source or data.passages
    made_from = {
        "files": tasks.files(source),
        "data": {name: data[name] for name in ("words", "overlap", "minimum", "skip_bad")},
        "tokenizer": tokenizer.fingerprint,
        "after": base.passages.checksum if base else "",
    }
    if (folder / MADE_FROM).is_file() and read_json(folder / MADE_FROM) == made_from:
        return PassageStore.open(folder / "passages", tokenizer=tokenizer)
    shutil.rmtree(folder, ignore_errors=True)
    if base and added_already(base, data, source):
        print(f"{base.passages.folder.parent}: the passages of {source} are its last ones already")
        link_folder(base.passages.folder, folder / "passages")
        return PassageStore.open(folder / "passages", tokenizer=tokenizer)
    meter = Meter()
    old = base.passages if base else None
    known: Iterable[str] = ()
    if old:
        known = counted(old.ids(), len(old), old.folder, "ids of passages read", log=print)
    passages = tasks.passages(data, source, known=known, meter=meter)
    try:
        store = build_store(passages, folder / "passages", tokenizer, after=old, share=meter.share)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    write_json(folder / MADE_FROM, made_from)
    return store


def added_already(base: Contents, data: ConfigDict, source: str) -> bool:
    """Whether the last passages of an index to which some were added are those of `source`, id by id, text by text."""
    if "grown_from" not in recipe_of(base.passages.folder.parent):
        return False
    first = next(iter(tasks.passages(data, source, log=_silent))).id
    rows = (row for row, identity in enumerate(base.passages.ids()) if identity == first)
    if (start := next(rows, None)) is None:
        return False
    again = tasks.passages(data, source, known=itertools.islice(base.passages.ids(), start), log=_silent)
    there = (base.passages[row] for row in range(start, len(base.passages)))
    return all(one == other for one, other in itertools.zip_longest(again, there))


def _silent(line: str) -> None:
    """For what is read again, and told of then."""


def with_added(folder: Path, store: PassageStore, tokenizer: Tokenizer, embeddings: str = "") -> PassageStore:
    """The passages of the index in `folder` if some were added to those of `store`, which is given back otherwise.

    UserError where they were added to others: an index of `store` in its place would lose them; and where there are
    `embeddings` for those of `store` alone.
    """
    try:
        recipe = recipe_of(folder)
    except UserError as error:
        fail(f"{error}; nobody knows whether passages were added: delete {shown(folder)} to build it anew")
    if "grown_from" not in recipe:
        return store
    if embeddings:
        fail(
            f"--embeddings: {shown(folder)} holds passages that were added; leave it out to keep all vectors, or build "
            "elsewhere with --index=FOLDER"
        )
    differs = "which are not its first ones"
    try:
        grown = PassageStore.open(folder / "passages", tokenizer=tokenizer)
        with waiting(f"{folder}: its first passages are compared"):
            if _begins_with(grown, store):
                print(f"{folder}: keeps its {len(grown):,} passages, {len(grown) - len(store):,} of them added")
                return grown
    except UserError as error:
        if str(store.folder) in str(error):
            raise
        differs = f"and its own cannot be kept ({error})"
    fail(
        f"{shown(folder)}: holds {recipe['count']:,} passages, some of them added; config.data.passages has "
        f"{len(store):,}, {differs}; build elsewhere with --index=FOLDER, or delete it to build it anew"
    )


def _begins_with(grown: PassageStore, store: PassageStore) -> bool:
    """Whether the first passages are those of `store`, by their blocks, of which its last may be shorter."""
    pairs = zip(grown.batches(), store.batches(), strict=False)
    return len(store) <= len(grown) and all(there.slice(0, len(here)).equals(here) for there, here in pairs)
