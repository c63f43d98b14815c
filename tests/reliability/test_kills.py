"""A run that is killed at any moment and given its command again ends bit-equal to one that never was."""

import signal

import numpy as np
import pytest

from ..runs import numbers, saved

pytestmark = pytest.mark.long
# Ends the process when a function is called for the n-th time: before it does anything, or when it has returned.
AT_A_CALL = """
import importlib, os, signal
module = importlib.import_module("{module}")
*owners, name = "{name}".split(".")
for owner in owners:
    module = getattr(module, owner)
function, calls = getattr(module, name), [0]

def killed(*arguments, **settings):
    calls[0] += 1
    last = calls[0] == {number}
    if last and not {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    found = function(*arguments, **settings)
    if last:
        os.kill(os.getpid(), signal.SIGKILL)
    return found

setattr(module, name, killed)
"""
# Ends the process so many seconds after its steps have begun.
AT_A_TIME = """
import os, signal, threading
from rag_jax.training import {loop} as loop

class RunLog(loop.RunLog):
    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        timer = threading.Timer({seconds}, lambda: os.kill(os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()

loop.RunLog = RunLog
"""


def at(module, name, number=1, *, after=False):
    return AT_A_CALL.format(module=f"rag_jax.{module}", name=name, number=number, after=after)


def some_time(rng, loop="loop"):
    return AT_A_TIME.format(loop=loop, seconds=rng.uniform(0, 2.5))


def kills(command):
    """Moments, in the order in which a run comes to them; where a moment is never reached, the command is done."""
    rng = np.random.default_rng(8)
    return {
        "train_retriever": [
            at("training.retriever_loop", "report", 1),
            at("checkpoint", "write_manifest", 1),
            some_time(rng, "retriever_loop"),
        ],
        "build_index": [
            at("data.passages", "write_manifest", 1),
            at("index.shards", "write_shard", 1, after=True),  # between shards
            at("index.shards", "write_shard", 2),
            at("index.builder", "write_index_manifest", 1),
        ],
        "train": [
            at("training.loop", "make_source", 1),
            at("training.loop", "report", 2),  # inside a step
            at("checkpoint", "v1.save_checkpointables_async", 1, after=True),  # it is being written
            at("checkpoint", "write_manifest", 1),  # written, not yet sealed
            at("files", "os.replace", 3),
            at("checkpoint", "Checkpoints._tidy", 2),  # sealed, with the older ones still there
            at("checkpoint", "shutil.rmtree", 1),
            at("evaluation.answers", "read", 1),  # inside an evaluation
            at("training.logging", "RunLog.write", 1, after=True),
            *(some_time(rng) for _ in range(6)),
        ],
    }[command]


def vectors(index):
    """Those of every shard."""
    return [np.load(path) for path in sorted(index.glob("vectors-?????.npy"))]


def test_twenty_kills_change_nothing(tiny_run, tmp_path):
    """The index is built in shards of 8 passages, which changes none of its bytes."""
    workdir, killed = tmp_path / "run", 0
    for command in ("train_retriever", "build_index", "train"):
        for prelude in kills(command):
            given = command, "--config=tiny.py", f"--workdir={workdir}", "--config.index.shard=8"
            try:
                tiny_run.command(*given, prelude=prelude, code=-signal.SIGKILL)
                killed += 1
            except AssertionError as error:  # it came to its end first
                assert "exit code 0" in str(error), error
        tiny_run.command(*given)
    print(f"killed {killed} times")
    assert killed >= 20
    for name in ("metrics.jsonl", "validation.jsonl", "retriever_metrics.jsonl"):
        assert numbers(workdir / name) == numbers(tiny_run.workdir / name)
    for name in ("checkpoints", "retriever"):
        assert saved(workdir / name) == saved(tiny_run.workdir / name)
    found, expected = (place / "index" for place in (workdir, tiny_run.workdir))
    assert [len(vectors(folder)) for folder in (found, expected)] == [4, 1]
    np.testing.assert_array_equal(*(np.concatenate(vectors(folder)) for folder in (found, expected)))
    for path in (expected / "passages").glob("*.arrow"):
        assert path.read_bytes() == (found / "passages" / path.name).read_bytes()
    left = [
        path.name for path in workdir.rglob("*") if path.name.endswith(".tmp") or "orbax-checkpoint-tmp" in path.name
    ]
    assert not left
