"""SIGTERM: a run saves, ends with a code of its own within seconds, and goes on as if nothing had been."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from rag_jax.checkpoint import Checkpoints

from ..runs import begun, numbers, saved
from .conftest import DEMO

pytestmark = pytest.mark.long
# Sends itself the signal when a function is called for the n-th time.
TOLD = """
import importlib, os, signal
module = importlib.import_module("rag_jax.{module}")
function, calls = getattr(module, "{name}"), [0]

def told(*arguments, **settings):
    calls[0] += 1
    if calls[0] == {number}:
        os.kill(os.getpid(), signal.SIGTERM)
    return function(*arguments, **settings)

module.{name} = told
"""
SAVED = "saved; told to end (SIGTERM): the same command goes on"


def test_told_in_a_step_in_an_evaluation_and_before_the_first_step(tiny_run, tmp_path):
    """The evaluation that there was no time for is made up for, so that the best checkpoint is the same."""
    workdir = begun(tiny_run, tmp_path / "run", "retriever", "index", "tokenizers")
    given = "train", "--config=tiny.py", f"--workdir={workdir}"
    early = tiny_run.command(
        *given, prelude=TOLD.format(module="training.loop", name="make_examples", number=1), code=85
    )
    assert "nothing new to save; told to end (SIGTERM)" in early.stderr
    assert Checkpoints(workdir / "checkpoints").latest() is None
    for module, name, number, unscored in (
        ("training.sources", "mask_spans", 9, False),  # the batch for the second step of denoising
        ("evaluation.answers", "read", 1, True),  # half of the reader's stage
        ("evaluation.answers", "read", 2, True),  # its end
        ("evaluation.answers", "read", 3, True),  # the joint stage's end, and the run's
    ):
        done = tiny_run.command(*given, prelude=TOLD.format(module=module, name=name, number=number), code=85)
        assert SAVED in done.stdout and "Traceback" not in done.stderr
        checkpoints = Checkpoints(workdir / "checkpoints")
        assert checkpoints.extra(checkpoints.latest())["unscored"] == unscored
    tiny_run.command(*given)
    for name in ("metrics.jsonl", "validation.jsonl"):
        assert numbers(workdir / name) == numbers(tiny_run.workdir / name)
    assert saved(workdir / "checkpoints") == saved(tiny_run.workdir / "checkpoints")


@pytest.mark.parametrize(
    ("command", "part", "saves"), [("train", "checkpoints", 5), ("train_retriever", "retriever", 2)]
)
def test_told_while_the_last_checkpoint_is_written(tiny_run, tmp_path, command, part, saves):
    """It is waited for, and nothing is left to do then."""
    made = {"train": ("retriever", "index", "tokenizers"), "train_retriever": ("tokenizers",)}[command]
    workdir = begun(tiny_run, tmp_path / "run", *made)
    told = TOLD.format(module="checkpoint", name="write_manifest", number=saves)
    done = tiny_run.command(command, "--config=tiny.py", f"--workdir={workdir}", prelude=told)
    assert "told to end" not in done.stdout + done.stderr
    assert saved(workdir / part) == saved(tiny_run.workdir / part)


def test_a_retriever_is_told(tiny_run, tmp_path):
    workdir = begun(tiny_run, tmp_path / "run", "tokenizers")
    given = "train_retriever", "--config=tiny.py", f"--workdir={workdir}"
    told = TOLD.format(module="training.retriever_loop", name="report", number=1)
    assert SAVED in tiny_run.command(*given, prelude=told, code=85).stdout
    tiny_run.command(*given)
    assert numbers(workdir / "retriever_metrics.jsonl") == numbers(tiny_run.workdir / "retriever_metrics.jsonl")
    assert saved(workdir / "retriever") == saved(tiny_run.workdir / "retriever")


def test_two_processes_save_together_where_one_is_told(four_devices, tiny_run, tmp_path, monkeypatch):
    """Both end with the code; what they saved goes on in one process, to the end of a run that was never told."""
    dry = [f"--config.{name}=0.0" for name in ("encoder.dropout", "encoder.attention_dropout", "generator.dropout")]
    folder, whole = (begun(tiny_run, tmp_path / name, "retriever", "index", "tokenizers") for name in ("told", "whole"))
    given = "train", "--config=tiny.py", f"--workdir={folder}", *dry
    second = TOLD.format(module="training.loop", name="report", number=5)
    done = four_devices.together(*given, preludes=("", second), code=85)
    assert SAVED in done[0].stdout and not any("Traceback" in each.stderr for each in done)
    four_devices.with_devices(monkeypatch, 8)
    four_devices.command(*given)
    four_devices.command("train", "--config=tiny.py", f"--workdir={whole}", *dry)
    found, expected = (numbers(place / "metrics.jsonl") for place in (folder, whole))
    assert [record["step"] for record in found] == list(range(10))
    for one, other in zip(found, expected, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)


def end(process, within):
    """SIGTERM ends it, saved, within so many seconds."""
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=within) == 85
    print(f"ended {time.monotonic() - began:.1f} seconds after SIGTERM")


def test_a_second_run_in_the_same_folder_is_refused(tiny_run, tmp_path):
    """It names the host and the process; the first goes on, and where it is killed nothing is in the way."""
    workdir = begun(tiny_run, tmp_path / "run", "retriever", "index", "tokenizers")
    given = "--config=tiny.py", f"--workdir={workdir}"
    command = [sys.executable, "-m", "rag_jax.train", *given, "--config.joint.steps=1000"]
    first = subprocess.Popen(
        command, cwd=tiny_run.folder, env=tiny_run.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not (workdir / "metrics.jsonl").exists():
            assert first.poll() is None
            time.sleep(0.1)
        refused = tiny_run.command("train", *given, code=2).stderr
        assert f"error: {workdir}/checkpoints: process {first.pid} on " in refused and "is writing it" in refused
        end(first, within=120)
    finally:
        first.kill()
    assert not list(workdir.glob(".*.owner"))


def test_the_demo_is_saved_within_thirty_seconds(demo):
    command = [sys.executable, "-m", "rag_jax.train", DEMO, f"--workdir={demo.workdir}"]
    metrics = demo.workdir / "metrics.jsonl"
    process = subprocess.Popen(command, cwd=demo.folder, env=demo.environment, stdout=subprocess.DEVNULL)
    try:
        while not (metrics.exists() and metrics.stat().st_size):  # a step is over
            assert process.poll() is None
            time.sleep(0.1)
        end(process, within=30)
    finally:
        process.kill()
    assert Checkpoints(demo.workdir / "checkpoints").latest()


def test_a_loss_that_is_no_number_keeps_its_questions(tiny_run, tmp_path):
    """They can be given as data.train; the last checkpoint is whole, and goes on with a rate that is sane."""
    workdir = begun(tiny_run, tmp_path / "run", "retriever", "index", "tokenizers")
    given = "train", "--config=tiny.py", f"--workdir={workdir}"
    said = tiny_run.command(*given, "--config.joint.learning_rate=2e9", "--config.joint.warmup=0", code=2).stderr
    assert said.startswith("error: joint step ") and "not finite" in said and "Traceback" not in said
    asked = [json.loads(line) for line in (workdir / "not_finite.jsonl").read_text().splitlines()]
    known = {(str(row), record["question"]) for row, record in enumerate(tiny_run.records("train.jsonl"))}
    assert len(asked) == 8 and {(record["id"], record["question"]) for record in asked} <= known
    failed = int(re.match(r"error: joint step (\d+)", said)[1])
    assert Checkpoints(workdir / "checkpoints").latest() == 6 + failed // 2 * 2  # also one that was being written
    tiny_run.command(*given, f"--config.data.train={workdir / 'not_finite.jsonl'}")
    assert Checkpoints(workdir / "checkpoints").latest() == 10
