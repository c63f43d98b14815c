"""Files of questions in every form, nearly right: each is read, or one line says what is wrong and where."""

import json
import shutil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rag_jax.data.corpus import read_passages
from rag_jax.data.formats import read_questions
from rag_jax.data.tasks import TASKS
from rag_jax.errors import UserError

from .inputs import TEXT, VALUES, as_bytes, as_file, as_json, is_text, nearly, told

pytestmark = pytest.mark.more
CONTEXT = {"title": "T", "text": "a text", "score": 1.0, "passage_id": "3"}
ANSWER = {"text": "Ada", "answer_start": 3}
ROWS = (
    {"id": "q1", "question": "who?", "answers": ["Ada", "Bo"], "passage_ids": ["7", 8], "group": "g"},
    {"question": "when?", "answer": "1898", "passage_id": 7},
    {"question": "who?", "answers": ["A"], "positive_ctxs": [CONTEXT], "hard_negative_ctxs": [CONTEXT]},
    {"qId": "wqr7", "qText": "who?", "answers": ["Ada", "Bo"]},
    {"utterance": "what?", "targetValue": r'(list (description "Glass \"flute\"") (description Stilts))'},
    {"Question": "who?", "QuestionId": "tc_1", "Answer": {"Value": "Ada", "Aliases": ["A.", "Ada"]}},
    {"query": "who?", "query_id": 9, "answers": ["Ada"], "wellFormedAnswers": ["Ada did."]},
    {"id": 5, "claim": "Ada did.", "label": "SUPPORTS", "evidence": [[[1, 2, "A_-LRB-x-RRB-", 0]], [[1, 2, None, 0]]]},
    {"id": "k", "input": "who?", "output": [{"answer": "Ada", "provenance": [{"wikipedia_id": "12", "title": "A"}]}]},
    {"qas": {"id": "s", "question": "who?", "answers": [ANSWER]}, "title": "A_b"},
)  # fmt: skip
QUESTION = {"id": "s1", "question": "who?", "answers": [ANSWER]}
WHOLES = (
    {"data": [{"title": "A_b", "paragraphs": [{"context": "c", "qas": [QUESTION]}]}], "version": "1.1"},
    {"Data": [ROWS[5]], "Domain": "Web"},
    {
        "query": {"1": "who?"},
        "query_id": {"1": 9},
        "answers": {"1": ["Ada"]},
        "passages": {"1": [{"passage_text": "x"}]},
    },
    ROWS[0],
    list(ROWS[:2]),
    list(ROWS[4:9]),
)
TABLES = (
    'who sang it\t[\'Ada Quist\']\n"what is ""X""?"\t"[\'it\'\'s\', ""y\'s""]"\nwhen\t[\'San\\s?Remo\']\n',
    '7\tfactoid\tWhat has a "name"?\tSan\\s?Remo|"x\n8\tfactoid\tWhat?\ta\\\tb|c\n',
)
# What Python may find in the place of a list of answers.
LITERALS = (
    "[]", "{[]}", "{[]: 1}", "{(1, 2): 3}", "[0x" + "f" * 5000 + "]", "[" + "1" * 5000 + "]", "-" * 5000 + "1",
    "1+" * 5000 + "1j", "[" * 300 + "]" * 300, "b'a'", "['\\ud800']", "['a' 'b']", "[*[1]]", "f'{1}'", "'\\N{x}'",
    "[__import__('os')]", "1e999", "()",
)  # fmt: skip


def sound(questions):
    """Questions are there, each with an id of its own and words; all that they hold can be written."""
    assert questions and len({question.id for question in questions}) == len(questions)
    for question in questions:
        assert question.text.strip()
        pages = [page for pages in question.evidence for page in pages]
        assert is_text(question.id, question.text, question.group, *question.answers, *question.passage_ids, *pages)
        assert is_text(*question.hard_negatives)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("questions")


def check(folder, name, content):
    """A file of that content is read as questions, as DPR's contexts, and for tasks of every kind; or refused."""
    path = folder / name
    path.write_bytes(content)
    questions = told(lambda: read_questions(path), path)
    if questions is not None:
        sound(questions)
        for task in TASKS.values():
            assert all(len(task.choose(question)) == 2 for question in questions)
    if ".json" in name:
        told(lambda: list(read_passages(path, skip_bad=True, log=lambda line: None)), path)


@st.composite
def lines(draw):
    rows = draw(st.lists(nearly(ROWS), min_size=1, max_size=3))
    ends = draw(st.sampled_from(("\n", "\n", "\r\n", "\n\n", " ")))
    suffix, content = draw(as_file(as_bytes(ends.join(as_json(row, ensure_ascii=draw(st.booleans())) for row in rows))))
    return draw(st.sampled_from(("q.jsonl", "q.json", "q"))) + suffix, content


@given(lines())
@example(("q.jsonl", b'{"qas": 5}\n'))
@example(("q.jsonl", b'{"question": "a\\ud800", "answer": "b"}\n'))
@example(("q.jsonl", b'{"question": "a", "answer": ' + b"[" * 985 + b"]" * 985 + b"}\n"))
def test_lines_of_json(folder, file):
    check(folder, *file)


@given(st.sets(st.sampled_from(range(len(ROWS))), min_size=1, max_size=3), st.none() | lines())
def test_folders(folder, chosen, another):
    """All files of JSON in them and below, as SearchQA has one a question; those that are right are read."""
    place = folder / "set"
    shutil.rmtree(place, ignore_errors=True)
    files = [("q.jsonl", as_bytes(as_json(ROWS[row]))) for row in sorted(chosen)] + [another] * (another is not None)
    for number, (name, content) in enumerate(files):
        path = place / f"part{number % 2}" / f"{number}{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    questions = told(lambda: read_questions(place), place)
    assert another is not None or len(questions) == len(chosen)
    if questions is not None:
        sound(questions)


@st.composite
def wholes(draw):
    text = as_json(draw(nearly(WHOLES)), indent=draw(st.sampled_from((None, 1))), ensure_ascii=draw(st.booleans()))
    suffix, content = draw(as_file(as_bytes(text)))
    return "q.json" + suffix, content


@given(wholes())
@example(("q.json", b'{"Data": 5, "data": []}'))
def test_one_json_value(folder, file):
    check(folder, *file)


@st.composite
def tables(draw):
    text = draw(st.sampled_from(TABLES))
    answers = draw(st.none() | st.sampled_from(LITERALS) | st.lists(TEXT, max_size=3).map(repr) | VALUES.map(repr))
    text += f"{draw(TEXT)}\t{answers}\n" if answers is not None else ""
    suffix, content = draw(as_file(as_bytes(text)))
    return draw(st.sampled_from(("q.tsv", "q.csv"))) + suffix, content


@given(tables())
@example(("q.tsv", b"q\t{[]}\n"))
@example(("q.tsv", b"q\t{(1, 2): 3}\n"))
@example(("q.tsv", b"q\t[0x" + b"f" * 5000 + b"]\n"))
@example(("q.tsv", b"q\t['\\ud800']\n"))
def test_tables(folder, file):
    check(folder, *file)


@given(as_file(b"who?\nwhen?\n"), as_file(b"Ada\n1898\n"))
def test_pairs(folder, source, target):
    (ends, content), (other_ends, answers) = source, target
    for path in folder.glob("pair*"):
        path.unlink()
    (folder / f"pair.target{other_ends}").write_bytes(answers)
    (folder / f"pair.source{ends}").write_bytes(content)
    questions = told(lambda: read_questions(folder / f"pair.source{ends}"), folder / "pair")
    if questions is not None:
        sound(questions)


@given(st.lists(st.tuples(TEXT, TEXT.filter(str.strip)), min_size=1, max_size=4))
def test_what_was_written_is_read(folder, pairs):
    """Any text that can be written, in one's own form; and what names a format, a shell or a path stays as it is."""
    pairs = [
        (f"q{question}".encode(errors="ignore").decode(), f"a{answer}".encode(errors="ignore").decode())
        for question, answer in pairs
    ]
    records = [{"question": question, "answer": answer, "group": answer} for question, answer in pairs]
    for ascii_alone in (True, False):
        path = folder / "own.jsonl"
        path.write_text("".join(json.dumps(record, ensure_ascii=ascii_alone) + "\n" for record in records), "utf-8")
        read = read_questions(path)
        assert [(question.text, question.answers, question.group) for question in read] == [
            (q, (a,), a) for q, a in pairs
        ]


@pytest.mark.parametrize("name", ["a\0b.jsonl", "a" * 5000 + ".jsonl", "a" * 5000, "\ud800.jsonl", "", "."])
def test_names_that_no_file_has(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for read in (read_questions, lambda name: list(read_passages(name))):
        with pytest.raises(UserError):
            read(name)
