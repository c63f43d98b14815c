"""DPR's .tsv and .csv: quotes as csv has them, and one that is left open costs its own line alone."""

import csv

import pytest

from rag_jax.data.lines import BadLine, Meter
from rag_jax.data.separated import records
from rag_jax.errors import UserError


def read(path, delimiter="\t"):
    return [
        (int(place.rpartition(":")[2]), number, str(record) if isinstance(record, BadLine) else record)
        for place, number, record in records(path, delimiter, Meter())
    ]


def written(path, *rows):
    path.write_text("\n".join(["id\ttext\ttitle", *rows]) + "\n", encoding="utf-8", newline="")
    return path


def row(identity, text, title):
    return {"id": identity, "text": text, "title": title}


@pytest.mark.parametrize("delimiter", ["\t", ","])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_csv_writes_is_read_back(tmp_path, delimiter, end):
    rows = [
        ["1", 'He said "no"\tand, left.', "Aaron"],
        ["2", 'Two\nlines "quoted"\n\n, one passage.', '"Quoted"'],
        ["3", "It's 5' 3\" tall", ""],
        ["4", "x" * 1_000_000, "long"],
    ]
    with open(tmp_path / "a", "w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.writer(stream, delimiter=delimiter, lineterminator=end)
        writer.writerow(["id", "text", "title"])
        writer.writerows(rows)
    found = read(tmp_path / "a", delimiter)
    assert [record for _, _, record in found] == [row(*values) for values in rows]
    assert [place for place, _, _ in found] == [2, 3, 7, 8] and [number for _, number, _ in found] == [0, 1, 2, 3]


def test_quotes_that_are_text(tmp_path):
    """As DPR's own reader takes them."""
    path = written(tmp_path / "a", "1\t5' 3\" tall\tA", '2\t"Heroes" is an album\tB', '3\tx\t"Heroes" (album)')
    with open(path, newline="") as stream:
        theirs = list(csv.reader(stream, delimiter="\t"))[1:]
    assert [list(record.values()) for _, _, record in read(path)] == theirs
    assert theirs[0][1] == "5' 3\" tall" and theirs[1][1] == "Heroes is an album"


def test_an_open_quote_costs_its_own_line_alone(tmp_path):
    open_quote = "a quote is left open; expected its partner within 1,000 lines"
    path = written(tmp_path / "a", '1\t"open\tA', "2\tb\tB", '3\t"c"\tC', "", '4\t"d\n""d"" d"\tD', '5\t"e')
    assert read(path) == [
        (2, 0, open_quote),
        (3, 1, row("2", "b", "B")),
        (4, 2, row("3", "c", "C")),
        (6, 3, row("4", 'd\n"d" d', "D")),
        (8, 4, open_quote),
    ]


def test_many_open_quotes_are_read_in_their_order(tmp_path):
    rows = [f'{i}\t"open {i}\tA' if i % 3 else f"{i}\ttext\tA" for i in range(3000)]
    found = read(written(tmp_path / "a", *rows))
    assert [place for place, _, _ in found] == list(range(2, 3002))
    assert [isinstance(record, dict) for _, _, record in found] == [i % 3 == 0 for i in range(3000)]


def test_bad_lines(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b'text\tid\na\t1\nb\nc\t2\t3\nd\xe9\t4\n"e\nf\xe9"\t5\n"g"\rg\t6\nh\t7\n')
    assert read(path) == [
        (2, 0, {"text": "a", "id": "1"}),
        (3, 1, "1 columns; expected 2: text, id"),
        (4, 2, "3 columns; expected 2: text, id"),
        (5, 3, "not UTF-8 (byte 0xe9); convert the file to UTF-8"),
        (6, 4, "a quote is left open; expected its partner within 1,000 lines"),
        (7, 5, "not UTF-8 (byte 0xe9); convert the file to UTF-8"),
        (8, 6, "not separated values (new-line character seen in unquoted field)"),
        (9, 7, {"text": "h", "id": "7"}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a:1: columns none; expected text \(or contents\)"),
        ("1\ta\tb\n", r"a:1: columns 1, a, b; expected text"),
        ("\ntext\ttext\n", r"a:2: columns text, text; .* once each"),
        ('id\t"text\n', r"a:1: a quote is left open"),
    ],
)
def test_a_header_that_is_none(tmp_path, text, message):
    (tmp_path / "a").write_text(text)
    with pytest.raises(UserError, match=message):
        read(tmp_path / "a")
