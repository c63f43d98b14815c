"""Which settings would make a phase fit, and what it would need then: estimates, from the programs' equations."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rag_jax.config import STAGES
from rag_jax.planning import cost, memory
from rag_jax.planning.memory import Measured, Phase, Place
from rag_jax.planning.model import Described, describe
from rag_jax.planning.programs import programs
from rag_jax.workdir import Workdir


class Advice(NamedTuple):
    """A change of settings, as they are typed, and the bytes that the phase would need on a device."""

    change: str
    total: float


def advise(
    phase: Phase, measured: list[Measured], described: Described, place: Place, passages: int, run: Workdir | None
) -> list[Advice]:
    """The changes that lower what the phase needs, those that make it fit first."""
    largest = next(one for one in measured if one.program.name == phase.largest and phase.name in one.program.phases)
    found = []
    for change in _changes(described.config, phase, place):
        config = ConfigDict(described.config).copy_and_resolve_references().unlock()
        changed_place = place._replace(parallel=memory.OnPaper(place.topology.devices))
        for key, value in change.items():
            if key == "parallel":
                changed_place = changed_place._replace(split=value == "sharded")
            else:
                group, _, name = key.rpartition(".")
                config[group][name] = value
        total = _total(largest, phase, describe(config, run), changed_place, passages)
        if total < phase.total:
            found.append(Advice(" ".join(f"--config.{key}={value}" for key, value in change.items()), total))
    return sorted(found, key=lambda advice: advice.total > place.limit)


def _changes(config: ConfigDict, phase: Phase, place: Place) -> Iterator[dict[str, Any]]:
    """What can be changed, the cheapest to bear first."""
    parts = ("encoder", "generator")
    if narrow := {f"{part}.dtype": "bfloat16" for part in parts if config[part].dtype == "float32"}:
        yield narrow
    if "index" in phase.resident:
        if config.index.dtype == "float32":
            yield {"index.dtype": "bfloat16"}
        yield {"index.kind": "scann"}
    if phase.largest == "answer":
        yield {"evaluate.batch": config.evaluate.batch // 2 or 1}
        yield {"retrieval.k": config.retrieval.k // 2 or 1}
        return
    stage = phase.largest.split()[0]
    if stage not in STAGES:
        return
    per_device = config[stage].batch // place.topology.devices
    for parts_of_batch in (2, 4, 8, 16):
        more = config[stage].accumulation * parts_of_batch
        if per_device % more == 0:
            yield {f"{stage}.accumulation": more}
    if recomputed := {f"{part}.remat": "full" for part in parts if config[part].remat != "full"}:
        yield recomputed
    if not place.split and place.topology.devices > 1 and "parallel" in config:
        yield {"parallel": "sharded"}
    yield {f"{stage}.batch": config[stage].batch // 2 or 1}
    yield {"length.source": max(config.length.source // 2, 4)}
    if config[stage].k > 1:
        yield {f"{stage}.k": config[stage].k // 2}


def _total(largest: Measured, phase: Phase, described: Described, place: Place, passages: int) -> float:
    """What the phase would need: its residents anew, and the temporaries grown as their estimate does."""
    topology = place.topology
    found = [
        program
        for program in programs(described, passages, topology.devices, topology.on_host)
        if phase.name in program.phases
    ]
    resident = memory.held_by(found, place)
    resident |= {name: phase.resident[name] for name in ("programs",) if name in phase.resident}
    program = next(one for one in found if one.name == largest.program.name)
    estimate = cost.peak(program.trace(topology.devices))
    return sum(resident.values()) + largest.temporaries * estimate / max(largest.estimate, 1.0)
