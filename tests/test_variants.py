"""The words after --config=nq: what each changes, that they combine, and what is said of a wrong one."""

import ast
from pathlib import Path

import pytest

from rag_jax.command import checked, find_config, load_config
from rag_jax.config import STAGES
from rag_jax.data import tasks
from rag_jax.data.demo.forms import FORMS
from rag_jax.errors import UserError
from rag_jax.hub.resolve import resolve
from rag_jax.variants import Variant, ablation

PAPER = [task for task in FORMS if task != "qa"]
ANSWERS = ("nq", "triviaqa", "webquestions", "curatedtrec")
WRITES = ("msmarco", "jeopardy")


def load(name):
    return load_config(find_config(name))


@pytest.mark.parametrize(
    "words",
    [
        "token",
        "sequence,frozen",
        "token,bm25",
        "runlocal",
        "sequence,bm25,runlocal",
        "closedbook",
        "token,closedbook,runlocal",
    ],
)
@pytest.mark.parametrize("task", PAPER)
def test_every_variant_of_every_task_is_right(task, words):
    config = checked(load(f"{task}:{words}"))
    assert config.data.task == task
    assert words.startswith(config.kind) or words in ("runlocal", "closedbook")
    assert config.joint.train_question_encoder == (words in ("token", "runlocal"))
    assert (config.index.kind == "bm25") == ("bm25" in words)
    assert (config.index.kind == "none") == ("closedbook" in words)
    assert not ("closedbook" in words and (config.parts.question_encoder or config.parts.passage_encoder))


def test_a_closed_book_has_no_use_for_passages_that_hold_the_answer():
    config = checked(load("squad_open:closedbook"))
    assert config.reader.steps and not config.reader.depth and not config.reader.substitution


@pytest.mark.parametrize("words", ["token", "sequence,frozen", "token,bm25", "frozen,runlocal", "closedbook"])
def test_an_ablation_is_known_by_its_configuration(words):
    """Which tells beside which of the paper's numbers it stands."""
    expected = ({"frozen", "bm25"} & set(words.split(","))) or {""}
    assert {ablation(load(f"nq:{words}"))} == expected


@pytest.mark.parametrize("word", ["frozen", "bm25", "closedbook"])
def test_an_ablation_trains_the_question_encoder_in_no_stage(word):
    config = checked(load(f"squad_open:{word}"))
    assert not any(config[stage].train_question_encoder for stage in STAGES)


@pytest.mark.parametrize("task", PAPER)
def test_the_paper_s_settings(task):
    for kind, k in (("token", 15), ("sequence", 50)):
        config = load(f"{task}:{kind}")
        assert config.joint.k in (5, 10) and config.kind == kind
        assert config.retrieval.k == (k if task in ANSWERS else 10 if task in WRITES else 5)
        assert config.decode.beams == (4 if task in WRITES else 1)
        assert (config.decode.mode == "fast") == (task in WRITES and kind == "sequence")
        assert (config.init_from == "./runs/nq") == (task in ("webquestions", "curatedtrec"))
        assert config.joint.train_question_encoder and not config.reader.steps and not config.denoise.steps


@pytest.mark.parametrize("task", [*PAPER, "squad_open"])
def test_runlocal_needs_nothing_but_the_package(task):
    full, local = load(task), resolve(load(f"{task}:runlocal"))
    assert not local.init_from and not any(local.parts.values())
    assert all(local.data[part].startswith("demo:") for part in ("passages", "train", "valid", "test"))
    assert local.encoder.width == local.generator.width == 128
    for group, key in (("data", "task"), ("decode", "mode"), ("decode", "beams"), ("joint", "k")):
        assert local[group][key] == full[group][key]


@pytest.mark.parametrize("task", PAPER)
def test_the_docstring_tells_the_paper_s_own_scores_and_commands(task):
    told = " ".join(ast.get_docstring(ast.parse(Path(find_config(task)).read_text(encoding="utf-8"))).split())
    assert f"--config={task} --workdir" in told and f"--config={task}:runlocal" in told and "not run here" in told
    found = tasks.TASKS[task].paper
    headline = tasks.TASKS[task].metrics[0]
    for split in ("test", "valid"):
        for system in ("RAG-Token", "RAG-Sequence"):
            assert str(found[split][system][headline]) in told


@pytest.mark.parametrize("task", ANSWERS)
def test_dpr_s_script_leaves_its_files_where_they_are_looked_for(task):
    """A resource, its dots parting folders, and the suffix that is left when it is unpacked."""
    data = load(task).data
    assert data.passages == "downloads/data/wikipedia_split/psgs_w100.tsv"
    name = {"triviaqa": "trivia", "webquestions": "webq"}.get(task, task)
    told = " ".join(ast.get_docstring(ast.parse(Path(find_config(task)).read_text(encoding="utf-8"))).split())
    for split, end in (("train", "train"), ("valid", "dev"), ("test", "test")):
        resource, _, suffix = data[split].removeprefix("downloads/").replace("/", ".").rpartition(".")
        assert resource.removeprefix("data.retriever.").removeprefix("qas.") == f"{name}-{end}"
        assert suffix == ("csv" if ".qas." in resource else "json")
        assert resource in told or f"--resource={resource.removesuffix(f'-{end}')}" in told


@pytest.mark.parametrize("task", ["fever3", "fever2"])
def test_the_two_ways_of_telling_labels(task):
    assert load(task).to_dict() == load(f"{task}:label").to_dict()
    for words, classify, target in (("label", "token", 4), ("head", "head", 64), ("sequence,head,bm25", "head", 64)):
        config = checked(load(f"{task}:{words}"))
        assert (config.data.classify, config.length.target) == (classify, target)
        assert checked(load(f"{task}:{words},runlocal")).data.classify == classify


def test_the_order_of_the_words_does_not_matter():
    assert load("nq:runlocal,bm25,token").to_dict() == load("nq:token,bm25,runlocal").to_dict()
    assert Variant.read("nq", "", "token") == Variant("token") != Variant.read("nq", "sequence", "token")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "tokn",
            "--config=nq:tokn: found 'tokn', expected words of token, sequence, frozen, bm25, closedbook, runlocal",
        ),
        ("token,sequence", "--config=nq:token,sequence: found token and sequence, expected one of them"),
        ("bm25,frozen", "--config=nq:bm25,frozen: found bm25 and frozen, expected one of them"),
        (
            "head",
            "--config=nq:head: found 'head', expected words of token, sequence, frozen, bm25, closedbook, runlocal",
        ),
    ],
)
def test_a_wrong_word_is_told_what_there_is(words, message):
    with pytest.raises(UserError) as caught:
        load(f"nq:{words}")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_one_way_alone():
    with pytest.raises(UserError, match="--config=fever3:label,head: found label and head, expected one of them"):
        load("fever3:label,head")
    with pytest.raises(
        UserError, match="expected words of token, sequence, label, head, frozen, bm25, closedbook, runlocal, with"
    ):
        load("fever2:heads")


@pytest.mark.parametrize("task", ["webquestions", "curatedtrec"])
def test_a_task_that_starts_from_a_run_says_that_it_is_missing(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"config\.init_from = \./runs/nq: holds no trained model") as caught:
        resolve(load(task))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for task in [*PAPER, "squad_open"]:
        for split in ("train", "valid", "test"):
            data = load(task).data
            with pytest.raises(UserError, match=data[split]) as caught:
                tasks.questions(data, data[split])
            assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="psgs_w100"):
        next(tasks.passages(load("nq").data))
