"""Builds an index with the passage encoder of a trained retriever."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from rag_jax.api import rag_config
from rag_jax.data import tasks
from rag_jax.data.lines import Meter
from rag_jax.data.passages import PassageStore, build_store
from rag_jax.data.tokenizer import Tokenizer
from rag_jax.data.vocabulary import load_or_train
from rag_jax.errors import UserError
from rag_jax.files import read_json, write_json
from rag_jax.hub.resolve import resolve
from rag_jax.index.base import Contents, open_contents, read_index_manifest
from rag_jax.index.builder import build_index
from rag_jax.models import rag
from rag_jax.parallel import Pmap
from rag_jax.training import encoders
from rag_jax.training.retriever import encode_passages, passage_encoder
from rag_jax.workdir import Workdir

MADE_FROM = "made_from.json"


def build(config: ConfigDict, place: Workdir, folder: str | Path, *, add: str = "") -> None:
    """Passages of config.data -> store -> vectors over all devices -> searcher, as an index in `folder`.

    add: a source of further passages for the index that is there, which stays in use until the larger one is whole.
    """
    config, folder, parallel = resolve(config), Path(folder), Pmap()
    parallel.check_batch("index.batch", config.index.batch)
    encoders.check_retriever(config, place)  # before anything is written
    if add:
        read_index_manifest(folder)
    encoder_tokenizer, generator_tokenizer = load_or_train(config, place.tokenizers)
    model = rag_config(config, encoder_tokenizer, generator_tokenizer)
    params = encoders.retriever_params(config, place, model, parallel)
    fingerprint = encoders.passage_fingerprint(model.question_encoder, params)
    weights, encoder = passage_encoder(params), parallel.batch(partial(encode_passages, model.question_encoder))

    def encode(ids_BP: np.ndarray) -> np.ndarray:
        return parallel.to_host(encoder(weights, parallel.put_batch(ids_BP)))

    base = open_contents(folder, expect_fingerprint=fingerprint, tokenizer=generator_tokenizer) if add else None
    temporary = folder.with_name(f".{folder.name}.passages")
    try:
        store = passage_store(config.data, temporary, generator_tokenizer, source=add, base=base)
        build_index(
            folder,
            encode=encode,
            store=store,
            passage_ids=lambda titles, texts: encoder_tokenizer.passage_ids(titles, texts, config.length.passage),
            fingerprint=fingerprint,
            score_scale=float(rag.score_scale(params, model.score_scale)),
            kind=config.index.kind,
            shard_size=config.index.shard,
            batch_size=config.index.batch,
            dtype=config.index.dtype,
            base=base,
        )  # fmt: skip
    except UserError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    print(f"{folder}: {len(store):,} passages, {config.index.kind} index")
    shutil.rmtree(temporary)


def passage_store(
    data: ConfigDict, folder: Path, tokenizer: Tokenizer, *, source: str = "", base: Contents | None = None
) -> PassageStore:
    """The passages of data.passages or `source`, tokenised, behind those of `base`, in a folder of their own.

    One that a killed build has left there is taken, if it was made from the same files in the same way.
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
    meter = Meter()
    old, known = (base.passages, base.passages.ids()) if base else (None, ())
    passages = tasks.passages(data, source, known=known, meter=meter)
    try:
        store = build_store(passages, folder / "passages", tokenizer, after=old, share=meter.share)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    write_json(folder / MADE_FROM, made_from)
    return store
