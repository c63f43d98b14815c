"""Vectors made elsewhere: the index is that of encoding, whatever their form and order; others are refused."""

import os
import pickle

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag_jax.data.embeddings import open_embeddings
from rag_jax.data.passages import build_store
from rag_jax.data.tokenizer import Tokenizer
from rag_jax.errors import UserError
from rag_jax.index import builder, shards
from rag_jax.index.base import open_contents, open_index
from rag_jax.index.builder import recipe_of
from rag_jax.index.given import Given

COUNT = 23
IDS = [f"p{row}" for row in range(COUNT)]


def save(folder, vector_NE, ids=IDS):
    """An npy file with its ids."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "v.npy", vector_NE)
    (folder / "v.ids.txt").write_text("".join(f"{name}\n" for name in ids))
    return open_embeddings(str(folder / "v.npy"))


def parquet(folder, vector_NE):
    pq.write_table(pa.table({"id": IDS, "embeddings": vector_NE.tolist()}), folder / "v.parquet")
    return folder / "v.parquet"


def data_set(folder, vector_NE):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    whole = datasets.Dataset.from_dict({"id": IDS, "text": IDS, "embeddings": list(vector_NE)})
    whole.save_to_disk(folder / "set", num_shards=3)
    return folder / "set"


def array(folder, vector_NE):
    return save(folder, vector_NE).source


def arrays_without_ids(folder, vector_NE):
    for part, rows in enumerate(np.split(vector_NE, [4, 15])):
        np.save(folder / f"v{part}.npy", rows)
    return folder


def flat_faiss(folder, vector_NE):
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexFlatIP(vector_NE.shape[1])
    index.add(vector_NE)
    faiss.write_index(index, str(folder / "v.faiss"))
    (folder / "v.ids.txt").write_text("\n".join(IDS))
    return folder / "v.faiss"


def pickles(folder, vector_NE):
    """As DPR writes them, in parts; its own code puts 'wiki:' before the ids."""
    records = [(f"wiki:{name}", vector) for name, vector in zip(IDS, vector_NE, strict=True)]
    for part, start in enumerate(range(0, COUNT, 7)):
        (folder / f"wikipedia_passages_{part}.pkl").write_bytes(pickle.dumps(records[start : start + 7]))
    return folder


FORMS = [parquet, data_set, array, arrays_without_ids, flat_faiss, pickles]


@pytest.fixture
def whole(build):
    return build("whole")[0]


@pytest.fixture
def given(tmp_path):
    (tmp_path / "given").mkdir()
    return tmp_path / "given"


def vector_files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("vectors-*")}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_form_gives_the_index_of_encoding_bit_by_bit(build, given, vector_NE, form, dtype):
    source, said = form(given, vector_NE.astype(np.float32)), []
    whole, _ = build("whole", dtype=dtype)
    folder, encoder = build(embeddings=open_embeddings(str(source)), dtype=dtype, log=said.append)
    assert vector_files(folder) == vector_files(whole) and len(vector_files(folder)) == 6
    index = open_index(folder, verify=True)
    assert index.manifest == open_index(whole).manifest
    assert index.vectors.dtype == (np.float32 if dtype == "float32" else ml_dtypes.bfloat16)
    assert f"{source}: 23 passages encoded again: cosine at least 1.0000" in said[-1].replace("0.9999", "1.0000")
    assert any("without ids" in line for line in said) == (form is arrays_without_ids)
    assert encoder.shapes == [(4, 16)] * 7  # all 23 are the sample here


def test_half_precision_is_near_enough(build, tmp_path, vector_NE):
    folder, _ = build(embeddings=save(tmp_path / "given", vector_NE.astype(np.float16)))
    found = open_index(folder).vectors.read(0, COUNT)
    assert found.tobytes() == vector_NE.astype(np.float16).astype(np.float32).tobytes()


def orders():
    rng = np.random.default_rng(0)
    return [
        np.arange(COUNT)[::-1],
        rng.permutation(COUNT),
        np.roll(np.arange(COUNT), 5),
        np.roll(np.arange(COUNT), -12),
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("order", orders(), ids=["reversed", "shuffled", "late", "early"])
@pytest.mark.parametrize("rows", [1, 3, 50])
def test_vectors_in_any_order(build, given, vector_NE, order, dtype, rows, monkeypatch):
    """Blocks of any size: what comes too early waits, on disk, and nothing of it is left."""
    monkeypatch.setattr("rag_jax.data.embeddings.ROWS", rows)
    whole, _ = build("whole", dtype=dtype)
    embeddings = save(given, vector_NE[order], [IDS[row] for row in order])
    folder, _ = build(embeddings=embeddings, dtype=dtype)
    assert vector_files(folder) == vector_files(whole)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in whole.iterdir())


@pytest.mark.parametrize(("rows", "most"), [(10, 0), (4, 2), (50, 13)])
def test_of_a_stream_in_order_only_the_rest_of_a_block_waits(build, given, vector_NE, monkeypatch, rows, most):
    monkeypatch.setattr("rag_jax.data.embeddings.ROWS", rows)
    waiting, set_aside = [], Given._set_aside

    def counted(self, row_R, *rest):
        waiting.append(len(row_R))
        set_aside(self, row_R, *rest)

    monkeypatch.setattr(Given, "_set_aside", counted)
    build(embeddings=save(given, vector_NE))
    assert max(waiting) == most


def test_vectors_of_other_passages_are_counted_and_left_out(build, whole, given, vector_NE):
    ids = [*IDS[:9], "x1", "x2", *IDS[9:], "x3", "x4", "x2"]
    others = np.full((2, vector_NE.shape[1]), np.nan, np.float32)
    vectors = np.concatenate([vector_NE[:9], others, vector_NE[9:], others, others[:1]])
    said = []
    folder, _ = build(embeddings=save(given, vectors, ids), log=said.append)
    assert vector_files(folder) == vector_files(whole)
    assert "left out 5 vectors of other passages, as 'x1', 'x2', 'x3'" in said[0]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([*IDS[:5], *IDS[9:]], r"4 of 23 passages without a vector, as 'p5', 'p6', 'p7'; expected one vector for each"),
        ([*IDS, "p3", "p3", "p8"], r"2 of 23 passages with several, as 'p3', 'p8'; expected one vector"),
        (
            ["q0", *IDS[2:], "p7"],
            r"2 of 23 passages without a vector, as 'p0', 'p1'; 1 of 23 passages with several, as 'p7'; "
            r"of no passage are 1 vectors, as 'q0'; expected",
        ),
        (["wiki:p0", *IDS], "1 of 23 passages with several, as 'p0'"),
    ],
)
def test_every_passage_has_one_vector(build, given, dying_encoder, ids, message):
    embeddings = save(given, np.ones((len(ids), 6), np.float32), ids)
    with pytest.raises(UserError, match=rf"v\.npy: {message}"):
        build(embeddings=embeddings, encoder=dying_encoder(0))
    assert not list(given.parent.glob("index*"))  # nothing was begun


def test_vectors_without_ids_are_as_many_as_the_passages(build, given, vector_NE):
    np.save(given / "v.npy", vector_NE[:-1])
    with pytest.raises(UserError, match="22 vectors without ids for 23 passages; expected as many, or ids beside"):
        build(embeddings=open_embeddings(str(given / "v.npy")))


def wrong_rows(vector_NE):
    return np.roll(vector_NE, 1, axis=0)


def normalised(vector_NE):
    return vector_NE / np.linalg.norm(vector_NE, axis=1, keepdims=True)


def another_encoder(vector_NE):
    return np.random.default_rng(1).normal(size=vector_NE.shape).astype(np.float32)


def zeros(vector_NE):
    return np.zeros_like(vector_NE)


def one_of_them(vector_NE):
    changed = vector_NE.copy()
    changed[21] += 0.1 * np.linalg.norm(changed[21]) * np.eye(vector_NE.shape[1], dtype=np.float32)[0]
    return changed


@pytest.mark.parametrize(
    ("change", "passage"),
    [(wrong_rows, r"p\d"), (normalised, r"p\d"), (another_encoder, r"p\d"), (zeros, r"p\d"), (one_of_them, "p21")],
)
def test_vectors_of_another_encoder_or_passage_are_refused(build, whole, given, vector_NE, change, passage):
    """Those that an encoder of the same kind makes take their place without a word about the failed attempt."""
    said = (
        rf"v\.npy: passage '{passage}': its vector has cosine -?[01]\.\d+ and [\d.]+ times the norm of the one that "
        r"the passage encoder makes of it; expected at least 0\.999 and 1 within 0\.02; .*encoder\.title.*--index_enc"
    )
    with pytest.raises(UserError, match=said):
        build(embeddings=save(given, change(vector_NE)))
    if change is not one_of_them:  # the first shard was refused
        folder, _ = build(embeddings=save(given, vector_NE), fingerprint="encoder-b")
        assert vector_files(folder) == vector_files(whole)


def test_the_norm_counts_where_the_cosine_does_not_tell(build, given, vector_NE):
    build("near", embeddings=save(given, 1.01 * vector_NE))
    with pytest.raises(UserError, match=r"has cosine 1\.0000 and 1\.030 times the norm"):
        build("far", embeddings=save(given, np.float32(1.03) * vector_NE))


def test_vectors_of_another_width(build, given, vector_NE):
    with pytest.raises(UserError, match="vectors of width 5; the passage encoder's have 6; give the encoder that made"):
        build(embeddings=save(given, vector_NE[:, :5]))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_vector_that_is_not_finite_names_its_passage(build, given, vector_NE, value):
    vector_NE = vector_NE.astype(np.float64)
    vector_NE[17, 2] = value
    with pytest.raises(UserError, match=r"v\.npy: the vector of passage 'p17' is not finite; make it again"):
        build(embeddings=save(given, vector_NE))


def test_a_sample_is_spread_over_a_larger_corpus(build, store, passages, given, vector_NE, tmp_path, monkeypatch):
    monkeypatch.setattr("rag_jax.index.given.SAMPLE", 3)
    _, encoder = build(embeddings=save(given, vector_NE))
    assert encoder.shapes == [(4, 16)] * 3  # rows 0, 11 and 22, one in each shard


@pytest.mark.parametrize("order", orders()[1:2])
def test_killed_and_started_again_equals_an_uninterrupted_build(build, whole, given, vector_NE, order, monkeypatch):
    embeddings, write = save(given, vector_NE[order], [IDS[row] for row in order]), shards.write_shard

    def killed(folder, shard, vectors):
        write(folder, shard, vectors)
        if shard == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_shard", killed)
        with pytest.raises(KeyboardInterrupt):
            build(embeddings=embeddings)
    partial = given.parent / "index.partial"
    assert list(partial.glob(".given-*.tmp")) and not (given.parent / "index").exists()
    folder, encoder = build(embeddings=embeddings)
    assert vector_files(folder) == vector_files(whole) and len(encoder.shapes) == 1  # of the third shard alone
    assert not list(folder.glob(".given*"))


def test_the_same_index_is_not_built_twice_and_changed_vectors_are_taken(build, given, vector_NE, dying_encoder):
    folder, _ = build(embeddings=save(given, vector_NE))
    build(embeddings=open_embeddings(str(given / "v.npy")), encoder=dying_encoder(0))
    changed = vector_NE * np.float32(1.001)
    build(embeddings=save(given, changed))
    assert open_index(folder).vectors.read(0, COUNT).tobytes() == changed.tobytes()


def test_corrected_ids_are_taken(build, given, vector_NE):
    """An index of the same vectors under other ids is not taken for done."""
    build(embeddings=save(given, vector_NE))
    (given / "v.ids.txt").write_text("\n".join(IDS[::-1]))
    with pytest.raises(UserError, match="its vector has cosine"):
        build(embeddings=open_embeddings(str(given / "v.npy")))


def test_each_host_may_have_fetched_the_vectors_for_itself(build_together, whole, tmp_path, vector_NE, dying_encoder):
    """At another time, to another folder; the first one's are read, and of another size they are others."""
    first, second = ({"embeddings": save(tmp_path / host, vector_NE)} for host in ("first", "second"))
    os.utime(tmp_path / "second" / "v.npy", (0, 0))
    (folder, _), (_, encoder) = build_together(first, second)
    assert vector_files(folder) == vector_files(whole) and encoder.shapes == []
    build_together(*(host | {"encoder": dying_encoder(0)} for host in (first, second)))
    with pytest.raises(UserError, match="what to build: the 2 processes differ"):
        build_together(first, {"embeddings": save(tmp_path / "second", vector_NE[:-1])})


def test_given_vectors_are_kept_under_a_new_searcher_and_not_under_another_encoder(build, given, vector_NE):
    changed = vector_NE * np.float32(1.001)
    folder, _ = build(embeddings=save(given, changed))
    _, encoder = build(search={"exact": {"recall_target": 0.9}})
    index = open_index(folder, verify=True)
    assert encoder.shapes == [] and index.manifest.search == {"exact": {"recall_target": 0.9}}
    assert index.vectors.read(0, COUNT).tobytes() == changed.tobytes()
    build(fingerprint="encoder-b")
    assert open_index(folder).vectors.read(0, COUNT).tobytes() == vector_NE.tobytes()
    assert "embeddings" not in recipe_of(folder)


def test_an_unfinished_build_of_given_vectors_is_not_mixed_in(build, given, vector_NE, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(builder, "_finish", killed)
        build(embeddings=save(given, vector_NE))
    with pytest.raises(UserError, match=r"index\.partial: .* \(embeddings \[\['.*v\.npy', .* not None\)"):
        build()


def test_files_that_change_meanwhile(build, given, vector_NE):
    embeddings = save(given, vector_NE)
    ids = embeddings.form._replace(vectors=lambda path: iter([vector_NE[:20]]))
    with pytest.raises(UserError, match="20 vectors, expected 23; the files were changed meanwhile"):
        build(embeddings=type(embeddings)(embeddings.source, embeddings.files, ids))


@pytest.mark.parametrize("old", [9, 13, 20])
@pytest.mark.parametrize("ids", [True, False])
def test_further_passages_bring_their_vectors(build, store, passages, whole, given, vector_NE, tmp_path, old, ids):
    """Only theirs are needed, though the file may hold those of the old passages too."""
    tokenizer = Tokenizer.load(store.folder.parent / "tokenizer")
    folder, _ = build(store=build_store(passages[:old], tmp_path / "first", tokenizer))
    base = open_contents(folder, expect_fingerprint=None, tokenizer=None)
    embeddings = save(given, vector_NE) if ids else save(given, vector_NE[old:])
    if not ids:
        (given / "v.ids.txt").unlink()
    folder, _ = build(base=base, embeddings=embeddings)
    assert vector_files(folder) == vector_files(whole)


@pytest.mark.parametrize("with_vectors", [True, False])
def test_damage_in_the_index_that_is_added_to_is_named(
    build, store, passages, given, vector_NE, tmp_path, with_vectors, dying_encoder
):
    """Nobody else has the vectors that it was given: they are not made again."""
    tokenizer = Tokenizer.load(store.folder.parent / "tokenizer")
    first = build_store(passages[:13], tmp_path / "first", tokenizer)
    folder, _ = build(store=first, embeddings=save(given, vector_NE))
    content = (folder / "vectors-00000.npy").read_bytes()
    (folder / "vectors-00000.npy").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    base = open_contents(folder, expect_fingerprint=None, tokenizer=None)
    further = save(given, vector_NE[13:], IDS[13:]) if with_vectors else None
    with pytest.raises(UserError, match=r"index/vectors-00000\.npy: rows 0 to 9 are damaged .*; restore the file, or"):
        build(base=base, embeddings=further, encoder=dying_encoder(0))
    (folder / "vectors-00000.npy").write_bytes(content)
    build(base=open_contents(folder, expect_fingerprint=None, tokenizer=None), embeddings=further)
    assert open_index(folder, verify=True).vectors.read(0, COUNT).tobytes() == vector_NE.tobytes()
