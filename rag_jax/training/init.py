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


def retriever_params(folder: Path, model: rag.RagConfig, *, shared: bool, parallel: Pmap) -> dict[str, Any]:
    """The newest parameters of train_retriever, as retriever.init_params makes them."""
    checkpoints, step = newest_retriever(folder)
    init = jax.eval_shape(lambda key: retriever.init_params(model, key, shared=shared), jax.random.key(0))
    return checkpoints.restore(step, params=parallel.abstract_whole(init))["params"]


def newest_retriever(folder: Path) -> tuple[Checkpoints, int]:
    """The checkpoints of train_retriever and the newest of them; UserError where there is none."""
    checkpoints = Checkpoints(folder) if folder.is_dir() else None
    step = checkpoints.latest() if checkpoints else None
    if step is None:
        raise UserError(f"{folder}: holds no trained retriever; run `python -m rag_jax.train_retriever` first")
    return checkpoints, step


def passage_fingerprint(config: BertConfig, params: dict[str, Any]) -> str:
    """The name of the passage encoder among a retriever's parameters."""
    return encoder_fingerprint(config, jax.device_get(retriever.passage_encoder(params)))


def check_encoder(checkpoints: Checkpoints, fingerprint: str) -> None:
    """UserError for a run that was begun with the index of another passage encoder."""
    step = checkpoints.latest()
    if step is not None and (found := checkpoints.extra(step)["passage_encoder"]) != fingerprint:
        raise UserError(
            f"{checkpoints.folder / str(step)}: trained with an index by passage encoder {found}, not {fingerprint}, "
            "which was trained since; delete the checkpoints, or train in another --workdir"
        )


class Progress(NamedTuple):
    """A state, its stage and what was already found for its next batch: all that the loop needs to go on.

    next_health: what training/health.py said of next_ids; None where nothing was searched.
    """

    stage: str
    state: TrainState
    next_ids: list
    next_health: list | None


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
    if extra["stage"] not in optimizers:
        raise UserError(
            f"{checkpoints.folder / str(step)}: made in the stage '{extra['stage']}', which now has no steps; "
            f"give config.{extra['stage']}.steps its number again, or train in another --workdir"
        )
    params = jax.eval_shape(lambda key: rag.init_params(model, key), jax.random.key(0))
    optimizer = jax.eval_shape(optimizers[extra["stage"]].init, params)
    state = restore_state(checkpoints, step, TrainState(_STEP, params, optimizer), parallel)
    return Progress(extra["stage"], state, extra["next_ids"], extra.get("next_health"))


def saved_trees(state: TrainState) -> dict[str, Any]:
    """A state as the trees 'params' and 'optimizer' of a checkpoint."""
    return {"params": state.params, "optimizer": {"step": state.step, "adam": state.opt_state}}


def restore_state(checkpoints: Checkpoints, step: int, like: TrainState, parallel: Pmap) -> TrainState:
    """The state saved at a step, whole on every device; `like` has its shapes and dtypes."""
    abstract = {name: parallel.abstract_whole(tree) for name, tree in saved_trees(like).items()}
    trees = checkpoints.restore(step, **abstract)
    return TrainState(trees["optimizer"]["step"], trees["params"], trees["optimizer"]["adam"])


def from_parts(model: rag.RagConfig, encoder: dict[str, Any], seed: int, parallel: Pmap) -> dict[str, Any]:
    """The trained question encoder, with its learned scale if it has one, beside a freshly initialised generator."""
    params = rag.init_params(model, jax.random.key(seed))
    return parallel.put_whole(params | {name: encoder[name] for name in params if name in encoder})


_STEP = jax.ShapeDtypeStruct((), jax.numpy.int32)
