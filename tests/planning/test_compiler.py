"""The TPU compiler, where libtpu is installed: `pip install 'rag_jax[plan]'`."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from rag_jax.errors import UserError
from rag_jax.parallel import Pmap
from rag_jax.planning import compiler
from rag_jax.planning.chips import GIB, TPUS, topology
from rag_jax.planning.planner import plan

libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install 'rag_jax[plan]'"
)


def test_without_a_compiler_one_is_told_how_to_install_it(monkeypatch):
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--topology=v5e:2x4: libtpu.*not installed; `pip install 'rag_jax\[plan\]'`"):
        compiler.devices(topology("v5e:2x4"))


@pytest.mark.parametrize(
    ("message", "wanted", "there"),
    [
        ("the total memory required for HLO temporaries (25.59G) exceeds available HBM (15.75G).", 25.59, 15.75),
        ("Ran out of memory in memory space hbm. Used 21.95G of 15.48G hbm. Exceeded", 21.95, 15.48),
        ("temporaries (2.50T) exceeds available HBM (512.00M)", 2560, 0.5),
    ],
)
def test_what_does_not_fit_is_read_off_the_compilers_words(message, wanted, there):
    found = compiler.too_much(jax.errors.JaxRuntimeError(message))
    assert found == pytest.approx((wanted * GIB, there * GIB))


def test_any_other_error_is_raised_again():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        compiler.too_much(jax.errors.JaxRuntimeError("INTERNAL: broken"))


@libtpu
@pytest.mark.parametrize("name", [f"{family}:{layout}" for family, chip in TPUS.items() for layout in chip.topologies])
def test_every_topology_of_the_table_exists(name):
    found = compiler.devices(topology(name))
    assert len(found) == topology(name).devices
    assert len({device.process_index for device in found}) == topology(name).hosts


@libtpu
def test_hosts_that_are_not_those_of_the_compiler_are_an_error():
    eight = topology("v5e:4x8")
    eight = eight._replace(chip=eight.chip._replace(on_host=8))
    with pytest.raises(UserError, match="--topology=v5e:4x8: libtpu spreads it over 8 hosts, expected 4"):
        compiler.devices(eight)


@libtpu
def test_programs_may_use_less_than_a_chip_has():
    for name in ("v3:2x2", "v4:2x2x1", "v5e:2x4", "v5p:2x2x1", "v6e:2x4"):
        has = topology(name).chip.memory
        assert 0.95 * has < compiler.limit(compiler.devices(topology(name))[0]) < 1.01 * has


@libtpu
def test_a_program_tells_what_it_needs_or_would_need():
    parallel = Pmap(compiler.devices(topology("v5e:2x4")))
    function = parallel.batch(lambda params, x: jnp.tanh(x @ params).sum(axis=1))

    def compiled(rows):
        batch = jax.ShapeDtypeStruct((8 * rows, 64, 1024), jnp.float32)
        params = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)
        lowered = function.lower(parallel.abstract_state(params), parallel.abstract_batch(batch))
        return compiler.compiled(lowered)

    small, large = compiled(8), compiled(2**16)
    assert small.flops == pytest.approx(2 * 8 * 64 * 1024 * 1024, rel=0.1)
    assert small.seconds > 0 and small.code > 0
    assert large.temporaries > 16 * GIB and (small.fits, large.fits) == (True, False)


SEARCHING = {"index": {"kind": "exact", "dtype": "bfloat16"}, "retrieval": {"lag": 0}}


@libtpu
@pytest.mark.long
@pytest.mark.parametrize(("mode", "changes"), [("pmap", {}), ("sharded", {}), ("pmap", SEARCHING)])
def test_training_and_answering_are_compiled_for_chips(small, mode, changes):
    """With the state whole or split, and with the search in a program of its own or in the step."""
    config = small(**changes)
    config.parallel = mode
    found = {
        one.program.name: one
        for one in plan(config, topology("v5e:2x4"), None, 100_000, fits=False, log=print).measured
    }
    assert {"joint step", "answer", "encode passages"} <= found.keys()
    assert all(one.fits and one.seconds > 0 and one.code > 0 for one in found.values())
