"""The programs that are planned are those that run, with the shapes that they are given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.command import find_config, load_config
from rag_jax.index import exact
from rag_jax.models import rag
from rag_jax.parallel import Pmap
from rag_jax.planning import cost
from rag_jax.planning.model import describe
from rag_jax.planning.programs import ANSWERING, SPLIT, TRAINING, fellow, programs
from rag_jax.training import retriever
from rag_jax.training.loop import trained
from rag_jax.training.optim import optimizer
from rag_jax.training.retriever import PairBatch
from rag_jax.training.step import Batch, TrainState


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


@pytest.fixture(scope="module")
def given():
    """(name, described) -> parameters or state as commands make them, and a batch by the configuration's lengths."""

    def ids(*shape):
        return np.full(shape, 5, np.int32)

    def made(name, described):
        config, model = described.config, described.model
        length, K = config.length, config.joint.k
        params = rag.init_params(model, jax.random.key(0))
        if name == "encode questions":
            return params, ids(config.evaluate.batch, length.question)
        if name == "encode passages":
            return params["question_encoder"], ids(config.index.batch, length.passage)
        if name == "answer":
            B, K = config.evaluate.batch, config.retrieval.k
            return params, (ids(B, K, length.source), np.full((B, K), -1, np.float32), ids(B))
        if name == "retriever step":
            B, N = config.retriever.batch, 1 + config.retriever.hard_negatives
            params = retriever.init_params(model, jax.random.key(0), shared=config.retriever.shared)
            state = TrainState(jnp.int32(0), params, optimizer(config.retriever, tuple(params)).init(params))
            negative_BC = np.ones((B, B * N), bool)
            return state, PairBatch(ids(B, length.question), ids(B, N, length.passage), negative_BC)
        state = TrainState(jnp.int32(0), params, optimizer(config.joint, trained(config, "joint")).init(params))
        B, target_BT = config.joint.batch, ids(config.joint.batch, length.target)
        document_BKE = np.ones((B, K, model.encoder.embedding_width), np.float32)
        return state, Batch(
            ids(B, length.question), document_BKE, np.ones((B, K), bool), ids(B, K, length.source),
            target_BT, target_BT, np.ones(B, np.float32),
        )  # fmt: skip

    return made


LONG = [pytest.param(name, marks=pytest.mark.long) for name in ("joint step", "answer", "retriever step")]


@pytest.mark.parametrize("name", ["encode questions", "encode passages", *LONG])
def test_each_runs_as_it_was_planned(name, given, compiled_in_haste):
    """What was compiled takes nothing of another shape, type or placement."""
    described, parallel = small(decode={"max_length": 4, "beams": 2}), Pmap(jax.devices())
    state, batch = given(name, described)
    program = named(described)[name].lower(parallel).compile()
    before = shapes(state)
    found = jax.device_get(program(parallel.put_state(state), parallel.put_batch(batch)))
    if name.endswith(" step"):
        state, metrics = found
        assert shapes(state) == before and np.isfinite(metrics["loss"])
    elif name == "answer":
        assert found.token_BNT.shape[:2] == (8, described.config.evaluate.batch // 8)
        assert np.isfinite(found.log_prob_BN[..., 0]).all()
    else:
        assert found.shape == (8, len(batch) // 8, 32) and np.isfinite(found).all()


def test_a_step_that_searches_has_its_questions_encoded_and_searched_inside():
    exact, lagging = {"kind": "exact"}, small(index={"kind": "exact"})
    inside = small(index=exact, retrieval={"lag": 0}, reader={"steps": 0}, denoise={"steps": 0})
    apart = [one.name for one in programs(inside, 5000, 8, 8) if TRAINING in one.phases]
    assert apart == ["joint step", "answer"]
    assert {"encode questions", "search"} <= {one.name for one in programs(lagging, 5000, 8, 8)}
    # A stage that leaves the question encoder as it is does not search for itself.
    both = small(index=exact, retrieval={"lag": 0}, reader={"batch": 16, "train_question_encoder": False})
    found = [one for one in programs(both, 5000, 8, 8) if one.name == "encode questions"]
    assert [one.rows for one in found if TRAINING in one.phases] == [16]


@pytest.mark.parametrize(("words", "tokens"), [(20, 30), (80, 120), (100, 128)])
def test_a_passage_on_the_devices_has_the_tokens_of_its_words_or_as_many_as_are_read(words, tokens):
    described = small(index={"kind": "exact"}, retrieval={"lag": 0}, data={"words": words}, length={"source": 128})
    passages = named(described, passages=100_000)["joint step"].held["passages"].tree
    assert passages.token_F.shape[0] == tokens * exact.padded(100_000 // 8)


def test_the_papers_passages_have_150_tokens():
    described = configured("nq", index={"kind": "exact"}, retrieval={"lag": 0})
    passages = named(described, passages=100_000)["joint step"].held["passages"].tree
    assert passages.token_F.shape[0] == 150 * exact.padded(100_000 // 8)


def test_search_is_lowered_with_a_devices_share_of_the_passages():
    program = named(small(index={"kind": "exact", "dtype": "bfloat16"}), passages=100_000)["search"]
    held = exact.padded(-(-100_000 // 8))
    assert shapes(program.held["index"].tree) == [((held, 32), jnp.bfloat16)]
    assert f"tensor<{held}x32xbf16>" in program.lower(Pmap(jax.devices())).as_text()


def searches(described, devices=8, passages=1_000_000):
    """The rows of the index on a device, and how many questions are asked at once, by phase."""
    found = [one for one in programs(described, passages, devices, 8) if one.name == "search"]
    rows = {phase: (one.held["index"].tree.shape[0], one.rows) for one in found for phase in one.phases}
    assert len(rows) == sum(len(one.phases) for one in found)
    return rows


def test_answering_searches_apart_what_training_searches_inside_its_step():
    described = small(index={"kind": "exact"}, retrieval={"lag": 0})
    assert searches(described) == {ANSWERING: (exact.padded(1_000_000 // 8), 64)}
    assert searches(described, devices=32) == {ANSWERING: (exact.padded(1_000_000 // 8), 4 * 64)}
    step = named(described, devices=32, passages=1_000_000)["joint step"]
    assert step.held["index"].tree.vector_NE.shape[0] == exact.padded(1_000_000 // 32)


def test_an_index_is_split_over_hosts_in_training_alone():
    whole, split = (small(index={"kind": "exact", "split": told}) for told in (False, True))
    both, part = exact.padded(1_000_000 // 8), exact.padded(1_000_000 // 32)
    assert searches(whole, 32) == dict.fromkeys((TRAINING, ANSWERING), (both, 4 * 64))
    assert searches(split, 32) == {TRAINING: (part, 4 * 64), ANSWERING: (both, 4 * 64)}
    assert searches(split) == searches(whole)


def test_every_host_answers_and_encodes_for_itself():
    """Its devices have the rows of a single host's, in both modes: in training all hosts answer the same questions."""
    whole, split = small(), small()
    split.config.parallel = "sharded"
    one, four, shared = named(whole), named(whole, devices=32), named(split, devices=32)
    for name in ("answer", "encode questions", "encode passages"):
        assert shared[name].rows == four[name].rows == 4 * one[name].rows


def test_training_answers_with_a_split_state_where_answering_alone_has_a_whole_one():
    split = small()
    split.config.parallel = "sharded"
    for described, phases in ((small(), [(TRAINING, ANSWERING)]), (split, [(TRAINING,), (ANSWERING,)])):
        assert [one.phases for one in programs(described, 5000, 8, 8) if one.name == "answer"] == phases


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
