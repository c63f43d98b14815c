"""Disks that are full or may not be written to, and an index that vanishes: one line, and what was whole still is."""

import shutil
import subprocess

import jax
import numpy as np
import pytest

from rag_jax import Rag
from rag_jax.checkpoint import Checkpoints
from rag_jax.command import with_message
from rag_jax.compiled import Programs
from rag_jax.data import tasks
from rag_jax.data.embeddings import open_embeddings
from rag_jax.data.formats import Passage
from rag_jax.data.passages import PassageStore, build_store
from rag_jax.errors import UserError
from rag_jax.evaluation.report import Asked, evaluate
from rag_jax.files import write_json
from rag_jax.folders import build_folder
from rag_jax.index.base import Queries
from rag_jax.index.given import Given
from rag_jax.index.vectors import write_shard
from rag_jax.parallel import Pmap
from rag_jax.training.examples import make_examples
from rag_jax.training.logging import RunLog
from rag_jax.workdir import Workdir

FULL, READ_ONLY = "No space left on device; free some space", "Read-only file system; name a folder that you may"


def mount(*arguments):
    """Skips the test where this user may not mount, or there is no such thing."""
    try:
        done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(f"a disk of one's own: {error}")
    if done.returncode:
        pytest.skip(f"a disk of one's own: {done.stderr.strip()}")


class Disk:
    """A file system of so many bytes."""

    def __init__(self, folder, size):
        self.folder = folder
        folder.mkdir()
        mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)

    def fill(self):
        """Leaves no byte."""
        with pytest.raises(OSError), (self.folder / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def clear(self):
        (self.folder / "filler").unlink()

    def protect(self):
        """Nothing can be written from now on."""
        mount("-o", "remount,ro", self.folder)

    def files(self):
        """Every file but the filler, with its content."""
        inside = (path for path in self.folder.rglob("*") if path.is_file() and path.name != "filler")
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in inside}


@pytest.fixture
def disk(tmp_path):
    """disk(size): a file system of its own."""
    made = []

    def make(size):
        made.append(Disk(tmp_path / f"disk{len(made)}", size))
        return made[-1]

    yield make
    for one in made:
        subprocess.run(["umount", "-l", one.folder], check=True)


@pytest.fixture
def refused(capsys):
    """refused(action): the one line that a command which does this ends with."""

    def run(action):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            with_message(action)
        said = capsys.readouterr().err
        assert ended.value.code == 2 and said.count("\n") == 1 and said.startswith("error: "), said
        return said

    return run


def corpus(count):
    return [Passage(str(n), f"Title {n}", f"{n} is a number. " * 20) for n in range(count)]


def test_a_store_that_does_not_fit_leaves_the_old_one(disk, refused, tiny_rag):
    """So does one of which Arrow, numpy or this program itself writes the last byte that fits."""
    place, tokenizer = disk("512k"), tiny_rag.retriever.generator_tokenizer
    folder = place.folder / "passages"
    build_store(corpus(30), folder, tokenizer)
    before = place.files()
    assert f"{folder}: {FULL}" in refused(lambda: build_store(corpus(3000), folder, tokenizer))
    assert place.files() == before
    assert list(PassageStore.open(folder, tokenizer=tokenizer, verify=True)) == corpus(30)
    writers = (
        lambda path: np.arange(2**20).tofile(path / "x"),
        lambda path: np.save(path / "x.npy", np.arange(2**20)),
        lambda path: (path / "x").write_bytes(bytes(2**20)),
    )
    for write in writers:
        assert f"{folder}: {FULL}" in refused(lambda write=write: build_folder(folder, write))
        assert place.files() == before


def test_vectors_that_do_not_fit_are_not_there(disk, refused):
    place = disk("512k")
    path = place.folder / "index.partial" / "vectors-00000.npy"
    assert f"{path}: {FULL}" in refused(lambda: write_shard(path.parent, 0, np.ones((1024, 256), np.float32)))
    assert {*place.files()} == {"index.partial/vectors-00000.crc.npy"}  # and from there the build goes on


def test_given_vectors_that_wait_for_their_shard_and_do_not_fit(disk, refused, tiny_rag, tmp_path):
    """Without a word the process ended, by a bus error, when they were written through a memory map."""
    place, store = disk("256k"), tiny_rag.retriever.index.passages
    np.save(tmp_path / "v.npy", np.ones((30, 4096), np.float32))
    (tmp_path / "v.ids.txt").write_text("".join(f"{name}\n" for name in reversed(list(store.ids()))))
    recipe = {"dtype": "float32", "shard_size": 10}
    given = Given(open_embeddings(str(tmp_path / "v.npy")), store, recipe, first=0, log=print)
    said = refused(lambda: given.shard(range(10), place.folder, lambda rows: np.ones((len(rows), 4096), np.float32)))
    assert f"{place.folder / '.given-00002.tmp'}: {FULL}" in said


def test_an_export_that_does_not_fit_is_not_there(disk, refused, tiny_rag):
    place = disk("64k")
    out = place.folder / "hf" / "demo"
    assert f"{out}: {FULL}" in refused(lambda: tiny_rag.save_pretrained(out))
    assert not place.files() and not any(out.parent.iterdir())


def test_answers_that_do_not_fit_leave_those_that_are_there(disk, refused, tiny_rag, tiny_run, monkeypatch):
    monkeypatch.chdir(tiny_run.folder)
    place, config = disk("256k"), tiny_rag.config
    evaluate(tiny_rag, config, place.folder, Asked())
    before = place.files()
    place.fill()
    monkeypatch.setattr(tiny_rag, "identity", lambda: "another")  # whose answers are to replace these
    said = refused(lambda: evaluate(tiny_rag, config, place.folder, Asked()))
    assert str(place.folder) in said and FULL in said
    assert place.files() == before
    place.clear()
    evaluate(tiny_rag, config, place.folder, Asked())
    assert place.files()["predictions.jsonl"] == before["predictions.jsonl"] and len(place.files()) == 2


def test_small_files_that_do_not_fit_leave_the_old_ones(
    disk, refused, tiny_rag, tiny_run, monkeypatch, tmp_path, capsys
):
    monkeypatch.chdir(tiny_run.folder)
    place, config = disk("128k"), tiny_rag.config
    workdir = Workdir(place.folder)
    workdir.save_config(config)
    before = place.files()
    place.fill()
    assert f"{workdir.config}: {FULL}" in refused(lambda: workdir.save_config(config.unlock()))
    questions = tasks.questions(config.data, config.data.train)
    with RunLog(tmp_path) as log:
        given = tasks.TASKS["triviaqa"], questions, tiny_rag, workdir.targets
        assert f"{workdir.targets}: {FULL}" in refused(lambda: make_examples(*given, resumed=False, log=log))
    assert place.files() == before
    programs = Programs(place.folder / "programs")
    for key in "ab":
        programs.put(key, b"a program")
    assert (
        capsys.readouterr().err
        == f"warning: {programs._path}: No space left on device; compiled programs are not kept\n"
    )
    assert place.files() == before


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(disk, refused):
    """The disk fills up while training goes on; as soon as there is room the same step is saved."""
    place, params = disk("4m"), {"a": np.arange(2**16, dtype=np.float32)}
    checkpoints = Checkpoints(place.folder / "checkpoints")

    def save(step):
        checkpoints.save(step, params, {"count": np.zeros(1)}, score=0.0, extra={})
        checkpoints.wait()

    save(1)
    before = place.files()
    place.fill()
    said = refused(lambda: save(2))
    assert f"{checkpoints.folder / '2'}: the checkpoint could not be written" in said and "No space left" in said
    assert checkpoints.latest() == 1 and before.items() <= place.files().items()
    shapes = Pmap().abstract_state(jax.eval_shape(lambda: params))
    np.testing.assert_array_equal(checkpoints.restore(1, params=shapes)["params"]["a"], params["a"])
    place.clear()
    save(2)
    assert checkpoints.latest() == 2
    np.testing.assert_array_equal(checkpoints.restore(2, params=shapes)["params"]["a"], params["a"])


def test_a_run_that_may_only_be_read_answers_and_nothing_else(disk, refused, tiny_rag, tiny_run, monkeypatch):
    monkeypatch.chdir(tiny_run.folder)
    place = disk("64m")
    shutil.copytree(tiny_run.workdir, place.folder / "run")
    place.protect()
    run = place.folder / "run"
    rag = Rag.load(run)
    assert rag.identity() == tiny_rag.identity()
    for action in (
        lambda: Workdir(run).save_config(rag.config),
        lambda: evaluate(rag, rag.config, run, Asked(limit=3)),
        lambda: rag.save_pretrained(run / "hf" / "demo"),
        lambda: build_store(corpus(3), run / "passages", rag.retriever.generator_tokenizer),
        lambda: write_json(run / "x.json", {}),
    ):
        said = refused(action)
        assert str(run) in said and READ_ONLY in said


@pytest.mark.parametrize("gone", ["index", "index/passages/passages.arrow", "index/vectors-00000.npy"])
def test_an_index_that_vanishes_is_read_on_by_those_who_have_it_open(tiny_run, tmp_path, gone):
    place = tmp_path / "run"
    shutil.copytree(tiny_run.workdir, place)
    rag = Rag.load(place)
    index = rag.retriever.index
    query_BE = index.vectors.gather(np.arange(2))
    (shutil.rmtree if (place / gone).is_dir() else type(place).unlink)(place / gone)
    id_BK, _ = index.search(Queries(["a", "b"], query_BE), 3)
    assert [len(index.passages[row].text) > 0 for row in id_BK[0].tolist()] == [True] * 3
    assert len(list(index.passages)) == len(rag.retriever.documents(id_BK)[0]) * 10 == 30
    with pytest.raises(UserError) as caught:
        Rag.load(place)
    assert str(place / gone) in str(caught.value) and "\n" not in str(caught.value)
    assert len(Rag.load(place, index=tiny_run.workdir / "index").retriever.index.passages) == 30


COMMANDS = {
    "train_retriever": ["--config.retriever.steps=6"],
    "build_index": ["--config.index.batch=8", "--config.index.shard=16"],
    "train": ["--config.joint.steps=6"],
    "evaluate": [],
    "export": [],
}


def command(run, workdir, name):
    """Runs a command that has something to write; its exit code and what it says on standard error."""
    given = ["--config=tiny.py", *COMMANDS[name]] if name.startswith(("train", "build")) else []
    out = [f"--out={workdir / 'hf'}"] if name == "export" else []
    return run.command(name, *given, f"--workdir={workdir}", *out, code=2).stderr


@pytest.mark.long
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("state", ["full", "read-only"])
def test_every_command_says_in_one_line_what_the_disk_refuses(disk, tiny_run, tmp_path, name, state):
    """And does what it is for as soon as there is room again."""
    place = disk("64m")
    workdir = place.folder / "run"
    shutil.copytree(tiny_run.workdir, workdir, ignore=shutil.ignore_patterns("metrics.json", "predictions*"))
    place.fill() if state == "full" else place.protect()
    said = command(tiny_run, workdir, name)
    (line,) = [line for line in said.splitlines() if not line.startswith("warning: ")]
    assert line.startswith("error: ") and str(place.folder) in line and (FULL if state == "full" else READ_ONLY) in line
    if state == "read-only":
        answered = tiny_run.command("answer", f"--workdir={workdir}", "what is the river of Cladow?")
        assert "posterior" in answered.stdout
        assert tiny_run.command("export", f"--workdir={workdir}", f"--out={tmp_path / 'hf'}")
        return
    place.clear()
    given = ["--config=tiny.py", *COMMANDS[name]] if name.startswith(("train", "build")) else []
    out = [f"--out={workdir / 'hf'}"] if name == "export" else []
    tiny_run.command(name, *given, f"--workdir={workdir}", *out)
