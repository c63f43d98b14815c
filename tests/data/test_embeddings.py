"""Vectors that exist already, in every form that others write: what is read, and what is said of the rest."""

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag_jax.data import corpus
from rag_jax.data.embeddings import open_embeddings
from rag_jax.errors import UserError

COUNT = 9000
VECTOR_NE = np.random.default_rng(0).normal(size=(COUNT, 3)).astype(np.float32)
IDS = [str(3 * number) for number in range(COUNT)]


def read(source):
    """(ids or None, vectors) of a whole source."""
    found = open_embeddings(str(source))
    chunks, blocks = found.ids(), list(found.vectors())
    assert all(len(block) <= 4096 for block in blocks)
    assert found.count() == sum(map(len, blocks))
    return chunks and [name for chunk in chunks for name in chunk], np.concatenate(blocks)


def check(source, ids=IDS):
    found, vector_NE = read(source)
    assert found == ids
    assert vector_NE.astype(np.float32).tobytes() == VECTOR_NE.tobytes()


def table(rows=slice(None), ids=True):
    columns = {"id": IDS[rows]} if ids else {}
    texts = [f"text {name}" for name in IDS[rows]]
    vectors = pa.array(VECTOR_NE[rows].tolist(), pa.list_(pa.float32()))
    return pa.table({**columns, "text": texts, "title": texts, "embeddings": vectors})


def test_wiki_dpr_s_parquet_is_corpus_and_vectors(tmp_path):
    """A folder of parts beside other files; without ids both count the rows."""
    for ids in (True, False):
        for part, rows in enumerate((slice(0, 5000), slice(5000, None))):
            pq.write_table(table(rows, ids), tmp_path / f"train-{part:05d}-of-00002.parquet")
        (tmp_path / "README.md").write_text("A data set of passages.\n")
        check(tmp_path, IDS if ids else None)
        (tmp_path / "README.md").unlink()
        assert len(list(corpus.read_passages(tmp_path))) == COUNT


def test_what_datasets_saves(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    whole = datasets.Dataset.from_dict({"id": IDS, "embeddings": list(VECTOR_NE)})
    whole.save_to_disk(tmp_path / "set", num_shards=3)
    check(tmp_path / "set")


def write_array(path, ids=None, dtype=np.float32, rows=slice(None)):
    np.save(path, VECTOR_NE[rows].astype(dtype))
    beside = path.with_suffix(f".ids{ids or ''}")
    if ids == ".txt":
        beside.write_text("".join(f"{name}\n" for name in IDS[rows]))
    elif ids == ".json":
        beside.write_text(json.dumps(IDS[rows]))
    elif ids == ".npy":
        np.save(beside, np.array(list(map(int, IDS[rows]))))
    return path


@pytest.mark.parametrize("ids", [None, ".txt", ".npy", ".json"])
def test_an_array_with_its_ids_beside_it(tmp_path, ids):
    check(write_array(tmp_path / "v.npy", ids), IDS if ids else None)


def test_arrays_of_other_floats(tmp_path):
    check(write_array(tmp_path / "v.npy", dtype=np.float64), None)
    half = read(write_array(tmp_path / "v.npy", dtype=np.float16))[1]
    assert half.tobytes() == VECTOR_NE.astype(np.float16).tobytes()


def test_ids_that_are_strings_of_numpy(tmp_path):
    path = write_array(tmp_path / "v.npy")
    np.save(tmp_path / "v.ids.npy", np.array(IDS))
    check(path)


@pytest.mark.parametrize("ids", [None, ".txt"])
def test_a_folder_or_a_pattern_in_the_order_of_the_numbers(tmp_path, ids):
    """Part 10 behind part 9, though its name stands before that of part 2."""
    for part in range(12):
        rows = slice(part * 750, (part + 1) * 750)
        write_array(tmp_path / f"part_{part}.npy", ids, rows=rows)
        (tmp_path / f"dpr_{part}").write_bytes(pickle.dumps(list(zip(IDS[rows], VECTOR_NE[rows], strict=True))))
    (tmp_path / ".hidden.npy").write_text("hidden")
    check(tmp_path / "part_*.npy", IDS if ids else None)
    check(tmp_path / "dpr_*")
    with pytest.raises(UserError, match=r"holds npy files and pickles; expected \.parquet or \.arrow with"):
        open_embeddings(str(tmp_path))


@pytest.mark.parametrize("ids", [None, "own", "beside"])
def test_a_faiss_file(tmp_path, ids):
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexFlatIP(3)
    if ids == "own":
        index = faiss.IndexIDMap(index)
        index.add_with_ids(VECTOR_NE, np.array(list(map(int, IDS))))
    else:
        index.add(VECTOR_NE)
    if ids == "beside":
        (tmp_path / "hf_dataset_index.ids.txt").write_text("\n".join(IDS))
    faiss.write_index(index, str(tmp_path / "hf_dataset_index.faiss"))
    check(tmp_path / "hf_dataset_index.faiss", IDS if ids else None)


def test_the_stamps_are_of_all_that_is_read(tmp_path):
    def names():
        return [Path(path).name for path, _, _ in open_embeddings(str(tmp_path)).stamps()]

    write_array(tmp_path / "v.npy", ".json")
    write_array(tmp_path / "w.npy")
    assert names() == ["v.npy", "w.npy", "v.ids.json"]
    for path in tmp_path.glob("*.npy"):
        path.unlink()
    pq.write_table(table(), tmp_path / "v.parquet")
    assert names() == ["v.parquet"]


def test_sources_that_hold_none(tmp_path):
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for name in ("text.txt", "empty", "folder"):
        with pytest.raises(UserError, match=f"{name}: holds no vectors; expected"):
            open_embeddings(str(tmp_path / name))
    for name in ("nowhere", "*.npy"):
        with pytest.raises(UserError, match=r"--embeddings: found nothing at .*; expected"):
            open_embeddings(str(tmp_path / name))


def test_a_table_without_vectors(tmp_path):
    pq.write_table(table().drop_columns("embeddings"), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: has the columns id, text, title; expected 'embeddings'"):
        open_embeddings(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3, np.float32), r"an array \[3\]; expected \[N, E\]"),
        (np.zeros((3, 2), np.int64), "vectors of int64; expected float32 or float16"),
        (np.zeros((3, 2), "V2"), r"vectors of \|V2; expected"),  # bf16 as numpy saves it
        (np.array([["a", {}]], object), "cannot be read as an array .* holds Python objects"),
    ],
    ids=["vector", "integers", "raw", "objects"],
)
def test_arrays_that_hold_no_vectors(tmp_path, array, message):
    np.save(tmp_path / "v.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=rf"v\.npy: {message}"):
        read(tmp_path / "v.npy")


def test_a_cut_array(tmp_path):
    path = write_array(tmp_path / "v.npy")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"v\.npy: cannot be read as an array"):
        read(path)


def test_parts_that_do_not_belong_together(tmp_path):
    write_array(tmp_path / "a.npy", ".txt", rows=slice(0, 4))
    write_array(tmp_path / "b.npy", rows=slice(4, 8))
    with pytest.raises(UserError, match=r"b\.npy: has no ids, though others of .* have"):
        read(tmp_path)
    (tmp_path / "a.ids.txt").unlink()
    np.save(tmp_path / "b.npy", VECTOR_NE[:5, :2])
    with pytest.raises(UserError, match=r"b\.npy: vectors of width 2; expected 3"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("v.ids.txt", "1\n2\n", r"v\.ids\.txt: 2 ids for the 3 vectors of .*v\.npy"),
        ("v.ids.txt", "1\n2\n3\n4\n", "4 ids for the 3 vectors"),
        ("v.ids.txt", "1\n\n3\n", "among ids 0 to 2, counted from 0: bad id"),
        ("v.ids.json", '["1", 2, null]', r"v\.ids\.json: among ids .*: bad id null"),
        ("v.ids.json", '{"1": 2}', "expected a list of ids"),
        ("v.ids.json", "[1,", r"v\.ids\.json:1: not JSON"),
    ],
)
def test_bad_ids(tmp_path, name, text, message):
    path = write_array(tmp_path / "v.npy", rows=slice(0, 3))
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read(path)


def test_ids_that_stand_there_twice(tmp_path):
    path = write_array(tmp_path / "v.npy", ".txt")
    write_array(path, ".json")
    with pytest.raises(UserError, match=r"v\.ids\.txt and v\.ids\.json stand beside it; expected one"):
        read(path)
