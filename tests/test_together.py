"""Two processes of four devices train what one process of eight trains; and what ends one ends the other."""

import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from rag_jax import Rag, team
from rag_jax.checkpoint import Checkpoints
from rag_jax.index.base import read_index_manifest, write_index_manifest

from .runs import SPLITS

pytestmark = pytest.mark.long
# What jax refuses on an accelerator under the loop's transfer guard, a CPU allows: there nothing is copied.
GUARDED = """
import numpy
from jax._src import array
from jax._src.lib import guard_lib
read = array.ArrayImpl._value.fget

def check(found):
    state = guard_lib.thread_local_state()
    if state.device_to_host == guard_lib.TransferGuardLevel.DISALLOW and not state.explicit_device_get:
        raise RuntimeError("a device is read unasked")
    return found

def checked(function):
    def call(value, *more, **named):
        return function(check(value) if isinstance(value, array.ArrayImpl) else value, *more, **named)
    return call

numpy.asarray, numpy.array = checked(numpy.asarray), checked(numpy.array)
array.ArrayImpl._value = property(lambda self: read(check(self)))
"""
DIES = """
import os, signal
from rag_jax.training import loop
report = loop.report

def dies(log, keeper, source, step, *arguments, **settings):
    if keeper.stage == "joint" and step == 2:
        (log.folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    report(log, keeper, source, step, *arguments, **settings)

loop.report = dies
"""
FULL = """
from rag_jax.training import retriever_loop
report = retriever_loop.report

def fills(log, step, *arguments):
    report(log, step, *arguments)
    if step == 1:
        with open("/dev/full", "w") as file:
            file.write("x")

retriever_loop.report = fills
"""
# Dropout's random numbers are drawn per device under pmap, for the whole batch where XLA splits it.
DRY = [f"--config.{name}=0.0" for name in ("encoder.dropout", "encoder.attention_dropout", "generator.dropout")]


def begun(run, name):
    """A workdir as the retriever and its index left it, made anew."""
    folder = run.folder / "together" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for part in ("retriever", "index", "tokenizers"):
        shutil.copytree(run.workdir / part, folder / part)
    return folder


def died(folder):
    """When the process that was killed in this run died, seconds of `time.time`."""
    return (folder / "died").stat().st_mtime


def losses(folder, name="metrics.jsonl"):
    records = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(len(records)))
    return [record["loss"] for record in records]


def params(folder):
    checkpoints = Checkpoints(folder / "checkpoints")
    step = checkpoints.latest()
    checkpoints.close()
    return step, Rag.load(folder, checkpoint="last").params


@pytest.mark.parametrize("mode", ["pmap", "sharded"])
def test_two_processes_train_what_one_trains(four_devices, tiny_run, monkeypatch, mode):
    """All stages, evaluation within them, and the checkpoints, which they write together; no device is read unasked."""
    run, folders = four_devices, [begun(tiny_run, f"{mode} {name}") for name in ("together", "alone")]
    command = lambda folder: ("--config=tiny.py", f"--workdir={folder}", f"--config.parallel={mode}", *DRY)  # noqa: E731
    run.together("train", *command(folders[0]), preludes=(SPLITS + GUARDED, SPLITS + GUARDED))
    run.with_devices(monkeypatch, 8)
    run.command("train", *command(folders[1]), prelude=SPLITS + GUARDED)
    found, expected = map(losses, folders)
    assert len(found) == 10
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    (step, found), (last, expected) = map(params, folders)
    assert step == last == 10
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)  # of ten steps of Adam at 1e-3, whose signs may differ


def test_a_retriever_is_trained_together(four_devices, tiny_run, monkeypatch):
    """The passages of all processes are negatives for the questions of each."""
    folders = [tiny_run.folder / "together" / f"retriever {name}" for name in ("together", "alone")]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tiny_run.workdir / "tokenizers", folder / "tokenizers")
    command = lambda folder: ("train_retriever", "--config=tiny.py", f"--workdir={folder}", *DRY)  # noqa: E731
    four_devices.together(*command(folders[0]))
    four_devices.with_devices(monkeypatch, 8)
    four_devices.command(*command(folders[1]))
    found, expected = (losses(folder, "retriever_metrics.jsonl") for folder in folders)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_split_index_trains_as_a_whole_one(two_devices, tiny_run):
    folders = [begun(tiny_run, f"index {name}") for name in ("split", "whole")]
    for folder, flag in zip(folders, ("--config.index.split", "--noconfig.index.split"), strict=True):
        given = "train", "--config=tiny.py", f"--workdir={folder}", flag, *DRY
        two_devices.together(*given, preludes=(GUARDED, GUARDED))
    np.testing.assert_allclose(*map(losses, folders), rtol=1e-6)


def test_a_killed_process_ends_the_other_and_one_alone_goes_on(four_devices, tiny_run, monkeypatch):
    """Within a minute, naming it; what was saved goes on as if nothing had been."""
    folder, whole = begun(tiny_run, "killed"), begun(tiny_run, "never killed")
    command = lambda folder: ("train", "--config=tiny.py", f"--workdir={folder}", *DRY)  # noqa: E731
    first, _ = four_devices.together(*command(folder), preludes=("", DIES), code=(75, -9))
    assert "error: process 1 of 2 has given no sign of life for 30 seconds" in first.stderr
    assert "Traceback" not in first.stderr
    assert time.time() - died(folder) < 60
    checkpoints = Checkpoints(folder / "checkpoints")
    assert checkpoints.latest() in (6, 8)  # the last was being written, in the background
    checkpoints.close()
    four_devices.with_devices(monkeypatch, 8)
    four_devices.command(*command(folder))
    four_devices.command(*command(whole))
    np.testing.assert_allclose(losses(folder), losses(whole), rtol=1e-6)


def test_where_process_0_is_killed_the_other_ends_and_says_so(two_devices, tiny_run):
    """Within a minute, by jax or by us; all goes through process 0."""
    folder = begun(tiny_run, "leader killed")
    given = "train", "--config=tiny.py", f"--workdir={folder}"
    early = DIES.replace('"joint" and step == 2', '"reader"')
    _, second = two_devices.together(*given, preludes=(early, ""), code=(-9, {-6, 75}))
    assert re.search("leader task was preempted/died|process 0 of 2 cannot be reached", second.stderr)
    assert time.time() - died(folder) < 60


@pytest.mark.parametrize("what", ["index", "index score_scale"])
def test_processes_with_different_indexes_name_them(two_devices, tiny_run, what):
    """Of other passages; and of the same, but said to be scored otherwise."""
    first, other = begun(tiny_run, "an index"), begun(tiny_run, "another index")
    if what == "index":
        shutil.rmtree(other / "index")
        shutil.copytree(tiny_run.index_after, other / "index")
    else:
        write_index_manifest(other / "index", replace(read_index_manifest(other / "index"), score_scale=0.5))
    given = "train", "--config=tiny.py", f"--workdir={first}"
    for done in two_devices.together(*given, second=(f"--workdir={other}",), code=2):
        assert re.search(rf"error: {what}: process \d has .+, process \d has .+; start all with", done.stderr)
    assert not any((folder / "checkpoints").exists() for folder in (first, other))


def test_a_mistake_that_one_process_meets_ends_both_with_its_message(two_devices, tiny_run):
    """And with the code of a mistake, though the other waits for it in a sum over both."""
    folder = tiny_run.folder / "together" / "full"
    shutil.copytree(tiny_run.workdir / "tokenizers", folder / "tokenizers")
    given = "train_retriever", "--config=tiny.py", f"--workdir={folder}"
    first, second = two_devices.together(*given, preludes=("", FULL), code=2)
    assert "error: the disk: No space left on device; free some space" in second.stderr
    assert "error: process 1 of 2 failed: the disk: No space left on device" in first.stderr
    assert "Traceback" not in first.stderr + second.stderr


def test_processes_with_different_configurations_name_the_value(two_devices, tiny_run):
    folder = begun(tiny_run, "different")
    before = sorted(Path(folder).rglob("*"))
    done = two_devices.together(
        "train", "--config=tiny.py", f"--workdir={folder}", second=("--config.joint.k=2",), code=2
    )
    assert "error: config.joint.k: process 0 has 3, process 1 has 2; start all with the same command" in done[0].stderr
    assert "error: config.joint.k: process 1 has 2, process 0 has 3; start all with the same command" in done[1].stderr
    assert sorted(Path(folder).rglob("*")) == before


def test_a_coordinator_that_is_not_there_is_named(tiny_run, monkeypatch):
    prelude = "from rag_jax import team\nteam.CONNECT = 4"
    place = "--coordinator=127.0.0.1:9", "--processes=2", "--process=1"
    done = tiny_run.command("train", "--config=tiny.py", "--workdir=absent", *place, prelude=prelude, code=75)
    assert team.CONNECT == 300
    assert "error: --coordinator=127.0.0.1:9: process 1 of 2 has met not all others within 4 seconds" in done.stderr
