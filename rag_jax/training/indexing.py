"""Builds an index with the passage encoder of a trained retriever."""

import shutil
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from rag_jax.api import rag_config
from rag_jax.data import tasks
from rag_jax.data.passages import build_store
from rag_jax.data.vocabulary import load_or_train
from rag_jax.hub.resolve import resolve
from rag_jax.index.builder import build_index
from rag_jax.models import rag
from rag_jax.parallel import Pmap
from rag_jax.training import encoders
from rag_jax.training.retriever import encode_passages, passage_encoder
from rag_jax.workdir import Workdir


def build(config: ConfigDict, place: Workdir, folder: str | Path) -> None:
    """Passages of config.data -> store -> vectors over all devices -> searcher, as an index in `folder`."""
    config, folder, parallel = resolve(config), Path(folder), Pmap()
    parallel.check_batch("index.batch", config.index.batch)
    encoders.check_retriever(config, place)  # before anything is written
    encoder_tokenizer, generator_tokenizer = load_or_train(config, place.tokenizers)
    model = rag_config(config, encoder_tokenizer, generator_tokenizer)
    params = encoders.retriever_params(config, place, model, parallel)
    weights, encoder = passage_encoder(params), parallel.batch(partial(encode_passages, model.question_encoder))

    def encode(ids_BP: np.ndarray) -> np.ndarray:
        return parallel.to_host(encoder(weights, parallel.put_batch(ids_BP)))

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.passages."))
    try:
        store = build_store(tasks.passages(config.data.passages), temporary / "passages", generator_tokenizer)
        build_index(
            folder,
            encode=encode,
            store=store,
            passage_ids=lambda titles, texts: encoder_tokenizer.passage_ids(titles, texts, config.length.passage),
            fingerprint=encoders.passage_fingerprint(model.question_encoder, params),
            score_scale=float(rag.score_scale(params, model.score_scale)),
            kind=config.index.kind,
            shard_size=config.index.shard,
            batch_size=config.index.batch,
            dtype=config.index.dtype,
        )  # fmt: skip
        print(f"{folder}: {len(store):,} passages, {config.index.kind} index")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
