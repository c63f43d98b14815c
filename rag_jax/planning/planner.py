"""Plans a run: its programs, compiled or estimated for a topology, and what they need of devices, hosts and money."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rag_jax.config import STAGES, closed_book
from rag_jax.parallel import MODES
from rag_jax.planning import chips, compiler, fit, host, memory
from rag_jax.planning.memory import Measured, OnPaper, Phase, Place
from rag_jax.planning.model import Described, describe
from rag_jax.planning.programs import TRAINING, Program, programs, step, trains_retriever
from rag_jax.progress import waiting
from rag_jax.workdir import Workdir


class Plan(NamedTuple):
    """All that is known; tried: batches per device and the bytes of training with each, where they were sought."""

    described: Described
    place: Place
    corpus: host.Corpus
    measured: list[Measured]
    phases: list[Phase]
    host: host.Host
    tried: dict[int, float]


def plan(
    config: ConfigDict,
    topology: chips.Topology,
    run: Workdir | None,
    passages: int | None,
    *,
    fits: bool,
    log: Callable[[str], None],
) -> Plan:
    """Plans a configuration for a topology.

    run: of which tokenizers and index are taken, where they are there. passages: how many, else the index's, else the
    paper's. fits: whether the largest batch of the last stage is sought. log: hears of each program.
    Raises UserError for a compiler that is not there, or a batch that does not divide.
    """
    place = _place(config, topology)
    described = describe(config, run)
    check_batches(described.config, place.parallel, topology.on_host)
    corpus = host.corpus(config, run, passages)
    found = programs(described, corpus.passages, topology.devices, topology.on_host)
    measured = [_measured(program, place, log) for program in found]
    tried = _fit(described, corpus.passages, measured, place, log) if fits else {}
    phases = memory.phases(measured, place)
    return Plan(described, place, corpus, measured, phases, of_host(described, corpus, measured, place), tried)


def check_batches(config: ConfigDict, parallel: Any, on_host: int) -> None:
    """Raises UserError for a batch that does not divide over the devices, or of passages over a host's."""
    for name in STAGES:
        if config[name].steps:
            parallel.check_batch(f"{name}.batch", config[name].batch, config[name].accumulation)
    if not closed_book(config):
        host_alone: Any = OnPaper(on_host)
        host_alone.check_batch("index.batch", config.index.batch)
    if trains_retriever(config):
        parallel.check_batch("retriever.batch", config.retriever.batch)


def _place(config: ConfigDict, topology: chips.Topology) -> Place:
    mode = config.parallel
    if topology.kind != "tpu":
        return Place(topology, OnPaper(topology.devices), mode == "sharded", topology.chip.memory)
    devices = compiler.devices(topology)
    return Place(topology, MODES[mode](devices), mode == "sharded", compiler.limit(devices[0]))


def _measured(program: Program, place: Place, log: Callable[[str], None]) -> Measured:
    with waiting(f"{program.name}, {program.rows} at a time: being {'compiled' if place.compiles else 'traced'}", log):
        measured = memory.measure(program, place)
    if place.compiles:
        told = "compiled" if measured.fits else "found not to fit"
        log(f"{program.name}, {program.rows} at a time: {told} in {measured.seconds:.0f} s")
    return measured


def _fit(
    described: Described, passages: int, measured: list[Measured], place: Place, log: Callable[[str], None]
) -> dict[int, float]:
    """Batches per device of the last stage, with what training needs of a device."""
    config, devices = described.config, place.topology.devices
    stages = [name for name in STAGES if config[name].steps]
    if not stages:
        return {}
    name = stages[-1]
    others = [one for one in measured if one.program.name != f"{name} step"]

    def need(batch: int) -> float:
        if batch * devices == config[name].batch:
            own = next(one for one in measured if one.program.name == f"{name} step")
        else:
            changed = ConfigDict(config).copy_and_resolve_references().unlock()
            changed[name].batch = batch * devices
            own = _measured(step(described._replace(config=changed), name, passages, devices), place, log)
        return next(phase.total for phase in memory.phases([own, *others], place) if phase.name == TRAINING)

    return fit.tries(need, place.limit, config[name].batch // devices, config[name].accumulation)


def of_host(described: Described, corpus: host.Corpus, measured: list[Measured], place: Place) -> host.Host:
    """What a host needs beside the programs."""
    model, state = described.model, 0.0
    for one in measured:
        if one.program.rewrites:
            state = max(
                state, sum(memory.total(held.tree) for held in one.program.held.values() if held.how == "whole")
            )
    width = model.question_encoder.embedding_width if model.question_encoder else 0
    return host.host(described.config, corpus.passages, width, place.topology, state)
