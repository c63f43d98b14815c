"""Everyone's files become the same passages; what is wrong with a line is told with its place, or counted."""

import csv
import gzip
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag_jax.data.corpus import Cut, files, read_passages
from rag_jax.data.formats import Passage
from rag_jax.data.lines import Meter
from rag_jax.errors import UserError

PASSAGES = [
    Passage("1", "Aaron", 'He said "no"\tand left.'),
    Passage("b/2", '"Quoted"', "Two\nlines, ünder one title."),
    Passage("3", "", "It's 5' 3\" tall"),
]


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def records():
    return [{"id": p.id, "title": p.title, "text": p.text} for p in PASSAGES]


def write(path):
    """PASSAGES in the form that the name says."""
    suffix = path.name.removesuffix(".gz").rpartition(".")[2]
    opener = gzip.open if path.name.endswith(".gz") else open
    if suffix == "jsonl":
        with opener(path, "wt", encoding="utf-8") as stream:
            stream.write(lines(*records()))
    elif suffix in ("tsv", "csv"):
        with opener(path, "wt", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, delimiter="\t" if suffix == "tsv" else ",")
            writer.writerow(["id", "text", "title"])
            writer.writerows([p.id, p.text, p.title] for p in PASSAGES)
    elif suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(records()), path)
    elif suffix == "arrow":
        with pa.ipc.new_stream(str(path), pa.Table.from_pylist(records()).schema) as writer:
            writer.write_table(pa.Table.from_pylist(records()))
    else:
        path.mkdir()
        write(path / "data-00000-of-00001.arrow")
        (path / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    return path


@pytest.mark.parametrize(
    "name", ["p.jsonl", "p.jsonl.gz", "p.tsv", "p.tsv.gz", "p.csv", "p.csv.gz", "p.parquet", "p.arrow", "saved"]
)
def test_every_kind_of_file_gives_the_same_passages(tmp_path, name):
    assert list(read_passages(write(tmp_path / name))) == PASSAGES


def test_marks_line_ends_and_absent_ids(tmp_path):
    path = tmp_path / "p.jsonl"
    text = '\ufeff{"id": 7, "title": "Radium", "text": "Found\\tin 1898."}\r\n\n{"text": "No title."}\n'
    path.write_text(text, encoding="utf-8", newline="")
    assert list(read_passages(path)) == [Passage("7", "Radium", "Found\tin 1898."), Passage("1", "", "No title.")]
    (tmp_path / "p.csv").write_text("\ufefftitle,text,year\r\nA,a b,1\r\n,c d,2\r\n", encoding="utf-8", newline="")
    assert list(read_passages(tmp_path / "p.csv")) == [Passage("0", "A", "a b"), Passage("1", "", "c d")]


@pytest.mark.parametrize("name", ["kilt_knowledgesource.json", "pages.jsonl", "pages.json.gz"])
def test_the_pages_of_kilt_are_read_by_paragraphs(tmp_path, name):
    """Without the title, headings and what is empty; a place is KILT's start_paragraph_id."""
    text = ["Aaron\n", "A prophet.\n", "Section::::Life.\n", "", "He spoke.\n"]
    rows = [{"_id": "7", "wikipedia_id": "7", "wikipedia_title": "Aaron", "text": text, "anchors": []}]
    rows += [{"wikipedia_id": 9, "wikipedia_title": "Ada", "text": ["Ada", "A name."]}]
    opener = gzip.open if name.endswith(".gz") else open
    with opener(tmp_path / name, "wt") as file:
        file.write(lines(*rows))
    meter = Meter()
    assert list(read_passages(tmp_path / name, meter=meter)) == [
        Passage("7#1", "Aaron", "A prophet."), Passage("7#4", "Aaron", "He spoke."), Passage("9#1", "Ada", "A name."),
    ]  # fmt: skip
    assert meter.share() == 1
    with opener(tmp_path / name, "wt") as file:
        file.write(lines(rows[0], {**rows[1], "wikipedia_id": None}))
    with pytest.raises(UserError, match=rf"{name}:2: bad id null; expected a string or a whole number"):
        list(read_passages(tmp_path / name))
    with opener(tmp_path / name, "wt") as file:
        file.write(lines(rows[0], {**rows[1], "text": ["A name.", 7]}))
    with pytest.raises(UserError, match=rf'{name}:2: "text" is \["A name.", 7\]; expected a list of strings'):
        list(read_passages(tmp_path / name))


def test_contents_hold_title_and_text(tmp_path):
    contents = ['"Aaron"\nA prophet.\nHe spoke.', "Radium\nA metal.", "One line.", '"\nx']
    path = tmp_path / "p.jsonl"
    path.write_text(
        lines(*({"id": i, "contents": c} for i, c in enumerate(contents)), {"title": "T", "contents": "a\nb"})
    )
    assert [(p.title, p.text) for p in read_passages(path)] == [
        ("Aaron", "A prophet.\nHe spoke."), ("Radium", "A metal."), ("", "One line."), ('"', "x"), ("T", "a\nb"),
    ]  # fmt: skip


def test_a_folder_gives_its_files_in_order_and_ids_that_stay(tmp_path):
    (tmp_path / "sub" / "b").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "z.txt").write_text("last of\nall")
    (tmp_path / "sub" / "b" / "a.md").write_text("# Head\n\nwords here")
    (tmp_path / "sub" / "a.jsonl").write_text(lines({"text": "first"}, {"id": "own", "text": "second"}))
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / ".hidden" / "x.txt").write_text("never read")
    said = []
    assert list(read_passages(tmp_path, cut=Cut(2), log=said.append)) == [
        Passage("sub/a.jsonl#0", "", "first"),
        Passage("own", "", "second"),
        Passage("sub/b/a.md#0", "a", "# Head"),
        Passage("sub/b/a.md#1", "a", "words here"),
        Passage("z.txt#0", "z", "last of"),
        Passage("z.txt#1", "z", "all"),
    ]
    assert said == [f"{tmp_path}: 3 files of passages, 1 of other kinds passed over"]
    assert [path.rpartition("/")[2] for path, _, _ in files(tmp_path)] == ["a.jsonl", "a.md", "z.txt"]
    assert [p.id for p in read_passages(tmp_path / "z.txt")] == ["z.txt#0"]


@pytest.mark.parametrize(
    ("cut", "count", "lengths"),
    [
        (Cut(), 250, [100, 100, 50]),
        (Cut(), 200, [100, 100]),
        (Cut(), 7, [7]),
        (Cut(10, minimum=5), 24, [10, 14]),
        (Cut(10, minimum=5), 25, [10, 10, 5]),
        (Cut(10, minimum=10), 19, [19]),
        (Cut(10, minimum=10), 3, [3]),
        (Cut(10, overlap=4), 22, [10, 10, 10]),
        (Cut(10, overlap=4), 23, [10, 10, 10, 5]),
        (Cut(10, overlap=4, minimum=2), 23, [10, 10, 11]),
        (Cut(10, overlap=9), 12, [10, 10, 10]),
        (Cut(1), 3, [1, 1, 1]),
    ],
)
def test_plain_text_is_cut_into_passages(tmp_path, cut, count, lengths):
    """No word is lost, and only the overlap stands twice, whatever the lines are like."""
    words = [f"w{i}" for i in range(count)]
    for form in ("\n".join(words), " ".join(words), "  \n\n".join(words) + " \r\n"):
        (tmp_path / "t.txt").write_text(form, newline="")
        passages = [p.text.split(" ") for p in read_passages(tmp_path / "t.txt", cut=cut)]
        assert [len(passage) for passage in passages] == lengths
        whole = [word for number, passage in enumerate(passages) for word in passage[cut.overlap if number else 0 :]]
        assert whole == words


def test_a_line_of_a_megabyte_is_text_like_any_other(tmp_path):
    (tmp_path / "t.txt").write_text("word " * 200_000)
    assert sum(1 for _ in read_passages(tmp_path / "t.txt")) == 2000
    long = "x" * 1_000_000
    (tmp_path / "p.jsonl").write_text(lines({"text": long}))
    (tmp_path / "p.tsv").write_text(f'id\ttext\n1\t"{long}"\n')
    for name in ("p.jsonl", "p.tsv"):
        assert [p.text for p in read_passages(tmp_path / name)] == [long]


BAD = [
    ("{}", '"text" is missing; expected a string'),
    ("[1]", "list; expected a JSON object"),
    ('{"text": "a"', "not JSON"),
    ('{"text": " \\t"}', "empty text, passage '1'"),
    ('{"text": "a", "title": null}', '"title" is not a string but null'),
    ('{"text": "a", "id": 1.5}', r"bad id 1\.5"),
    ('{"text": "a", "id": "first"}', "repeated id, 'first' stands on an earlier line too"),
    ('{"text": "a\0b"}', "a NUL byte"),
    ('{"text": "a\\u0000b"}', "a NUL byte, passage '1'"),
    ('{"text": "\\ud800"}', "half a surrogate pair"),
    (b'{"text": "caf\xe9"}', r"not UTF-8 \(byte 0xe9\)"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_a_bad_line_is_named_or_left_out(tmp_path, bad, message):
    path = tmp_path / "p.jsonl"
    bad = bad if isinstance(bad, bytes) else bad.encode()
    path.write_bytes(b'{"id": "first", "text": "a"}\n' + bad + b'\n{"id": "last", "text": "a"}\n')
    with pytest.raises(
        UserError, match=rf"p\.jsonl:2: {message}.*; or leave out what is bad with config\.data"
    ) as caught:
        list(read_passages(path))
    assert "\n" not in str(caught.value)
    said = []
    assert [p.id for p in read_passages(path, skip_bad=True, log=said.append)] == ["first", "last"]
    assert len(said) == 2 and said[0].startswith(f"left out {path}:2: ")
    assert said[1].startswith(f"{path}: 1 left out of 3: 1 x ")


def test_bad_rows_of_tables_and_texts(tmp_path):
    pq.write_table(pa.table({"id": [1, 2, 1], "text": ["a", None, "c"]}), tmp_path / "p.parquet")
    with pytest.raises(UserError, match=r'p\.parquet: row 1: "text" is not a string but null'):
        list(read_passages(tmp_path / "p.parquet"))
    said = []
    assert len(list(read_passages(tmp_path / "p.parquet", skip_bad=True, log=said.append))) == 1
    assert said[-1].endswith('2 left out of 3: 1 x "text" is not a string, 1 x repeated id')
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "a.txt").write_bytes(b"good words\nb\xe9d\n\0\nmore\n")
    (tmp_path / "t" / "empty.txt").write_text(" \n")
    with pytest.raises(UserError, match=r"a\.txt:2: not UTF-8"):
        list(read_passages(tmp_path / "t"))
    (passage,) = read_passages(tmp_path / "t", skip_bad=True, log=said.append)
    assert passage == Passage("a.txt#0", "a", "good words more")
    assert said[-1].endswith("3 left out of 4: 1 x not UTF-8, 1 x a NUL byte, 1 x a file without words")


def test_the_first_few_of_a_kind_are_shown_and_all_counted(tmp_path):
    path, said = tmp_path / "p.jsonl", []
    path.write_text(lines(*({"text": "a" if i % 10 else ""} for i in range(10_000)), {"id": 5, "text": "a"}))
    assert sum(1 for _ in read_passages(path, skip_bad=True, log=said.append)) == 9000
    assert len(said) == 5 + 1 + 1
    assert said[-1] == f"{path}: 1,001 left out of 10,001: 1,000 x empty text, 1 x repeated id"


def test_ids_that_are_taken(tmp_path):
    path = write(tmp_path / "p.tsv")
    with pytest.raises(UserError, match=r"p\.tsv:3: id in the index already, 'b/2'; ids must differ"):
        list(read_passages(path, known=["x", "b/2"]))
    assert [p.id for p in read_passages(path, known=["b/2"], skip_bad=True, log=lambda line: None)] == ["1", "3"]


def test_sources_that_cannot_be_read_are_errors_whatever_is_left_out(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "p.jsonl").write_text("\n")
    (tmp_path / "all_bad.jsonl").write_text("{\n")
    (tmp_path / "p.xml").write_text("<a/>")
    (tmp_path / "p.parquet").write_bytes(b"PAR1")
    (tmp_path / "no_text.csv").write_text("id,body\n1,a\n")
    pq.write_table(pa.table({"id": [1], "body": ["a"]}), tmp_path / "no_text.parquet")
    (tmp_path / "cut.jsonl.gz").write_bytes(
        gzip.compress(lines(*({"text": str(i)} for i in range(1000))).encode())[:-20]
    )
    write(tmp_path / "saved")
    (tmp_path / "saved" / "data-00000-of-00001.arrow").unlink()
    for name, message in {
        "none.jsonl": r"none\.jsonl: cannot be read \(no such file or folder\)",
        "empty": "no file of passages in this folder",
        "p.jsonl": "holds no passages",
        "all_bad.jsonl": "holds no passages",
        "p.xml": r"unknown kind of file; expected \.jsonl, \.tsv, \.csv, \.txt, \.md",
        "p.parquet": "cannot be read as a table",
        "no_text.csv": r"no_text\.csv:1: columns id, body; expected text",
        "no_text.parquet": "columns id, body; expected text",
        "cut.jsonl.gz": r"damaged gzip file after line \d+",
        "saved": "missing, though .*saved names it",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            list(read_passages(tmp_path / name, skip_bad=True, log=lambda line: None))
        assert "\n" not in str(caught.value)


def test_reading_holds_no_more_of_a_longer_corpus(tmp_path):
    """But for 8 bytes of an id."""
    peaks = []
    for count in (10_000, 40_000):
        path, meter = tmp_path / f"{count}.jsonl", Meter()
        path.write_text(lines(*({"id": f"passage {i}", "text": "some words " * 20} for i in range(count))))
        tracemalloc.start()
        assert sum(1 for _ in read_passages(path, meter=meter)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert meter.share() == 1
    assert peaks[1] - peaks[0] < 3 * 8 * 30_000 < peaks[0]
