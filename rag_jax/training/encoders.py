"""The bi-encoder's parameters: trained by train_retriever, or given by name in the configuration."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rag_jax.checkpoint import Checkpoints
from rag_jax.errors import UserError
from rag_jax.hub import huggingface, source
from rag_jax.hub.pretrained import open_pretrained
from rag_jax.models import rag
from rag_jax.models.bert import BertConfig
from rag_jax.models.fingerprint import encoder_fingerprint
from rag_jax.parallel import Devices
from rag_jax.training import retriever
from rag_jax.workdir import Workdir

PER_DEVICE = 32  # questions encoded at a time


def retriever_params(config: ConfigDict, place: Workdir, model: rag.RagConfig, parallel: Devices) -> dict[str, Any]:
    """Both encoders, as retriever.init_params makes them, whole on every device: trained, or else given.

    Trained by this run, or by the run that init_from names. Raises UserError where there are neither.
    """
    check_retriever(config, place)
    return known_params(config, place, model, parallel)


def known_params(config: ConfigDict, place: Workdir, model: rag.RagConfig, parallel: Devices) -> dict[str, Any]:
    """The same as far as they are trained or given: perhaps none."""
    shared = config.retriever.shared
    if (newest := _trained(config, place)) is not None:
        checkpoints, step = newest
        shapes = jax.eval_shape(lambda key: retriever.init_params(model, key, shared=shared), jax.random.key(0))
        return checkpoints.restore(step, params=parallel.abstract_state(shapes))["params"]
    return parallel.put_state(_given(config, model, parallel) | rag.init_score_scale(model))


def check_retriever(config: ConfigDict, place: Workdir) -> None:
    """UserError where no encoder of passages is to be had; reads nothing large and writes nothing."""
    parts = config.parts
    if parts.passage_encoder:
        given = parts.question_encoder or config.init_from
    else:
        given = parts.question_encoder and config.retriever.shared and not config.init_from
    if not given and _trained(config, place) is None:
        raise UserError(
            f"{place.retriever}: holds no trained retriever; run `python -m rag_jax.train_retriever` first, or name "
            "its encoders in config.parts; for build_index alone, --index_encoder is enough"
        )


def named_passage_encoder(config: ConfigDict, model: rag.RagConfig, parallel: Devices) -> dict[str, Any]:
    """parts.passage_encoder and the score scale alone, whatever this run has trained, whole on every device."""
    encoder = _load(config.parts.passage_encoder, "passage_encoder", model)
    return parallel.put_state({"passage_encoder": encoder} | rag.init_score_scale(model))


def first_params(config: ConfigDict, model: rag.RagConfig, parallel: Devices) -> dict[str, Any]:
    """Where train_retriever starts: given encoders, a passage encoder that is not given from the question encoder;

    fresh ones where nothing is given.
    """
    params = retriever.init_params(model, jax.random.key(config.seed), shared=config.retriever.shared)
    given = _given(config, model, parallel)
    if "question_encoder" in given:
        given.setdefault("passage_encoder", jax.tree.map(jnp.copy, given["question_encoder"]))
    return params | {name: given[name] for name in params if name in given}


def question_vectors(model: rag.RagConfig, params: Any, ids_BQ: np.ndarray, parallel: Devices) -> np.ndarray:
    """The questions' embeddings, query_BE, some at a time; parameters as retriever_params gives them."""
    encode, rows = parallel.batch(partial(rag.encode_questions, model)), PER_DEVICE * len(parallel.local)
    padded_BQ = np.pad(ids_BQ, [(0, -len(ids_BQ) % rows), (0, 0)], mode="edge")
    batches = (parallel.put_batch(padded_BQ[at : at + rows]) for at in range(0, len(padded_BQ), rows))
    return np.concatenate([parallel.to_host(encode(params, batch)) for batch in batches])[: len(ids_BQ)]


def passage_fingerprint(config: BertConfig, params: dict[str, Any]) -> str:
    """The name of the passage encoder among a retriever's parameters."""
    return encoder_fingerprint(config, jax.device_get(retriever.passage_encoder(params)))


def given_fingerprint(config: ConfigDict, model: rag.RagConfig) -> str | None:
    """The name of parts.passage_encoder, None where it is not given."""
    if not (name := config.parts.passage_encoder):
        return None
    return encoder_fingerprint(model.encoder, _load(name, "passage_encoder", model))


def _given(config: ConfigDict, model: rag.RagConfig, parallel: Devices) -> dict[str, Any]:
    given = {name: _load(config.parts[name], name, model) for name in PARTS if config.parts[name]}
    if config.init_from:
        whole = open_pretrained(config.init_from, "config.init_from").load(model, parallel)
        given["question_encoder"] = whole["question_encoder"]
    return given


def _load(name: str, part: str, model: rag.RagConfig) -> Any:
    return huggingface.load_encoder(source.find(name, f"config.parts.{part}"), part, model.encoder)


def _trained(config: ConfigDict, place: Workdir) -> tuple[Checkpoints, int] | None:
    """The checkpoints of train_retriever, and the newest of them."""
    folders = [place.retriever, *([Workdir(config.init_from).retriever] if config.init_from else [])]
    for folder in folders:
        checkpoints = Checkpoints(folder)
        if (step := checkpoints.latest()) is not None:
            return checkpoints, step
    return None


PARTS = ("question_encoder", "passage_encoder")
