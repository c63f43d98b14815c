"""Where training starts from: a checkpoint of this run, or the trained retriever and a fresh generator."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax

from rag_jax.checkpoint import Checkpoints
from rag_jax.errors import UserError
from rag_jax.models import rag
from rag_jax.models.bert import BertConfig
from rag_jax.models.fingerprint import encoder_fingerprint
from rag_jax.parallel import Pmap
from rag_jax.training import retriever
from rag_jax.training.step import TrainState


def retriever_params(folder: Path, config: BertConfig, *, shared: bool, parallel: Pmap) -> dict[str, Any]:
    """The newest parameters of train_retriever: {'question_encoder'} and, unless shared, {'passage_encoder'}."""
    checkpoints = Checkpoints(folder) if folder.is_dir() else None
    step = checkpoints.latest() if checkpoints else None
    if step is None:
        raise UserError(f"{folder}: holds no trained retriever; run `python -m rag_jax.train_retriever` first")
    init = jax.eval_shape(lambda key: retriever.init_params(config, key, shared=shared), jax.random.key(0))
    return checkpoints.restore(step, params=parallel.abstract_whole(init))["params"]


def passage_fingerprint(config: BertConfig, params: dict[str, Any]) -> str:
    """The name of the passage encoder among a retriever's parameters."""
    return encoder_fingerprint(config, jax.device_get(retriever.passage_encoder(params)))


class Progress(NamedTuple):
    """A state, the stage it belongs to and the ids already found for its next batch: all that the loop needs to go on."""

    stage: str
    state: TrainState
    next_ids: list | None


def resume(
    checkpoints: Checkpoints,
    model: rag.RagConfig,
    optimizers: dict[str, optax.GradientTransformation],
    parallel: Pmap,
) -> Progress | None:
    """The newest checkpoint of this run, as if it had never stopped; None where there is none."""
    step = checkpoints.latest()
    if step is None:
        return None
    extra = checkpoints.extra(step)
    params = jax.eval_shape(lambda key: rag.init_params(model, key), jax.random.key(0))
    optimizer = jax.eval_shape(optimizers[extra["stage"]].init, params)
    trees = checkpoints.restore(
        step,
        params=parallel.abstract_whole(params),
        optimizer=parallel.abstract_whole({"step": _STEP, "adam": optimizer}),
    )
    state = TrainState(trees["optimizer"]["step"], trees["params"], trees["optimizer"]["adam"])
    return Progress(extra["stage"], state, extra["next_ids"])


def from_parts(model: rag.RagConfig, encoder: dict[str, Any], seed: int, parallel: Pmap) -> dict[str, Any]:
    """The trained question encoder beside a freshly initialised generator."""
    params = rag.init_params(model, jax.random.key(seed))
    return parallel.put_whole({"question_encoder": encoder["question_encoder"], "generator": params["generator"]})


_STEP = jax.ShapeDtypeStruct((), jax.numpy.int32)
