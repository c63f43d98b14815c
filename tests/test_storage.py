"""Remote places: a reader finds a part as it was published or not at all, whatever fails, whenever it fails."""

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax import remote, storage
from rag_jax.checkpoint import Checkpoints
from rag_jax.config import default_config
from rag_jax.data import tasks
from rag_jax.data.embeddings import open_embeddings
from rag_jax.errors import PassingError, UserError
from rag_jax.files import write_manifest
from rag_jax.hub import source
from rag_jax.index.base import open_index
from rag_jax.storage import keep, local, publish, pull, twin
from rag_jax.workdir import Workdir

from .stores import Flaky, Killed

INDEX = "flaky://bucket/run/index"
FIRST = {"manifest.json": "1", "vectors-0": "abcdef", "vectors-1": "ghijkl", "passages/text": "a passage"}
SECOND = {"manifest.json": "2", "vectors-0": "abcdef", "vectors-1": "GHIJKL!", "passages/more": "b passage"}
CHANGING = {"put_file", "pipe_file", "cp_file", "rm_file"}


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """An empty store that fails only when told to, one stream, no pauses, and the cache of one machine."""
    Flaky.fill({})
    monkeypatch.setattr(Flaky, "before", staticmethod(lambda operation, path: None))
    monkeypatch.setattr(Flaky, "after", staticmethod(lambda operation, path: None))
    monkeypatch.setattr(remote, "PAUSES", (0, 0))
    monkeypatch.setattr(remote, "STREAMS", 1)
    monkeypatch.setenv("RAG_JAX_CACHE", str(tmp_path / "here"))


@pytest.fixture
def on(tmp_path, monkeypatch):
    """on("there", action): calls the action on another machine, which has a cache of its own."""

    def call(machine, action, *arguments):
        before = os.environ["RAG_JAX_CACHE"]
        monkeypatch.setenv("RAG_JAX_CACHE", str(tmp_path / machine))
        try:
            return action(*arguments)
        finally:
            monkeypatch.setenv("RAG_JAX_CACHE", before)

    return call


def fill(folder, files):
    """Replaces a folder, as a build does."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def content(folder):
    """The files of a folder, but for hidden ones; {} where there is none."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_text() for path in found}


def make(files):
    """Builds and publishes."""
    fill(twin(INDEX), files)
    publish(twin(INDEX))


def read(machine, on):
    """What a machine finds that has never been there."""
    return on(machine, lambda: content(pull(twin(INDEX))))


class Nth:
    """Does something at the n-th operation among some kinds, once."""

    def __init__(self, number, action, kinds=CHANGING):
        self.number, self.action, self.kinds, self.seen = number, action, kinds, 0

    def __call__(self, operation, path):
        if operation in self.kinds:
            self.seen += 1
            if self.seen == self.number + 1:
                self.action(operation, path)


def raises(error):
    def action(operation, path):
        raise error

    return action


def hook(monkeypatch, when, what):
    monkeypatch.setattr(Flaky, when, staticmethod(what))
    return what


def quiet(monkeypatch):
    for when in ("before", "after"):
        hook(monkeypatch, when, lambda operation, path: None)


def operations(monkeypatch, action, kinds=CHANGING):
    """How many operations of some kinds the action takes."""
    counter = hook(monkeypatch, "before", Nth(-1, None, kinds))
    action()
    quiet(monkeypatch)
    return counter.seen


def test_what_is_published_is_found_elsewhere(on):
    make(FIRST)
    assert read("there", on) == FIRST
    assert set(Flaky.store) == {f"/bucket/run/index{name}" for name in (".complete.json", *(f"/{n}" for n in FIRST))}
    make(SECOND)
    assert read("there", on) == SECOND
    assert {path.rpartition("index/")[2] for path in Flaky.store if "index/" in path} == set(SECOND)


@pytest.mark.parametrize("before", [{}, FIRST])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_publisher_may_be_killed_at_any_moment(on, monkeypatch, before, when):
    """A reader finds the old part or the new one; the next publication leaves what an undisturbed one would."""
    if before:
        make(before)
    start = Flaky.objects()
    fill(twin(INDEX), SECOND)
    record = twin(INDEX).with_name(".index.twin.json")
    known = record.read_text() if record.exists() else None
    count = operations(monkeypatch, lambda: publish(twin(INDEX)))
    end, seen = Flaky.objects(), set()
    for number in range(count):
        Flaky.fill(start)
        record.write_text(known) if known else record.unlink()
        hook(monkeypatch, when, Nth(number, raises(Killed())))
        with pytest.raises(Killed):
            publish(twin(INDEX))
        quiet(monkeypatch)
        found = read(f"reader {number}", on)
        assert found in (before, SECOND)
        seen.add(found == SECOND)
        assert content(pull(twin(INDEX))) == SECOND  # the next command on this machine loses nothing
        publish(twin(INDEX))
        assert Flaky.objects() == end
        assert read(f"reader {number}", on) == SECOND
    assert False in seen and (count < 8 or True in seen)


def test_a_reader_during_a_publication_sees_one_version(on, monkeypatch):
    make(FIRST)
    fill(twin(INDEX), SECOND)
    found = []

    def look(operation, path):
        if operation in CHANGING:
            quiet(monkeypatch)
            found.append(read(f"reader {len(found)}", on))
            hook(monkeypatch, "before", look)

    hook(monkeypatch, "before", look)
    publish(twin(INDEX))
    assert found.count(FIRST) >= 3 and found.count(SECOND) >= 3
    assert len(found) == found.count(FIRST) + found.count(SECOND)


def test_a_publication_during_a_read_gives_one_version(on, monkeypatch):
    make(FIRST)
    kinds = {"cat_file", "get_file"}
    start = Flaky.objects()
    for number in range(operations(monkeypatch, lambda: read("counting", on), kinds)):
        Flaky.fill(start)
        on(f"writer {number}", lambda: pull(twin(INDEX)))

        def publishes(*_, number=number):
            quiet(monkeypatch)
            on(f"writer {number}", make, SECOND)

        hook(monkeypatch, "before", Nth(number, publishes, kinds))
        assert read(f"reader {number}", on) == SECOND
        quiet(monkeypatch)


def test_what_fails_once_is_tried_again(on, monkeypatch):
    errors = OSError("reset by peer"), TimeoutError(), ValueError("half an answer")
    every = {"put_file", "get_file", "pipe_file", "cat_file", "cp_file", "rm_file", "info", "find"}
    make(FIRST)
    start, record = Flaky.objects(), twin(INDEX).with_name(".index.twin.json")
    fill(twin(INDEX), SECOND)
    known = record.read_text()

    def both():
        publish(twin(INDEX))
        return read("there", on)

    count = operations(monkeypatch, both, every)
    end = Flaky.objects()
    for number in range(count):
        Flaky.fill(start)
        record.write_text(known)
        shutil.rmtree(on("there", twin, INDEX).parent)
        hook(monkeypatch, "before", Nth(number, raises(errors[number % 3]), every))
        assert both() == SECOND and Flaky.objects() == end
        quiet(monkeypatch)


def test_an_upload_that_arrives_cut_is_sent_again(on, monkeypatch):
    make(FIRST)
    start, record = Flaky.objects(), twin(INDEX).with_name(".index.twin.json")
    fill(twin(INDEX), SECOND)
    known, sending = record.read_text(), CHANGING - {"rm_file"}
    copies = 0
    for number in range(operations(monkeypatch, lambda: publish(twin(INDEX)), sending)):
        Flaky.fill(start)
        record.write_text(known)
        hook(monkeypatch, "after", Nth(number, lambda operation, path: Flaky.cut(path), sending - {"cp_file"}))
        publish(twin(INDEX))
        quiet(monkeypatch)
        assert read(f"reader {number}", on) == SECOND
        copies += 1
    assert copies > 4


def test_a_marker_that_is_cut_vouches_for_nothing(on, monkeypatch):
    fill(twin(INDEX), FIRST)

    def cut_and_die(operation, path):
        if path.endswith("index.complete.json") and len(Flaky.store[path].getvalue()) > 200:
            Flaky.cut(path)
            raise Killed

    hook(monkeypatch, "after", cut_and_die)
    with pytest.raises(Killed):
        publish(twin(INDEX))
    quiet(monkeypatch)
    with pytest.raises(UserError, match=r"^flaky://bucket/run/index\.complete\.json: damaged; publish"):
        read("there", on)
    publish(twin(INDEX))
    assert read("there", on) == FIRST


def test_a_flipped_byte_beside_a_part_never_loses_it(on):
    """Of the marker and of the twin's record: named, or without effect; what was made here and not published stays."""
    make(FIRST)
    marker, record = "/bucket/run/index.complete.json", twin(INDEX).with_name(".index.twin.json")
    objects, known = Flaky.objects(), record.read_bytes()
    for place in range(0, len(objects[marker]), 5):
        Flaky.fill(objects | {marker: flipped(objects[marker], place)})
        try:
            assert read("there", on) == FIRST, place
        except UserError as error:
            assert str(error).startswith("flaky://bucket/run/index.complete.json: damaged"), place
    Flaky.fill(objects)
    fill(twin(INDEX), SECOND)
    record.write_bytes(known.replace(b'"unpublished": false', b'"unpublished": true'))
    with pytest.raises(UserError, match=r"\.index\.twin\.json: damaged"):
        pull(twin(INDEX))
    for place in range(0, len(known), 5):
        record.write_bytes(flipped(known, place))
        try:
            publish(twin(INDEX))
            assert read("another", on) == SECOND, place
        except UserError as error:
            assert str(error).startswith(f"{record}: damaged"), place
        Flaky.fill(objects)
        fill(twin(INDEX), SECOND)


def flipped(content, place):
    damaged = bytearray(content)
    damaged[place] ^= 1 << place % 8
    return bytes(damaged)


def test_a_store_that_keeps_failing_is_one_line_and_loses_nothing(on, monkeypatch):
    fill(twin(INDEX), FIRST)

    def fail_for_vectors(operation, path):
        if "vectors" in path:
            raise OSError("no route")

    hook(monkeypatch, "before", fail_for_vectors)
    with pytest.raises(PassingError, match=r"^flaky://bucket/run/index/vectors-0: failed 3 times \(no route\)[^\n]*$"):
        publish(twin(INDEX))
    quiet(monkeypatch)
    assert read("there", on) == {}
    assert content(pull(twin(INDEX))) == FIRST
    publish(twin(INDEX))
    assert read("there", on) == FIRST


def test_a_flipped_byte_in_the_cache_is_found_and_fetched_again(on, monkeypatch):
    make(FIRST)
    assert read("there", on) == FIRST
    path = on("there", twin, INDEX) / "vectors-1"
    path.write_text("ghiJkl")
    fetched = []
    hook(monkeypatch, "before", lambda operation, path: fetched.append(path) if operation == "get_file" else None)
    assert read("there", on) == FIRST
    assert fetched == ["/bucket/run/index/vectors-1"]
    assert read("there", on) == FIRST and len(fetched) == 1  # and nothing where nothing has changed


def test_a_shard_that_stays_damaged_is_named(on, monkeypatch):
    make(FIRST)
    fetched = []
    hook(monkeypatch, "before", lambda operation, path: fetched.append(path) if operation == "get_file" else None)
    Flaky.fill(Flaky.objects() | {"/bucket/run/index/vectors-1": b"ghiJkl"})
    with pytest.raises(UserError, match=r"flaky://bucket/run/index/vectors-1: damaged") as told:
        on("there", local, INDEX)
    assert fetched.count("/bucket/run/index/vectors-1") == 2 and "\n" not in str(told.value)
    assert not (on("there", twin, INDEX) / "vectors-1").exists()
    Flaky.store.pop("/bucket/run/index/vectors-1")
    with pytest.raises(UserError, match=r"flaky://bucket/run/index/vectors-1: missing"):
        on("there", local, INDEX)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError("forbidden"), r"flaky://bucket/run/index\S*: no permission \(forbidden\)"),
        (OSError("Forbidden: b/bucket"), r"flaky://bucket/run/index\S*: no permission"),  # as gcsfs says it
        (OSError(errno.ENOSPC, "No space left on device"), r"flaky://bucket/run/index/\S+: the disk here is full"),
    ],
)
def test_what_cannot_be_mended_is_not_tried_again(on, monkeypatch, error, message):
    make(FIRST)
    tries = []

    def refuse(operation, path):
        if operation == ("get_file" if error.errno else "cat_file"):
            tries.append(path)
            raise error

    hook(monkeypatch, "before", refuse)
    with pytest.raises(UserError, match=message):
        on("there", local, INDEX)
    assert len(tries) == 1


def test_a_bucket_that_is_not_there(monkeypatch):
    hook(monkeypatch, "before", lambda operation, path: raises(FileNotFoundError("no bucket"))(operation, path))
    with pytest.raises(UserError, match=r"^flaky://bucket/run/index: cannot be written \(no bucket\)"):
        make(FIRST)


def test_a_part_of_any_name_is_safe_from_those_beside_it(on):
    beside = {f"{INDEX}{name}": {"of": name} for name in (".new", ".old", "2")}
    for url, files in beside.items():
        fill(twin(url), files)
        publish(twin(url))
    make(FIRST)
    make(SECOND)
    for url, files in beside.items():
        assert on("there", lambda url=url: content(pull(twin(url)))) == files


def test_a_cache_without_locks_is_named(monkeypatch):
    monkeypatch.setattr(storage.fcntl, "flock", raises(OSError(errno.ENOLCK, "No locks available")))
    message = r"here/flaky/bucket/run: cannot be locked \(No locks available\); set RAG_JAX_CACHE to a folder on a file"
    with pytest.raises(UserError, match=message):
        pull(twin(INDEX))


def test_addresses_that_lead_nowhere(monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"^flaky://bucket/nothing: found no file, no folder and no finished upload"):
        local("flaky://bucket/nothing")
    with pytest.raises(UserError, match=r"^nope://bucket/run: no such kind of place"):
        local("nope://bucket/run")
    for name in ("flaky://", "flaky://bucket/../x", "flaky://bucket/*.npy", "zip://a::flaky://b"):
        with pytest.raises(UserError, match="not the address of one file or folder"):
            local(name)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=r"^gs://bucket/run: needs a package .*pip install 'rag_jax\[gcs\]'$"):
        local("gs://bucket/run")
    (tmp_path / "full").write_text("")
    monkeypatch.setenv("RAG_JAX_CACHE", str(tmp_path / "full"))
    with pytest.raises(UserError, match=r"full/flaky/bucket: cannot be written .*; set RAG_JAX_CACHE"):
        local("flaky://bucket/run")
    assert local(tmp_path / "own") == tmp_path / "own" and twin(f"file://{tmp_path}") == tmp_path
    assert not storage.is_remote("demo:2016") and not storage.is_remote("facebook/rag-token-nq")


def test_what_was_put_there_by_other_means_is_taken_as_it_lies(on, monkeypatch, tmp_path):
    """Compared with the checksums that it brings; published over, it is whole at every moment."""
    fill(tmp_path / "index", {"vectors-0": "abcdef", "passages/text": "a passage"})
    write_manifest(tmp_path / "index", {"kind": "an index"})
    own = content(tmp_path / "index")
    aside = {"events/out": "a picture", ".hidden": "a note"}
    objects = {f"/bucket/run/index/{name}": text.encode() for name, text in (own | aside).items()}
    Flaky.fill(objects)
    assert read("there", on) == own | {"events/out": "a picture"}
    Flaky.fill(objects | {"/bucket/run/index/vectors-0": b"abcdeF"})
    with pytest.raises(UserError, match="index/vectors-0: damaged"):
        read("elsewhere", on)
    Flaky.fill(objects)
    assert content(pull(twin(INDEX))) == own | {"events/out": "a picture"}
    fill(twin(INDEX), own | {"vectors-1": "new"})
    count = operations(monkeypatch, lambda: publish(twin(INDEX)))
    assert read("a third", on) == own | {"vectors-1": "new"} and count == 3  # the new file, the marker, the note
    assert "/bucket/run/index/events/out" in Flaky.store


def test_a_corpus_and_questions_may_be_remote(on):
    """Fetched again when they have changed there; mistakes are named with their line."""
    config = default_config()
    lines = '{"id": "1", "title": "T", "text": "one"}\n'
    Flaky.fill({"/bucket/corpus/a.jsonl": lines.encode(), "/bucket/test.jsonl": b'{"question": "q", "answer": "a"}\n'})
    config.data.passages = "flaky://bucket/corpus"
    assert [passage.text for passage in tasks.passages(config.data)] == ["one"]
    assert [question.text for question in tasks.questions(config.data, "flaky://bucket/test.jsonl")] == ["q"]
    before = tasks.files(config.data.passages)
    assert tasks.files(config.data.passages) == before
    Flaky.fill({"/bucket/corpus/a.jsonl": lines.replace("one", "two").encode()})
    assert [passage.text for passage in tasks.passages(config.data)] == ["two"]
    assert tasks.files(config.data.passages) != before
    Flaky.fill({"/bucket/corpus/a.jsonl": (lines + "{\n").encode()})
    with pytest.raises(UserError, match=r"a\.jsonl:2: not JSON"):
        list(tasks.passages(config.data))


def test_models_and_vectors_may_be_remote():
    """A model's folder is taken whole; of vectors too, as their ids lie beside them."""
    Flaky.fill({"/bucket/model/config.json": b"{}", "/bucket/model/index/manifest.json": b"{}", "/bucket/v.npy": b""})
    assert content(source.find("flaky://bucket/model")) == {"config.json": "{}", "index/manifest.json": "{}"}
    assert source.find_index("flaky://bucket/model") == twin("flaky://bucket/model/index")
    with pytest.raises(UserError, match=r"--embeddings: flaky://bucket/v\.npy is one file"):
        open_embeddings("flaky://bucket/v.npy")
    with pytest.raises(UserError, match=r"^flaky://bucket/nothing: found no file"):
        source.find("flaky://bucket/nothing", "config.parts.generator")


def test_what_was_removed_there_is_gone_here_but_not_what_was_never_published(on):
    make(FIRST)
    Flaky.fill({})
    assert content(pull(twin(INDEX))) == {}
    fill(twin(INDEX), FIRST)
    assert content(pull(twin(INDEX))) == FIRST


def test_what_another_machine_published_goes_before_what_this_one_could_not(on, monkeypatch, capsys):
    make(FIRST)
    on("there", pull, on("there", twin, INDEX))
    fill(twin(INDEX), {"mine": "3"})
    hook(monkeypatch, "before", raises(Killed()))
    with pytest.raises(Killed):
        publish(twin(INDEX))
    quiet(monkeypatch)
    on("there", make, SECOND)
    assert content(pull(twin(INDEX))) == SECOND
    assert "published elsewhere since" in capsys.readouterr().err


def test_what_is_about_to_be_made_anew_here_stays(on, monkeypatch):
    """Killed before it is made, or when it is there and the publication has not begun; a newer one goes before it."""
    make(FIRST)
    keep(twin(INDEX))
    assert content(pull(twin(INDEX))) == FIRST
    fill(twin(INDEX), SECOND)
    assert content(pull(twin(INDEX))) == SECOND
    publish(twin(INDEX))
    assert read("there", on) == SECOND
    keep(twin(INDEX))
    on("there", make, FIRST)
    assert content(pull(twin(INDEX))) == FIRST


def test_only_the_first_process_publishes(monkeypatch):
    monkeypatch.setattr(storage, "_is_first", lambda: False)
    make(FIRST)
    assert not Flaky.store


def tree(value):
    return {"weight": jnp.arange(6.0) * value}, {"step": jnp.int32(value)}


def test_checkpoints_follow_a_run_to_another_machine(on, monkeypatch):
    """The newest and the best are there; killed while it publishes the third, the run has the first two."""
    place, config = Workdir("flaky://bucket/run"), default_config()
    config.data.passages = "demo:2016"
    place.save_config(config)
    place.metrics.write_text("")
    kept = Checkpoints(place.checkpoints, along=(place.metrics,))
    for step, score in ((1, 0.5), (2, 0.1)):
        place.metrics.write_text(f"step {step}\n")
        kept.save(step, *tree(step), score=score, extra={"saved": str(step)})
    kept.wait()

    def newest():
        there = Workdir("flaky://bucket/run")
        found = Checkpoints(there.checkpoints)
        step = found.latest()
        whole = found.restore(step, params=tree(0)[0], optimizer=tree(0)[1])
        np.testing.assert_array_equal(whole["params"]["weight"], tree(step)[0]["weight"])
        assert there.load_config() == config
        return step, found.best(), found.extra(step), there.metrics.read_text()

    assert on("there", newest) == (2, 1, {"saved": "2"}, "step 2\n")
    place.metrics.write_text("step 3\n")
    publish(place.metrics)
    hook(monkeypatch, "before", Nth(3, raises(Killed())))
    with pytest.raises(Killed):
        kept.save(3, *tree(3), score=0.9, extra={"saved": "3"})
        kept.wait()
    quiet(monkeypatch)
    for machine in ("there", "a new one"):
        assert on(machine, newest) == (2, 1, {"saved": "2"}, "step 3\n")  # later lines are cut off on resuming
    assert newest() == (3, 3, {"saved": "3"}, "step 3\n")  # here it is whole, and is published when it goes on
    Checkpoints(Workdir("flaky://bucket/run").checkpoints).close()
    assert on("there", newest) == (3, 3, {"saved": "3"}, "step 3\n")
    assert not [path for path in Flaky.store if "/checkpoints/1/" in path]  # neither new nor best


def test_an_index_may_be_remote(on, tiny_run):
    """The tiny run's, published by one machine; its tokenizers, put there by hand."""
    shutil.copytree(tiny_run.workdir / "index", twin(INDEX))
    publish(twin(INDEX))
    index = on("there", open_index, INDEX)
    assert len(index.passages) == 30 and str(index.folder).startswith(str(on("there", twin, "flaky://bucket")))
    with pytest.raises(UserError, match=r"^flaky://bucket/run/other: holds no finished index"):
        open_index("flaky://bucket/run/other")


def test_processes_share_a_cache(tmp_path):
    """Four at once, and one that was killed in the middle before them."""
    reads = textwrap.dedent("""
        import sys, tests.stores
        from rag_jax.storage import local
        if "die" in sys.argv:
            import os
            from rag_jax.remote import Remote
            get, calls = Remote.get, []
            def dying(self, *arguments):
                calls.append(get(self, *arguments))
                len(calls) < 9 or os._exit(9)
            Remote.get = dying
        print(sum(len(path.read_bytes()) for path in local("folder://index").glob("part*")))
    """)
    for number in range(20):
        (tmp_path / "store/index").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"store/index/part{number}").write_bytes(bytes([number]) * 100_000)
    write_manifest(tmp_path / "store/index", {"kind": "parts"})
    own = {"RAG_JAX_CACHE": str(tmp_path / "shared"), "FOLDER_STORE": str(tmp_path / "store")}
    environment = {**os.environ, **own, "PYTHONPATH": str(Path(__file__).parents[1])}

    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, "-c", reads, *arguments], env=environment, stdout=subprocess.PIPE, text=True
        )

    killed = start("die")
    assert killed.communicate()[0] == "" and killed.returncode == 9
    assert {process.communicate()[0] for process in [start() for _ in range(4)]} == {"2000000\n"}
    assert len(list((tmp_path / "shared").rglob("part*"))) == 20
    assert not list((tmp_path / "shared").rglob("*.incoming"))
