"""The programs that are planned are those that run, with the shapes that they are given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.command import find_config, load_config
from rag_jax.index import exact
from rag_jax.parallel import Pmap
from rag_jax.planning import cost
from rag_jax.planning.model import describe
from rag_jax.planning.programs import SPLIT, fellow, programs


def configured(name="demo", **groups):
    config = load_config(find_config(name))
    for group, changes in groups.items():
        config[group].update(changes)
    return describe(config, None)


def small(**groups):
    """The demo, of one layer and few tokens."""
    sizes = {"width": 32, "heads": 2, "ffn": 48}
    generator = {**sizes, "encoder_layers": 1, "decoder_layers": 1}
    return configured(encoder={**sizes, "layers": 1}, generator=generator, **groups)


def named(described, devices=8, passages=5000, on_host=8):
    return {program.name: program for program in programs(described, passages, devices, on_host)}


def shapes(tree):
    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def test_a_configuration_runs_its_stages_and_what_they_need():
    assert list(named(configured("nq"))) == ["joint step", "encode questions", "answer", "encode passages"]
    assert "search" in named(configured("nq", index={"kind": "exact"}))
    assert list(named(configured("nq:bm25"))) == list(named(configured("nq:closedbook"))) == ["joint step", "answer"]
    assert {"reader step", "joint step", "retriever step"} <= named(configured("demo")).keys()


LONG = [pytest.param(name, marks=pytest.mark.long) for name in ("joint step", "answer", "retriever step")]


@pytest.mark.parametrize("name", ["encode questions", "encode passages", *LONG])
def test_each_is_lowered_for_real_devices(name):
    lowered = named(small())[name].lower(Pmap(jax.devices()))
    assert lowered.in_avals


def test_search_is_lowered_with_a_devices_share_of_the_passages():
    program = named(small(index={"kind": "exact", "dtype": "bfloat16"}), passages=100_000)["search"]
    held = exact.padded(-(-100_000 // 8))
    assert shapes(program.held["index"].tree) == [((held, 32), jnp.bfloat16)]
    assert f"tensor<{held}x32xbf16>" in program.lower(Pmap(jax.devices())).as_text()


def test_every_host_answers_and_encodes_for_itself():
    """Its devices have the rows of a single host's; where the state is split, all devices share them."""
    whole, split = small(), small()
    split.config.parallel = "sharded"
    one, four, shared = named(whole), named(whole, devices=32), named(split, devices=32)
    for name in ("answer", "encode questions", "encode passages"):
        assert four[name].rows == 4 * one[name].rows
    assert shared["answer"].rows == one["answer"].rows


def test_work_of_one_device_is_its_share():
    program = named(small())["encode passages"]
    assert cost.count(program.trace(8)).total == pytest.approx(cost.count(program.trace(4)).total / 2, rel=0.01)


def test_an_answer_runs_its_loops_as_often_as_it_has_tokens():
    assert named(small(decode={"max_length": 20}))["answer"].loops == (20,)
    # 1 question a device, 50 passages, rooms of 32 tokens: documents judge five of the 49 other answers at a time.
    assert named(configured("nq"))["answer"].loops == (25, 10)


def test_a_planned_step_is_the_program_that_a_real_batch_runs():
    parallel, program = Pmap(jax.devices()), named(small())["joint step"]
    (batch, _), how = program.held["batches"].tree, program.held["batches"].how
    assert how == SPLIT
    put = parallel.put_batch(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), batch))
    assert shapes(put) == shapes(parallel.abstract_batch(batch))
    assert all(
        real.sharding == planned.sharding
        for real, planned in zip(*map(jax.tree.leaves, (put, parallel.abstract_batch(batch))), strict=True)
    )


def test_fellows_are_like_oneself():
    across = fellow(3)
    np.testing.assert_array_equal(across.gather(jnp.arange(2)), [0, 1] * 3)
