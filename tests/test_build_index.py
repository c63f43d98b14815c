"""build_index as a user types it: by several processes to the same bits, and checking what is there."""

import shutil

import pytest

from rag_jax.errors import UserError
from rag_jax.index.builder import name_finished
from rag_jax.team import SINGLE, team

FAILS = """
import rag_jax.index.shards as shards
from rag_jax.errors import fail

shards.write_shard = lambda *_: fail("the disk is full")
"""


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_verify_reads_every_file_and_names_the_damaged_one(tiny_run, tmp_path):
    shutil.copytree(tiny_run.workdir / "index", tmp_path / "index")
    before = contents(tmp_path)
    said = tiny_run.command("build_index", "--verify", f"--workdir={tmp_path}").stdout
    assert said.startswith(f"{tmp_path / 'index'}: whole; 30 passages, exact index, ") and contents(tmp_path) == before
    path = tmp_path / "index" / "passages" / "rows.crc32"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 8]) + path.read_bytes()[1:])
    said = tiny_run.command("build_index", "--verify", f"--index={tmp_path / 'index'}", code=2).stderr
    assert said.startswith(f"error: {path}: differs from its checksum") and said.count("\n") == 1


def test_what_is_no_index_is_never_replaced(tiny_run, tmp_path):
    """A folder of other things, as a run, or a file, where --index says the wrong one; nor are things of one name."""
    (tmp_path / "mine" / "checkpoints").mkdir(parents=True)
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    (tmp_path / "corpus.jsonl").write_text("{}")
    (tmp_path / "empty").mkdir()
    before = contents(tmp_path)
    for name in ("mine", "corpus.jsonl"):
        with pytest.raises(UserError, match=rf"{name}: found what is no index \(no recipe.json\)"):
            name_finished(tmp_path / name)
    (tmp_path / "empty" / ".config.json.lock").touch()  # where it was once taken for a run
    name_finished(tmp_path / "empty")
    for flags, message in (
        ([f"--workdir={tiny_run.workdir}", f"--index={tmp_path / 'mine'}"], f"{tmp_path / 'mine'}: found what is no"),
        ([f"--workdir={tiny_run.workdir}", "--index=."], ".: expected a folder with a name, such as ./index"),
        ([f"--workdir={tmp_path / 'corpus.jsonl'}"], f"{tmp_path / 'corpus.jsonl'}: File exists; give another place"),
    ):
        said = tiny_run.command("build_index", "--config=tiny.py", *flags, code=2).stderr
        assert said.startswith(f"error: {message}") and said.count("\n") == 1
    (tmp_path / "empty" / ".config.json.lock").unlink()
    assert contents(tmp_path) == before


def given(run, index):
    config = "--config=tiny.py", "--config.index.shard=8", "--config.index.batch=4"
    return "build_index", *config, f"--workdir={run.workdir}", f"--index={index}"


@pytest.fixture
def build_together(two_devices):
    """build_together(index, ...) runs two processes on this machine; returns what each of them said."""
    return lambda index, **settings: two_devices.together(*given(two_devices, index), **settings)


@pytest.mark.long
def test_two_processes_build_what_one_builds(two_devices, build_together, tmp_path):
    """On two devices each. Shards 0 and 2 are the first process's, 1 and 3 the second's."""
    said = [done.stdout for done in build_together(tmp_path / "together")]
    assert "16 of 16 passages encoded" in said[0] and "14 of 14 passages encoded" in said[1]
    assert "30 passages, exact index" in said[0] and "exact index" not in said[1]
    two_devices.command(*given(two_devices, tmp_path / "alone"))
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "together"]


@pytest.mark.long
@pytest.mark.parametrize("failing", [0, 1])
def test_a_process_that_fails_ends_the_other_with_its_message(two_devices, build_together, tmp_path, failing):
    preludes = [FAILS if number == failing else "" for number in range(2)]
    said = [done.stderr for done in build_together(tmp_path / "index", preludes=preludes, code=2)]
    assert "error: the disk is full" in said[failing]
    assert f"error: process {failing} of 2 failed: the disk is full" in said[1 - failing]
    build_together(tmp_path / "index")  # goes on, as after any other failure
    two_devices.command(*given(two_devices, tmp_path / "alone"))
    assert contents(tmp_path / "index") == contents(tmp_path / "alone")


@pytest.mark.long
def test_processes_that_build_different_things_build_nothing(build_together, tmp_path):
    for done in build_together(tmp_path / "index", code=2, second=("--config.index.dtype=bfloat16",)):
        assert "the 2 processes differ; start all with the same command, files and weights" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("", 2, 0), "--coordinator: missing, expected HOST:PORT of process 0 with --processes=2"),
        (("host", 2, 0), "--coordinator: found 'host', expected HOST:PORT"),
        (("host:1", 2, 2), "--process: found 2, expected a number from 0 to --processes - 1 = 1"),
    ],
)
def test_flags_that_describe_no_team(given, message):
    with pytest.raises(UserError, match=message), team(*given):
        pass


def test_one_process_waits_for_nobody():
    with team("", 1, 0) as alone:
        assert alone is SINGLE and alone.first
        alone.wait("itself")
        alone.check()
