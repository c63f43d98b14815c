"""A user's mistakes: one line on standard error, exit code 2, no traceback, nothing half written."""

import shutil

import pytest

from rag_jax.checkpoint import KIND
from rag_jax.config import STAGES
from rag_jax.errors import UserError, fail
from rag_jax.files import read_manifest, write_manifest


def told(run, name, *arguments, stdin="", lines=1):
    """The message of a command that must refuse."""
    done = run.command(name, *arguments, stdin=stdin, code=2)
    assert "Traceback" not in done.stderr
    found = done.stderr.rstrip("\n").split("\n")
    assert found[0].startswith("error: ") and len(found) == lines, done.stderr
    return done.stderr.removeprefix("error: ")


def tree(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if "compiled" not in path.parts)


@pytest.fixture
def unchanged(tiny_run):
    """Nothing in the run's folder may come, go or change its name."""
    before = tree(tiny_run.folder)
    yield
    assert tree(tiny_run.folder) == before


def test_fail_raises_the_message():
    with pytest.raises(UserError, match=r"^a\.jsonl:3: empty$"):
        fail("a.jsonl:3: empty")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("train", ["--workdir=new"], "--config: missing"),
        ("train", ["--config=tiny.py"], "--workdir: missing"),
        ("train_retriever", ["--config=nowhere", "--workdir=new"], "--config: found neither a file 'nowhere'"),
        ("train", ["--config=tiny.py", "--workdir=new", "--config.lrr=1"], "--config.lrr: unknown"),
        ("train", ["--config=tiny.py", "--workdir=new", "--config.seed=many"], "--config.seed=many: invalid"),
        ("train", ["--config=tiny.py", "--workdir=new", "--config.kind=both"], "config.kind: found 'both'"),
        ("train", ["--config=tiny.py", "--workdr=new"], "Unknown command line flag 'workdr'. Did you mean: workdir"),
        ("build_index", ["--config=tiny.py", "--workdir=new", "runs/demo"], "found 'runs/demo', expected flags alone"),
        ("answer", ["--workdir=new", "--k=0", "why?"], "--k: found 0, expected 1 or more"),
        ("answer", ["--workdir=new"], "no question: expected one or more"),
        (
            "answer",
            ["--workdir=new", "--plot=a.png", "why?", "who?"],
            "--plot: found 2 questions, expected one to draw",
        ),
        ("evaluate", ["--workdir=new", "--checkpoint=first"], "--checkpoint=first: value should be one of"),
    ],
)
def test_a_wrong_command_line_is_one_line(tiny_run, unchanged, name, arguments, message):
    assert message in told(tiny_run, name, *arguments)


def test_several_problems_of_a_configuration_are_a_line_each(tiny_run, unchanged):
    wrong = "--config.kind=both", "--config.joint.k=0", "--config.index.kind=faiss"
    said = told(tiny_run, "train", "--config=tiny.py", "--workdir=new", *wrong, lines=3)
    assert all(key in said for key in ("config.kind", "config.joint.k", "config.index.kind"))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("answer", ["why?"], "new: holds no trained model (no config.json); run `python -m rag_jax.train` first"),
        ("answer", ["--config=tiny.py", "why?"], "new: holds no trained model (no config.json); run"),
        ("evaluate", [], "new: holds no trained model"),
        ("build_index", ["--config=tiny.py"], "new/retriever: holds no trained retriever; run"),
        ("train", ["--config=tiny.py"], "new/retriever: holds no trained retriever; run"),
        (
            "build_index",
            ["--config=tiny.py", "--config.init_from=run", "--add=passages_after.jsonl"],
            "new/index: holds no finished index (manifest.json is missing); build it with",
        ),
        ("train_retriever", ["--config=tiny.py", "--config.retriever.batch=12"], "config.retriever.batch: found 12"),
        ("build_index", ["--config=tiny.py", "--config.index.batch=12"], "multiple of 8 devices"),
        ("train", ["--config=tiny.py", "--config.joint.batch=12"], "config.joint.batch: found 12, expected a multiple"),
        ("train", ["--config=tiny.py", "--config.joint.accumulation=2"], "8 devices x 2 joint.accumulation"),
    ],
)
def test_a_command_that_comes_too_early_makes_nothing(tiny_run, unchanged, name, arguments, message):
    assert message in told(tiny_run, name, "--workdir=new", *arguments)


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["--k=31", "why?"], "", "retrieval.k: found 31, expected at most 30, the passages of"),
        (["why?", "  "], "", "question 2: empty; expected some words"),
        ([], "why?\n\n", "question 2: empty; expected some words"),
        (["--index=index_of_another_encoder", "why?"], "", "made by passage encoder another, not by"),
        (["--index=nowhere", "why?"], "", "nowhere: holds no finished index"),
        (["--config=tiny.py", "--config.generator.ffn=48", "why?"], "", "config.generator.ffn: found 48, but"),
    ],
)
def test_a_question_that_cannot_be_answered(tiny_run, unchanged, arguments, stdin, message):
    assert message in told(tiny_run, "answer", f"--workdir={tiny_run.workdir}", *arguments, stdin=stdin)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.joint.k=31"], "config.joint.k: found 31, expected at most 30"),
        (["--config.reader.depth=31"], "config.reader.depth: found 31, expected at most 30"),
        (["--config.data.train=damaged.jsonl"], "damaged.jsonl:2: not JSON"),
        (["--config.data.valid=missing.jsonl"], "missing.jsonl: cannot be read"),
        (["--config.generator.ffn=48"], "made with another configuration"),
        (["--config.generator.start_id=0"], "config.generator.start_id: found 0, expected 2, `</s>`"),
        (["--config.joint.steps=0"], "made in the stage 'joint', which now has no steps"),
        ([f"--config.{stage}.steps=0" for stage in STAGES], "config.joint.steps: found 0, as in all of denoise,"),
    ],
)
def test_training_refuses_before_it_writes(tiny_run, arguments, message, tmp_path):
    """The finished run must stay as it is, its configuration above all."""
    (tiny_run.folder / "damaged.jsonl").write_text('{"question": "a?", "answer": "b"}\n{"question":\n')
    workdir = tmp_path / "run"
    shutil.copytree(tiny_run.workdir, workdir)
    before, config = tree(workdir), (workdir / "config.json").read_bytes()
    done = tiny_run.command("train", "--config=tiny.py", f"--workdir={workdir}", *arguments, code=2)
    assert message in done.stderr and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert tree(workdir) == before and (workdir / "config.json").read_bytes() == config


def test_training_refuses_the_index_of_another_encoder(tiny_run, tmp_path):
    workdir = tmp_path / "run"
    for part in ("retriever", "tokenizers"):
        shutil.copytree(tiny_run.workdir / part, workdir / part)
    shutil.copytree(tiny_run.foreign_index, workdir / "index")
    before = tree(workdir)
    assert "made by passage encoder another" in told(tiny_run, "train", "--config=tiny.py", f"--workdir={workdir}")
    assert tree(workdir) == before


def test_a_run_does_not_go_on_with_a_retriever_trained_since(tiny_run, tmp_path):
    """The checkpoints remember the passage encoder: those of another one are not gone on from."""
    workdir = tmp_path / "run"
    shutil.copytree(tiny_run.workdir, workdir)
    saved = workdir / "checkpoints" / "10"
    manifest = read_manifest(saved, KIND)
    manifest["extra"]["passage_encoder"] = "an earlier one"
    write_manifest(saved, manifest)
    said = told(tiny_run, "train", "--config=tiny.py", f"--workdir={workdir}")
    assert "trained with an index by passage encoder an earlier one" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts=answers,speed"], "--parts: found speed, expected some of answers, retrieval, reading, hot_swap"),
        (["--parts=answers,hot_swap"], "--parts=hot_swap: expected --swap_index"),
        (["--split=dev"], "flag --split=dev: value should be one of <train|valid|test>"),
        (["--sweep=k=5"], "--sweep: found 'k=5', expected numbers of passages, as n_docs=1,5,10"),
        (["--sweep=n_docs=5,0"], "--sweep: found 'n_docs=5,0'"),
        (["--parts=hot_swap", "--swap_index=index_of_another_encoder"], "made by passage encoder another"),
    ],
)
def test_evaluation_refuses_before_it_measures(tiny_run, unchanged, arguments, message):
    assert message in told(tiny_run, "evaluate", f"--workdir={tiny_run.workdir}", *arguments)
