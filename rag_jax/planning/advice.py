"""Which settings would make a phase fit, and what it would need then: estimates, from the programs' equations."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rag_jax.config import STAGES
from rag_jax.errors import UserError
from rag_jax.planning import cost, memory
from rag_jax.planning.memory import CODE, Measured, OnPaper, Phase, Place
from rag_jax.planning.model import Described, describe
from rag_jax.planning.programs import programs
from rag_jax.workdir import Workdir

STEPS = 5  # changes that are put together at most
PARTS = ("encoder", "generator")


class Advice(NamedTuple):
    """Changes of settings, as they are typed, and the bytes that the phase would need on a device."""

    change: str
    total: float


class _State(NamedTuple):
    """A configuration with what a phase would need under it, bytes by name."""

    described: Described
    place: Place
    resident: dict[str, float]
    temporaries: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.resident.values()) + max(self.temporaries.values())

    @property
    def largest(self) -> str:
        return max(self.temporaries, key=self.temporaries.__getitem__)


class Adviser:
    """Knows a phase as it was measured, and what it would need with other settings."""

    def __init__(
        self, phase: Phase, measured: list[Measured], described: Described, place: Place, passages: int,
        run: Workdir | None,
    ):  # fmt: skip
        self._phase, self._passages, self._run, self._limit = phase.name, passages, run, place.limit
        self._measured = {one.program.name: one for one in measured if phase.name in one.program.phases}
        self._code = {name: size for name, size in phase.resident.items() if name == CODE}
        temporaries = {name: one.temporaries for name, one in self._measured.items()}
        on_paper = place._replace(parallel=OnPaper(place.topology.devices))
        self._start = _State(described, on_paper, phase.resident, temporaries)

    def advise(self) -> list[Advice]:
        """Single changes that help, those that suffice first; where none does, several together."""
        found: list[Advice] = []
        least: dict[tuple[str, ...], float] = {}
        for change in _changes(self._start):
            before = least.get(tuple(change), self._start.total)  # with a smaller change of the same kind
            if before <= self._limit:
                continue
            after = self._after(self._start, change)
            if after and after.total < before:
                least[tuple(change)] = after.total
                found.append(Advice(_typed(change), after.total))
        if all(one.total > self._limit for one in found) and (several := self._together()):
            found.append(several)
        return sorted(found, key=lambda advice: advice.total > self._limit)

    def _together(self) -> Advice | None:
        """Each time, the first change that makes the largest program fit, else the one that helps most."""
        state = self._start
        changes: dict[str, Any] = {}
        for _ in range(STEPS):
            tried = ((change, self._after(state, change)) for change in _changes(state))
            options = [(change, after) for change, after in tried if after and after.total < state.total]
            if not options:
                break
            change, state = next(
                ((change, after) for change, after in options if self._suffices(after, state.largest)),
                min(options, key=lambda option: option[1].total),
            )
            changes |= change
            if state.total <= self._limit:
                return Advice(_typed(changes), state.total)
        return None

    def _suffices(self, state: _State, program: str) -> bool:
        return sum(state.resident.values()) + state.temporaries.get(program, 0.0) <= self._limit

    def _after(self, state: _State, change: dict[str, Any]) -> _State | None:
        """The state with a change; None where that is at odds with the rest of the configuration."""
        try:
            return self._changed(state, change)
        except UserError:
            return None

    def _changed(self, state: _State, change: dict[str, Any]) -> _State:
        """A change is taken to shrink the largest program alone, as its estimate shrinks."""
        config = ConfigDict(state.described.config).copy_and_resolve_references().unlock()
        place = state.place
        for key, value in change.items():
            group, _, name = key.rpartition(".")
            (config[group] if group else config)[name] = value
            place = place._replace(split=value == "sharded") if key == "parallel" else place
        described, topology = describe(config, self._run), place.topology
        every = programs(described, self._passages, topology.devices, topology.on_host)
        found = {program.name: program for program in every if self._phase in program.phases}
        largest, resident = state.largest, memory.held_by(found.values(), place) | self._code
        temporaries = {name: size for name, size in state.temporaries.items() if name in found}
        if largest in found:  # another kind of index has no search
            estimate, own = cost.peak(found[largest].trace(topology.devices)), self._measured[largest]
            temporaries[largest] = own.temporaries * estimate / max(own.estimate, 1.0)
        return _State(described, place, resident, temporaries)


def _typed(changes: dict[str, Any]) -> str:
    return " ".join(f"--config.{key}={value}" for key, value in changes.items())


def _changes(state: _State) -> Iterator[dict[str, Any]]:
    """What can be changed, the cheapest to bear first."""
    config, devices, largest = state.described.config, state.place.topology.devices, state.largest
    if narrow := {f"{part}.dtype": "bfloat16" for part in PARTS if config[part].dtype == "float32"}:
        yield narrow
    if "index" in state.resident and config.index.dtype == "float32":
        yield {"index.dtype": "bfloat16"}
    if largest == "answer":
        for batch in _halves(config.evaluate.batch, state.place.topology.on_host):
            yield {"evaluate.batch": batch}
    if largest == "encode passages":
        for batch in _halves(config.index.batch, state.place.topology.on_host):
            yield {"index.batch": batch}
    stage = largest.split()[0]
    if stage in STAGES:
        yield from _of_stage(config, stage, devices)
    if not state.place.split and devices > 1 and "parallel" in config:
        yield {"parallel": "sharded"}
    if "index" in state.resident:
        if not config.index.split and state.place.topology.hosts > 1:
            yield {"index.split": True}
        yield {"index.kind": "scann"} | ({"index.recall_target": 1.0} if config.index.recall_target < 1 else {})
    if largest == "answer" and config.retrieval.k > 1:
        yield {"retrieval.k": config.retrieval.k // 2}


def _of_stage(config: ConfigDict, stage: str, devices: int) -> Iterator[dict[str, Any]]:
    share = config[stage].batch // devices
    for parts in (2, 4, 8, 16, 32):
        if share % (config[stage].accumulation * parts) == 0:
            yield {f"{stage}.accumulation": config[stage].accumulation * parts}
    if again := {f"{part}.remat": "full" for part in PARTS if config[part].remat != "full"}:
        yield again
    for batch in _halves(config[stage].batch, devices * config[stage].accumulation):
        yield {f"{stage}.batch": batch}
    yield {"length.source": max(config.length.source // 2, 4)}
    if config[stage].k > 1:
        yield {f"{stage}.k": config[stage].k // 2}


def _halves(batch: int, multiple: int) -> Iterator[int]:
    """Half of a batch, a quarter and so on, as far as they are multiples."""
    while batch % (2 * multiple) == 0:
        batch //= 2
        yield batch
