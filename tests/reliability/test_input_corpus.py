"""Corpora in every form, nearly right: each passage is read, or one line says what is wrong and where."""

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rag_jax.data import tables
from rag_jax.data.corpus import Cut, read_passages
from rag_jax.data.lines import first_line, read_array, read_lines, read_records, read_value

from .inputs import TEXT, WHOLE, as_bytes, as_file, as_json, damaged, is_text, nearly, told

pytestmark = pytest.mark.more
RECORDS = (
    {"id": "p1", "title": "Curie", "text": "Marie Curie found radium."},
    {"id": 2, "text": "Radium is an element."},
    {"id": "c", "contents": '"Curie"\nMarie Curie found radium.'},
    {"wikipedia_id": "1", "wikipedia_title": "Curie", "text": ["Curie\n", "She found radium.\n", "Section::::Life.\n"]},
)
SEPARATED = (
    'id\ttext\ttitle\n1\t"Marie ""M."" Curie\nfound radium."\tCurie\n2\tAn element.\tRadium\n',
    'title,contents\nCurie,"found, radium"\n"Radium",x\n',
)
TABLE = pa.table(
    {
        "id": ["a", "b", "c", "d"],
        "title": ["t", "", "u", "ü"],
        "text": ["some text", "more", "é", "x"],
        "embeddings": pa.array([[1.0, 2.0, 3.0]] * 4, pa.list_(pa.float32())),
        "notes": pa.array([None, {"a": [1]}, None, None]),
    }
)


def arrow(writer, **options):
    """The table as Arrow has it, a file or a stream."""
    sink = io.BytesIO()
    with writer(sink, TABLE.schema, options=pa.ipc.IpcWriteOptions(**options)) as opened:
        opened.write_table(TABLE, max_chunksize=3)
    return sink.getvalue()


def parquet(**options):
    """The table as Parquet has it."""
    sink = io.BytesIO()
    pq.write_table(TABLE, sink, row_group_size=3, **options)
    return sink.getvalue()


TABLES = (
    (".arrow", arrow(pa.ipc.new_file)),
    (".arrow", arrow(pa.ipc.new_stream)),
    (".arrow", arrow(pa.ipc.new_stream, compression="zstd")),
    (".parquet", parquet()),
    (".parquet", parquet(compression="none", use_dictionary=False)),
    (".parquet", parquet(compression="zstd", data_page_version="2.0")),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("corpus")


def check(path, content, **how):
    """A file of that content is read as passages, its bad rows left out or not; or refused."""
    path.write_bytes(content)
    for skip_bad in (True, False):
        read = told(lambda skip=skip_bad: list(read_passages(path, skip_bad=skip, **how, log=lambda line: None)), path)
        for passage in read or ():
            assert passage.text.strip() and "\0" not in passage.text and is_text(*vars(passage).values())
        assert read is None or len({passage.id for passage in read}) == len(read) > 0


@st.composite
def lines(draw):
    rows = draw(st.lists(nearly(RECORDS), min_size=1, max_size=3))
    ends = draw(st.sampled_from(("\n", "\n", "\r\n", "\n\n", " ")))
    suffix, content = draw(as_file(as_bytes(ends.join(as_json(row, ensure_ascii=draw(st.booleans())) for row in rows))))
    return draw(st.sampled_from((".jsonl", ".jsonl", ".json"))) + suffix, content  # KILT's are called .json


@given(lines())
def test_lines_of_json(folder, file):
    suffix, content = file
    check(folder / f"c{suffix}", content)


@st.composite
def separated(draw):
    kind = draw(st.sampled_from((0, 1)))
    text = SEPARATED[kind]
    if draw(st.booleans()):
        text += "\t,"[kind].join(draw(st.lists(TEXT, min_size=1, max_size=4))) + draw(st.sampled_from(("\n", "")))
    suffix, content = draw(as_file(as_bytes(text)))
    return (".tsv", ".csv")[kind] + suffix, content


@given(separated())
def test_separated_values(folder, file):
    suffix, content = file
    check(folder / f"c{suffix}", content)


@given(TEXT.flatmap(lambda text: as_file(as_bytes(text))), st.integers(1, 5), st.integers(0, 4), st.integers(1, 3))
def test_plain_text(folder, file, words, overlap, minimum):
    suffix, content = file
    check(folder / f"c.txt{suffix}", content, cut=Cut(words, min(overlap, words - 1), minimum))


@given(st.sampled_from(TABLES).flatmap(lambda pair: st.tuples(st.just(pair[0]), damaged(pair[1]))))
def test_tables(folder, file):
    suffix, content = file
    path = folder / f"c{suffix}"
    check(path, content)
    told(lambda: tables.count(path), path)
    told(lambda: sum(len(block) for block in tables.vectors(path, "embeddings")), path)
    told(lambda: sum(len(chunk) for chunk in tables.column(path, "text")), path)


COLUMNS = st.sampled_from(
    [
        pa.array([1, 2, 3]), pa.array([1.5, float("nan"), None]), pa.array([True, None, False]), pa.nulls(3),
        pa.array([b"\xff", b"a", None]), pa.array(["a", "b", "a"]).dictionary_encode(), pa.array([[1], None, [2, 3]]),
        pa.array([2**62, -(2**62), 0], pa.timestamp("s")), pa.array([2**31 - 1, 0, -(2**31)], pa.date32()),
        pa.array([["a"], [], None]), pa.array([{"a": 1}, None, {"a": 2}]), pa.array(["x", "y", None], pa.string_view()),
        pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, None]]), pa.array([[], [], []], pa.list_(pa.float32())),
        pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float64(), 2)), pa.array([10**30, 1, None], pa.decimal128(38, 0)),
        pa.array([2**63 - 1, 0, 1], pa.duration("ns")), pa.array(["a", "\0", "ü"], pa.large_string()),
        pa.StringArray.from_buffers(3, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"\xffab")),
    ]
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(("id", "title", "text", "contents", "embeddings")) | WHOLE, COLUMNS, min_size=1))
def test_tables_of_other_types(folder, columns):
    for suffix in (".arrow", ".parquet"):
        path, table = folder / f"types{suffix}", pa.table(columns)
        try:
            if suffix == ".parquet":
                pq.write_table(table, path)
            else:
                with pa.ipc.new_file(path, table.schema) as writer:
                    writer.write_table(table)
        except (pa.ArrowException, OSError):  # Parquet has not all of these
            continue
        told(lambda path=path: list(read_passages(path, skip_bad=True, log=lambda line: None)), path)
        if "embeddings" in columns:
            told(lambda path=path: sum(len(block) for block in tables.vectors(path, "embeddings")), path)


@given(st.data())
def test_the_readers_of_lines_and_of_json(folder, data):
    """Whatever stands in a file, of every reader of text: lines and records, an array, a value, the beginning."""
    value = data.draw(nearly((list(RECORDS), RECORDS[0], [[RECORDS]], "text")))
    suffix, content = data.draw(as_file(as_bytes(as_json(value))))
    path = folder / f"any{suffix}"
    path.write_bytes(content)
    for read in (read_lines, read_records, read_array):
        told(lambda read=read: list(read(path)), path)
    told(lambda: read_value(path), path)
    beginning = told(lambda: first_line(path), path)
    assert beginning is None or is_text(beginning)


STATES = (
    {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_indices_data_files": None, "_split": "train"},
    {"_data_files": [{"filename": "../outside.arrow"}]},
    {"_data_files": [{"filename": "/outside.arrow"}]},
)
SPLITS = ({"splits": ["train", "test"]},)


@given(st.sampled_from(("state.json", "dataset_dict.json")), nearly((*STATES, *SPLITS)), st.booleans())
@example("state.json", STATES[1], False)
@example("state.json", STATES[2], False)
@example("state.json", {"_data_files": [{"filename": "\n"}]}, False)
@example("dataset_dict.json", {"splits": 5}, False)
def test_a_folder_that_datasets_saved(folder, name, state, whole):
    place = folder / "set"
    place.mkdir(exist_ok=True)
    for path in place.iterdir():
        path.unlink()
    if whole:
        (place / "data-00000-of-00001.arrow").write_bytes(TABLES[1][1])
    (folder / "outside.arrow").write_bytes(TABLES[1][1])
    (place / name).write_bytes(as_bytes(as_json(state)))
    read = told(lambda: list(read_passages(place, log=lambda line: None)), place)
    assert read is None or whole


@given(st.lists(st.tuples(WHOLE, WHOLE)))
def test_what_was_written_is_read(folder, pairs):
    """Titles and texts come back as they were, in lines of JSON and in a table."""
    titles, texts = [title.replace("\0", "") for title, _ in pairs], ["t" + text.replace("\0", "") for _, text in pairs]
    lines, table = folder / "own.jsonl.gz", folder / "own.parquet"
    records = ({"title": title, "text": text} for title, text in zip(titles, texts, strict=True))
    lines.write_bytes(gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode(), 1))
    pq.write_table(pa.table([titles, texts], pa.schema({"title": pa.string(), "text": pa.string()})), table)
    for path in (lines, table):
        read = told(lambda path=path: list(read_passages(path)), path) or ()
        assert ([passage.title for passage in read], [passage.text for passage in read]) == (titles, texts)
