"""evaluate as a user types it: several processes measure what one measures, and what was killed goes on."""

import os
import shutil

import pytest

from rag_jax.sole import sole_writer

EVERYTHING = "--parts=answers,retrieval,reading,hot_swap", "--sweep=n_docs=1,3"
PARTS = "checkpoints", "tokenizers", "index"
DIES = """
import os
import signal
import rag_jax.evaluation.walks as walks

write, left = walks.write_atomically, [5]

def write_and_die(path, lines):
    write(path, lines)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)

walks.write_atomically = write_and_die
"""
TELLS = """
import rag_jax.evaluation.walks as walks

write = walks.write_atomically

def write_and_tell(path, lines):
    write(path, lines)
    print("kept", path.name)

walks.write_atomically = write_and_tell
"""
FAILS = """
import rag_jax.evaluation.walks as walks
from rag_jax.errors import fail

walks.write_atomically = lambda *_: fail("the disk is full")
"""


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def asked(two_devices, tmp_path):
    """asked('name', ...) is the command for a copy of the trained run of that name, in five batches of two."""

    def command(name, *arguments):
        folder = tmp_path / name
        if not folder.exists():
            for part in PARTS:
                shutil.copytree(two_devices.workdir / part, folder / part)
            shutil.copy(two_devices.workdir / "config.json", folder)
        config = "--config=tiny.py", "--config.evaluate.batch=2"
        return "evaluate", *config, f"--workdir={folder}", f"--swap_index={two_devices.index_after}", *arguments

    return command


def lines(done):
    """What a process prints, without what jax's own library says of its connections."""
    return [line for line in done.stdout.splitlines() if not line.startswith("[Gloo]")]


def kept(done):
    """The batches that a process has answered."""
    return [line.split()[1] for line in lines(done) if line.startswith("kept")]


@pytest.mark.long
def test_one_measures_at_a_time(two_devices, asked, tmp_path):
    command = asked("run")
    with sole_writer(tmp_path / "run" / "metrics.json"):
        said = two_devices.command(*command, code=2).stderr
    assert f"metrics.json: process {os.getpid()} on " in said and "is writing it; wait until it has ended" in said
    two_devices.command(*command)


@pytest.mark.long
def test_two_processes_measure_what_one_measures(two_devices, asked, tmp_path):
    """On two devices each: every file to the byte, and what is printed to the letter."""
    kilt_out = [f"--kilt_out={tmp_path / name / 'kilt.jsonl'}" for name in ("together", "alone")]
    together = two_devices.together(*asked("together", *EVERYTHING, kilt_out[0]))
    alone = two_devices.command(*asked("alone", *EVERYTHING, kilt_out[1]))
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")
    made = {path.name for path in (tmp_path / "together").iterdir()} - {*PARTS, "config.json"}
    assert {"metrics.json", "predictions.jsonl", "sweep.json", "kilt.jsonl"} <= made
    assert made <= {"metrics.json", "predictions.jsonl", "sweep.json", "sweep.png", "kilt.jsonl"}
    first, second = map(lines, together)
    assert first[1:] == lines(alone) and len(second) == 1


@pytest.mark.long
def test_a_killed_sweep_goes_on_with_another_number_of_processes(two_devices, asked, tmp_path):
    """kill -9 between the two depths of a batch; five of ten are left, and are all that is answered."""
    command = asked("resumed", "--sweep=n_docs=1,3")
    two_devices.command(*command, prelude=DIES, code=-9)
    assert not (tmp_path / "resumed" / "sweep.json").exists()
    done = two_devices.together(*command, preludes=(TELLS, TELLS))
    names = ["1_6-8.jsonl", "1_8-10.jsonl", "3_4-6.jsonl", "3_6-8.jsonl", "3_8-10.jsonl"]
    assert sorted(kept(done[0]) + kept(done[1])) == names and kept(done[0]) and kept(done[1])
    two_devices.command(*asked("alone", "--sweep=n_docs=1,3"))
    assert contents(tmp_path / "resumed") == contents(tmp_path / "alone")


@pytest.mark.long
def test_a_process_that_fails_ends_the_other_and_one_alone_goes_on(two_devices, asked, tmp_path):
    said = [done.stderr for done in two_devices.together(*asked("resumed"), preludes=("", FAILS), code=2)]
    assert "error: the disk is full" in said[1] and "error: process 1 of 2 failed: the disk is full" in said[0]
    assert not (tmp_path / "resumed" / "predictions.jsonl").exists()
    two_devices.command(*asked("resumed"))
    two_devices.command(*asked("alone"))
    assert contents(tmp_path / "resumed") == contents(tmp_path / "alone")


@pytest.mark.long
def test_processes_that_measure_different_things_measure_nothing(two_devices, asked, tmp_path):
    command = asked("run")
    before = contents(tmp_path)
    for done in two_devices.together(*command, second=("--limit=3",), code=2):
        assert "what to measure: the 2 processes differ; start all with the same command, files and" in done.stderr
    assert contents(tmp_path) == before
