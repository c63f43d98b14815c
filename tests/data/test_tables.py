"""Parquet, Arrow and folders that `datasets` saved, as its own files are: Arrow streams beside state.json."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag_jax.data import tables
from rag_jax.data.lines import BadLine, Meter
from rag_jax.errors import UserError

TABLE = pa.table(
    {
        "id": pa.array(range(10_000), pa.int64()),
        "text": [f"text {number}" for number in range(10_000)],
        "title": pa.array(["A", "B"] * 5000).dictionary_encode(),
        "embeddings": pa.array(np.ones((10_000, 4), np.float32).tolist(), pa.list_(pa.float32(), 4)),
    }
)


def write_stream(path, table, rows=3000):
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)


def write(path, table):
    if path.name.endswith(".parquet"):
        pq.write_table(table, path, row_group_size=3000)
    elif "file" in path.name:
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=3000)
    else:
        write_stream(path, table)
    return path


KINDS = ["a.parquet", "file.arrow", "stream.arrow"]


@pytest.mark.parametrize("name", KINDS)
def test_rows_of_the_columns_asked_for(tmp_path, name):
    path, meter = write(tmp_path / name, TABLE), Meter()
    meter.total = path.stat().st_size
    assert tables.columns(path) == ["id", "text", "title", "embeddings"]
    shares, found = [], []
    for row in tables.rows(path, ["id", "title", "text"], meter):
        found.append(row)
        shares.append(meter.share())
    assert found == [{"id": n, "title": "AB"[n % 2], "text": f"text {n}"} for n in range(10_000)]
    assert shares == sorted(shares) and shares[0] < 0.4 and 0.5 < shares[-1] <= 1


@pytest.mark.parametrize("name", KINDS)
def test_nulls_and_bytes_that_are_no_text(tmp_path, name):
    texts = pa.array([b"fine", b"caf\xe9", None, b"good"], pa.binary()).view(pa.string())
    path = write(tmp_path / name, pa.table({"text": texts}))
    found = list(tables.rows(path, ["text"]))
    assert found[0] == {"text": "fine"} and found[2:] == [{"text": None}, {"text": "good"}]
    assert isinstance(found[1], BadLine) and found[1].reason == "not UTF-8"
    with pytest.raises(UserError, match=r"cannot be read as a table \('utf-8' codec .*\); restore the file"):
        list(tables.column(path, "text"))


@pytest.mark.parametrize("name", KINDS)
def test_damaged_tables(tmp_path, name):
    path = write(tmp_path / name, TABLE)
    data = path.read_bytes()
    for damaged in (b"", b"PAR1 no table", b"ARROW1 no table", data[: len(data) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"{name}: cannot be read as a table"):
            assert "text" in tables.columns(path)  # a cut stream still has its head
            list(tables.rows(path, ["text"]))


def save(folder, *parts, **state):
    """The files that Dataset.save_to_disk writes."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05d}-of-{len(parts):05d}.arrow" for number in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        write_stream(folder / name, part)
    (folder / "dataset_info.json").write_text("{}")
    state = {"_data_files": [{"filename": name} for name in names], "_split": None, **state}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def test_a_saved_data_set(tmp_path):
    folder = save(tmp_path / "set", TABLE.slice(0, 4000), TABLE.slice(4000))
    assert tables.is_dataset(folder) and not tables.is_dataset(tmp_path)
    files = tables.dataset_files(folder)
    ids = [row["id"] for path in files for row in tables.rows(path, ["id"])]
    assert ids == list(range(10_000))


def test_data_sets_that_are_not_one_table(tmp_path):
    save(tmp_path / "sets" / "train", TABLE)
    (tmp_path / "sets" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert tables.is_dataset(tmp_path / "sets")
    with pytest.raises(UserError, match=r"sets: holds splits, expected one of them: .*sets/train, .*sets/test"):
        tables.dataset_files(tmp_path / "sets")
    chosen = save(tmp_path / "chosen", TABLE, _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(UserError, match="rows are chosen by an index; call flatten_indices"):
        tables.dataset_files(chosen)
    other = save(tmp_path / "other", TABLE, _data_files=[{}])
    with pytest.raises(UserError, match="no file names under _data_files"):
        tables.dataset_files(other)


def test_what_datasets_itself_saves(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    whole = datasets.Dataset.from_dict({"id": [str(n) for n in range(50)], "text": [f"text {n}" for n in range(50)]})
    whole.select(range(49, -1, -2)).save_to_disk(tmp_path / "chosen", num_shards=2)
    whole.train_test_split(10, seed=0).save_to_disk(tmp_path / "splits")
    files = tables.dataset_files(tmp_path / "chosen")
    found = [row for path in files for row in tables.rows(path, ["id", "text"])]
    assert len(files) == 2 and found == [{"id": str(n), "text": f"text {n}"} for n in range(49, -1, -2)]
    with pytest.raises(UserError, match=r"splits/train, .*splits/test"):
        tables.dataset_files(tmp_path / "splits")


def lists(values, kind):
    return pa.table({"id": [str(n) for n in range(len(values))], "v": pa.array(values, kind)})


NUMBERS = np.random.default_rng(0).normal(size=(5000, 3)).astype(np.float16)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float32()), pa.list_(pa.float32(), 3), pa.large_list(pa.float64()), pa.list_(pa.float16(), 3)],
    ids=str,
)
def test_a_column_of_vectors(tmp_path, name, kind):
    path = write(tmp_path / name, lists(NUMBERS.tolist(), kind))
    blocks = list(tables.vectors(path, "v"))
    assert len(blocks) > 1 and blocks[0].dtype == kind.value_type.to_pandas_dtype()
    np.testing.assert_array_equal(np.concatenate(blocks), NUMBERS)
    assert [name for chunk in tables.column(path, "id") for name in chunk] == [str(n) for n in range(5000)]
    assert tables.count(path) == 5000


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("bad", "kind", "message"),
    [
        ([1.0], pa.list_(pa.float32()), "row 4321: 1 numbers in 'v'; expected 3 numbers, as in row 0"),
        (None, pa.list_(pa.float32()), "row 4321: nothing in 'v'; expected 3 numbers"),
        (None, pa.list_(pa.float32(), 3), "row 4321: nothing in 'v'; expected 3 numbers"),
        ([1.0, None, 1.0], pa.list_(pa.float32()), r"rows \d+ to \d+: 'v' has holes"),
    ],
    ids=str,
)
def test_a_column_of_vectors_with_one_that_is_none(tmp_path, name, bad, kind, message):
    values = NUMBERS.tolist()
    values[4321] = bad
    path = write(tmp_path / name, lists(values, kind))
    with pytest.raises(UserError, match=f"{name}: {message}"):
        list(tables.vectors(path, "v"))


def test_a_column_of_something_else(tmp_path):
    path = write(tmp_path / "a.parquet", TABLE)
    with pytest.raises(UserError, match=r"a\.parquet: column 'text' holds string; expected lists of numbers"):
        list(tables.vectors(path, "text"))
