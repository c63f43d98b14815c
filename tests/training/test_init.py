"""Where training starts: each rung of the ladder, and a checkpoint as if the run had never stopped."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from rag_jax import checkpoint, remote
from rag_jax.checkpoint import Checkpoints
from rag_jax.config import default_config
from rag_jax.data.formats import Passage
from rag_jax.data.passages import build_store
from rag_jax.data.tokenizer import train_byte_bpe
from rag_jax.errors import UserError
from rag_jax.files import MANIFEST
from rag_jax.index import bm25
from rag_jax.index.builder import build_index
from rag_jax.models import rag
from rag_jax.parallel import Pmap
from rag_jax.team import Team
from rag_jax.training import encoders, init
from rag_jax.training.optim import optimizer
from rag_jax.training.step import TrainState
from rag_jax.workdir import Workdir

from ..stores import Flaky
from ..test_team import Board

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
            "index": {"kind": "exact", "bm25": {"method": "lucene", "k1": 0.9, "b": 0.4, "tokenizer": "words"}},
        }
    )


def start(config, place, model):
    saved = Checkpoints(place.checkpoints)
    return init.start(config, place, saved, model, {"joint": optimizer(STAGE, HALVES)}, Pmap())


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


@pytest.fixture
def words_index(config, tmp_path):
    """The run's index, by words."""
    pytest.importorskip("bm25s")
    tokenizer = train_byte_bpe(["the river"], 300, tmp_path / "tokenizer")
    store = build_store([Passage("a", "", "the river")], tmp_path / "passages", tokenizer)
    settings = dict(config.index.bm25)
    build_index(
        Workdir(tmp_path).index, encoder=None, store=store, fingerprint=bm25.fingerprint(settings),
        score_scale=1.0, kind="bm25", search={"bm25": settings}, log=lambda line: None,
    )  # fmt: skip
    return tokenizer


def test_words_need_no_retriever_and_take_the_one_there_is(tiny, params, hub, save_retriever, config, tmp_path):
    config.index.kind, place = "bm25", Workdir(tmp_path)
    init.check(config, place)
    begun = start(config, place, tiny.config())
    fresh = rag.init_params(tiny.config(), jax.random.key(config.seed))
    assert tiny.bits(begun.params) == tiny.bits(fresh)
    assert begun.passage_encoder == "bm25:lucene:k1=0.9:b=0.4:words"
    config.parts.question_encoder = hub.question
    np.testing.assert_array_equal(token_table(start(config, place, tiny.config())), hub.tokens["question"])
    save_retriever(place.retriever, {"question_encoder": params["question_encoder"]})
    begun = start(config, place, tiny.config())
    assert tiny.bits(begun.params["question_encoder"]) == tiny.bits(params["question_encoder"])
    assert begun.passage_encoder == "bm25:lucene:k1=0.9:b=0.4:words"
    config.init_from = hub.rag
    begun = start(config, place, tiny.config())
    np.testing.assert_array_equal(token_table(begun), hub.tokens["rag question"])
    assert begun.passage_encoder == "bm25:lucene:k1=0.9:b=0.4:words"


def test_a_run_opens_the_index_by_words_that_its_configuration_describes(config, words_index, tmp_path):
    place, name = Workdir(tmp_path), "bm25:lucene:k1=0.9:b=0.4:words"
    assert not init.open_own_index(init.Start({}, name), place, words_index, "bm25").by_vector
    with pytest.raises(UserError, match=r"made by passage encoder bm25:lucene.*, not by bm25:atire"):
        init.open_own_index(init.Start({}, "bm25:atire"), place, words_index, "bm25")
    progress = init.Progress("joint", None, [], None, None, False, None)
    for begun in (init.Start({}, None), init.Start({}, name, progress)):
        with pytest.raises(UserError, match=r"config\.index\.kind: found 'scann', but .*index was made for 'bm25'"):
            init.open_own_index(begun, place, words_index, "scann")


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


def test_a_retriever_of_this_run_goes_before_that_of_init_from(tiny, params, hub, save_retriever, config, tmp_path):
    """The index in this run is made by it."""
    config.init_from, place = hub.rag, Workdir(tmp_path)
    save_retriever(place.retriever, {"question_encoder": params["question_encoder"]})
    begun = start(config, place, tiny.config())
    assert tiny.bits(begun.params["question_encoder"]) == tiny.bits(params["question_encoder"])
    np.testing.assert_array_equal(begun.params["generator"]["shared"]["embedding"], hub.tokens["rag generator"])
    assert begun.passage_encoder == encoders.passage_fingerprint(tiny.bert, params)


def test_a_scale_that_init_from_has_not_learned_is_learned_from_where_it_stands(tiny, hub, config, tmp_path):
    config.init_from, model = hub.rag, replace(tiny.config(), learn_score_scale=True, score_scale=2.0)
    begun = start(config, Workdir(tmp_path), model).params
    shapes = jax.eval_shape(lambda: rag.init_params(model, jax.random.key(0)))
    assert jax.tree.structure(begun) == jax.tree.structure(shapes)
    assert float(begun["log_score_scale"]) == pytest.approx(np.log(2.0))


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


@pytest.mark.long
def test_a_head_goes_on_for_the_labels_that_it_knows(tiny, params, config, tmp_path):
    """A model of other labels gets a fresh one, a model without labels none; the rest goes on."""
    run, known = Workdir(tmp_path / "run"), replace(tiny.config(), classes=3)
    told = default_config()
    told.data.update(passages="demo:2016", task="fever3", classify="head")
    run.save_config(told)
    head = rag.init_classifier(known, jax.random.key(5))
    checkpoints = Checkpoints(run.checkpoints)
    checkpoints.save(3, params | head, {"step": jnp.int32(3)}, score=0.0, extra={"passage_encoder": "f"})
    checkpoints.close()
    config.init_from = str(run.folder)
    fresh = rag.init_classifier(replace(known, classes=2), jax.random.key(config.seed))
    for classes, expected in ((3, head), (2, fresh), (0, {})):
        begun = start(config, Workdir(tmp_path), replace(known, classes=classes)).params
        assert tiny.bits(begun.pop("classifier", {})) == tiny.bits(expected)
        assert tiny.bits(begun) == tiny.bits(params)


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
        extra = {"stage": name, "next_ids": ids, "next_scores": [[0.1, 2]], "passage_encoder": "f"}
        checkpoints.save(saved_as, params, {"step": jnp.int32(3), "adam": adam}, score=0.0, extra=extra)
        progress = init.resume(checkpoints, tiny.config(), optimizers, parallel)
        state, next_ids, next_scores = progress.state, progress.next_ids, progress.next_scores
        assert (progress.stage, next_ids, next_scores, int(state.step)) == (name, ids, [[0.1, 2]], 3)
        assert not progress.unscored and progress.course is None
        assert jax.tree.structure(state.opt_state) == jax.tree.structure(adam)
        assert tiny.bits((state.params, state.opt_state)) == tiny.bits((params, adam))
        assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(state))
    checkpoints.close()


def test_a_checkpoint_of_other_trained_parts_is_told_by_its_differences(tiny, params, tmp_path):
    """As one made in a stage of denoising when that still trained the question encoder."""
    checkpoints, before = Checkpoints(tmp_path), optimizer(STAGE, HALVES)
    extra = {"stage": "denoise", "next_ids": [], "passage_encoder": "f"}
    state = {"step": jnp.int32(3), "adam": before.init(params)}
    checkpoints.save(3, params, state, score=0.0, extra=extra)
    with pytest.raises(UserError, match=r"3: made with another configuration:\n +optimizer/adam/.*question_encoder"):
        init.resume(checkpoints, tiny.config(), {"denoise": optimizer(STAGE, ("generator",))}, Pmap())


def saved_at(folder, step):
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(step, {"a": jnp.ones(2)}, {"b": jnp.ones(1)}, score=0.0, extra={})


def test_processes_with_other_checkpoints_name_them(tmp_path):
    """Before anything is restored, which all must do together: hosts with the same path on disks of their own."""
    board = Board()
    saved_at(tmp_path / "0", 5)

    def go_on(number):
        with pytest.raises(UserError) as error:
            init.own_checkpoints(tmp_path / str(number), Team(number, 2, board))
        return str(error.value)

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(go_on, range(2))
    assert first.startswith("checkpoint: process 0 has 5, process 1 has None; start all with the same")
    assert second.startswith("checkpoint: process 1 has None, process 0 has 5; start all with the same")


class Alone(Team):
    """One process after the other: none waits."""

    def wait(self, name, value=""):
        pass

    def agree(self, **values):
        pass


@pytest.mark.parametrize("damaged", [False, True])
def test_what_process_0_has_of_a_remote_run_all_have(tmp_path, damaged, monkeypatch):
    """What an earlier run was killed before it published, and the store's where its own is damaged."""
    Flaky.fill({})
    monkeypatch.setattr(remote, "PAUSES", (0, 0))

    def of(machine):
        monkeypatch.setenv("RAG_JAX_CACHE", str(tmp_path / machine))
        return Workdir("flaky://bucket/run").checkpoints

    first = of("first")
    saved_at(first, 1)
    with monkeypatch.context() as killed:
        if not damaged:
            killed.setattr(checkpoint, "publish", lambda *_: None)
        saved_at(first, 2)
    if damaged:
        assert Checkpoints(of("second")).latest() == 2
        path = first / "2" / MANIFEST
        before = path.stat()
        path.write_bytes(b"?" + path.read_bytes()[1:])
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # the disk's own doing
    newest = []
    second = of("second")
    for number, (machine, folder) in enumerate((("first", first), ("second", second))):
        of(machine)
        newest.append(init.own_checkpoints(folder, Alone(number, 2)).latest())
    assert newest == [2, 2]


def test_another_course_is_told_and_another_place_in_the_run_refused():
    config = default_config()
    before = init.course(config, "joint", 6, "why?", "p")
    progress = init.Progress("joint", None, [[1, 2]], None, None, False, before)
    assert init.changes(progress, before) == init.changes(progress._replace(course=None), before) == []
    config.joint.batch, config.seed = 7, 9
    now = init.course(config, "joint", 6, "how?", "q")
    assert [line.split(" is ")[0] for line in init.changes(progress, now)] == [
        "config.joint.batch", "config.seed", "config.data.train", "passages"
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"'joint' of the newest checkpoint began after 6 steps, found 4"):
        init.changes(progress, init.course(config, "joint", 4, "why?", "p"))


def test_every_other_setting_is_told(tmp_path):
    """Also those that change nothing of what the next step reads; the record may be damaged."""
    config, place = default_config(), Workdir(tmp_path)
    config.data.passages = "demo:2016"
    place.save_config(config)
    assert init.other_settings(config, place) == []
    config.joint.learning_rate, config.retrieval.lag = 0.5, 0
    assert [line.split(" is ")[0] for line in init.other_settings(config, place)] == [
        "config.joint.learning_rate", "config.retrieval.lag"
    ]  # fmt: skip
    place.config.write_text(place.config.read_text().replace("demo:2016", "demo:2018"))
    assert str(place.config) in init.other_settings(config, place)[0]


def test_a_stage_may_end_before_what_was_done_of_it_only_where_none_follows():
    state = TrainState(jnp.int32(300), {}, ())
    progress = init.Progress("reader", state, [], None, None, False, None)
    stages = {name: ConfigDict({"steps": steps}) for name, steps in (("reader", 300), ("joint", 100))}
    init.check_end(progress, stages)
    stages["reader"].steps = 200
    with pytest.raises(UserError, match=r"^config\.reader\.steps: found 200, expected at least 300, which .* another"):
        init.check_end(progress, stages)
    init.check_end(progress._replace(stage="joint"), stages)


def test_a_run_of_a_dropped_stage_is_refused(tiny, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    extra = {"stage": "reader", "next_ids": [], "passage_encoder": "a"}
    checkpoints.save(5, {"a": jnp.zeros(1)}, {"step": jnp.int32(3)}, score=0.0, extra=extra)
    with pytest.raises(UserError, match="stage 'reader', which now has no steps"):
        init.resume(checkpoints, tiny.config(), {"joint": optimizer(STAGE, ("generator",))}, Pmap())
    checkpoints.close()


def test_a_closed_book_starts_with_a_generator_alone(tiny, hub, config, tmp_path):
    """And asks for no retriever and no index."""
    config.index.kind, config.parts.generator = "none", hub.generator
    place, model = Workdir(tmp_path), replace(tiny.config(), question_encoder=None)
    init.check(config, place)
    begun = start(config, place, model)
    assert set(begun.params) == {"generator"} and begun.passage_encoder is None
    np.testing.assert_array_equal(begun.params["generator"]["shared"]["embedding"], hub.tokens["generator"])
    assert init.open_own_index(begun, place, None, "none") is None and not list(tmp_path.iterdir())


@pytest.mark.parametrize("closed", [True, False])
def test_a_run_does_not_go_on_as_a_closed_book_nor_one_of_them_as_a_run(tiny, tmp_path, closed):
    checkpoints = Checkpoints(tmp_path)
    extra = {"stage": "joint", "next_ids": [], "passage_encoder": None if closed else "f"}
    checkpoints.save(5, {"a": jnp.zeros(1)}, {"step": jnp.int32(3)}, score=0.0, extra=extra)
    model = tiny.config() if closed else replace(tiny.config(), question_encoder=None)
    trained = "without" if closed else "with"
    with pytest.raises(UserError, match=rf"trained {trained} passages; give config\.index\.kind its value again"):
        init.resume(checkpoints, model, {"joint": optimizer(STAGE, ("generator",))}, Pmap())
    checkpoints.close()


def test_a_null_document_starts_fresh_beside_a_whole_model(tiny, hub, config, tmp_path):
    config.init_from, model = hub.rag, replace(tiny.config(), null_document="network")
    begun = start(config, Workdir(tmp_path), model)
    fresh = rag.init_null_document(model, jax.random.key(config.seed))
    assert tiny.bits(begun.params["null_document"]) == tiny.bits(fresh["null_document"])
    np.testing.assert_array_equal(token_table(begun), hub.tokens["rag question"])
    assert set(begun.params) == {"question_encoder", "generator", "null_document"}
