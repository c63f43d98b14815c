"""Trains the bi-encoder: batches of pairs, in-batch softmax, checkpoints."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rag_jax.api import rag_config
from rag_jax.checkpoint import Checkpoints
from rag_jax.config import closed_book, flat
from rag_jax.data import tasks
from rag_jax.data.lines import Meter
from rag_jax.data.pipeline import Batches, step_rng
from rag_jax.data.tokenizer import Tokenizer
from rag_jax.data.vocabulary import load_or_train
from rag_jax.errors import UserError, fail
from rag_jax.evaluation.measures import PATTERNS
from rag_jax.hub.resolve import resolve
from rag_jax.parallel import MODES, Devices
from rag_jax.preemption import TOLD, PreemptedError, Preemption
from rag_jax.progress import metered, slow_at_first, waiting
from rag_jax.team import SINGLE, Team
from rag_jax.training import curves, encoders, init
from rag_jax.training.logging import RETRIEVER, Pace, RunLog, finite, speed
from rag_jax.training.optim import optimizer
from rag_jax.training.retriever import Pairs, init_params, retriever_step
from rag_jax.training.step import TrainState
from rag_jax.workdir import Workdir


def train_retriever(
    config: ConfigDict, place: Workdir, joined: Team = SINGLE, preemption: Preemption | None = None
) -> None:
    """Trains question and passage encoder; called again, goes on from the last checkpoint.

    joined and preemption: as in training/loop.py.
    """
    preemption = preemption or Preemption()
    if closed_book(config):
        fail(
            "config.index.kind: found 'none', a closed book: there is no retriever to train; run "
            "`python -m rag_jax.train`"
        )
    config = resolve(config)
    joined.agree(**flat(config))
    parallel = MODES[config.parallel]()
    settings = config.retriever
    parallel.check_batch("retriever.batch", settings.batch)
    both = joined.first_alone("tokenizers", lambda: load_or_train(config, place.tokenizers))
    encoder_tokenizer, generator_tokenizer = both
    model = rag_config(config, encoder_tokenizer, generator_tokenizer)
    assert encoder_tokenizer is not None  # this is no closed book
    pairs = make_pairs(config, encoder_tokenizer)
    now = course(config, pairs)
    joined.agree(**now)
    order = Batches(max(len(pairs.asked), 1), settings.batch, config.seed)

    shapes = jax.eval_shape(lambda key: init_params(model, key, shared=settings.shared), jax.random.key(0))
    tx = optimizer(settings, tuple(shapes))
    checkpoints = init.own_checkpoints(place.retriever, joined, along=(place.retriever_metrics,))
    gathered = init.as_saved(place, parallel)
    with waiting(f"{place.retriever}: parameters are made or loaded"):
        state = resume(checkpoints, tx, shapes, parallel)
        if state is None:
            params = encoders.first_params(config, model, parallel)
            state = parallel.put_state(TrainState(jnp.int32(0), params, tx.init(params)))
    step_function = parallel.step(
        retriever_step, config=model.encoder, optimizer=tx, scale=model.score_scale, seed=config.seed
    )
    start, own = int(jax.device_get(state.step)), parallel.share(settings.batch)
    drawn = lambda step: (order[step], step_rng(config.seed, "retriever", step))  # noqa: E731
    batch_of = lambda step: parallel.put_batch(pairs.batch(*drawn(step), own))  # noqa: E731
    told = lambda step: pairs.told(*drawn(step))  # noqa: E731
    newest = checkpoints.latest()
    was = checkpoints.extra(newest).get("course", now) if newest is not None else now

    with (
        RunLog(place.folder, resume_at=start, silent=not joined.first, kind=RETRIEVER) as log,
        jax.transfer_guard("disallow"),
        preemption.awaited(),
        checkpoints,
    ):
        if changes := init.differing(was, now):
            log.say(f"goes on with another configuration: {'; '.join(changes)}")
        log.say(f"retriever: {settings.steps} steps of {settings.batch} pairs, {len(pairs.passages):,} passages")
        step_function = slow_at_first(step_function, "retriever: the step is compiled", log.say)
        pace, pending = Pace(start, settings.steps, settings.batch), None
        batch = batch_of(start)
        for step in range(start, settings.steps):
            state, metrics = step_function(state, batch)
            pace.dispatched(metrics["loss"])
            if pending is not None:
                report(log, *pending, pace, told)
            pending = step, metrics
            batch = batch_of(step + 1)
            pace.prepared()
            ends = preemption.told()
            if ends or step + 1 == settings.steps or (step + 1) % config.evaluate.every == 0:
                report(log, *pending, pace, told)
                pending = None
                save(checkpoints, state, gathered, now)
                loss = float(jax.device_get(metrics["loss"]))
                log.say(f"retriever step {step + 1}: loss {loss:.3f}, saved" + TOLD * ends)
            if ends:
                checkpoints.close()
                raise PreemptedError
        checkpoints.close()
    if joined.first:
        curves.draw(place.folder / "retriever_curves.png", *curves.of_retriever(place.folder))


def make_pairs(config: ConfigDict, tokenizer: Tokenizer) -> Pairs:
    """Questions whose passages are known, and all passages."""
    questions = tasks.questions(config.data, config.data.train) if config.data.train else []
    known = [question for question in questions if question.passage_ids]
    if not known and config.retriever.inverse_cloze < 1:
        raise UserError(
            f"config.data.train: no question of {config.data.train or 'it'} names its passage_ids; "
            "expected some, or config.retriever.inverse_cloze = 1 to train on passages alone"
        )
    meter = Meter()
    read = metered(tasks.passages(config.data, meter=meter), meter.share, config.data.passages, "passages read")
    return Pairs(
        list(read), known, tokenizer, config.length,
        inverse_cloze=config.retriever.inverse_cloze, hard_negatives=config.retriever.hard_negatives,
        patterns=bool(PATTERNS.intersection(tasks.task(config.data).metrics)),
    )  # fmt: skip


def resume(
    checkpoints: Checkpoints, tx: Any, shapes: dict[str, Any], parallel: Devices
) -> TrainState[jax.Array] | None:
    """The newest checkpoint, None where there is none; shapes: of the parameters."""
    step = checkpoints.latest()
    if step is None:
        return None
    return init.restore_state(
        checkpoints, step, TrainState(init.STEP, shapes, jax.eval_shape(tx.init, shapes)), parallel
    )


def course(config: ConfigDict, pairs: Pairs) -> dict[str, Any]:
    """How the steps learn and which pairs they read, as messages name it; of the passages, how many there are."""
    questions = tasks.checksum(question for question, _ in pairs.asked)
    keys = flat(config.retriever, "config.retriever.")
    return {**keys, "config.seed": config.seed, "config.data.train": questions, "passages": len(pairs.passages)}


def save(
    checkpoints: Checkpoints, state: TrainState[jax.Array], gathered: Callable[[Any], Any], course: dict[str, Any]
) -> None:
    """Saves the whole state, its trees gathered as init.as_saved says; the newest counts as the best."""
    step = int(jax.device_get(state.step))
    checkpoints.save(step, **gathered(init.saved_trees(state)), score=step, extra={"course": course})


def report(log: RunLog, step: int, metrics: Any, pace: Pace, told: Callable[[int], list]) -> None:
    """Writes the numbers of a step that is already over."""
    metrics = finite("retriever", step, metrics, log.folder, told) | pace.metrics(step + 1)
    log.write(step, metrics)
    log.live(
        f"retriever {step + 1} loss {metrics['loss']:.3f} in-batch {100 * metrics['in_batch_accuracy']:.0f}% "
        f"{speed(metrics)}"
    )
