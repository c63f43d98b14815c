"""Where training starts: this run's checkpoint, a whole model, its parts, or scratch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from ml_collections import ConfigDict

from rag_jax.checkpoint import Checkpoints
from rag_jax.config import flat
from rag_jax.data import tasks
from rag_jax.data.tokenizer import Tokenizer
from rag_jax.errors import UserError
from rag_jax.hub import huggingface, source
from rag_jax.hub.pretrained import open_pretrained
from rag_jax.index import bm25
from rag_jax.index.base import Index, Maker, check_kind, has_vectors, open_index
from rag_jax.models import rag
from rag_jax.parallel import Devices
from rag_jax.storage import address, pull
from rag_jax.team import Team
from rag_jax.training import encoders
from rag_jax.training.step import Leaf, TrainState
from rag_jax.workdir import Workdir


class Progress(NamedTuple):
    """A state, its stage and what was already found for its next batch: all that the loop needs to go on.

    next_health: what training/health.py said of next_ids; None where nothing was searched. next_scores: of next_ids,
    where the retriever brings its own. unscored: the run was told to end before the state was evaluated. course: as
    `course` tells it; None in old checkpoints.
    """

    stage: str
    state: TrainState[jax.Array]
    next_ids: list
    next_health: list | None
    next_scores: list | None
    unscored: bool
    course: dict[str, Any] | None


def check(config: ConfigDict, place: Workdir) -> None:
    """UserError, before anything is read or written, where there is no retriever to start from and one is needed."""
    if has_vectors(config.index.kind) and Checkpoints(place.checkpoints).latest() is None and not config.init_from:
        encoders.check_retriever(config, place)


class Start(NamedTuple):
    """What training starts from.

    params: whole on every device. passage_encoder: the fingerprint of the one whose vectors they read, or of BM25; None
    where nobody knows it, and in a closed book. progress: where a run stopped that goes on.
    """

    params: dict[str, Any]
    passage_encoder: str | None
    progress: Progress | None = None


def start(
    config: ConfigDict,
    place: Workdir,
    saved: Checkpoints,
    model: rag.RagConfig,
    optimizers: dict[str, optax.GradientTransformation],
    parallel: Devices,
) -> Start:
    """Where training starts: saved, this run's checkpoint > init_from > encoders and generator apart > scratch.

    The question encoder apart is train_retriever's in this run, which takes the place of init_from's too, as its index
    is made by it; else parts.question_encoder. Without parts.generator the generator is fresh. BM25 needs no question
    encoder: one that is not to be had is fresh. A closed book has none. A classifier is fresh where init_from has none
    of the same labels. Writes nothing.
    """
    progress = resume(saved, model, optimizers, parallel)
    if progress is not None and (step := saved.latest()) is not None:
        return Start(progress.state.params, saved.extra(step)["passage_encoder"], progress)
    by_words = bm25.fingerprint(config.index.bm25) if config.index.kind == "bm25" else None
    if config.init_from:
        whole = open_pretrained(config.init_from, "config.init_from")
        named = by_words or encoders.given_fingerprint(config, model) or whole.passage_encoder
        fresh = rag.init_null_document(model, jax.random.key(config.seed)) | rag.init_score_scale(model)
        params = parallel.put_state(fresh) | whole.load(model, parallel)  # where they are not learned already
        if tasks.classes(whole.config.data) != model.classes:  # the head of other labels, or none
            params.pop("classifier", None)
            params |= parallel.put_state(rag.init_classifier(model, jax.random.key(config.seed)))
        if has_vectors(config.index.kind) and Checkpoints(place.retriever).latest() is not None:
            trained = encoders.retriever_params(config, place, model, parallel)
            named = encoders.passage_fingerprint(model.encoder, parallel.read(trained))
            params |= {name: trained[name] for name in RETRIEVES if name in trained}
        return Start(params, named)
    params = rag.init_params(model, jax.random.key(config.seed))
    trained, named = {}, by_words
    if model.question_encoder is not None:
        trained = (encoders.known_params if by_words else encoders.retriever_params)(config, place, model, parallel)
        named = by_words or encoders.passage_fingerprint(model.question_encoder, parallel.read(trained))
    params |= {name: trained[name] for name in params if name in trained}
    if name := config.parts.generator:
        folder = source.find(name, "config.parts.generator")
        params["generator"] = huggingface.load_generator(folder, model.generator)
    return Start(parallel.put_state(params), named)


def open_own_index(
    start: Start, place: Workdir, tokenizer: Tokenizer, kind: str, searcher: Maker | None = None
) -> Index | None:
    """The run's index; UserError unless it was made by the passage encoder that the parameters were trained against.

    kind: config.index.kind, which decides whether a question encoder can be trained; a closed book has no index.
    searcher: makes what searches it, in place of its own.
    """
    if kind == "none":
        return None
    expected = start.passage_encoder if start.progress is None else None
    index = open_index(place.index, expect_fingerprint=expected, tokenizer=tokenizer, searcher=searcher)
    check_kind(kind, index, as_built=searcher is None)
    if start.progress and (found := index.manifest.encoder_fingerprint) != start.passage_encoder:
        raise UserError(
            f"{place.checkpoints}: trained with an index by passage encoder {start.passage_encoder}, not {found}, "
            "which was trained since; delete the checkpoints, or train in another --workdir"
        )
    return index


def resume(
    checkpoints: Checkpoints,
    model: rag.RagConfig,
    optimizers: dict[str, optax.GradientTransformation],
    parallel: Devices,
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
    if (extra["passage_encoder"] is None) != (model.question_encoder is None):
        trained = "without" if model.question_encoder else "with"
        raise UserError(
            f"{checkpoints.folder}: trained {trained} passages; give config.index.kind its value again ('none' is a "
            "closed book), or train in another --workdir"
        )
    params = jax.eval_shape(lambda key: rag.init_params(model, key), jax.random.key(0))
    optimizer = jax.eval_shape(optimizers[extra["stage"]].init, params)
    state = restore_state(checkpoints, step, TrainState(STEP, params, optimizer), parallel)
    return Progress(
        extra["stage"],
        state,
        extra["next_ids"],
        extra.get("next_health"),
        extra.get("next_scores"),
        extra.get("unscored", False),
        extra.get("course"),
    )


def course(config: ConfigDict, stage: str, before: int, questions: str, passages: str | None) -> dict[str, Any]:
    """What decides which questions and passages the steps of a stage read, as messages name it.

    before: steps of the run before this stage. questions, passages: their checksums.
    """
    keys = {f"config.{stage}.{name}": config[stage][name] for name in ("batch", "k", "depth", "substitution")}
    keys |= {"config.seed": config.seed, "config.data.task": config.data.task}
    return {**keys, "config.data.train": questions, f"steps before {stage}": before, "passages": passages}


def changes(progress: Progress, now: dict[str, Any]) -> list[str]:
    """How the course of now differs from the one on which a run stopped: what was found ahead is of no use then.

    Raises UserError where its step would be another step of the run: numbers would be given twice.
    """
    was, before = progress.course or now, f"steps before {progress.stage}"
    if now[before] != was[before]:
        raise UserError(
            f"the stage '{progress.stage}' of the newest checkpoint began after {was[before]} steps, found "
            f"{now[before]}; give the stages before it their steps again, or train in another --workdir"
        )
    return differing(was, now)


def differing(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is not what it was, in words; what an older version did not save is not compared."""
    return [f"{key} is {now[key]}, was {was[key]}" for key in now if now[key] != was.get(key, now[key])]


def other_settings(config: ConfigDict, place: Workdir) -> list[str]:
    """How the configuration differs from the one with which the run in this folder went on last, in words."""
    try:
        return differing(flat(place.load_config()), flat(config))
    except UserError as error:
        return [f"it is not known what has changed ({error})"]


def check_end(progress: Progress, stages: dict[str, ConfigDict]) -> None:
    """UserError where a run stands beyond the end of its stage and another follows, whose first steps it would miss."""
    name, step = progress.stage, int(jax.device_get(progress.state.step))
    if name != list(stages)[-1] and step > stages[name].steps:
        raise UserError(
            f"config.{name}.steps: found {stages[name].steps}, expected at least {step}, which the newest checkpoint "
            "has done of them, as another stage follows; give it its steps again, or train in another --workdir"
        )


def saved_trees(state: TrainState[Leaf]) -> dict[str, Any]:
    """A state as the trees 'params' and 'optimizer' of a checkpoint."""
    return {"params": state.params, "optimizer": {"step": state.step, "adam": state.opt_state}}


def own_checkpoints(folder: Path, joined: Team, *, along: tuple[Path, ...] = ()) -> Checkpoints:
    """A run's checkpoints, to go on from; UserError where the processes have not the same newest one.

    Process 0, which writes there, first sets damaged ones aside and publishes what an earlier run could not.
    """
    checkpoints = Checkpoints(folder, along=along)

    def brought_in_step() -> None:
        if not joined.first:
            pull(folder)
            return
        checkpoints.set_damaged_aside()
        pull(folder)  # what this disk alone had damaged
        checkpoints.close()

    joined.first_alone("checkpoints", brought_in_step)
    joined.agree(checkpoint=checkpoints.latest())
    return checkpoints


def as_saved(place: Workdir, parallel: Devices) -> Callable[[Any], Any]:
    """How a state is given to its checkpoint: written by all processes, or by the first where each has its own disk."""
    return parallel.read if parallel.processes > 1 and address(place.folder) else parallel.to_global


def restore_state(
    checkpoints: Checkpoints, step: int, like: TrainState[jax.ShapeDtypeStruct], parallel: Devices
) -> TrainState[jax.Array]:
    """The state saved at a step, whole on every device; `like` has its shapes and dtypes."""
    abstract = {name: parallel.abstract_state(tree) for name, tree in saved_trees(like).items()}
    trees = checkpoints.restore(step, **abstract)
    return TrainState(trees["optimizer"]["step"], trees["params"], trees["optimizer"]["adam"])


RETRIEVES = ("question_encoder", "log_score_scale")
STEP = jax.ShapeDtypeStruct((), jax.numpy.int32)
