"""Walks by any number of processes, killed anywhere, end in the same bytes; predictions.jsonl among them."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest

from rag_jax import team as processes
from rag_jax.data import tasks
from rag_jax.errors import UserError
from rag_jax.evaluation.answers import predict, read, unread
from rag_jax.evaluation.walks import Walks
from rag_jax.team import SINGLE, Team

NAMES = ("exact_match", "f1", "gold_recall", "answer_recall")


class Board:
    """Where processes meet, for threads; tests/test_evaluate.py has real processes at jax's."""

    def __init__(self):
        self.texts = {}

    def key_value_set(self, key, value, allow_overwrite):
        assert key not in self.texts and allow_overwrite
        self.texts[key] = value

    def key_value_dir_get(self, folder):
        return [(key, value) for key, value in list(self.texts.items()) if key.startswith(folder)]


@pytest.fixture
def together(monkeypatch):
    """together(count, work) calls work(team) in as many threads; returns their results, or the errors they end in."""
    monkeypatch.setattr(processes, "POLL", 0.002)

    def run(count, work):
        board = Board()

        def process(number):
            team = Team(number, count, board) if count > 1 else SINGLE
            try:
                return work(team)
            except UserError as error:
                team.say("failed", str(error))
                return error

        with ThreadPoolExecutor(count) as threads:
            return list(threads.map(process, range(count)))

    return run


@pytest.fixture
def many(questions):
    """Ten questions about four towns, in batches of three, three, three and one."""
    return [replace(questions[n % 4], id=str(n)) for n in range(10)]


@pytest.fixture
def walk(reader, many, tmp_path):
    """walk(team) -> (what two readings say, the names of the files that it wrote)."""

    def run(team, folder=tmp_path / "kept", asked=many, identity="model"):
        fake, made = reader("copies"), []

        def noted(name, reading, batch):
            made.append(f"{name}_{batch.numbers.start}-{batch.numbers.stop}.jsonl")
            return reading(fake, batch)

        walks = Walks(fake, folder, identity, team)
        readings = {name: partial(noted, name, reading) for name, reading in {"read": read, "unread": unread}.items()}
        walked = walks.walk("test", asked, readings, about=NAMES)
        return {name: list(walked.predictions(name)) for name in readings}, made

    return run


@pytest.fixture
def alone(walk, tmp_path):
    """What one process says, in text, for what was not read has no number; and the bytes that it keeps."""
    said, _ = walk(SINGLE, tmp_path / "alone")
    return str(said), contents(tmp_path / "alone")


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.jsonl")}


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_any_number_of_processes_keeps_what_one_keeps(walk, together, alone, tmp_path, count):
    """Each batch is read once; all see everything. Of six processes two have nothing to do."""
    said = together(count, walk)
    assert {str(predictions) for predictions, _ in said} == {alone[0]}
    assert contents(tmp_path / "kept") == alone[1] and len(alone[1]) == 8
    made = [name for _, names in said for name in names]
    assert sorted(made) == sorted(name.rpartition("/")[2] for name in alone[1])
    assert [len(names) for _, names in said] == {1: [8], 2: [4, 4], 3: [4, 2, 2], 6: [2, 2, 2, 2, 0, 0]}[count]


@pytest.mark.parametrize("count", [1, 3])
def test_a_killed_walk_goes_on_with_any_number_of_processes(walk, together, alone, tmp_path, count, capsys):
    """One file is not there, one damaged, one has a question too few."""
    together(2, walk)
    (folder,) = (tmp_path / "kept").iterdir()
    (folder / "read_3-6.jsonl").unlink()
    (folder / "unread_3-6.jsonl").write_bytes((folder / "unread_3-6.jsonl").read_bytes().replace(b"score", b"scope", 1))
    (folder / "read_6-9.jsonl").write_bytes((folder / "read_6-9.jsonl").read_bytes().rpartition(b'{"id')[0])
    capsys.readouterr()
    said = together(count, walk)
    assert {str(predictions) for predictions, _ in said} == {alone[0]} and contents(tmp_path / "kept") == alone[1]
    assert sorted(name for _, names in said for name in names) == [
        "read_3-6.jsonl", "read_6-9.jsonl", "unread_3-6.jsonl",
    ]  # fmt: skip
    assert capsys.readouterr().out == f"{folder}: going on, 7 batches are there\n"


def test_what_another_model_left_goes_and_so_does_all_at_the_end(walk, reader, many, tmp_path):
    walk(SINGLE)
    _, made = walk(SINGLE, identity="another")
    assert len(made) == 8 and len(list((tmp_path / "kept").iterdir())) == 1
    (tmp_path / "kept" / "sweep-of-another").mkdir()
    walks = Walks(reader("copies"), tmp_path / "kept", "another")
    walks.walk("test", many, {"unread": partial(unread, walks.rag)})
    walks.clear()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["sweep-of-another"]
    (tmp_path / "kept" / "sweep-of-another").rmdir()
    Walks(walks.rag, tmp_path / "kept", "another").clear()
    assert not (tmp_path / "kept").exists()


def test_processes_with_folders_of_their_own_are_told(walk, together, tmp_path):
    first, second = together(2, lambda team: walk(team, tmp_path / str(team.process)))
    assert "all processes must see the same folders" in str(second) and str(tmp_path / "1") in str(second)
    assert str(first) == f"process 1 of 2 failed: {second}"


def test_processes_with_other_questions_are_told(walk, together, many):
    said = together(2, lambda team: walk(team, asked=many[team.process :]))
    message = "the start of test: the 2 processes differ; start all with the same command, files and weights"
    assert [str(error) for error in said] == [message] * 2


@pytest.fixture(scope="module")
def asked(tiny_run):
    """Twenty, in batches of eight, eight and four."""
    return tasks.TASKS["qa"].questions(str(tiny_run.folder / "train.jsonl"))[:20]


def predicted(rag, questions, path, goes_on=True):
    walks = Walks(rag, path.with_suffix(".partial"), "model")
    said = list(walks.predict(questions, path, names=NAMES, places=(1, 3), goes_on=goes_on))
    walks.clear()
    assert not path.with_suffix(".partial").exists()
    return said


@pytest.fixture(scope="module")
def whole(tiny_rag, asked, tmp_path_factory):
    """What a run that was never stopped yields, and the bytes it writes."""
    path = tmp_path_factory.mktemp("whole") / "predictions.jsonl"
    return predicted(tiny_rag, asked, path), path.read_bytes()


@pytest.fixture
def counting(tiny_rag, monkeypatch):
    """How many questions each call of the generator reads."""
    read, counts = tiny_rag.read, []
    monkeypatch.setattr(tiny_rag, "read", lambda texts, *rest: counts.append(len(texts)) or read(texts, *rest))
    return counts


def test_a_line_a_question_with_all_that_is_known_of_it(whole, asked):
    said, content = whole
    records = [json.loads(line) for line in content.decode().splitlines()]
    assert [record["id"] for record in records] == [question.id for question in asked]
    assert list(records[0]) == ["id", "question", "answers", "prediction", "score", "measures", "documents", "crc"]
    assert list(records[0]["documents"][0]) == ["id", "title", "score", "prior", "posterior", "holds_answer"]
    for record, one in zip(records, said, strict=True):
        assert (record["prediction"], record["score"]) == (one.text, one.log_prob)
        assert record["measures"]["EM"] == one.exact_match and record["measures"]["answer recall@3"] in (0.0, 1.0)
        assert record["documents"] == [document._asdict() for document in one.documents]


def test_they_are_the_answers_of_the_plain_walk(tiny_rag, whole, asked):
    plain = list(predict(tiny_rag, asked))
    assert [p.text for p in plain] == [p.text for p in whole[0]]
    assert [p.log_prob for p in plain] == [p.log_prob for p in whole[0]]


@pytest.mark.parametrize(
    ("lines", "more", "read"),
    [(0, 0, [8, 8, 4]), (0, 7, [8, 8, 4]), (8, -1, [8, 8, 4]), (11, 40, [8, 4]), (19, 0, [4]), (20, 0, [])],
)  # fmt: skip
def test_a_file_cut_anywhere_ends_in_the_same_bytes(tiny_rag, asked, whole, counting, tmp_path, lines, more, read):
    """After `lines` whole lines and `more` bytes of the next: only batches that are not whole are read again."""
    said, content = whole
    ends = [0, *(n + 1 for n, byte in enumerate(content) if byte == ord("\n"))]
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(content[: ends[lines] + more])
    assert predicted(tiny_rag, asked, path) == said
    assert path.read_bytes() == content and counting == read


def test_a_killed_run_leaves_its_batches_and_no_half_file(tiny_rag, asked, whole, counting, tmp_path):
    """What another model has left in the file stays until the new one is whole."""
    said, content = whole
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(content.replace(b'"score": -', b'"score": -1'))
    other, walks = path.read_bytes(), Walks(tiny_rag, path.with_suffix(".partial"), "model")
    begun = walks.predict(asked, path, names=NAMES, places=(1, 3), goes_on=False)
    assert next(begun) == said[0] and path.read_bytes() == other
    begun.close()
    (walked,) = path.with_suffix(".partial").iterdir()
    (walked / "answers_8-16.jsonl").unlink()
    assert predicted(tiny_rag, asked, path, goes_on=False) == said
    assert path.read_bytes() == content and counting == [8, 8, 4, 8]


def test_a_damaged_line_and_what_follows_it_are_answered_again(tiny_rag, asked, whole, counting, tmp_path):
    said, content = whole
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(content.replace(b'"id": "9"', b'"id": "x"', 1))
    assert predicted(tiny_rag, asked, path) == said and path.read_bytes() == content and counting == [8, 4]
    path.write_bytes(content.replace(b'"score"', b'"scope"', 1))
    assert predicted(tiny_rag, asked, path) == said and path.read_bytes() == content


def test_fewer_questions_leave_the_file_whole_and_more_go_on(tiny_rag, asked, whole, counting, tmp_path):
    said, content = whole
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(content)
    assert predicted(tiny_rag, asked[:9], path) == said[:9] and path.read_bytes() == content and counting == []
    path.unlink()
    assert [p.text for p in predicted(tiny_rag, asked[:9], path)] == [p.text for p in said[:9]]
    assert predicted(tiny_rag, asked, path) == said and path.read_bytes() == content and counting == [8, 1, 8, 4]
