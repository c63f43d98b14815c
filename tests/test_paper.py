"""Every configuration of the paper's tasks runs, shrunk: retriever, index, two steps, evaluation."""

import json
import math
import shutil

import jax
import pytest

from rag_jax import Rag
from rag_jax.command import checked, find_config, load_config
from rag_jax.config import STAGES
from rag_jax.data import tasks
from rag_jax.data.demo.forms import FORMS
from rag_jax.errors import UserError
from rag_jax.evaluation.report import Asked, evaluate, own_numbers
from rag_jax.training.indexing import build
from rag_jax.training.loop import train
from rag_jax.training.retriever_loop import train_retriever
from rag_jax.workdir import Workdir

LONG = pytest.mark.long
FOLDER = "a folder of these tests"
COMPILED = {  # programs run for moments here
    "jax_disable_most_optimizations": True,
    "jax_compilation_cache_dir": FOLDER,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def records(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """name -> its configuration, smaller yet: two steps, models of a moment, every twentieth passage of the demo."""
    folder = tmp_path_factory.mktemp("paper")
    passages = list(tasks.passages(load_config(find_config("demo")).data))[::20]
    path = folder / "passages.jsonl"
    path.write_text("".join(json.dumps({"id": p.id, "title": p.title, "text": p.text}) + "\n" for p in passages))

    def small(name):
        config = load_config(find_config(name))
        config.data.passages = str(path)
        config.tokenizer.update(encoder_vocab=400, generator_vocab=400)
        tiny = {"width": 16, "heads": 2, "ffn": 32}
        config.encoder.update(**tiny, layers=1)
        config.generator.update(**tiny, encoder_layers=1, decoder_layers=1)
        config.length.target = config.decode.max_length = 12
        config.index.batch = 16
        for stage in (config.retriever, *(config[name] for name in STAGES)):
            stage.update(steps=min(stage.steps, 2), batch=8, warmup=1)
            if "accumulation" in stage:
                stage.accumulation = 1
        config.evaluate.update(batch=8, every=2, questions=8)
        return checked(config)

    return small


@pytest.fixture(scope="module")
def started(small, tmp_path_factory):
    """A run with a retriever and an index, which serve all tasks, and tokenizers that have FEVER's words; programs

    compiled for one are there for the next.
    """
    place = Workdir(tmp_path_factory.mktemp("paper_run") / "run")
    before = {name: jax.config.values[name] for name in COMPILED}
    for name, value in COMPILED.items():
        jax.config.update(name, value if value != FOLDER else str(place.folder.parent / "compiled"))
    train_retriever(small("fever3:runlocal"), place)
    build(small("fever3:runlocal"), place, place.index)
    yield place.folder
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.parametrize(
    "name",
    [
        "fever2:runlocal",  # the quickest
        *(pytest.param(f"{task}:runlocal", marks=LONG) for task in FORMS if task not in ("fever2", "qa")),
        pytest.param("squad_open:runlocal", marks=LONG),
        pytest.param("nq:token,runlocal", marks=LONG),
        pytest.param("jeopardy:sequence,frozen,runlocal", marks=LONG),
        pytest.param("fever3:head,runlocal", marks=LONG),
        pytest.param("fever2:sequence,head,frozen,runlocal", marks=LONG),
    ],
)
def test_a_task_trains_and_is_measured(name, small, started, tmp_path, capsys):
    place = Workdir(shutil.copytree(started, tmp_path / "run"))
    config = small(name)
    train(config, place)
    rag, task = Rag.load(place.folder), tasks.TASKS[config.data.task]
    steps = sum(config[name].steps for name in STAGES)
    assert [record["step"] for record in records(place.folder / "metrics.jsonl")] == [*range(steps)]
    numbers = own_numbers(task.comparable("test", config.data.test), config.kind, "test")
    parts = ("answers", "retrieval") if task.labels else ("answers",)
    asked = Asked(parts, limit=8, names=task.metrics, paper=numbers, submission=task.submission)
    evaluate(rag, rag.config, place.folder, asked)
    metrics = json.loads((place.folder / "metrics.json").read_text())
    found = metrics["test_first_8"]
    out = capsys.readouterr().out
    assert found and not numbers and " paper " not in out, "the demo's questions are not the paper's"
    predictions = records(place.folder / "predictions.jsonl")
    assert len(predictions) == 8
    assert all(len(prediction["documents"]) == config.retrieval.k for prediction in predictions)
    assert (place.folder / "submission_first_8.jsonl").exists() == (config.data.task == "msmarco")
    if task.labels:
        assert found["accuracy"]["count"] == len(predictions)
        assert {"gold page@1", "gold page@10"} < metrics["retrieval_first_8"].keys()
        assert {prediction["prediction"] for prediction in predictions} <= {*task.labels}
        check_labels(rag, place, tmp_path / "export")


def check_labels(rag, place, out):
    """A claim is answered by all labels with their probabilities; what does not go with them is refused."""
    (answer,) = rag.answer(["Lima is the capital of Peru."])
    told = answer, *answer.others
    assert {one.text for one in told} == {*rag.labels} and len(told) == len(rag.labels)
    assert sum(math.exp(one.log_prob) for one in told) == pytest.approx(1, abs=1e-5)
    assert [one.log_prob for one in told] == sorted((one.log_prob for one in told), reverse=True)
    for one in told:
        assert sum(document.posterior for document in one.documents) == pytest.approx(1, abs=1e-5)
    with pytest.raises(UserError, match="token_posterior: found a label"):
        rag.answer(["Lima?"], token_posterior=True)
    other = place.load_config()
    other.data.classify = ""
    with pytest.raises(UserError, match=r"config\.data: found classify = '' with task"):
        Rag.load(place.folder, config=other)
    if rag.model.classes:
        with pytest.raises(UserError, match=r"data\.classify: found 'head'"):
            rag.save_pretrained(out)


@LONG
def test_labels_in_a_word_are_exported_and_told_alike(small, started, tmp_path):
    place = Workdir(shutil.copytree(started, tmp_path / "run"))
    train(small("fever3:sequence,runlocal"), place)
    rag, claims = Rag.load(place.folder), ["Lima is the capital of Peru.", "Oslo is the capital of Peru."]
    rag.save_pretrained(tmp_path / "export")
    exported = Rag.load(tmp_path / "export", index=place.index)
    for answer, again in zip(rag.answer(claims), exported.answer(claims), strict=True):
        assert again.text == answer.text and again.log_prob == pytest.approx(answer.log_prob, abs=1e-5)


@LONG
def test_by_words_no_retriever_is_needed(small, tmp_path):
    pytest.importorskip("bm25s")
    config, place = small("nq:bm25,runlocal"), Workdir(tmp_path / "run")
    build(config, place, place.index)
    train(config, place)
    assert len(Rag.load(place.folder).answer(["what is the capital of Croatia?"])) == 1


@LONG
def test_a_task_starts_from_the_run_of_another_and_reads_its_index(small, started, tmp_path):
    before, place = Workdir(shutil.copytree(started, tmp_path / "nq")), Workdir(tmp_path / "webquestions")
    train(small("nq:runlocal"), before)
    place.folder.mkdir()
    place.index.symlink_to("../nq/index")
    config = small("webquestions:runlocal")
    config.init_from = str(before.folder)
    train(config, place)
    assert len(Rag.load(place.folder).answer(["what is the capital of Croatia?"])) == 1


@LONG
@pytest.mark.parametrize(
    "name",
    [
        "msmarco:closedbook,runlocal",
        "triviaqa:token,closedbook,runlocal",
        "fever3:head,closedbook,runlocal",
        "fever2:label,closedbook,runlocal",
    ],
)
def test_a_closed_book_is_trained_from_nothing_and_measured(name, small, tmp_path):
    config, place = small(name), Workdir(tmp_path / "run")
    train(config, place)
    rag, task = Rag.load(place.folder), tasks.TASKS[config.data.task]
    evaluate(rag, rag.config, place.folder, Asked(limit=8, names=task.metrics))
    assert json.loads((place.folder / "metrics.json").read_text())["test_first_8"]
    assert [path.name for path in (place.folder / "tokenizers").iterdir()] == ["generator"]
    assert not (place.folder / "index").exists() and rag.answer(["what is the capital of Croatia?"])[0].documents == ()
