"""What lies on a device: sizes by placement, phases, bounds."""

from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from rag_jax.parallel import Pmap, Sharded
from rag_jax.planning import cost, memory
from rag_jax.planning.chips import topology
from rag_jax.planning.compiler import Compiled
from rag_jax.planning.cost import EXACT, HALF, Work
from rag_jax.planning.memory import Measured, OnPaper, Place
from rag_jax.planning.programs import ANSWERING, BUILDING, OWN, SPLIT, TRAINING, WHOLE, Held, Program

TREE = {"a": jax.ShapeDtypeStruct((16, 4), jnp.float32), "b": jax.ShapeDtypeStruct((8,), jnp.int8)}
BYTES = 16 * 4 * 4 + 8


@pytest.mark.parametrize("parallel", [OnPaper(8), Pmap(jax.devices())])
def test_what_is_whole_is_so_on_every_device_and_a_batch_is_split(parallel):
    place = Place(topology("v5e:2x4"), parallel, False, 100.0)
    assert place.compiles == isinstance(parallel, Pmap)
    assert [place.size(Held(how, TREE)) for how in (WHOLE, SPLIT, OWN)] == [BYTES, BYTES / 8, BYTES]


def test_state_that_is_split_takes_a_share():
    place = Place(topology("v5e:2x4"), OnPaper(8), True, 100.0)
    assert place.size(Held(WHOLE, TREE)) == BYTES / 8


@pytest.mark.parametrize("parallel", [OnPaper(8), Sharded(jax.devices())])
def test_what_hosts_run_alone_has_all_parameters_on_every_device_though_training_splits_them(parallel):
    place, tree = Place(topology("v5e:2x4"), parallel, True, 100.0), jax.ShapeDtypeStruct((1 << 16,), jnp.int8)

    def held(phase):
        return memory.held_by([Program("a program", (phase,), 8, {"parameters": Held(WHOLE, tree)}, None, None)], place)

    assert held(TRAINING) == {"parameters": (1 << 16) / 8}
    assert held(ANSWERING) == held(BUILDING) == {"parameters": 1 << 16}


def program(name, phases, **held):
    trees = {what: Held(WHOLE, jax.ShapeDtypeStruct((size,), jnp.int8)) for what, size in held.items()}
    return Program(name, phases, 1, trees, lower=None, trace=None)


def test_a_phase_holds_once_what_its_programs_share_and_the_largest_temporaries():
    place = Place(topology("v5e:2x4"), OnPaper(8), False, 100.0)
    step = Measured(program("step", (TRAINING,), parameters=10, state=20), cost.NOTHING, 7.0, 7.0, code=1.0)
    answer = Measured(
        program("answer", (TRAINING, "answering"), parameters=10, index=4), cost.NOTHING, 9.0, 9.0, code=2.0
    )
    training, answering = memory.phases([step, answer], place)
    assert training.resident == {"parameters": 10, "state": 20, "index": 4, "programs": 3}
    assert (training.largest, training.total) == ("answer", 46)
    assert (answering.name, answering.total) == ("answering", 10 + 4 + 2 + 9)


def test_a_program_that_is_refused_needs_more_than_there_is_however_its_figure_is_rounded(monkeypatch):
    """Here down to the limit itself."""
    place = Place(topology("v5e:2x4"), Pmap(jax.devices()), False, 100.0)
    monkeypatch.setattr(memory.compiler, "compiled", lambda lowered: Compiled(100.0, 0.0, 0.0, 0.0, fits=False))
    refused = program("step", (TRAINING,), parameters=30)._replace(
        lower=lambda parallel: None, trace=lambda devices: jax.make_jaxpr(jnp.tanh)(1.0)
    )
    assert memory.phases([memory.measure(refused, place)], place)[0].total > place.limit


@pytest.mark.parametrize(
    ("flops", "moved", "seconds"),
    [({HALF: 197e12}, 0.0, 1.0), ({EXACT: 197e12}, 0.0, 6.0), ({HALF: 197e12}, 2 * 819e9, 2.0), ({}, 0.0, 0.0)],
)
def test_a_call_takes_as_long_as_its_products_or_its_memory(flops, moved, seconds):
    place = Place(topology("v5e:2x4"), OnPaper(8), False, 100.0)
    measured = Measured(program("step", (TRAINING,)), Work(Counter(flops), moved), 0.0, 0.0)
    assert memory.bound(measured, place) == pytest.approx(seconds)
    assert memory.bound(measured, place._replace(topology=topology("cpu:8"))) == 0
