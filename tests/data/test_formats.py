import csv
import gzip
import json

import pytest

from rag_jax.data.formats import Passage, Question, read_passages, read_questions
from rag_jax.errors import UserError


def write(path, text):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8", newline="") as stream:
        stream.write(text)
    return path


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz"])
def test_passages_of_json_lines(tmp_path, name):
    text = '\ufeff{"id": 7, "title": "Radium", "text": "Found\\tin 1898."}\r\n\n{"text": "No title."}\n'
    assert list(read_passages(write(tmp_path / name, text))) == [
        Passage("7", "Radium", "Found\tin 1898."),
        Passage("1", "", "No title."),
    ]


@pytest.mark.parametrize("name", ["p.tsv", "p.tsv.gz"])
def test_passages_of_dpr(tmp_path, name):
    passages = [
        Passage("1", "Aaron", 'He said "no"\tand left.'),
        Passage("2", '"Quoted"', "Two\nlines, one passage."),
        Passage("3", "", "It's 5' 3\" tall"),
    ]
    with (gzip.open if name.endswith("gz") else open)(tmp_path / name, "wt", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t")
        writer.writerow(["id", "text", "title"])
        writer.writerows([p.id, p.text, p.title] for p in passages)
    assert list(read_passages(tmp_path / name)) == passages


def test_questions(tmp_path):
    records = [
        {"question": "who found radium?", "answers": ["Marie Curie", "Curie"], "passage_ids": [7, "8"]},
        {"id": "q", "question": "when?", "answer": "1898", "group": "dates"},
    ]
    assert read_questions(write(tmp_path / "q.jsonl", lines(*records))) == [
        Question("0", "who found radium?", ("Marie Curie", "Curie"), ("7", "8")),
        Question("q", "when?", ("1898",), (), "dates"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n", "holds no passages"),
        ("{}\n", r'p\.jsonl:1: "text" is missing'),
        ('{"text": "a"}\n[1]\n', r"p\.jsonl:2: list; expected a JSON object"),
        ('\n{"text": "a"\n', r"p\.jsonl:2: not JSON"),
        (lines({"text": " \t"}), r"p\.jsonl:1: passage '0' has an empty text"),
        (lines({"text": "a", "title": None}), r'p\.jsonl:1: "title" is null; expected a string'),
        (lines({"text": "a", "id": 1.5}), r"p\.jsonl:1: id 1\.5"),
        (
            lines({"text": "a", "id": 1}, {"text": "b", "id": "1"}),
            r"p\.jsonl:2: passage id '1' stands on an earlier",
        ),
    ],
)
def test_bad_passages_name_file_and_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        list(read_passages(write(tmp_path / "p.jsonl", text)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"p\.tsv:1: columns \[\]; expected"),
        ("id\ttitle\ttext\n", r"p\.tsv:1: columns"),
        ("id\ttext\ttitle\n", "holds no passages"),
        ("id\ttext\ttitle\n1\ta\tb\n2\tc\n", r"p\.tsv:3: 2 columns"),
        ("id\ttext\ttitle\n1\t\tb\n", r"p\.tsv:2: passage '1' has an empty text"),
        ('id\ttext\ttitle\n1\t"' + "x" * 140_000, r"p\.tsv:2: field larger than"),
    ],
)
def test_bad_tsv_names_file_and_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        list(read_passages(write(tmp_path / "p.tsv", text)))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"answer": "a"}, '"question" is missing'),
        ({"question": " ", "answer": "a"}, "empty question"),
        ({"question": "q"}, 'neither of "answer" and "answers"'),
        ({"question": "q", "answer": "a", "answers": ["a"]}, 'both of "answer" and "answers"'),
        ({"question": "q", "answers": []}, "no answer or an empty one"),
        ({"question": "q", "answers": ["a", " "]}, "no answer or an empty one"),
        ({"question": "q", "answers": "a"}, '"answers" is "a"; expected a list'),
        ({"question": "q", "answers": [1]}, r'"answers" is \[1\]; expected a list of strings'),
        ({"question": "q", "answer": "a", "passage_ids": [True]}, "id true; expected"),
        ({"question": "q", "answer": "a", "group": 3}, '"group" is 3; expected a string'),
        ({"question": "q", "answer": "a", "id": "0"}, "question id '0' stands on an earlier line"),
    ],
)
def test_bad_questions_name_file_and_line(tmp_path, record, message):
    path = write(tmp_path / "q.jsonl", lines({"question": "first", "answer": "a"}, record))
    with pytest.raises(UserError, match=rf"q\.jsonl:2: {message}"):
        read_questions(path)


def test_unreadable_files(tmp_path):
    with pytest.raises(UserError, match="unknown kind of file; expected"):
        list(read_passages(tmp_path / "p.csv"))
    with pytest.raises(UserError, match="cannot be read"):
        list(read_passages(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="holds no questions"):
        read_questions(write(tmp_path / "q.jsonl", "\n"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    with pytest.raises(UserError, match="byte 0xe9 is not UTF-8"):
        list(read_passages(tmp_path / "latin.jsonl"))
    whole = gzip.compress(lines(*({"text": str(i)} for i in range(1000))).encode())
    damaged = whole[:100] + bytes([whole[100] ^ 255]) + whole[101:]
    for data in (b"not gzip", whole[:-20], damaged):
        (tmp_path / "p.jsonl.gz").write_bytes(data)
        with pytest.raises(UserError):
            list(read_passages(tmp_path / "p.jsonl.gz"))
