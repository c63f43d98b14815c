"""The training loop: read it from top to bottom."""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rag_jax.api import Rag, rag_config
from rag_jax.checkpoint import Checkpoints
from rag_jax.config import STAGES, flat
from rag_jax.data import tasks
from rag_jax.data.substitution import NameMaker
from rag_jax.data.vocabulary import load_or_train
from rag_jax.errors import UserError, fail
from rag_jax.evaluation.answers import predict
from rag_jax.evaluation.measures import Headline, headline, of_closed_book
from rag_jax.hub.resolve import resolve
from rag_jax.index.base import Index
from rag_jax.parallel import MODES, Devices
from rag_jax.preemption import TOLD, PreemptedError, Preemption
from rag_jax.progress import slow_at_first, waiting
from rag_jax.retrieve import Retriever
from rag_jax.team import SINGLE, Team
from rag_jax.training import curves, init, on_devices, searchers, sources
from rag_jax.training.examples import make_examples
from rag_jax.training.health import Health
from rag_jax.training.logging import NO_PROFILE, Pace, Profile, RunLog, finite, speed
from rag_jax.training.optim import learning_rates, optimizer
from rag_jax.training.step import Objective, TrainState
from rag_jax.workdir import Workdir

TRAINED = {
    True: ("question_encoder", "log_score_scale", "null_document", "generator", "classifier"),
    False: ("generator", "classifier"),
}
SAME_INDEX = "kind", "encoder_fingerprint", "dtype", "score_scale"  # for all processes, beside its passages


def train(
    config: ConfigDict,
    place: Workdir,
    joined: Team = SINGLE,
    preemption: Preemption | None = None,
    profile: Profile = NO_PROFILE,
) -> None:
    """Trains the stages of a configuration one after the other; called again, goes on where it stopped.

    joined: the processes that train together, each on its own devices and its own share of every batch. preemption:
    whether they are told to end; they save then, and PreemptedError ends them.
    """
    preemption = preemption or Preemption()
    config = resolve(config)
    joined.agree(**flat(config))
    parallel = MODES[config.parallel]()
    stages = {name: config[name] for name in STAGES if config[name].steps}
    check_batches(config, stages, parallel)
    init.check(config, place)  # before anything is written
    checkpoints = init.own_checkpoints(place.checkpoints, joined, along=(place.metrics, place.validation))
    both = joined.first_alone("tokenizers", lambda: load_or_train(config, place.tokenizers))
    encoder_tokenizer, generator_tokenizer = both
    model = rag_config(config, encoder_tokenizer, generator_tokenizer)
    begins, expected = model.generator.start_id, generator_tokenizer.eos_id
    if config.data.target_layout == "generation" and begins != expected:
        fail(f"config.generator.start_id: found {begins}, expected {expected}, `</s>`, with which answers are learned")
    optimizers = {name: optimizer(stage, trained(config, name)) for name, stage in stages.items()}
    with waiting(f"{place.folder}: parameters are made or loaded"):
        start = init.start(config, place, checkpoints, model, optimizers, parallel)
    searcher = searchers.of_training(config, stages, place, parallel, model.generator.vocab_size)
    index = init.open_own_index(start, place, generator_tokenizer, config.index.kind, searcher)
    progress, params = start.progress, start.params
    check_k(config, stages, index)
    retriever = Retriever.of(config, index, encoder_tokenizer, generator_tokenizer)
    fingerprint = index.manifest.encoder_fingerprint if index else None
    questions = tasks.questions(config.data, config.data.train)
    valid = tasks.questions(config.data, config.data.valid)[: config.evaluate.questions]
    if not all(question.answers for question in valid):
        raise UserError("config.data.valid: a question without an answer, as in a hidden test; expected another split")

    passages = index.manifest.passages_checksum if index else None
    told = {f"index {name}": getattr(index.manifest, name) for name in SAME_INDEX} if index else {}
    asked = tasks.checksum(questions)
    joined.agree(index=passages, **told, **{"config.data.train": asked, "config.data.valid": tasks.checksum(valid)})
    before = accumulate((stage.steps for stage in stages.values()), initial=0)
    first_steps = dict(zip(stages, before, strict=False))  # the last sum is the run's
    course = {name: init.course(config, name, first_steps[name], asked, passages) for name in stages}
    changes, done, unscored = [], 0, None
    if progress:
        changes = init.changes(progress, course[progress.stage])
        init.check_end(progress, stages)
        done = first_steps[progress.stage] + int(jax.device_get(progress.state.step))
        unscored = progress.stage if progress.unscored else None
    gathered = init.as_saved(place, parallel)

    rag = Rag(model, params, retriever, config, parallel)
    with RunLog(place.folder, resume_at=done, unscored=unscored is not None, silent=not joined.first) as log:
        task, goes_on = tasks.task(config.data), progress is not None
        examples = joined.first_alone(
            "examples", lambda: make_examples(task, questions, rag, place.targets, resumed=goes_on, log=log)
        )
        if config.init_from and index and progress is None:
            against = start.passage_encoder or "a passage encoder that it does not name"
            log.say(f"starts from {config.init_from}, trained against {against}")
        if progress and (differs := dict.fromkeys([*changes, *init.other_settings(config, place)])):
            log.say(f"goes on with another configuration: {'; '.join(differs)}")
        if progress and changes:
            progress = progress._replace(next_ids=[])  # they are of other questions, or other passages
        left = [name for name in stages if done < first_steps[name] + stages[name].steps or name == unscored]
        made = {name: make_source(name, stages[name], config, rag, examples) for name in left}
        if joined.first:  # what has to be refused was refused: the record of an earlier run stays until here
            place.save_config(config)
        with preemption.awaited(), checkpoints:
            for name in left:
                if preemption.told():
                    log.say(f"{name}: not begun{TOLD}")
                    checkpoints.close()
                    raise PreemptedError
                stage, first, source = stages[name], first_steps[name], made.pop(name)
                resumed = progress if progress and progress.stage == name else None
                state = resumed.state if resumed else TrainState(jnp.int32(0), params, optimizers[name].init(params))
                state = parallel.put_state(state)  # elsewhere, the first step would compile a program of its own

                keeper = Keeper(checkpoints, parallel, gathered, name, first, course[name], fingerprint)
                read = f"{stage.k} passages each" if index else "a closed book"
                log.say(f"{name}: {stage.steps} steps of {stage.batch} questions, {read}")
                with jax.transfer_guard("disallow"):
                    params = train_stage(
                        stage, config, source, state, rag=rag, tx=optimizers[name], log=log, keeper=keeper,
                        resumed=resumed, valid=valid if name != "denoise" else [], preemption=preemption,
                        profile=profile,
                    ).params  # fmt: skip
            checkpoints.close()
    if joined.first:
        curves.draw(place.folder / "curves.png", *curves.of_run(place.folder))


class Keeper(NamedTuple):
    """Saves the states of a stage, whose step 0 is the run's step `first`. fingerprint: of the index's encoder."""

    checkpoints: Checkpoints
    parallel: Devices
    gathered: Callable[[Any], Any]  # a state's trees as they are saved
    stage: str
    first: int
    course: dict[str, Any]
    fingerprint: str | None

    def save(self, state: TrainState, found: sources.Found, score: float, *, unscored: bool) -> None:
        """Saves the state and what was already found for its next batch; unscored: there was no time to evaluate it."""
        ids_BK = self.parallel.of_all(found.ids_BK)
        scores = None if found.score_BK is None else self.parallel.of_all(found.score_BK).tolist()
        ahead = {"course": self.course, "next_ids": ids_BK.tolist(), "next_health": found.health, "next_scores": scores}
        self.checkpoints.save(
            self.first + int(jax.device_get(state.step)),
            **self.gathered(init.saved_trees(state)),
            score=_rank(score),
            extra={"stage": self.stage, **ahead, "passage_encoder": self.fingerprint, "unscored": unscored},
        )

    def make_up(self, step: int, score: float) -> None:
        """Gives the state that was saved without an evaluation its score."""
        self.checkpoints.rescore(self.first + step, _rank(score))


def _rank(score: float) -> float:
    return -1.0 if math.isnan(score) else score


def train_stage(
    stage: ConfigDict, config: ConfigDict, source: Any, state: TrainState, *, rag: Rag, tx: Any, log: RunLog,
    keeper: Keeper, resumed: init.Progress | None, valid: list, preemption: Preemption, profile: Profile,
) -> TrainState:  # fmt: skip
    """Runs one stage from state.step to its end, with the exact match of `valid` at every evaluation."""

    def evaluate_and_save(state: TrainState, found: sources.Found, step: int, *, due: bool) -> Headline:
        rag.params = state.params
        said = predict(rag, valid if due else [], where=f"{name} step {step}", log=log.say)
        watched = headline(preemption.until_told(said), measures)
        ends = preemption.told()
        if not (ends or math.isnan(watched.value)):
            log.score(first + step, name, watched.label, watched.value)
        if step > start:
            keeper.save(state, found, math.nan if ends else watched.value, unscored=due and ends)
        elif not ends:
            keeper.make_up(step, watched.value)
        known = "" if math.isnan(watched.value) or ends else f"validation {watched.label} {100 * watched.value:.1f}, "
        log.say(f"{name} step {step}: {known}saved" + TOLD * ends)
        if ends:
            keeper.checkpoints.close()
            raise PreemptedError
        return watched

    name, first, parallel = keeper.stage, keeper.first, rag.parallel
    objective = Objective(stage.train_question_encoder, stage.label_smoothing, stage.accumulation, config.seed)
    step_function = parallel.step(source.step, config=rag.model, optimizer=tx, objective=objective)
    step_function = slow_at_first(step_function, f"{name}: the step is compiled", log.say)
    rates, start, own = learning_rates(stage), int(jax.device_get(state.step)), parallel.share(stage.batch)
    pace, pending, watched = Pace(start, stage.steps, stage.batch), None, Headline()
    measures: Sequence[str] = tasks.TASKS[config.data.task].metrics
    measures = measures if rag.retriever.index else of_closed_book(measures)
    if resumed is None or not np.size(resumed.next_ids):  # before, nothing was found ahead
        found = source.search(start, source.encode(state.params, start))
    else:
        health = Health(*resumed.next_health) if resumed.next_health else None
        scores = None if resumed.next_scores is None else np.array(resumed.next_scores, np.float32)[own]
        found = sources.Found(np.array(resumed.next_ids)[own], health, scores)
    if resumed and resumed.unscored:
        watched = evaluate_and_save(state, found, start, due=True)
    batch = source.put(start, found)

    for step in range(start, stage.steps):
        profile.at(first + step)
        # With lag 1 the next questions are encoded by the parameters before this update, and the search for their
        # passages runs on the host while the devices work on this step.
        query = source.encode(state.params, step + 1) if config.retrieval.lag else None
        state, metrics = step_function(state, batch)
        pace.dispatched(metrics["loss"])
        if pending is not None:
            report(log, keeper, source, *pending, pace=pace, rates=rates, watched=watched)
        pending = step, metrics, found.health
        if not config.retrieval.lag:
            query = source.encode(state.params, step + 1)
        try:
            found = source.search(step + 1, query)
        except UserError as error:  # an encoder that has diverged, whose last loss tells more
            report(log, keeper, source, *pending, pace=pace, rates=rates, watched=watched)
            raise UserError(f"{name} step {step + 1}: {error}") from None
        batch = source.put(step + 1, found)
        pace.prepared()

        due = step + 1 == stage.steps or (step + 1) % config.evaluate.every == 0
        if due or preemption.told():
            report(log, keeper, source, *pending, pace=pace, rates=rates, watched=watched)
            pending = None
            watched = evaluate_and_save(state, found, step + 1, due=due)
    return state


def report(
    log: RunLog,
    keeper: Keeper,
    source: Any,
    step: int,
    metrics: Any,
    health: Any,
    *,
    pace: Pace,
    rates,
    watched: Headline,
) -> None:
    """Writes the numbers of a step that is already over, and stops the run at a loss that is not a number."""
    name, metrics = keeper.stage, jax.device_get(metrics)
    if "ids_BK" in metrics:  # found by the step itself
        health = Health.of(metrics.pop("ids_BK"), metrics.pop("score_BK"))
    metrics = finite(name, step, metrics, log.folder, source.told)
    metrics |= {"learning_rate": float(rates[step]), **pace.metrics(step + 1)}
    if health is not None:
        metrics |= {"distinct_passages": health.distinct, "mutual_information": health.information}
        if health.collapsed:
            log.say(
                f"warning: {name} step {step}: retrieval has collapsed: {health.distinct} distinct passages for "
                f"{health.questions} questions, mutual information {health.information:.3f} nats"
            )
    log.write(keeper.first + step, {"stage": name, **metrics})
    known = "" if math.isnan(watched.value) else f"{watched.label} {100 * watched.value:.1f} "
    log.live(
        f"{name} {step + 1} of {len(rates)} loss {metrics['loss']:.3f} {known}"
        f"retrieval {100 * metrics['retrieval_wait']:.0f}% {speed(metrics)}"
    )


def make_source(name: str, stage: ConfigDict, config: ConfigDict, rag: Rag, examples: list) -> Any:
    """Passages with holes for the denoising stage, questions for the others."""
    if name == "denoise":
        if rag.retriever.generator_tokenizer.mask_id >= rag.model.generator.vocab_size:
            raise UserError(
                "config.denoise.steps: the generator's table has no row for <mask>, as in facebook/bart-large-cnn; "
                "expected 0 steps, or another parts.generator"
            )
        return sources.PassageSource(rag.retriever, config, stage, rag.parallel)
    names = None
    if stage.substitution:
        held_out = (config.data.valid, config.data.test, *config.hot_swap.questions)
        sets = (tasks.questions(config.data, source, log=lambda line: None) for source in filter(None, held_out))
        blocked = sources.blocked_words(*sets)
        names = NameMaker(rag.retriever.generator_tokenizer, blocked, config.seed)
    given = examples, rag.retriever, rag.model, config, stage, rag.parallel
    if rag.retriever.index and on_devices.possible(config, stage):
        return on_devices.DeviceSource(*given, names=names, name=name)
    return sources.QuestionSource(*given, names=names, name=name)


def trained(config: ConfigDict, name: str) -> tuple[str, ...]:
    """The parameters that a stage trains, by their names at the top: those alone that its loss reads.

    A null document learns with the question encoder: together they are p(z|x). A stage that keeps it teaches reading
    alone, often of passages that were made to hold the answer, beside which the null document would be useless. BM25
    has no encoder, and its null document learns in every stage that reads questions.
    """
    if name == "denoise":
        return ("generator",)
    names = TRAINED[config[name].train_question_encoder]
    return (*names, "null_document") if config.index.kind == "bm25" else names


def check_batches(config: ConfigDict, stages: dict[str, ConfigDict], parallel: Devices) -> None:
    """Raises UserError for no stage, or a batch that does not divide over the devices, before anything is loaded."""
    if not stages:
        raise UserError(
            f"config.joint.steps: found 0, as in all of {', '.join(STAGES)}; expected some, as --config.joint.steps=500"
        )
    for name, stage in stages.items():
        parallel.check_batch(f"{name}.batch", stage.batch, stage.accumulation)
    if not config.data.train or not config.data.valid:
        raise UserError(
            "config.data.train and data.valid: expected two files of questions, or 'demo:train' and 'demo:valid'"
        )
    together = config.parallel == "sharded" or config.index.split or config.index.kind == "exact"
    if parallel.processes > 1 and tasks.task(config.data).depth and together:
        raise UserError(
            f"--processes: found {parallel.processes}, but data.task = {config.data.task!r} first looks for answers in "
            "passages, which with parallel = 'sharded', index.split or index.kind = 'exact' one process must do: run "
            "the command without --processes until training begins, then go on with them"
        )


def check_k(config: ConfigDict, stages: dict[str, ConfigDict], index: Index | None) -> None:
    """Raises UserError for a k larger than the corpus; in a closed book nobody asks for it."""
    if index is None:
        return
    passages = len(index.passages)
    wanted = {"retrieval.k": config.retrieval.k}
    for name, stage in stages.items():
        if name == "denoise":  # repairs passages one by one
            continue
        wanted |= {f"{name}.k": stage.k, f"{name}.depth": stage.depth}
    for key, k in wanted.items():
        if k > passages:
            raise UserError(f"config.{key}: found {k}, expected at most {passages}, the passages of the index")
