"""Where training starts: each rung of the ladder, and a checkpoint as if the run had never stopped."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from rag_jax.checkpoint import Checkpoints
from rag_jax.errors import UserError
from rag_jax.models import rag
from rag_jax.parallel import Pmap
from rag_jax.training import encoders, init
from rag_jax.training.optim import optimizer
from rag_jax.workdir import Workdir

HALVES = ("question_encoder", "generator")
STAGE = ConfigDict({"steps": 10, "warmup": 0, "learning_rate": 0.1, "weight_decay": 0.1, "clip": 1.0})


@pytest.fixture
def config():
    """Nothing given: what stands here is what `start` reads."""
    return ConfigDict(
        {
            "seed": 1,
            "init_from": "",
            "parts": {"question_encoder": "", "passage_encoder": "", "generator": ""},
            "retriever": {"shared": True},
        }
    )


def start(config, place, model):
    return init.start(config, place, model, {"joint": optimizer(STAGE, HALVES)}, Pmap())


def test_from_scratch_the_encoder_is_the_trained_one_and_the_generator_fresh(
    tiny, params, save_retriever, config, tmp_path
):
    place = Workdir(tmp_path)
    save_retriever(place.retriever, {"question_encoder": params["question_encoder"]})
    begun = start(config, place, tiny.config())
    shapes = jax.eval_shape(lambda: rag.init_params(tiny.config(), jax.random.key(0)))
    assert jax.tree.structure(begun.params) == jax.tree.structure(shapes)
    assert tiny.bits(begun.params["question_encoder"]) == tiny.bits(params["question_encoder"])
    table = np.asarray(begun.params["generator"]["shared"]["embedding"])
    assert abs(table.mean()) < 0.1 and table.std() == pytest.approx(tiny.bart.init_std, rel=0.2)
    assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(begun.params))
    assert begun.passage_encoder == encoders.passage_fingerprint(tiny.bert, params) and begun.progress is None
    assert not place.checkpoints.exists()


def test_parts_go_before_scratch(tiny, params, hub, save_retriever, config, tmp_path):
    """And the retriever that was trained in this run before the encoders that it started from."""
    config.parts.update(question_encoder=hub.question, passage_encoder=hub.passage, generator=hub.generator)
    config.retriever.shared = False
    begun = start(config, Workdir(tmp_path), tiny.config())
    np.testing.assert_array_equal(token_table(begun), hub.tokens["question"])
    np.testing.assert_array_equal(begun.params["generator"]["shared"]["embedding"], hub.tokens["generator"])
    assert begun.passage_encoder == encoders.given_fingerprint(config, tiny.config())
    trees = {"question_encoder": params["question_encoder"], "passage_encoder": params["question_encoder"]}
    save_retriever(tmp_path / "retriever", trees)
    begun = start(config, Workdir(tmp_path), tiny.config())
    assert tiny.bits(begun.params["question_encoder"]) == tiny.bits(params["question_encoder"])
    assert begun.passage_encoder == encoders.passage_fingerprint(tiny.bert, trees)


def test_init_from_goes_before_parts(tiny, hub, config, tmp_path):
    config.parts.update(question_encoder=hub.question, generator=hub.generator)
    config.init_from = hub.rag
    begun = start(config, Workdir(tmp_path), tiny.config())
    np.testing.assert_array_equal(token_table(begun), hub.tokens["rag question"])
    np.testing.assert_array_equal(begun.params["generator"]["shared"]["embedding"], hub.tokens["rag generator"])
    assert begun.passage_encoder is None, "transformers' folder does not say"
    config.parts.passage_encoder = hub.passage
    assert start(config, Workdir(tmp_path), tiny.config()).passage_encoder == encoders.given_fingerprint(
        config, tiny.config()
    )


def test_a_checkpoint_of_this_run_goes_before_all(tiny, params, hub, config, tmp_path):
    config.init_from, place = hub.rag, Workdir(tmp_path)
    optimizers = {"joint": optimizer(STAGE, HALVES)}
    checkpoints = Checkpoints(place.checkpoints)
    optimizer_state = {"step": jnp.int32(3), "adam": optimizers["joint"].init(params)}
    extra = {"stage": "joint", "next_ids": [], "passage_encoder": "f"}
    checkpoints.save(3, params, optimizer_state, score=0.0, extra=extra)
    checkpoints.close()
    begun = start(config, place, tiny.config())
    assert tiny.bits(begun.params) == tiny.bits(params)
    assert begun.passage_encoder == "f" and int(begun.progress.state.step) == 3


def token_table(begun):
    return begun.params["question_encoder"]["embeddings"]["token"]


def test_a_learned_score_scale_goes_on_from_the_retriever_s(tiny, params, save_retriever, config, tmp_path):
    model = replace(tiny.config(), learn_score_scale=True)
    trees = {"question_encoder": params["question_encoder"], "log_score_scale": jnp.float32(1.25)}
    save_retriever(tmp_path / "retriever", trees)
    assert start(config, Workdir(tmp_path), model).params["log_score_scale"] == 1.25


def test_a_run_goes_on_as_if_it_had_never_stopped(tiny, params, tmp_path):
    optimizers = {
        "reader": optimizer(STAGE, ("generator",)),
        "joint": optimizer(STAGE, ("question_encoder", "generator")),
    }
    parallel, ids = Pmap(), [[4, -1], [0, 9]]
    checkpoints = Checkpoints(tmp_path)
    assert init.resume(checkpoints, tiny.config(), optimizers, parallel) is None
    for saved_as, name in enumerate(optimizers, 5):
        rng = np.random.default_rng(saved_as)
        adam = jax.tree.map(
            lambda leaf, rng=rng: rng.normal(size=leaf.shape).astype(leaf.dtype),
            jax.eval_shape(optimizers[name].init, params),
        )
        extra = {"stage": name, "next_ids": ids, "passage_encoder": "f"}
        checkpoints.save(saved_as, params, {"step": jnp.int32(3), "adam": adam}, score=0.0, extra=extra)
        stage, state, next_ids, _ = init.resume(checkpoints, tiny.config(), optimizers, parallel)
        assert (stage, next_ids, int(state.step)) == (name, ids, 3)
        assert jax.tree.structure(state.opt_state) == jax.tree.structure(adam)
        assert tiny.bits((state.params, state.opt_state)) == tiny.bits((params, adam))
        assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(state))
    checkpoints.close()


def test_a_run_of_a_dropped_stage_is_refused(tiny, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    extra = {"stage": "reader", "next_ids": [], "passage_encoder": "a"}
    checkpoints.save(5, {"a": jnp.zeros(1)}, {"step": jnp.int32(3)}, score=0.0, extra=extra)
    with pytest.raises(UserError, match="stage 'reader', which now has no steps"):
        init.resume(checkpoints, tiny.config(), {"joint": optimizer(STAGE, ("generator",))}, Pmap())
    checkpoints.close()
