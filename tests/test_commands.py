"""The commands as a user types them: train, resume, evaluate, answer; and what they say of mistakes."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from contextlib import suppress

import jax
import matplotlib.image
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag_jax import Rag
from rag_jax.checkpoint import Checkpoints
from rag_jax.index.base import open_index

from .runs import SPLITS, begun, numbers

STAGES = ["denoise"] * 2 + ["reader"] * 4 + ["joint"] * 4
COMMON = "--config=tiny.py", "--workdir"
DIES = """
import os
from rag_jax.training.logging import RunLog

write = RunLog.write

def write_and_die(self, step, metrics):
    write(self, step, metrics)
    if step == {step}:
        os._exit(9)

RunLog.write = write_and_die
"""
TOLD_TO_END = """
import os, signal
from rag_jax.training.logging import RunLog

write = RunLog.write

def write_and_tell(self, step, metrics):
    write(self, step, metrics)
    if step == {step}:
        os.kill(os.getpid(), signal.SIGTERM)

RunLog.write = write_and_tell
"""


def snapshot(folder):
    """Every file with its content, but for the event files that TensorBoard gets anew."""
    files = (path for path in folder.rglob("*") if path.is_file() and "events" not in path.parts)
    return {path.relative_to(folder): path.read_bytes() for path in files}


def same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(left), jax.device_get(right))


def test_every_step_is_logged_once(tiny_run):
    records = tiny_run.records("run/metrics.jsonl")
    assert [record["step"] for record in records] == list(range(len(STAGES)))
    assert [record["stage"] for record in records] == STAGES
    for record in records:
        assert record["loss"] > 0 and record["gradient_norm"] > 0 and record["questions_per_second"] > 0
        assert 0 <= record["retrieval_wait"] <= 1
    assert [record["step"] for record in tiny_run.records("run/retriever_metrics.jsonl")] == list(range(4))


def test_every_evaluation_is_logged_once_and_drawn(tiny_run):
    """The whole run and the retriever each end with a picture, of as many panels as there is to show."""
    records, said = tiny_run.records("run/validation.jsonl"), (tiny_run.folder / "train.log").read_text()
    assert [(record["stage"], record["step"]) for record in records] == [
        ("reader", 4), ("reader", 6), ("joint", 8), ("joint", 10)
    ]  # fmt: skip
    assert all(f"validation {record['measure']} {100 * record['value']:.1f}, saved" in said for record in records)
    assert f"{tiny_run.workdir / 'curves.png'}: the run's curves" in said
    for name, stages in (("curves.png", 3), ("retriever_curves.png", 1)):
        height, width, _ = matplotlib.image.imread(tiny_run.workdir / name).shape
        assert (width, height) == (120 * (5 + 2.5 * stages), 120 * 6)


def test_each_stage_compiles_its_step_once(tiny_run):
    said = (tiny_run.folder / "train.log").read_text()
    assert said.count("traced a training step") == 3
    assert "joint step 4: validation EM" in said


def test_a_reader_warm_up_leaves_the_question_encoder_alone(tiny_run, tiny_rag):
    """The joint stage moves it away from the retriever's."""
    checkpoints = Checkpoints(tiny_run.workdir / "retriever")
    encoder = jax.eval_shape(lambda tree: tree, tiny_rag.params["question_encoder"])
    whole = {"question_encoder": tiny_rag.parallel.abstract_state(encoder)}
    before = checkpoints.restore(checkpoints.latest(), params=whole)["params"]["question_encoder"]
    after = Rag.load(tiny_run.workdir, checkpoint="last").params["question_encoder"]
    moved = jax.tree.map(lambda a, b: bool((np.asarray(a) != np.asarray(b)).any()), before, after)
    assert any(jax.tree.leaves(moved))


def test_training_a_finished_run_again_changes_nothing(tiny_run, tmp_path):
    workdir = begun(tiny_run, tmp_path / "run", "retriever", "index", "tokenizers", "checkpoints")
    for name in ("metrics.jsonl", "validation.jsonl", "config.json", "curves.png"):
        shutil.copy(tiny_run.workdir / name, workdir)
    before = snapshot(workdir)
    assert "step" not in tiny_run.command("train", *COMMON, workdir).stdout
    assert snapshot(workdir) == before


def test_a_killed_run_goes_on_to_the_same_end(tiny_run, tmp_path):
    """Killed in a stage between two checkpoints, then told to end in the next one; the last part of it profiled."""
    workdir = begun(tiny_run, tmp_path / "run", "retriever", "index", "tokenizers")
    tiny_run.command("train", *COMMON, workdir, prelude=DIES.format(step=5), code=9)
    assert Checkpoints(workdir / "checkpoints").latest() in (2, 4)  # they are written in the background
    done = tiny_run.command("train", *COMMON, workdir, prelude=TOLD_TO_END.format(step=6), code=85)
    assert "saved; told to end (SIGTERM): the same command goes on" in done.stdout and "Traceback" not in done.stderr
    # Step 6 is reported in step 7, behind which an evaluation is due: it is left for later.
    assert Checkpoints(workdir / "checkpoints").latest() == 8 and "joint step 2: validation" not in done.stdout
    done = tiny_run.command("train", *COMMON, workdir, "--profile_steps=8:1")
    assert f"{workdir / 'profile'}: steps 8 to 8 as jax.profiler saw them" in done.stdout
    assert [*(workdir / "profile").rglob("*.xplane.pb")]
    for name in ("metrics.jsonl", "validation.jsonl"):
        assert numbers(workdir / name) == numbers(tiny_run.workdir / name)
    assert (workdir / "curves.png").read_bytes() == (tiny_run.workdir / "curves.png").read_bytes()
    for checkpoint in ("best", "last"):
        whole, resumed = (Rag.load(folder, checkpoint=checkpoint) for folder in (tiny_run.workdir, workdir))
        same(resumed.params, whole.params)


@pytest.mark.long
def test_a_run_goes_on_with_another_configuration(tiny_run, tmp_path):
    """What was found ahead for a batch of 8 questions is of no use for one of 16; nor is a step of other numbers."""
    workdir = begun(tiny_run, tmp_path / "run", "retriever", "index", "tokenizers", "checkpoints")
    larger = "--config.joint.batch=16", "--config.joint.k=2"
    said = tiny_run.command("train", *COMMON, workdir, *larger, "--config.joint.steps=5").stdout
    assert "goes on with another configuration: config.joint.batch is 16, was 8; config.joint.k is 2, was 3" in said
    for lag, steps in ((0, 6), (1, 7)):  # the passages are found in the step, which leaves none, then ahead of it
        said = tiny_run.command(
            "train", *COMMON, workdir, *larger, f"--config.joint.steps={steps}", f"--config.retrieval.lag={lag}"
        ).stdout
        told = f"config.joint.steps is {steps}, was {steps - 1}; config.retrieval.lag is {lag}, was {1 - lag}\n"
        assert f"another configuration: {told}" in said
        assert Checkpoints(workdir / "checkpoints").latest() == 6 + steps
    failed = tiny_run.command("train", *COMMON, workdir, *larger, "--config.reader.steps=2", code=2).stderr
    assert "the stage 'joint' of the newest checkpoint began after 6 steps, found 4; give" in failed
    assert Checkpoints(workdir / "checkpoints").latest() == 13


@pytest.mark.long
def test_a_run_goes_on_in_another_mode_and_back(tiny_run, tmp_path):
    """Parameters and optimizer: two steps or three of arrays that are split, between those of whole ones.

    Without dropout, which differs: of whole arrays each device draws its own.
    """
    parts, halves = ("retriever", "index", "tokenizers", "checkpoints"), ("encoder", "generator")
    whole, split = (begun(tiny_run, tmp_path / name, *parts) for name in ("whole", "split"))
    steps = "--config.joint.steps=8", *(f"--config.{half}.dropout=0" for half in halves)
    steps += ("--config.encoder.attention_dropout=0",)
    tiny_run.command("train", *COMMON, whole, *steps)
    told = f"{SPLITS}{TOLD_TO_END.format(step=10)}"
    tiny_run.command("train", *COMMON, split, *steps, "--config.parallel=sharded", prelude=told, code=85)
    assert Checkpoints(split / "checkpoints").latest() in range(11, 14)
    tiny_run.command("train", *COMMON, split, *steps)
    assert Checkpoints(split / "checkpoints").latest() == Checkpoints(whole / "checkpoints").latest() == 14
    losses = [[line["loss"] for line in numbers(folder / "metrics.jsonl")] for folder in (whole, split)]
    assert len(losses[0]) == 4
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


@pytest.mark.long
def test_answers_to_learn_are_looked_for_once(tiny_run, tmp_path):
    """TriviaQA's answers that no passage holds are not learned; a run that goes on looks for none."""
    workdir = begun(tiny_run, tmp_path / "run", "retriever", "index", "tokenizers")
    asked = tiny_run.records("train.jsonl")
    rows = [f"{record['question']}\t{['Nobody At All', record['answer']]}\n" for record in asked]
    (tmp_path / "train.tsv").write_text("".join([*rows, "who is nobody?\t['Nobody At All']\n"]))
    task = f"--config.data.train={tmp_path / 'train.tsv'}", "--config.data.task=triviaqa"
    steps = "--config.denoise.steps=0", "--config.reader.steps=0", "--config.joint.steps=2"
    said = tiny_run.command("train", *COMMON, workdir, *task, *steps).stdout
    found = "24 x answers that a passage holds, 1 x no answer in any passage: dropped"
    assert f"triviaqa: 24 examples of 25 questions ({found})" in said and "in the 30 passages" in said
    made_from, *kept = tiny_run.records(workdir / "targets.jsonl")
    assert made_from["depth"] == 30 and [record["answers"] for record in kept] == [[r["answer"]] for r in asked] + [[]]
    again = tiny_run.command("train", *COMMON, workdir, *task, *steps[:2], "--config.joint.steps=3").stdout
    assert "24 examples" in again and "looking for answers" not in again and "joint step 3" in again
    (workdir / "targets.jsonl").unlink()
    failed = tiny_run.command("train", *COMMON, workdir, *task, *steps[:2], "--config.joint.steps=4", code=2)
    assert "targets.jsonl: not the answers with which this run began" in failed.stderr


@pytest.mark.long
def test_a_killed_retriever_goes_on_to_the_same_end(tiny_run, tmp_path):
    workdir = begun(tiny_run, tmp_path / "run", "tokenizers")
    tiny_run.command("train_retriever", *COMMON, workdir, prelude=DIES.format(step=3), code=9)
    tiny_run.command("train_retriever", *COMMON, workdir)
    assert numbers(workdir / "retriever_metrics.jsonl") == numbers(tiny_run.workdir / "retriever_metrics.jsonl")


@pytest.fixture(scope="module")
def evaluation(tiny_run):
    done = tiny_run.command(
        "evaluate", f"--workdir={tiny_run.workdir}", "--parts=answers,reading,hot_swap",
        f"--swap_index={tiny_run.index_after}", "--sweep=n_docs=1,3",
    )  # fmt: skip
    return json.loads((tiny_run.workdir / "metrics.json").read_text()), done.stdout


def test_evaluate_measures_every_part(evaluation):
    found, said = evaluation
    assert set(found) == {"test", "reading", "hot_swap", "of", "seal"}
    assert {"EM", "F1", "recall@1", "recall@3", "answer recall@3"} < set(found["test"]) and len(found["reading"]) == 3
    assert len(found["hot_swap"]) == 2 * 2 * 3
    for part, count in (("test", 10), ("reading", 10), ("hot_swap", 8)):
        for name, rate in found[part].items():
            groups = rate["count"] < count and ("trained" in name or name.startswith("EM "))
            assert rate["count"] == count or groups, name
            assert 0 <= rate["sum"] <= rate["count"] and rate["percent"] == 100 * rate["sum"] / rate["count"]
            assert name in said
    assert found["test"]["recall@1"]["sum"] <= found["test"]["recall@3"]["sum"]
    assert found["test"]["EM"]["sum"] <= found["test"]["F1"]["sum"]


def test_a_sweep_reads_fewer_passages_of_one_search(tiny_run, evaluation):
    """At the k of the run it finds what the test finds."""
    found, said = evaluation
    swept = json.loads((tiny_run.workdir / "sweep.json").read_text())
    assert swept["of"] == found["of"]["test"] and swept["questions"] == 10 and list(swept["n_docs"]) == ["1", "3"]
    assert swept["n_docs"]["3"]["EM"] == found["test"]["EM"]
    for k in ("1", "3"):
        assert swept["n_docs"][k]["recall@k"] == found["test"][f"recall@{k}"]
    assert "passages  EM  F1  recall@k  answer recall@k" in said


def test_predictions_are_what_was_measured(tiny_run, evaluation):
    found, _ = evaluation
    predictions = tiny_run.records("run/predictions.jsonl")
    questions = tiny_run.records("test.jsonl")
    assert [p["question"] for p in predictions] == [q["question"] for q in questions]
    assert [p["answers"] for p in predictions] == [[q["answer"]] for q in questions]
    assert sum(p["measures"]["EM"] for p in predictions) == found["test"]["EM"]["sum"]
    documents = [{document["id"]: document for document in p["documents"]} for p in predictions]
    hits = sum(q["passage_ids"][0] in those for those, q in zip(documents, questions, strict=True))
    assert hits == found["test"]["recall@3"]["sum"]
    assert all(len(those) == 3 and p["score"] <= 0 for those, p in zip(documents, predictions, strict=True))
    texts = {passage["id"]: passage["text"] for passage in tiny_run.records("passages_before.jsonl")}
    for prediction, those in zip(predictions, documents, strict=True):
        for name in ("prior", "posterior"):
            assert sum(document[name] for document in those.values()) == pytest.approx(1, abs=1e-5)
        for passage, document in those.items():
            assert document["holds_answer"] == (prediction["answers"][0] in texts[passage])


def test_evaluate_decodes_as_the_command_line_says(tiny_run, evaluation, tmp_path):
    """RAG-Sequence from the same weights: other probabilities; the parts measured before stay in the file."""
    workdir = tmp_path / "run"
    shutil.copytree(tiny_run.workdir, workdir)
    tiny_run.command("evaluate", *COMMON, workdir, "--config.kind=sequence", "--checkpoint=last")
    found = json.loads((workdir / "metrics.json").read_text())
    assert set(found) == {"test", "reading", "hot_swap", "of", "seal"}
    assert found["of"]["test"] != found["of"]["reading"] == evaluation[0]["of"]["reading"]
    token, sequence = tiny_run.records("run/predictions.jsonl"), tiny_run.records(workdir / "predictions.jsonl")
    assert [p["question"] for p in token] == [p["question"] for p in sequence]
    assert [p["score"] for p in token] != [p["score"] for p in sequence]
    assert all(p["score"] <= 0 for p in sequence)


def on_terminal(run, name, *arguments):
    """What a command prints on a terminal of 70 columns."""
    master, slave = pty.openpty()
    command = sys.executable, "-m", f"rag_jax.{name}", *arguments
    environment, said = {**run.environment, "COLUMNS": "70"}, b""
    with subprocess.Popen(command, cwd=run.folder, env=environment, stdout=slave, stderr=subprocess.PIPE) as process:
        os.close(slave)
        with suppress(OSError):  # the other end is closed
            while chunk := os.read(master, 4096):
                said += chunk
        problems = process.stderr.read()
    os.close(master)
    assert process.returncode == 0, problems
    return said.decode().replace("\r\n", "\n")


def test_answer_prints_a_table_on_a_terminal_and_draws_its_tokens(tiny_run, tmp_path):
    pytest.importorskip("matplotlib")
    arguments = f"--workdir={tiny_run.workdir}", f"--plot={tmp_path / 'posterior.png'}", "who is mayor of Cladow?"
    said = on_terminal(tiny_run, "answer", *arguments)
    assert max(map(len, said.splitlines())) <= 70
    lines = re.sub("\n {20}", " ", said).rstrip("\n").split("\n")  # what was wrapped, in one line again
    assert (tmp_path / "posterior.png").read_bytes().startswith(b"\x89PNG") and len(lines) > 6
    lines = lines[:6]
    assert lines[0] == "who is mayor of Cladow?" and "(probability 0." in lines[1]
    assert lines[2].split() == ["posterior", "prior"]
    posteriors, priors = zip(*(map(float, line.split()[:2]) for line in lines[3:]), strict=True)
    assert sum(posteriors) == pytest.approx(1, abs=2e-3) and sum(priors) == pytest.approx(1, abs=2e-3)
    texts = {passage["text"] for passage in tiny_run.records("passages_before.jsonl")}
    assert all(any(text in line for text in texts) for line in lines[3:])


def test_answer_reads_lines_and_writes_json_into_a_pipe(tiny_run):
    questions = ["who is mayor of Cladow?", "Jarrow: which year?", "why?"]
    arguments = f"--workdir={tiny_run.workdir}", f"--index={tiny_run.index_after}"
    said = tiny_run.command("answer", *arguments, stdin="\n".join(questions) + "\n").stdout
    answers = [json.loads(line) for line in said.splitlines()]
    assert [answer["question"] for answer in answers] == questions
    texts = {passage["text"] for passage in tiny_run.records("passages_after.jsonl")}
    for answer in answers:
        assert answer["log_prob"] <= 0 and isinstance(answer["text"], str) and len(answer["documents"]) == 3
        assert {document["text"] for document in answer["documents"]} <= texts
        for name in ("prior", "posterior"):
            assert sum(document[name] for document in answer["documents"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.long
def test_what_a_command_compiles_lies_in_its_workdir_and_is_found_there(tiny_run, tmp_path, monkeypatch):
    """Where JAX_COMPILATION_CACHE_DIR names no other folder, as in the other tests."""
    monkeypatch.delitem(tiny_run.environment, "JAX_COMPILATION_CACHE_DIR")
    workdir = begun(tiny_run, tmp_path / "run", "index", "tokenizers", "checkpoints")
    shutil.copy(tiny_run.workdir / "config.json", workdir)

    def compiled():
        tiny_run.command("answer", f"--workdir={workdir}", "what is the river of Cladow?")
        return {path.name: path.stat().st_mtime_ns for path in (workdir / "programs").iterdir()}

    first = compiled()
    assert first and compiled() == first


@pytest.mark.long
def test_answer_ends_in_silence_where_nobody_reads_on(tiny_run):
    command = sys.executable, "-m", "rag_jax.answer", f"--workdir={tiny_run.workdir}", *["why?"] * 80
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tiny_run.folder, env=tiny_run.environment, **streams) as process:
        assert json.loads(process.stdout.readline())["question"] == "why?"
        process.stdout.close()
        problems = process.stderr.read()
    assert (process.returncode, re.sub(r".*so far\n|answer: .*\n", "", problems)) == (0, "")


DIES_BEFORE_THE_END = """
import os
import rag_jax.index.builder as builder

def die(*_):
    os._exit(9)

builder.write_index_manifest = die
"""


def test_passages_are_added_to_an_index_which_serves_until_the_larger_one_is_whole(tiny_run, tmp_path):
    first, more = tmp_path / "first.jsonl", tmp_path / "more.jsonl"
    lines = (tiny_run.folder / "passages_before.jsonl").read_text().splitlines(keepends=True)
    first.write_text("".join(lines[:20]))
    more.write_text("".join(["not JSON\n", *lines[20:], lines[3]]))
    common = *COMMON, tiny_run.workdir, f"--index={tmp_path / 'index'}"
    tiny_run.command("build_index", *common, f"--config.data.passages={first}")
    old = open_index(tmp_path / "index")

    said = tiny_run.command("build_index", *common, f"--add={more}", code=2).stderr
    assert f"{more}:1: not JSON" in said and "config.data.skip_bad" in said
    adding = *common, f"--add={more}", "--skip_bad"
    said = tiny_run.command("build_index", *adding, prelude=DIES_BEFORE_THE_END, code=9).stdout
    assert "2 left out of 12: 1 x not JSON, 1 x id in the index already" in said
    found = tiny_run.command("answer", *COMMON, tiny_run.workdir, f"--index={tmp_path / 'index'}", "--json", "why?")
    ids = {document["id"] for document in json.loads(found.stdout)["documents"]}
    assert ids <= {passage.id for passage in old.passages}

    said = tiny_run.command("build_index", *adding).stdout
    assert "going on with an unfinished build" in said and "30 passages, exact index" in said
    assert [path.name for path in tmp_path.iterdir() if "index" in path.name] == ["index"]
    new, whole = open_index(tmp_path / "index", verify=True), open_index(tiny_run.workdir / "index")
    assert list(new.passages) == list(whole.passages)
    assert new.vectors.read(0, 20).tobytes() == old.vectors.read(0, 20).tobytes()
    np.testing.assert_allclose(new.vectors.read(20, 30), whole.vectors.read(20, 30), rtol=1e-5, atol=1e-6)

    again = f"--config.data.passages={first}", "--config.index.recall_target=0.9"
    said = tiny_run.command("build_index", *common, *again).stdout
    assert "keeps its 30 passages, 10 of them added" in said and "vectors taken over" in said
    assert list(open_index(tmp_path / "index", verify=True).passages) == list(whole.passages)


@pytest.fixture
def wiki(tiny_run, tmp_path):
    """A Parquet file such as wiki_dpr's, of given vectors, and the command that takes it for corpus and vectors."""
    path, records = tmp_path / "wiki.parquet", tiny_run.records("passages_before.jsonl")

    def build(vector_NE, code=0):
        columns = {name: [record[name] for record in records] for name in ("id", "title", "text")}
        pq.write_table(pa.table({**columns, "embeddings": vector_NE.tolist()}), path)
        sources = f"--config.data.passages={path}", f"--embeddings={path}"
        index = f"--index={tmp_path / 'index'}"
        return tiny_run.command("build_index", *COMMON, tiny_run.workdir, index, *sources, code=code)

    return build


def test_vectors_that_exist_already_become_an_index(tiny_run, wiki, tmp_path):
    expected = open_index(tiny_run.workdir / "index")
    said = wiki(expected.vectors.read(0, 30)).stdout
    assert "wiki.parquet: 30 passages encoded again: cosine at least" in said and "30 passages, exact index by" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "wiki.parquet"]
    found = open_index(tmp_path / "index", verify=True)
    assert found.manifest == expected.manifest and list(found.passages) == list(expected.passages)
    assert found.vectors.read(0, 30).tobytes() == expected.vectors.read(0, 30).tobytes()


@pytest.mark.long
def test_vectors_that_do_not_fit_leave_no_index(tiny_run, wiki, tmp_path):
    """But the passages as they were tokenised, for the next attempt."""
    vector_NE = open_index(tiny_run.workdir / "index").vectors.read(0, 30)
    said = wiki(np.roll(vector_NE, 1, axis=0), code=2).stderr
    assert "wiki.parquet: passage " in said and "with --index_encoder" in said and said.count("\n") == 1
    assert not (tmp_path / "index").exists() and (tmp_path / ".index.passages").is_dir()
    wiki(vector_NE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "wiki.parquet"]


@pytest.mark.long
def test_the_report_of_a_poor_search_says_how_to_mend_it_and_mending_builds_nothing(tiny_run, tmp_path):
    pytest.importorskip("scann")
    scann = "--config.index.kind=scann", "--config.index.scann.method=tree", "--config.index.scann.leaves=10"
    common = *COMMON, tiny_run.workdir, f"--index={tmp_path / 'index'}", *scann
    said = tiny_run.command("build_index", *common, "--config.index.scann.leaves_to_search=1", "--report").stdout
    assert "30 passages, scann index" in said and "ScaNN: method tree, leaves 10, leaves_to_search 1," in said
    assert "asked with 6 questions of valid.jsonl" in said and "21,015,324 passages" in said
    assert "!!! config.index.scann.leaves_to_search = 4 instead of 1 makes it" in said

    said = tiny_run.command("build_index", *common, "--config.index.scann.leaves_to_search=10").stdout
    assert "its files are taken over" in said
    before = snapshot(tmp_path)
    data = "--config.data.passages=passages_after.jsonl", "--config.data.valid=", "--config.data.test="
    said = tiny_run.command("build_index", *common, *data, "--report").stdout
    assert "@10 1.000" in said and "!!!" not in said and "30 of its own passages" in said
    assert snapshot(tmp_path) == before
