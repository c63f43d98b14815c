"""What lies in a device's memory while a run trains, answers or builds its index: compiled, or estimated."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rag_jax.parallel import Pmap
from rag_jax.planning import compiler, cost
from rag_jax.planning.chips import Topology
from rag_jax.planning.programs import OWN, SPLIT, WHOLE, Held, Program

CODE = "programs"  # the compiled programs themselves lie in a device's memory


class OnPaper:
    """Devices that no compiler is at hand for: it tells what a configuration may ask of them."""

    check_batch = Pmap.check_batch

    def __init__(self, devices: int):
        self.devices = range(devices)


class Place(NamedTuple):
    """Where programs are to run. parallel: on the devices themselves, or OnPaper; split: whether state is split over

    them; limit: bytes of a device that programs may use.
    """

    topology: Topology
    parallel: Any
    split: bool
    limit: float

    @property
    def compiles(self) -> bool:
        """Whether a compiler is at hand."""
        return not isinstance(self.parallel, OnPaper)

    def of(self, program: Program) -> "Place":
        """Where a program runs: with its state whole on every device, if each host runs it alone.

        That is planned on the devices of all hosts, as a device needs the same there.
        """
        if not (self.split and program.by_itself):
            return self
        parallel = Pmap(self.parallel.devices) if self.compiles else self.parallel
        return self._replace(parallel=parallel, split=False)

    def size(self, held: Held) -> float:
        """Bytes on one device."""
        if held.how == OWN:
            return total(held.tree)
        if self.compiles:
            put = self.parallel.abstract_batch if held.how == SPLIT else self.parallel.abstract_state
            return total(put(held.tree))
        return total(held.tree) / (self.topology.devices if held.how == SPLIT or self.split else 1)


def total(tree: Any) -> float:
    """Bytes of a tree of shapes, of one device's share where they are placed."""
    shapes = [
        (leaf.sharding.shard_shape(leaf.shape) if leaf.sharding else leaf.shape, leaf.dtype)
        for leaf in jax.tree.leaves(tree)
    ]
    return float(sum(np.prod(shape, dtype=float) * dtype.itemsize for shape, dtype in shapes))


class Measured(NamedTuple):
    """A program with what it needs of a device beside what is held.

    temporaries: the compiler's figure, or where there is none `estimate`, that of its equations. code: the program's
    own bytes. seconds: of compiling; flops: the compiler's count, with each scanned layer once; both 0 if unknown.
    fits: False where the compiler refused it.
    """

    program: Program
    work: cost.Work
    estimate: float
    temporaries: float
    code: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0
    fits: bool = True


def measure(program: Program, place: Place) -> Measured:
    """Compiles the program if it can be, and counts its work on one device."""
    place = place.of(program)
    traced = program.trace(place.topology.devices)
    work, estimate = cost.count(traced, program.loops), cost.peak(traced)
    moved = sum(place.size(held) for held in program.held.values() if held.how == WHOLE and program.rewrites)
    work += cost.Work(cost.NOTHING.flops, 2 * moved)  # what a step replaces is read and written
    if not place.compiles:
        return Measured(program, work, estimate, estimate)
    told = compiler.compiled(program.lower(place.parallel))
    if not told.fits:  # its figure is then of all that the program needs, and rounded, down to the limit perhaps
        needed, held = max(told.temporaries, place.limit + 1), sum(held_by([program], place).values())
        told = told._replace(temporaries=max(needed - held, 0.0))
    return Measured(program, work, estimate, *told)


def bound(measured: Measured, place: Place) -> float:
    """Seconds that a call takes at least: its products at the peak, or its bytes through memory; 0 where unknown."""
    chip = place.topology.chip
    if not chip.half:
        return 0.0
    rates = {cost.HALF: chip.half, cost.SINGLE: chip.single, cost.EXACT: chip.exact}
    return max(
        sum(flops / rates[kind] for kind, flops in measured.work.flops.items()), measured.work.moved / chip.bandwidth
    )


class Phase(NamedTuple):
    """What a device holds: `resident`, bytes by name, all the time; beside it at most `temporaries`, of `largest`."""

    name: str
    resident: dict[str, float]
    temporaries: float
    largest: str

    @property
    def total(self) -> float:
        """Bytes at the fullest moment."""
        return sum(self.resident.values()) + self.temporaries


def phases(measured: Sequence[Measured], place: Place) -> list[Phase]:
    """The phases that the programs belong to."""
    names = dict.fromkeys(name for one in measured for name in one.program.phases)
    return [_phase(name, [one for one in measured if name in one.program.phases], place) for name in names]


def _phase(name: str, measured: list[Measured], place: Place) -> Phase:
    resident = held_by([one.program for one in measured], place)
    if code := sum(one.code for one in measured):
        resident[CODE] = code
    largest = max(measured, key=lambda one: one.temporaries)
    return Phase(name, resident, largest.temporaries, largest.program.name)


def held_by(programs: Iterable[Program], place: Place) -> dict[str, float]:
    """Bytes of a device that the programs of a phase share all the time, by name."""
    resident: dict[str, float] = {}
    for program in programs:
        there = place.of(program)
        for name, held in program.held.items():
            resident[name] = max(resident.get(name, 0.0), there.size(held))
    return resident
