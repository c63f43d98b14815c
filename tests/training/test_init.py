"""Where training starts from: the trained retriever and a fresh generator, or a checkpoint as if never stopped."""

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
from rag_jax.training import init, retriever
from rag_jax.training.optim import optimizer

STAGE = ConfigDict({"steps": 10, "warmup": 0, "learning_rate": 0.1, "weight_decay": 0.1, "clip": 1.0})


def save_retriever(folder, trees):
    checkpoints = Checkpoints(folder)
    checkpoints.save(3, trees, {"step": jnp.int32(3)}, score=3, extra={})
    checkpoints.close()


@pytest.mark.parametrize("shared", [True, False])
def test_the_trained_retriever_is_read_whole(tiny, params, tmp_path, shared):
    encoder = params["question_encoder"]
    trees = {"question_encoder": encoder} | ({} if shared else {"passage_encoder": jax.tree.map(np.negative, encoder)})
    save_retriever(tmp_path / "retriever", trees)
    read = init.retriever_params(tmp_path / "retriever", tiny.config(), shared=shared, parallel=Pmap())
    assert jax.tree.structure(read) == jax.tree.structure(trees) and tiny.bits(read) == tiny.bits(trees)
    assert all(leaf.is_fully_replicated and len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(read))
    names = {name: init.passage_fingerprint(tiny.bert, {"question_encoder": tree}) for name, tree in trees.items()}
    assert init.passage_fingerprint(tiny.bert, read) == names["question_encoder" if shared else "passage_encoder"]
    assert len(set(names.values())) == len(trees)


@pytest.mark.parametrize("made", [False, True])
def test_without_a_trained_retriever_the_command_is_named(tiny, tmp_path, made):
    folder = tmp_path / "retriever"
    if made:
        folder.mkdir()
    with pytest.raises(
        UserError, match=r"retriever: holds no trained retriever; run `python -m rag_jax.train_retriever`"
    ):
        init.retriever_params(folder, tiny.config(), shared=True, parallel=Pmap())
    assert folder.exists() == made


def test_a_retriever_of_another_size_is_told_from_ours(tiny, params, tmp_path):
    encoder = {"question_encoder": params["question_encoder"]}
    save_retriever(tmp_path / "retriever", encoder)
    with pytest.raises(UserError, match="another configuration") as error:
        init.retriever_params(tmp_path / "retriever", tiny.config(), shared=False, parallel=Pmap())
    assert "params/passage_encoder/embeddings/token: found nothing, expected (20, 16)" in str(error.value)


def test_parts_are_the_trained_encoder_and_a_fresh_generator(tiny, params):
    encoder = {"question_encoder": params["question_encoder"], "passage_encoder": params["question_encoder"]}
    parts = init.from_parts(tiny.config(), encoder, 1, Pmap())
    shapes = jax.eval_shape(lambda: rag.init_params(tiny.config(), jax.random.key(0)))
    assert jax.tree.structure(parts) == jax.tree.structure(shapes)
    assert tiny.bits(parts["question_encoder"]) == tiny.bits(params["question_encoder"])
    table = np.asarray(parts["generator"]["shared"]["embedding"])
    assert abs(table.mean()) < 0.1 and table.std() == pytest.approx(tiny.bart.init_std, rel=0.2)
    assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(parts))
    assert "log_score_scale" not in parts


def test_a_learned_score_scale_goes_on_from_the_retriever_s(tiny, params):
    model = replace(tiny.config(), learn_score_scale=True)
    encoder = {"question_encoder": params["question_encoder"], "log_score_scale": np.float32(1.25)}
    assert init.from_parts(model, encoder, 1, Pmap())["log_score_scale"] == 1.25
    fresh = retriever.init_params(model, jax.random.key(0), shared=True)
    assert float(fresh["log_score_scale"]) == pytest.approx(np.log(model.score_scale))


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


def test_a_run_of_another_retriever_or_of_a_dropped_stage_is_refused(tiny, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    init.check_encoder(checkpoints, "a")  # nothing was saved yet
    extra = {"stage": "reader", "next_ids": [], "passage_encoder": "a"}
    checkpoints.save(5, {"a": jnp.zeros(1)}, {"step": jnp.int32(3)}, score=0.0, extra=extra)
    init.check_encoder(checkpoints, "a")
    with pytest.raises(UserError, match=r"encoder a\b.* b\b"):
        init.check_encoder(checkpoints, "b")
    with pytest.raises(UserError, match="stage 'reader', which now has no steps"):
        init.resume(checkpoints, tiny.config(), {"joint": optimizer(STAGE, ("generator",))}, Pmap())
    checkpoints.close()
