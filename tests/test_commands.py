"""The commands as a user types them: train, resume, evaluate, answer; and what they say of mistakes."""

import json
import shutil

import jax
import numpy as np
import pytest

from rag_jax import Rag
from rag_jax.checkpoint import Checkpoints
from rag_jax.index.base import open_index

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
TIMES = {"questions_per_second", "retrieval_wait", "eta_seconds"}


def numbers(records):
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def snapshot(folder):
    """Every file with its content, but for the event files that TensorBoard gets anew."""
    files = (path for path in folder.rglob("*") if path.is_file() and "events" not in path.parts)
    return {path.relative_to(folder): path.read_bytes() for path in files}


def same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(left), jax.device_get(right))


def beginning(run, folder, *parts):
    """A workdir that has only come as far as these parts of the trained one."""
    for part in parts:
        shutil.copytree(run.workdir / part, folder / part)
    return folder


def test_every_step_is_logged_once(tiny_run):
    records = tiny_run.records("run/metrics.jsonl")
    assert [record["step"] for record in records] == list(range(len(STAGES)))
    assert [record["stage"] for record in records] == STAGES
    for record in records:
        assert record["loss"] > 0 and record["gradient_norm"] > 0 and record["questions_per_second"] > 0
        assert 0 <= record["retrieval_wait"] <= 1
    assert [record["step"] for record in tiny_run.records("run/retriever/metrics.jsonl")] == list(range(4))


def test_each_stage_compiles_its_step_once(tiny_run):
    said = (tiny_run.folder / "train.log").read_text()
    assert said.count("traced a training step") == 3
    assert "joint step 4: validation EM" in said


def test_a_reader_warm_up_leaves_the_question_encoder_alone(tiny_run, tiny_rag):
    """The joint stage moves it away from the retriever's."""
    checkpoints = Checkpoints(tiny_run.workdir / "retriever")
    encoder = jax.eval_shape(lambda tree: tree, tiny_rag.params["question_encoder"])
    whole = {"question_encoder": tiny_rag.parallel.abstract_whole(encoder)}
    before = checkpoints.restore(checkpoints.latest(), params=whole)["params"]["question_encoder"]
    after = Rag.load(tiny_run.workdir, checkpoint="last").params["question_encoder"]
    moved = jax.tree.map(lambda a, b: bool((np.asarray(a) != np.asarray(b)).any()), before, after)
    assert any(jax.tree.leaves(moved))


def test_training_a_finished_run_again_changes_nothing(tiny_run, tmp_path):
    workdir = beginning(tiny_run, tmp_path / "run", "retriever", "index", "tokenizers", "checkpoints")
    for name in ("metrics.jsonl", "config.json"):
        shutil.copy(tiny_run.workdir / name, workdir)
    before = snapshot(workdir)
    assert "step" not in tiny_run.command("train", *COMMON, workdir).stdout
    assert snapshot(workdir) == before


def test_a_killed_run_goes_on_to_the_same_end(tiny_run, tmp_path):
    """Killed in a stage between two checkpoints, and again in the next stage before its first."""
    workdir = beginning(tiny_run, tmp_path / "run", "retriever", "index", "tokenizers")
    tiny_run.command("train", *COMMON, workdir, prelude=DIES.format(step=5), code=9)
    assert Checkpoints(workdir / "checkpoints").latest() == 4
    tiny_run.command("train", *COMMON, workdir, prelude=DIES.format(step=7), code=9)
    assert Checkpoints(workdir / "checkpoints").latest() == 6
    tiny_run.command("train", *COMMON, workdir)
    assert numbers(tiny_run.records(workdir / "metrics.jsonl")) == numbers(tiny_run.records("run/metrics.jsonl"))
    for checkpoint in ("best", "last"):
        whole, resumed = (Rag.load(folder, checkpoint=checkpoint) for folder in (tiny_run.workdir, workdir))
        same(resumed.params, whole.params)


def test_a_killed_retriever_goes_on_to_the_same_end(tiny_run, tmp_path):
    workdir = beginning(tiny_run, tmp_path / "run", "tokenizers")
    tiny_run.command("train_retriever", *COMMON, workdir, prelude=DIES.format(step=3), code=9)
    tiny_run.command("train_retriever", *COMMON, workdir)
    records = tiny_run.records(workdir / "retriever" / "metrics.jsonl")
    assert numbers(records) == numbers(tiny_run.records("run/retriever/metrics.jsonl"))


@pytest.fixture(scope="module")
def evaluation(tiny_run):
    done = tiny_run.command(
        "evaluate", f"--workdir={tiny_run.workdir}", "--parts=test,reading,hot_swap",
        f"--swap_index={tiny_run.index_after}",
    )  # fmt: skip
    return json.loads((tiny_run.workdir / "evaluation.json").read_text()), done.stdout


def test_evaluate_measures_every_part(evaluation):
    found, said = evaluation
    assert set(found) == {"test", "reading", "hot_swap", "of"}
    assert {"EM", "F1", "recall@1", "recall@3"} < set(found["test"]) and len(found["reading"]) == 3
    assert len(found["hot_swap"]) == 2 * 2 * 3
    for part, count in (("test", 10), ("reading", 10), ("hot_swap", 8)):
        for name, rate in found[part].items():
            groups = rate["count"] < count and ("trained" in name or name.startswith("EM "))
            assert rate["count"] == count or groups, name
            assert 0 <= rate["sum"] <= rate["count"] and rate["percent"] == 100 * rate["sum"] / rate["count"]
            assert name in said
    assert found["test"]["recall@1"]["sum"] <= found["test"]["recall@3"]["sum"]
    assert found["test"]["EM"]["sum"] <= found["test"]["F1"]["sum"]


def test_predictions_are_what_was_measured(tiny_run, evaluation):
    found, _ = evaluation
    predictions = tiny_run.records("run/predictions.jsonl")
    questions = tiny_run.records("test.jsonl")
    assert [p["question"] for p in predictions] == [q["question"] for q in questions]
    assert [p["answers"] for p in predictions] == [[q["answer"]] for q in questions]
    assert sum(p["exact_match"] for p in predictions) == found["test"]["EM"]["sum"]
    hits = sum(q["passage_ids"][0] in p["passages"] for p, q in zip(predictions, questions, strict=True))
    assert hits == found["test"]["recall@3"]["sum"]
    assert all(len(set(p["passages"])) == 3 and p["log_prob"] <= 0 for p in predictions)


def test_evaluate_decodes_as_the_command_line_says(tiny_run, evaluation, tmp_path):
    """RAG-Sequence from the same weights: other probabilities; the parts measured before stay in the file."""
    workdir = tmp_path / "run"
    shutil.copytree(tiny_run.workdir, workdir)
    tiny_run.command("evaluate", *COMMON, workdir, "--config.kind=sequence", "--checkpoint=last")
    found = json.loads((workdir / "evaluation.json").read_text())
    assert set(found) == {"test", "reading", "hot_swap", "of"}
    assert found["of"]["test"] != found["of"]["reading"] == evaluation[0]["of"]["reading"]
    token, sequence = tiny_run.records("run/predictions.jsonl"), tiny_run.records(workdir / "predictions.jsonl")
    assert [p["question"] for p in token] == [p["question"] for p in sequence]
    assert [p["log_prob"] for p in token] != [p["log_prob"] for p in sequence]
    assert all(p["log_prob"] <= 0 for p in sequence)


def test_answer_prints_a_table(tiny_run):
    said = tiny_run.command("answer", f"--workdir={tiny_run.workdir}", "who is mayor of Cladow?").stdout
    lines = said.rstrip("\n").split("\n")
    assert lines[0] == "who is mayor of Cladow?" and "(probability 0." in lines[1]
    assert lines[2].split() == ["posterior", "prior"] and len(lines) == 6
    posteriors, priors = zip(*(map(float, line.split()[:2]) for line in lines[3:]), strict=True)
    assert sum(posteriors) == pytest.approx(1, abs=2e-3) and sum(priors) == pytest.approx(1, abs=2e-3)
    texts = {passage["text"] for passage in tiny_run.records("passages_before.jsonl")}
    assert all(any(text in line for text in texts) for line in lines[3:])


def test_answer_reads_lines_and_writes_json(tiny_run):
    questions = ["who is mayor of Cladow?", "Jarrow: which year?", "why?"]
    arguments = f"--workdir={tiny_run.workdir}", "--json", f"--index={tiny_run.index_after}"
    said = tiny_run.command("answer", *arguments, stdin="\n".join(questions) + "\n").stdout
    answers = [json.loads(line) for line in said.splitlines()]
    assert [answer["question"] for answer in answers] == questions
    texts = {passage["text"] for passage in tiny_run.records("passages_after.jsonl")}
    for answer in answers:
        assert answer["log_prob"] <= 0 and isinstance(answer["text"], str) and len(answer["documents"]) == 3
        assert {document["text"] for document in answer["documents"]} <= texts
        for name in ("prior", "posterior"):
            assert sum(document[name] for document in answer["documents"]) == pytest.approx(1, abs=1e-5)


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
