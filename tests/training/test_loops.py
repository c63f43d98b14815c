"""Both loops in this process, with steps that cost nothing: what they refuse, what they say, what they leave."""

import itertools
import json
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import checkpoint
from rag_jax.checkpoint import Checkpoints
from rag_jax.config import default_config
from rag_jax.data.formats import read_questions
from rag_jax.errors import UserError, fail
from rag_jax.evaluation.measures import Headline
from rag_jax.files import write_manifest
from rag_jax.models import rag
from rag_jax.parallel import Pmap
from rag_jax.preemption import PreemptedError, Preemption
from rag_jax.team import SINGLE, Team
from rag_jax.training import curves, init, loop, retriever_loop
from rag_jax.training.loop import train
from rag_jax.training.optim import optimizer
from rag_jax.training.retriever_loop import train_retriever
from rag_jax.training.step import TrainState
from rag_jax.workdir import Workdir

LOOPS = {train: loop, train_retriever: retriever_loop}
STAGE = {"steps": 4, "batch": 8, "warmup": 0}


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture
def config(tmp_path):
    """A closed book for `train`, which needs neither retriever nor index; words for `train_retriever`."""
    config = default_config()
    passages = [
        {"id": f"p{n}", "title": f"town {n}", "text": f"the river of town {n} is called {n}el"} for n in range(9)
    ]
    asked = [
        {"id": f"q{n}", "question": f"river of {n}?", "answer": f"{n}el", "passage_ids": [f"p{n}"]} for n in range(6)
    ]
    config.data.passages = write(tmp_path / "passages.jsonl", passages)
    config.data.train = config.data.valid = write(tmp_path / "asked.jsonl", asked)
    config.index.kind = "none"
    config.tokenizer.update(encoder_vocab=320, generator_vocab=340)
    tiny = {"width": 16, "heads": 2, "ffn": 32, "positions": 48}
    config.encoder.update(**tiny, layers=1)
    config.generator.update(**tiny, encoder_layers=1, decoder_layers=1)
    config.length.update(question=16, passage=24, source=40, target=8)
    config.retriever.update(**STAGE)
    config.reader.update(steps=0, train_question_encoder=False)
    config.joint.update(**STAGE, train_question_encoder=False)
    return config


def run(command, config, place, *more):
    config = config.copy_and_resolve_references()
    config.index.kind = "none" if command is train else "exact"
    command(config, place, *more)


def stepping(monkeypatch, step):
    """Takes the place of both compiled steps; and no pictures are drawn."""
    monkeypatch.setattr(curves, "draw", lambda *_: None)
    for module in LOOPS.values():
        monkeypatch.setattr(module, "slow_at_first", lambda *_: step)


def no_number(state, batch):
    return state, {"loss": np.float32(np.nan)}


def a_step(state, batch):
    step = jax.device_put(np.int32(jax.device_get(state.step) + 1))
    return state._replace(step=step), {"loss": np.float32(1), "in_batch_accuracy": np.float32(1)}


@pytest.mark.parametrize("command", LOOPS)
def test_what_a_loss_that_is_no_number_learned_from_is_kept_by_its_ids(command, config, tmp_path, monkeypatch):
    """As a file of questions; of six in a batch of eight, some come twice. And nothing is transferred unasked."""
    one = jnp.ones(2)

    def step(state, batch):
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            one + np.ones(2, np.float32)
        return no_number(state, batch)

    stepping(monkeypatch, step)
    with pytest.raises(UserError, match=r"step 0: the loss or its gradient is not finite"):
        run(command, config, Workdir(tmp_path / "run"))
    kept = {question.id: question.text for question in read_questions(tmp_path / "run" / "not_finite.jsonl")}
    asked = {question.id: question.text for question in read_questions(config.data.train)}
    assert len(kept) == 8 and asked.items() <= kept.items()
    for name, text in kept.items() - asked.items():
        assert name.endswith(" (2)") and asked[name.removesuffix(" (2)")] == text


def test_a_retriever_that_goes_on_says_what_differs(config, tmp_path, monkeypatch, capsys):
    stepping(monkeypatch, a_step)
    place, said = Workdir(tmp_path / "run"), []
    for steps, batch in ((1, 8), (2, 16)):
        config.retriever.steps, config.retriever.batch = steps, batch
        run(train_retriever, config, place)
        said.append(capsys.readouterr().out)
    assert "another configuration" not in said[0]
    differs = "config.retriever.batch is 16, was 8; config.retriever.steps is 2, was 1"
    assert f"goes on with another configuration: {differs}\n" in said[1]


def begun(config, place, stage, step, unscored=False):
    """A closed book's run that has done so many steps of a stage."""
    _, tokenizer = loop.load_or_train(config, place.tokenizers)
    model = loop.rag_config(loop.resolve(config), None, tokenizer)
    params = jax.eval_shape(lambda: rag.init_params(model, jax.random.key(0)))
    adam = jax.eval_shape(optimizer(config[stage], loop.trained(config, stage)).init, params)
    checkpoints = Checkpoints(place.checkpoints)
    extra = {"stage": stage, "next_ids": [], "passage_encoder": None, "unscored": unscored}
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), TrainState(init.STEP, params, adam))
    state = Pmap().put_state(state._replace(step=np.int32(step)))
    checkpoints.save(step, **init.saved_trees(state), score=0.0, extra=extra)
    checkpoints.close()
    place.save_config(config)


def test_a_stage_that_ends_before_what_was_done_of_it_is_refused_where_another_follows(config, tmp_path, monkeypatch):
    """No other step gets its number; where none follows the run is done."""
    stepping(monkeypatch, no_number)
    place = Workdir(tmp_path / "run")
    config.reader.update(**STAGE)
    begun(config, place, "reader", 3)
    before = place.config.read_bytes()
    config.reader.steps = 2
    with pytest.raises(UserError, match=r"config\.reader\.steps: found 2, expected at least 3, which the newest"):
        run(train, config, place)
    assert place.config.read_bytes() == before
    config.joint.steps = 0
    run(train, config, place)
    assert Checkpoints(place.checkpoints).latest() == 3


def test_a_refused_run_leaves_the_record_of_the_run_as_it_was(config, tmp_path, monkeypatch):
    """Whatever may refuse it: questions without answers to learn, a stage that cannot be, names for no file."""
    stepping(monkeypatch, no_number)
    monkeypatch.setattr(loop, "make_source", lambda *_: fail("refused"))
    place = Workdir(tmp_path / "run")
    place.save_config(config)
    before = place.config.read_bytes()
    config.joint.batch = 16
    with pytest.raises(UserError, match="refused"):
        run(train, config, place)
    assert place.config.read_bytes() == before


def test_an_evaluation_that_was_missed_is_told_once(config, tmp_path, monkeypatch):
    """Killed when its line was written and the checkpoint had not its score yet."""
    stepping(monkeypatch, no_number)
    monkeypatch.setattr(loop, "predict", lambda *_, **__: [])
    monkeypatch.setattr(loop, "headline", lambda *_: Headline("EM", 0.5))
    place = Workdir(tmp_path / "run")
    config.joint.steps = 3
    begun(config, place, "joint", 3, unscored=True)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "rescore", killed)
        run(train, config, place)
    run(train, config, place)
    (line,) = place.validation.read_text().splitlines()
    assert (json.loads(line)["step"], json.loads(line)["value"]) == (3, 0.5)
    assert not Checkpoints(place.checkpoints).extra(3)["unscored"]


@pytest.mark.parametrize("command", LOOPS)
def test_what_was_saved_is_whole_when_the_run_is_interrupted(command, config, tmp_path, monkeypatch):
    """Ctrl-C while it is written in the background, on a slow disk."""

    def step(state, batch):
        if int(jax.device_get(state.step)) == 2:
            raise KeyboardInterrupt
        return a_step(state, batch)

    def slowly(*arguments):
        time.sleep(0.5)
        write_manifest(*arguments)

    stepping(monkeypatch, step)
    monkeypatch.setattr(loop, "predict", lambda *_, **__: [])
    monkeypatch.setattr(checkpoint, "write_manifest", slowly)
    config.evaluate.every, place = 2, Workdir(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run(command, config, place)
    assert Checkpoints(place.checkpoints if command is train else place.retriever).latest() == 2


def test_a_run_that_is_told_to_end_begins_no_evaluation(config, tmp_path, monkeypatch):
    preemption, answered = Preemption(), []

    def step(state, batch):
        preemption.signalled()
        return a_step(state, batch)

    stepping(monkeypatch, step)
    monkeypatch.setattr(loop, "predict", lambda *_, **__: (answered.append(each) for each in range(2)))
    config.evaluate.every, place = 1, Workdir(tmp_path / "run")
    with pytest.raises(PreemptedError):
        run(train, config, place, SINGLE, preemption)
    assert not answered and Checkpoints(place.checkpoints).extra(1)["unscored"]


@pytest.mark.parametrize(("command", "files"), [(train, ("train", "valid")), (train_retriever, ("train", "passages"))])
def test_processes_agree_on_what_the_files_hold(command, files, config, tmp_path, monkeypatch):
    class Heard(Team):
        def agree(self, **values):
            told.append(values)

    stepping(monkeypatch, no_number)
    said = []
    for changed in ("", *files):
        told = []
        if changed:
            path = tmp_path / f"{changed}.jsonl"
            path.write_text("\n".join(Path(config.data[changed]).read_text().splitlines()[:-1]))
            config.data[changed] = str(path)
        with pytest.raises(UserError, match="not finite"):
            run(command, config, Workdir(tmp_path / f"run {changed}"), Heard())
        said.append(told[2 if command is train else 1])
    names = [{name for name in one if one[name] != other[name]} for one, other in itertools.pairwise(said)]
    keys = {"train": "config.data.train", "valid": "config.data.valid", "passages": "passages"}
    assert names == [{keys[name]} for name in files]


@pytest.mark.parametrize("kind", ["exact", "bm25", "none"])
def test_denoising_trains_the_generator_alone(config, kind):
    """Weight decay needs no gradient: what the stage does not read is no part of its optimizer."""
    config.index.kind = kind
    names = "question_encoder", "null_document", "generator", "classifier"
    params = {name: {"kernel": jnp.ones((2, 2))} for name in names}
    tx = optimizer(config.denoise, loop.trained(config, "denoise"))
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    assert [name for name in names if updates[name]["kernel"].any()] == ["generator"]


def test_a_k_that_nothing_reads_may_be_larger_than_the_corpus(config):
    index = SimpleNamespace(passages=range(9))
    config.retrieval.k, config.joint.k, config.denoise.k = 9, 9, 10
    loop.check_k(config, {name: config[name] for name in ("denoise", "joint")}, index)
    config.joint.k = 10
    with pytest.raises(UserError, match=r"config\.joint\.k: found 10, expected at most 9"):
        loop.check_k(config, {"joint": config.joint}, index)


def test_a_run_that_goes_on_compares_its_checkpoint_once(config, tmp_path, monkeypatch):
    """Every byte of it is read for that."""
    read_manifest, compared = checkpoint.read_manifest, []

    def read(folder, kind, *, verify=False):
        compared.extend([folder] * verify)
        return read_manifest(folder, kind, verify=verify)

    stepping(monkeypatch, no_number)
    place = Workdir(tmp_path / "run")
    begun(config, place, "joint", 4)
    monkeypatch.setattr(checkpoint, "read_manifest", read)
    run(train, config, place)
    assert compared == [place.checkpoints / "4"]
