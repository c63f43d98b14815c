"""Building: padded batches, any dtype, killed and resumed to the same bits, never half-made in its place."""

import os
import shutil
import threading

import ml_dtypes
import numpy as np
import pytest

from rag_jax import folders
from rag_jax.data.passages import build_store
from rag_jax.data.tokenizer import Tokenizer
from rag_jax.errors import UserError
from rag_jax.files import MANIFEST
from rag_jax.index import builder, searchers
from rag_jax.index.base import Queries, open_contents, open_index
from rag_jax.storage import publish, pull, twin
from rag_jax.team import Team

from ..stores import Flaky, Killed


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_vectors_lie_in_store_order_whatever_the_order_of_encoding(build, vector_NE):
    folder, encoder = build()
    np.testing.assert_array_equal(open_index(folder).vectors.read(0, 23), vector_NE)
    # 10 + 10 + 3 passages in batches of 4: the last is filled up, so that one shape is compiled.
    assert encoder.shapes == [(4, 16)] * (3 + 3 + 1)


@pytest.mark.parametrize("batch", [1, 23, 64])
def test_batch_sizes_that_divide_nothing(build, vector_NE, batch):
    folder, _ = build(batch_size=batch, shard_size=64)
    np.testing.assert_array_equal(open_index(folder).vectors.read(0, 23), vector_NE)


def test_bf16_vectors(build, vector_NE):
    folder, _ = build(dtype="bfloat16")
    index = open_index(folder)
    assert index.vectors.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(index.vectors.read(0, 23), vector_NE.astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("calls", [0, 2, 3, 5, 6])
def test_killed_and_started_again_equals_an_uninterrupted_build(build, dying_encoder, calls):
    whole, _ = build("whole")
    with pytest.raises(KeyboardInterrupt):
        build("killed", dying_encoder(calls))
    folder, encoder = build("killed")
    assert contents(folder) == contents(whole)
    assert len(encoder.shapes) == 7 - calls // 3 * 3
    assert not folder.with_name("killed.partial").exists()


@pytest.mark.parametrize(
    ("room", "step"),
    [(builder, "link_folder"), (searchers, "build"), (builder, "write_index_manifest"), (builder, "replace_folder")],
)
def test_nothing_bears_the_final_name_before_it_is_whole(build, monkeypatch, room, step):
    whole, _ = build("whole")

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(room, step, killed)
        with pytest.raises(KeyboardInterrupt):
            build("killed")
    assert not whole.with_name("killed").exists()
    folder, encoder = build("killed")
    assert contents(folder) == contents(whole) and encoder.shapes == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_killed_when_old_and_new_had_changed_places(build, monkeypatch, dtype, tmp_path):
    """The old one is in nobody's way: not of the same command, not of one that wants it back."""

    def killed(*_):
        raise KeyboardInterrupt

    build("index")
    exchange = folders._exchange
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            folders, "_exchange", lambda *names: exchange(*names) and not patch.setattr(os, "replace", killed)
        )
        build("index", dtype="bfloat16")
    assert (tmp_path / "index.partial" / MANIFEST).exists(), "the old one"
    build("index", dtype=dtype)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert str(open_index(tmp_path / "index").vectors.dtype) == dtype


def test_a_whole_index_that_waits_for_its_name_is_not_taken_for_the_one_before(build, tmp_path):
    folder, _ = build("index")
    whole, partial = contents(folder), shutil.copytree(folder, tmp_path / "index.partial")
    os.utime(partial / MANIFEST)  # made after the one in place
    with pytest.raises(UserError, match="an unfinished build of another index"):
        build("index", dtype="bfloat16")
    build("index")
    assert contents(partial) == whole
    shutil.rmtree(folder)
    builder.name_finished(folder)
    assert contents(folder) == whole and not partial.exists()


def test_a_finished_build_is_not_removed_for_being_older_than_the_index_in_place(build, tmp_path):
    """That was copied, or fetched from where it is published."""
    whole, _ = build("whole")
    build("index", dtype="bfloat16")
    partial = shutil.copytree(whole, tmp_path / "index.partial")
    os.utime(partial / MANIFEST, (0, 0))
    folder, encoder = build("index")
    assert encoder.shapes == [] and contents(folder) == contents(whole) and not partial.exists()


def test_an_index_may_be_a_link_to_a_larger_disk(build, tmp_path):
    """The link stays, nothing of the old index does; also where it was killed, and before there is one."""
    disk, link = tmp_path / "disk", tmp_path / "index"
    disk.mkdir()
    link.symlink_to(disk / "large")
    for dtype in ("float32", "bfloat16"):
        build("index", dtype=dtype)
        assert link.is_symlink() and str(open_index(link).vectors.dtype) == dtype
        assert [path.name for path in disk.iterdir()] == ["large"]
    (disk / "large").rename(disk / "large.partial")
    builder.name_finished(link)
    assert link.is_symlink() and open_index(link, verify=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "index"]


def test_what_a_kill_between_two_renames_left_goes_with_the_name(build, tmp_path):
    """On a file system that cannot exchange names."""
    folder, _ = build("index")
    shutil.copytree(folder, tmp_path / "index.partial")
    folder.rename(tmp_path / ".index.0123.old")
    builder.name_finished(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_an_index_that_is_published_is_kept_from_before_it_has_its_name(build, monkeypatch):
    """A command that finds the remote one older than it takes it for its own."""
    monkeypatch.setenv("RAG_JAX_CACHE", str(build("any")[0].parent / "cache"))
    folder, exchanged = twin("flaky://bucket/run/index"), builder.replace_folder
    Flaky.fill({})
    build(folder)
    publish(folder)

    def killed(*names):
        exchanged(*names)
        raise Killed

    monkeypatch.setattr(builder, "replace_folder", killed)
    with pytest.raises(Killed):
        build(folder, dtype="bfloat16")
    assert str(open_index(pull(folder)).vectors.dtype) == "bfloat16"


def test_a_half_written_or_damaged_shard_is_encoded_again(build, dying_encoder):
    whole, _ = build("whole")
    with pytest.raises(KeyboardInterrupt):
        build("killed", dying_encoder(6))
    partial = whole.with_name("killed.partial")
    damaged = bytearray((partial / "vectors-00000.npy").read_bytes())
    damaged[-1] ^= 1
    (partial / "vectors-00000.npy").write_bytes(damaged)
    (partial / ".vectors-00002.npy.0.tmp").write_bytes(b"half")
    folder, encoder = build("killed")
    assert contents(folder) == contents(whole) and len(encoder.shapes) == 3 + 1


def test_an_unfinished_build_of_another_encoder_is_not_mixed_in(build, dying_encoder):
    with pytest.raises(KeyboardInterrupt):
        build("index", dying_encoder(5))
    with pytest.raises(UserError, match=r"index\.partial: .*encoder_fingerprint 'encoder-a' not 'encoder-b'"):
        build("index", fingerprint="encoder-b")


def test_the_same_index_is_not_built_twice_and_another_takes_its_place(build, vector_NE):
    folder, _ = build()
    _, encoder = build()
    assert encoder.shapes == []
    _, encoder = build(fingerprint="encoder-b")
    assert len(encoder.shapes) == 7
    assert open_index(folder).manifest.encoder_fingerprint == "encoder-b"


def test_process_0_alone_looks_for_a_finished_index(build, build_together, make_store, passages, tmp_path):
    """It is done, and has removed the passages, before the other one would have looked."""
    removed, store = threading.Event(), make_store(passages, tmp_path / "again")
    build(store=store)

    class Late(Team):
        def wait(self, name, value=""):
            assert name != "the start of the build"
            super().wait(name, value)
            if not self.first and name == "what to build":
                removed.wait(60)

    def told(line):
        assert line.endswith("index: already built from these passages and this encoder")
        shutil.rmtree(store.folder)
        removed.set()

    built = build_together({"store": store, "log": told}, {"store": store}, kind=Late)
    assert [encoder.shapes for _, encoder in built] == [[], []]


def test_processes_build_together_and_the_first_alone_reads_the_index(build, build_together, monkeypatch):
    """The others' file system may not show them its new files at once."""
    whole, _ = build("whole")
    build("index", fingerprint="encoder-b")
    readers, read = set(), builder.read_index_manifest

    def noted(folder, **settings):
        readers.add(threading.get_ident())
        return read(folder, **settings)

    monkeypatch.setattr(builder, "read_index_manifest", noted)
    (folder, first), (_, second) = build_together({}, {})
    assert contents(folder) == contents(whole)
    assert (len(first.shapes), len(second.shapes), len(readers)) == (3 + 1, 3, 1)


def test_the_old_index_answers_until_the_new_one_is_whole(build, dying_encoder, vector_NE):
    folder, _ = build()
    with pytest.raises(KeyboardInterrupt):
        build(fingerprint="encoder-b", encoder=dying_encoder(5))
    assert open_index(folder).manifest.encoder_fingerprint == "encoder-a"


def test_a_new_searcher_takes_the_vectors_over(build, vector_NE):
    pytest.importorskip("scann")
    folder, _ = build()
    _, encoder = build(kind="scann")
    assert encoder.shapes == []
    index = open_index(folder, verify=True)
    assert index.manifest.kind == "scann" and index.manifest.search == {"scann": {"method": "brute_force"}}
    assert index.search(Queries(["a"], 100 * vector_NE[:1]), 1)[0].shape == (1, 1)


def test_a_damaged_index_is_built_again(build, vector_NE):
    folder, _ = build()
    (folder / "vectors-00001.npy").write_bytes(b"cut")
    _, encoder = build()
    assert len(encoder.shapes) == 3
    np.testing.assert_array_equal(open_index(folder).vectors.read(0, 23), vector_NE)


@pytest.fixture
def grow(store, passages, tmp_path):
    """grow(old, name, ...) builds an index of the first passages, then adds the rest; returns (folder, encoder)."""

    def contents_of(folder):
        return open_contents(folder, expect_fingerprint="encoder-a", tokenizer=None)

    def run(build, old, name="index", encoder=None, **changes):
        folder = tmp_path / name
        if not (folder / "manifest.json").exists():
            first = build_store(passages[:old], tmp_path / f"{name}.first", store_tokenizer(store))
            build(name, store=first, **changes)
        return build(name, encoder, base=contents_of(folder), **changes)

    return run


def store_tokenizer(store):
    return Tokenizer.load(store.folder.parent / "tokenizer")


@pytest.mark.parametrize("old", [1, 9, 10, 13, 20, 22])
def test_passages_are_added_without_encoding_the_old_ones(build, grow, vector_NE, old):
    folder, encoder = grow(build, old)
    index = open_index(folder, verify=True)
    np.testing.assert_array_equal(index.vectors.read(0, 23), vector_NE)
    assert [passage.id for passage in index.passages] == [f"p{row}" for row in range(23)]
    assert index.manifest.count == 23 and index.manifest.passages_checksum == index.passages.checksum
    shards = [range(max(start, old), min(start + 10, 23)) for start in (0, 10, 20)]
    assert len(encoder.shapes) == sum(-(-len(rows) // 4) for rows in shards)


def test_a_grown_index_keeps_its_vectors_under_a_new_searcher_and_its_passages_under_a_new_encoder(build, grow):
    folder, _ = grow(build, 13)
    before, recipe = open_index(folder).vectors.read(0, 23), builder.recipe_of(folder)
    assert "grown_from" in recipe
    other = {"search": {"exact": {"recall_target": 0.9}}}
    for _ in range(2):  # the second time it is there already
        _, encoder = build(**other)
        assert encoder.shapes == [] and builder.recipe_of(folder) == recipe
    index = open_index(folder, verify=True)
    assert index.manifest.search == other["search"] and index.vectors.read(0, 23).tobytes() == before.tobytes()
    _, encoder = build(fingerprint="encoder-b")
    assert len(encoder.shapes) == 7 and builder.recipe_of(folder)["grown_from"] == recipe["grown_from"]


def test_a_grown_index_with_a_damaged_shard_is_built_again_and_stays_a_grown_one(build, grow, vector_NE):
    folder, _ = grow(build, 13)
    recipe = builder.recipe_of(folder)
    (folder / "vectors-00001.npy").write_bytes(b"cut")
    _, encoder = build()
    assert len(encoder.shapes) == 3 and builder.recipe_of(folder) == recipe
    np.testing.assert_array_equal(open_index(folder, verify=True).vectors.read(0, 23), vector_NE)


def test_the_old_vectors_are_kept_bit_by_bit(build, grow):
    """Even where this machine's encoder would say something else."""

    def other(ids_BP):
        return np.full((len(ids_BP), 6), 7, np.float32)

    for dtype in ("float32", "bfloat16"):
        folder, _ = grow(build, 13, dtype, dtype=dtype)
        before = open_index(folder).vectors.read(0, 13)
        shutil.rmtree(folder)
        folder, _ = grow(build, 13, dtype, other, dtype=dtype)
        vectors = open_index(folder).vectors.read(0, 23)
        assert vectors[:13].tobytes() == before.tobytes() and (vectors[13:] == 7).all()


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_killed_addition_leaves_the_old_index_in_use_and_goes_on(build, grow, dying_encoder, calls):
    whole, _ = grow(build, 13, "whole")
    with pytest.raises(KeyboardInterrupt):
        grow(build, 13, "killed", dying_encoder(calls))
    old = open_index(whole.with_name("killed"), verify=True)
    assert old.manifest.count == len(old.passages) == 13
    folder, encoder = grow(build, 13, "killed")
    assert contents(folder) == contents(whole) and len(encoder.shapes) == 3 - calls // 2 * 2
    assert not folder.with_name("killed.partial").exists()


def test_a_searcher_is_built_anew_for_added_passages(build, grow, vector_NE):
    pytest.importorskip("scann")
    folder, _ = grow(build, 13, kind="scann")
    ids_BK, _ = open_index(folder).search(Queries([""] * 2, 100 * vector_NE[[5, 22]]), 23)
    assert [sorted(ids_K) for ids_K in ids_BK.tolist()] == [list(range(23))] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "encoder-b"}, "index.encoder_fingerprint: 'encoder-b'; the index to be added to has"),
        ({"dtype": "bfloat16"}, r"index.dtype: 'bfloat16'; .* has 'float32'; use that"),
        ({"shard_size": 20}, r"index.shard_size: 20; .* has 10"),
        ({"length": 32}, r"length\.passage: 32; the index to be added to has 16; use that or build anew"),
    ],
)
def test_an_index_grows_only_as_it_was_made(build, grow, dying_encoder, change, message):
    folder, _ = grow(build, 13)
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=message):
        grow(lambda *given, **settings: build(*given, **(settings | (change if "base" in settings else {}))), 13)
    assert open_index(folder).manifest.count == 13 and not folder.with_name("index.partial").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "faiss"}, r"index\.kind: 'faiss'; expected one of"),
        ({"dtype": "int8"}, r"index\.dtype: 'int8'; expected one of"),
        ({"batch_size": 0}, "batch 0; both must be at least 1"),
        ({"search": {"scann": {"leaves": 3}}}, r"\['leaves'\] are parameters of ScaNN; index\.kind 'exact' has none"),
        ({"search": {"exact": {"recall_target": 0.0}}}, r"index\.recall_target: 0\.0; expected more than 0, at most 1"),
    ],
)
def test_bad_settings_are_found_before_any_encoding(build, dying_encoder, change, message):
    with pytest.raises(UserError, match=message):
        build(encoder=dying_encoder(0), **change)


def test_a_vector_that_is_not_finite_names_its_passage(build, vector_NE):
    def encode(ids_BP):
        vectors = np.ones((len(ids_BP), 6), np.float32)
        vectors[(ids_BP == ord("2")).any(axis=1)] = np.inf  # in the first shard only the title T2
        return vectors

    with pytest.raises(UserError, match=r"passage 'p2' \(row 2\): its vector is not finite in float32"):
        build(encoder=encode)
