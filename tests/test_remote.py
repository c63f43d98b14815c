"""A run that lives in a store: the commands as a user types them, each on a machine with an empty cache."""

import json
import shutil

import jax
import numpy as np
import pytest

from rag_jax import Rag
from rag_jax.storage import publish, twin

from . import stores  # noqa: F401 - folder:// is known from here on
from .runs import numbers

STORE = "import tests.stores\nfrom rag_jax import claim\nclaim.BEAT, claim.SILENCE, claim.POLL = 1, 5, 1\n"
RUN = "folder://bucket/run"
COMMON = "--config=tiny.py", f"--workdir={RUN}"
DATA = [f"--config.data.{name}=folder://bucket/data/{name}.jsonl" for name in ("train", "valid", "test")]
DATA += ["--config.data.passages=folder://bucket/data/passages_before.jsonl"]
DIES = """
import os
from rag_jax.remote import Remote

put, calls = Remote._put, []

def put_and_die(self, *arguments):
    calls.append(put(self, *arguments))
    if "/checkpoints" in self.url and len(calls) > {calls}:
        os._exit(9)

Remote._put = put_and_die
"""
DIES_BETWEEN = """
import os
from rag_jax import checkpoint

publish = checkpoint.publish

def publish_and_die(*paths):
    publish(*paths)
    if [path.name for path in paths] == ["retriever"]:
        os._exit(9)

checkpoint.publish = publish_and_die
"""
KEEPS_OUT = """
import os, sys
os.environ["RAG_JAX_CACHE"] = {own!r}

EVENTS = "open", "os.mkdir", "os.listdir", "os.scandir", "os.rename", "os.remove"

def look(event, arguments):
    if event in EVENTS and {other!r} in str(arguments[0]):
        os._exit(9)

sys.addaudithook(look)
"""


@pytest.fixture
def bucket(tiny_run, tmp_path, monkeypatch):
    """The tiny run's folder holds a store with its data, and a retriever and an index that were published there."""
    bucket = tmp_path / "store/bucket"
    for where in (monkeypatch.setenv, lambda *item: monkeypatch.setitem(tiny_run.environment, *item)):
        where("FOLDER_STORE", str(tmp_path / "store"))
        where("RAG_JAX_CACHE", str(tmp_path / "cache"))
    (bucket / "data").mkdir(parents=True)
    for name in ("train", "valid", "test", "passages_before"):
        shutil.copy(tiny_run.folder / f"{name}.jsonl", bucket / "data")
    for part in ("tokenizers", "retriever", "index"):
        shutil.copytree(tiny_run.workdir / part, twin(RUN) / part)
        publish(twin(RUN) / part)
    return bucket


@pytest.fixture
def elsewhere(tmp_path):
    """Forgets the cache: the next command runs on a new machine."""
    return lambda: shutil.rmtree(tmp_path / "cache")


@pytest.mark.long
def test_a_run_walks_from_machine_to_machine(tiny_run, bucket, elsewhere, tmp_path):
    """Killed while it publishes a checkpoint, it goes on elsewhere from the one before, to the end of a local run."""

    def command(name, *arguments, prelude=STORE, **options):
        elsewhere()
        return tiny_run.command(name, *arguments, prelude=prelude, **options).stdout

    assert "saved" in command("train", *COMMON, *DATA, prelude=STORE + DIES.format(calls=30), code=9)
    published = json.loads((bucket / "run/checkpoints.complete.json").read_text())["files"]
    assert {name.split("/")[0] for name in published} == {"2"}  # after denoising; of the next there are files alone
    assert any((bucket / "run/checkpoints").glob("4/*"))
    said = command("train", *COMMON, *DATA)
    assert "denoise step" not in said and "reader step 2" in said and "joint step 4" in said
    for name in ("metrics.jsonl", "validation.jsonl"):
        assert numbers(bucket / "run" / name) == numbers(tiny_run.workdir / name)
    assert (bucket / "run/curves.png").read_bytes() == (tiny_run.workdir / "curves.png").read_bytes()
    for checkpoint in ("best", "last"):
        here, there = (Rag.load(place, checkpoint=checkpoint) for place in (tiny_run.workdir, RUN))
        jax.tree.map(np.testing.assert_array_equal, *(jax.device_get(rag.params) for rag in (here, there)))

    own = shutil.copytree(tiny_run.workdir, tmp_path / "own")
    command("evaluate", f"--workdir={RUN}", f"--kilt_out={RUN}/kilt.jsonl")
    tiny_run.command("evaluate", f"--workdir={own}", f"--kilt_out={tmp_path / 'kilt.jsonl'}")
    measures = [json.loads((place / "metrics.json").read_text()) for place in (bucket / "run", own)]
    assert [each["of"].pop("test").split()[-1] for each in measures] == [
        "folder://bucket/data/test.jsonl",
        "test.jsonl",
    ]
    assert measures[0] | {"seal": ""} == measures[1] | {"seal": ""}
    assert (bucket / "run/predictions.jsonl").read_bytes() == (own / "predictions.jsonl").read_bytes()
    assert (bucket / "run/kilt.jsonl").read_bytes() == (tmp_path / "kilt.jsonl").read_bytes()
    assert "holds 10 of 10 answers already" in command("evaluate", f"--workdir={RUN}")

    after = "--config.data.passages=passages_after.jsonl", "--index=folder://bucket/after"
    command("build_index", *COMMON, *after)
    own = {path.relative_to(tiny_run.index_after): path.read_bytes() for path in files(tiny_run.index_after)}
    assert {path.relative_to(bucket / "after"): path.read_bytes() for path in files(bucket / "after")} == own
    asked = "--json", "who is mayor of Brimholt?"
    own = f"--workdir={tiny_run.workdir}", f"--index={tiny_run.index_after}"
    local = tiny_run.command("answer", *own, *asked).stdout
    assert command("answer", f"--workdir={RUN}", after[1], *asked) == local
    assert "whole" in command("build_index", f"--workdir={RUN}", after[1], "--verify")

    command("export", f"--workdir={RUN}", "--out=folder://bucket/hf", "--with_index")
    exported = json.loads(command("answer", "--workdir=folder://bucket/hf", *asked))
    assert exported["text"] == json.loads(command("answer", f"--workdir={RUN}", *asked))["text"]
    message = tiny_run.command("export", f"--workdir={RUN}", "--out=folder://bucket/hf", prelude=STORE, code=2).stderr
    assert "found files in it" in message and "Traceback" not in message


@pytest.mark.long
def test_a_retriever_may_be_trained_in_a_store(tiny_run, bucket, elsewhere):
    """From nothing but the data; each command on a new machine, and after the first checkpoint on another.

    What grows while a checkpoint is published is no part of it.
    """
    place, new = ("--config=tiny.py", "--workdir=folder://bucket/new", *DATA), bucket / "new"
    for name, prelude, code in (
        ("train_retriever", DIES_BETWEEN, 9),
        ("train_retriever", "", 0),
        ("build_index", "", 0),
    ):
        elsewhere()
        tiny_run.command(name, *place, prelude=STORE + prelude, code=code)
    assert not (new / "retriever/metrics.jsonl").exists()
    assert numbers(new / "retriever_metrics.jsonl") == numbers(tiny_run.workdir / "retriever_metrics.jsonl")
    own = tiny_run.workdir / "index"
    manifests = [json.loads((folder / "manifest.json").read_text())["index"] for folder in (own, new / "index")]
    assert manifests[0] == manifests[1]
    assert (new / "retriever.complete.json").exists() and (new / "tokenizers.complete.json").exists()


def test_a_run_that_is_not_there_is_one_line(tiny_run, bucket):
    for name, arguments, message in (
        ("answer", ["--workdir=folder://bucket/none", "why?"], "folder://bucket/none: holds no trained model"),
        ("build_index", ["--index=folder://bucket/none", "--verify"], "folder://bucket/none: found no file"),
    ):
        done = tiny_run.command(name, *arguments, prelude=STORE, code=2)
        assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.long
@pytest.mark.parametrize("mode", ["pmap", "sharded"])
def test_two_machines_with_a_disk_each_train_one_run(four_devices, bucket, tmp_path, mode):
    """Neither sees what the other writes: process 0 saves for both, and publishes."""
    caches = [tmp_path / f"cache of {number}" for number in range(2)]
    own_and_other = zip(map(str, caches), map(str, reversed(caches)), strict=True)
    preludes = [KEEPS_OUT.format(own=own, other=other) + STORE for own, other in own_and_other]
    small = "\nfrom rag_jax import parallel\nparallel.SMALL = 64"
    command = "train", *COMMON, *DATA, f"--config.parallel={mode}"
    four_devices.together(*command, preludes=[prelude + small for prelude in preludes])
    losses = [record["loss"] for record in numbers(bucket / "run/metrics.jsonl")]
    assert len(losses) == 10 and not (caches[1] / "folder/bucket/run/metrics.jsonl").exists()
    done = four_devices.command("train", *COMMON, *DATA, "--config.joint.steps=6", prelude=STORE)  # a third goes on
    assert "joint step 6" in done.stdout
    again = [record["loss"] for record in numbers(bucket / "run/metrics.jsonl")]
    assert again[:10] == losses and len(again) == 12
