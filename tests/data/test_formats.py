import json

import pytest

from rag_jax.data.formats import Question, read_questions
from rag_jax.errors import UserError


def write(path, text):
    path.write_text(text, encoding="utf-8", newline="")
    return path


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


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
        ({"question": "q", "answer": "a", "passage_ids": [True]}, "bad id true; expected"),
        ({"question": "q", "answer": "a", "group": 3}, '"group" is not a string but 3'),
        ({"question": "q", "answer": "a", "id": "0"}, "question id '0' stands on an earlier line"),
    ],
)
def test_bad_questions_name_file_and_line(tmp_path, record, message):
    path = write(tmp_path / "q.jsonl", lines({"question": "first", "answer": "a"}, record))
    with pytest.raises(UserError, match=rf"q\.jsonl:2: {message}"):
        read_questions(path)


def test_files_without_questions(tmp_path):
    with pytest.raises(UserError, match=r"unknown kind of file; expected \.jsonl"):
        read_questions(tmp_path / "q.csv")
    with pytest.raises(UserError, match="holds no questions"):
        read_questions(write(tmp_path / "q.jsonl", "\n"))
    for text, message in (('{"question": "q"\n', "not JSON"), ("[1]\n", "list; expected a JSON object")):
        with pytest.raises(UserError, match=rf"q\.jsonl:1: {message}"):
            read_questions(write(tmp_path / "q.jsonl", text))
