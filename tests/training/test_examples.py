"""The examples of a run: how often a question is learned, and the search for its answers, made once and kept."""

from dataclasses import replace

import jax
import pytest

from rag_jax.api import Rag
from rag_jax.data import targets
from rag_jax.data.formats import Question
from rag_jax.data.tasks import TASKS
from rag_jax.errors import UserError
from rag_jax.training.examples import make_examples
from rag_jax.training.logging import RunLog

TOWNS = "Brimholt", "Cladow", "Dunmere", "Eskford", "Fallowby", "Gritsea", "Hexwold", "Ilverton", "Jarrow", "Kestrel"
# All 30 passages are looked at, so that what is found depends on no model.
QUESTIONS = [
    *(Question(town, f"when was {town} founded?", (rf"1\d+\.|{town} was", "(a")) for town in TOWNS),
    Question("none", "who?", ("Zoe( Bramble)?",)),
    Question("never", "who?", ("(Zo)+",)),
]


class Log(RunLog):
    """Keeps what it is told to say."""

    def __init__(self, folder):
        super().__init__(folder)
        self.said = []

    def say(self, line):
        self.said.append(line)


@pytest.fixture
def log(tmp_path):
    with Log(tmp_path / "log") as log:
        yield log


@pytest.fixture
def make(tiny_rag, tmp_path, log):
    """The examples of a task, kept in a file of the test's own."""

    def make(task, questions=QUESTIONS, rag=tiny_rag, resumed=False):
        return make_examples(TASKS[task], questions, rag, tmp_path / "targets.jsonl", resumed=resumed, log=log)

    make.file = tmp_path / "targets.jsonl"
    return make


def pairs(examples):
    return [(example.id, example.answers) for example in examples]


@pytest.fixture
def searched(monkeypatch):
    """How many questions were searched for."""
    counts = []
    retrieve = Rag.retrieve

    def counted(rag, questions, *, k=None):
        counts.append((len(questions), k))
        return retrieve(rag, questions, k=k)

    monkeypatch.setattr(Rag, "retrieve", counted)
    return counts


def test_without_a_search(make, log, searched):
    questions = [Question("a", "q", ("x", "y"), ("7",)), Question("b", "r", ("z",))]
    assert make("qa", questions) == [replace(questions[0], answers=("x",)), questions[1]]
    assert pairs(make("nq", questions)) == [("a", ("x",)), ("a", ("y",)), ("b", ("z",))]
    assert log.said == [
        "qa: 2 examples of 2 questions (2 x the first answer)",
        "nq: 3 examples of 2 questions (2 x every answer)",
    ]
    assert not searched and not make.file.exists()


def test_answers_that_no_passage_holds_are_dropped(make, log, searched):
    questions = [Question("a", "q", ("Kestrel", "Zoe", "cladow")), Question("b", "r", ("Zoe",))]
    assert pairs(make("triviaqa", questions)) == [("a", ("Kestrel",)), ("a", ("cladow",))]
    assert log.said[-1] == (
        "triviaqa: 2 examples of 2 questions (1 x answers that a passage holds, 1 x no answer in any passage: dropped)"
    )
    assert searched == [(2, 30)]  # the whole corpus, which has fewer than the paper's 1,000
    with pytest.raises(UserError, match=r"config\.data\.train: no question has an answer to learn with data\.task"):
        make("triviaqa", questions[1:])


def test_patterns_become_strings_and_what_was_found_is_kept(make, log, searched):
    examples = make("curatedtrec")
    assert len(examples) == 12 and [pair for pair in pairs(examples) if pair[0] == "none"] == [
        ("none", ("Zoe",)), ("none", ("Zoe Bramble",)),
    ]  # fmt: skip
    for example in examples[:10]:
        (answer,) = example.answers
        # Every year ends one text; of strings that come once, the first found counts.
        assert answer == f"{example.id} was" or (answer.startswith("1") and answer.endswith("."))
    assert "(10 x the most frequent match" in log.said[-1] and "expansion: dropped)" in log.said[-1]
    assert [count for count, _ in searched] == [8, 4]
    kept = make.file.read_bytes()
    assert make("curatedtrec") == make("curatedtrec", resumed=True) == examples
    assert len(searched) == 2 and make.file.read_bytes() == kept


def test_a_search_that_was_stopped_goes_on(make, searched):
    examples = make("curatedtrec")
    whole = make.file.read_bytes()
    first_line = whole.index(b"\n") + 1
    for length in (0, 20, first_line, first_line + 9, len(whole) // 2, len(whole) - 1):
        searched.clear()
        make.file.write_bytes(whole[:length])
        assert make("curatedtrec") == examples and make.file.read_bytes() == whole
        kept = max(whole[:length].count(b"\n") - 1, 0)
        assert sum(count for count, _ in searched) == len(QUESTIONS) - kept


def test_what_was_made_from_something_else_is_made_again(make, searched, tiny_rag):
    make("curatedtrec")
    for change in (
        {"questions": QUESTIONS[1:]},
        {"task": "triviaqa"},
        {"rag": with_another_encoder(tiny_rag)},
    ):
        searched.clear()
        arguments = {"task": "curatedtrec"} | change
        if arguments["task"] == "triviaqa":
            arguments["questions"] = [Question("a", "q", ("Kestrel",))]
        make(**arguments)
        assert searched
    make.file.write_text('not JSON\n["a"]\n')
    assert make("curatedtrec")


def test_a_run_that_goes_on_keeps_its_examples_whatever_its_encoder_is_by_now(make, searched, tiny_rag):
    examples = make("curatedtrec")
    searched.clear()
    assert make("curatedtrec", rag=with_another_encoder(tiny_rag), resumed=True) == examples and not searched
    with pytest.raises(UserError, match=r"targets\.jsonl: not the answers with which this run began \(questions\)"):
        make("curatedtrec", QUESTIONS[:3], resumed=True)
    make.file.write_bytes(make.file.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"began \(cut\); restore the file, or train in another --workdir"):
        make("curatedtrec", resumed=True)
    make.file.unlink()
    with pytest.raises(UserError, match=r"began \(task, questions, depth, passages, index, dtype, vectors\)"):
        make("curatedtrec", resumed=True)
    assert not searched


def with_another_encoder(rag):
    encoder = jax.tree.map(lambda leaf: leaf + 0.1, rag.params["question_encoder"])
    return Rag(rag.model, rag.params | {"question_encoder": encoder}, rag.retriever, rag.config, rag.parallel)


def test_the_paper_looks_at_1000_passages():
    assert {task.name: task.depth for task in TASKS.values() if task.depth} == dict.fromkeys(
        ("triviaqa", "curatedtrec"), targets.DEPTH
    )
    assert targets.DEPTH == 1000


def test_a_closed_book_searches_for_no_answer(make, tiny_rag, searched):
    retriever = tiny_rag.retriever._replace(index=None, alone=True)
    closed = Rag(tiny_rag.model, tiny_rag.params, retriever, tiny_rag.config, tiny_rag.parallel)
    questions = [Question("a", "q", ("Kestrel", "Zoe")), Question("b", "r", ("Zo[ae]",))]
    assert pairs(make("triviaqa", questions, rag=closed)) == [("a", ("Kestrel",)), ("a", ("Zoe",)), ("b", ("Zo[ae]",))]
    assert pairs(make("curatedtrec", questions[1:], rag=closed)) == [("b", ("Zoa",)), ("b", ("Zoe",))]
    assert not searched and not make.file.exists()
