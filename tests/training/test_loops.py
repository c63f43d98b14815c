"""Both loops in this process, with steps that cost nothing: what they refuse, what they say, what they leave."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.checkpoint import Checkpoints
from rag_jax.config import default_config
from rag_jax.data.formats import read_questions
from rag_jax.errors import UserError, fail
from rag_jax.evaluation.measures import Headline
from rag_jax.models import rag
from rag_jax.parallel import Pmap
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


def run(command, config, place):
    config = config.copy_and_resolve_references()
    config.index.kind = "none" if command is train else "exact"
    command(config, place)


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
    adam = jax.eval_shape(optimizer(config[stage], loop.trained(config, config[stage])).init, params)
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
