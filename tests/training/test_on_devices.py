"""A step that searches for itself is the step whose passages the host has found with the same parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.data.formats import read_questions
from rag_jax.index.base import open_index
from rag_jax.parallel import Pmap, Sharded
from rag_jax.training import on_devices
from rag_jax.training.health import Health
from rag_jax.training.on_devices import DeviceSource
from rag_jax.training.optim import optimizer
from rag_jax.training.searchers import of_training
from rag_jax.training.sources import QuestionSource
from rag_jax.training.step import Objective, TrainState
from rag_jax.workdir import Workdir

PLAIN = {"substitution": 0.0, "depth": 0, "train_question_encoder": True}


@pytest.fixture
def config(tiny_rag):
    config = tiny_rag.config.copy_and_resolve_references()
    config.unlock()
    config.retrieval.lag = 0
    config.index.kind = "exact"
    return config


@pytest.mark.parametrize("mode", [Pmap, pytest.param(Sharded, marks=pytest.mark.long)])
def test_two_steps_are_those_with_the_host_between(tiny_run, tiny_rag, config, mode):
    parallel, model, stage = mode(), tiny_rag.model, config.joint
    searcher = of_training(config, {"joint": stage}, Workdir(tiny_run.workdir), parallel, model.generator.vocab_size)
    index = open_index(tiny_run.workdir / "index", searcher=searcher)
    questions = read_questions(tiny_run.folder / "train.jsonl")
    given = {"name": "joint", "names": None}
    host = QuestionSource(questions, tiny_rag.retriever, model, config, stage, parallel, **given)
    retriever = tiny_rag.retriever._replace(index=index)
    device = DeviceSource(questions, retriever, model, config, stage, parallel, **given)
    tx, objective = optimizer(stage, tuple(tiny_rag.params)), Objective(True, 0.0, 1, 0)
    params = jax.device_get(tiny_rag.params)
    states, steps = {}, {}
    for name, source in (("host", host), ("device", device)):
        states[name] = parallel.put_state(TrainState(jnp.int32(0), params, tx.init(params)))
        steps[name] = parallel.step(source.step, config=model, optimizer=tx, objective=objective)
    for step in range(2):
        found = host.search(step, host.encode(states["host"].params, step))
        states["host"], expected = steps["host"](states["host"], host.put(step, found))
        with jax.transfer_guard("disallow"):
            states["device"], metrics = steps["device"](states["device"], device.put(step, device.search(step, None)))
        np.testing.assert_array_equal(metrics["ids_BK"], found.ids_BK)
        assert Health.of(np.array(metrics["ids_BK"]), np.array(metrics["score_BK"])).distinct == found.health.distinct
        for name in ("loss", "gradient_norm"):
            np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5)
    pairs = zip(jax.tree.leaves(states["device"].params), jax.tree.leaves(states["host"].params), strict=True)
    assert all(np.allclose(one, other, atol=1e-6) for one, other in pairs)


@pytest.mark.parametrize(
    "change", [{"substitution": 0.5}, {"depth": 9}, {"train_question_encoder": False}, {"lag": 1}, {"kind": "scann"}]
)
def test_what_must_pass_through_the_host_does(config, change):
    config.joint.update(PLAIN)
    assert on_devices.possible(config, config.joint)
    for group in (config.joint, config.retrieval, config.index):
        group.update({name: value for name, value in change.items() if name in group})
    assert not on_devices.possible(config, config.joint)
