"""Asks an index for its report: with the configuration's questions, or else with its own passages."""

from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from rag_jax.api import rag_config
from rag_jax.data import tasks
from rag_jax.data.vocabulary import load_or_train
from rag_jax.hub.resolve import resolve
from rag_jax.index.base import Index, Queries, open_index
from rag_jax.index.report import report
from rag_jax.parallel import Pmap
from rag_jax.training import encoders
from rag_jax.workdir import Workdir

SAMPLE = 1000


def report_index(config: ConfigDict, place: Workdir, folder: str | Path) -> dict[int, float]:
    """Prints recall against exact search, speed and memory of the index in `folder`; see index.report.report.

    Asked are questions of data.valid, else of data.test, by the question encoder that was trained with the index's
    passage encoder; where there is none of either, the vectors of some of its passages, which are found more easily.
    """
    config = resolve(config)
    index = open_index(folder)
    queries, asked = _questions(config, place, index) or _own_vectors(index)
    return report(index, queries, asked, batch=config.evaluate.batch, k=config.retrieval.k)


def _questions(config: ConfigDict, place: Workdir, index: Index) -> tuple[Queries, str] | None:
    source = config.data.valid or config.data.test
    if not source:
        return None
    texts = [question.text for question in tasks.questions(config.data, source)]
    texts = texts[:: -(-len(texts) // SAMPLE)]
    if not index.by_vector:
        return Queries(texts, None), f"{len(texts):,} questions of {source}"
    parallel = Pmap(jax.local_devices())
    encoder, generator = load_or_train(config, place.tokenizers)
    assert encoder is not None  # vectors are of no closed book
    model = rag_config(config, encoder, generator)
    params = encoders.known_params(config, place, model, parallel)
    trained = index.manifest.encoder_fingerprint
    if "question_encoder" not in params or encoders.passage_fingerprint(model.encoder, params) != trained:
        return None
    ids_BQ = encoder.question_ids(texts, config.length.question)
    vector_BE = encoders.question_vectors(model, params, ids_BQ, parallel)
    return Queries(texts, vector_BE), f"{len(texts):,} questions of {source}"


def _own_vectors(index: Index) -> tuple[Queries, str]:
    count = index.manifest.count
    ids_B = np.arange(0, count, -(-count // SAMPLE))
    said = f"{len(ids_B):,} of its own passages, which are found more easily than by questions"
    vector_BE = index.vectors.gather(ids_B) if index.by_vector and index.vectors is not None else None
    return Queries([index.passages[row].text for row in ids_B.tolist()], vector_BE), said
