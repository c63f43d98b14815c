"""The paper's tasks, one frozen Task each, and the one way to passages and questions: files, or the demo by name."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from rag_jax.data import corpus, demo, published, targets
from rag_jax.data.corpus import Cut
from rag_jax.data.demo import forms
from rag_jax.data.formats import Passage, Question, msmarco, qa, read_questions
from rag_jax.data.lines import Meter
from rag_jax.data.published import Scores
from rag_jax.data.targets import Targets, Texts
from rag_jax.errors import fail
from rag_jax.metrics.labels import THREE_WAY, TWO_WAY
from rag_jax.metrics.patterns import compile_patterns
from rag_jax.progress import waiting
from rag_jax.storage import local

DEMO = "demo:"
SHOWN = 5

# The question as a task asks it or None, and what to say of it: '', a reason to count, or 'reason: what to show'.
Choice = tuple[Question | None, str]


def as_read(question: Question) -> Choice:
    """Every question, as it was read."""
    return question, ""


def answered(question: Question, *, kind: str = "answer") -> Choice:
    """Questions that have an answer of a kind: not all of SQuAD 2.0's have, nor of MS-MARCO's a well-formed one."""
    return (question, "") if question.answers else (None, f"no {kind}")


def two_way(question: Question) -> Choice:
    """FEVER's claims that are supported or refuted."""
    known = not question.answers or question.answers[0] in TWO_WAY
    return (question, "") if known else (None, "not enough info")


def patterns(question: Question) -> Choice:
    """Questions with the answer patterns that compile; without any, none could ever be answered right."""
    if not question.answers:
        return None, "no pattern"
    compiled, broken = compile_patterns(question.answers)
    kept = replace(question, answers=tuple(pattern.pattern for pattern in compiled)) if compiled else None
    return kept, f"a pattern that does not compile: {', '.join(broken)}" if broken else ""


def clue(question: Question) -> Choice:
    """Jeopardy question generation (Lewis et al. 2020, section 3.3): the answer is given, the clue is asked for."""
    if not question.answers:
        return None, "no answer"
    return replace(question, text=question.answers[0], answers=(question.text,)), ""


class Submission(NamedTuple):
    """The file that answers to a hidden test are handed in with: its name, and its text from (id, answer) pairs."""

    name: str
    text: Callable[[Iterable[tuple[str, str]]], str]


@dataclass(frozen=True)
class Task:
    """A data set as the paper uses it.

    metrics: how predictions are judged, by name; the first is the paper's. choose: which of a file's questions are
    asked, and how. targets: what the generator learns to say, from a question and the texts of the `depth` passages
    that the starting retriever finds for it (none are searched where depth is 0; None in a closed book). submission:
    the file for a hidden test. labels: all that a question may have for its answer, in the order of their classes.
    unlike: splits, but for train, whose published files are not the paper's.
    """

    name: str
    metrics: tuple[str, ...]
    choose: Callable[[Question], Choice] = as_read
    targets: Callable[[Question, Texts], Targets] = targets.first
    depth: int = 0
    submission: Submission | None = None
    labels: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()

    @property
    def paper(self) -> Scores:
        """What the paper reports: split -> system -> metric -> percent."""
        return published.paper(self.name)

    def comparable(self, split: str, source: str) -> Scores:
        """What the paper reports, if a split that is read from `source` has the paper's questions; else nothing.

        It reports nothing of training questions, even where it does not say of which split a number is.
        """
        return {} if source.startswith(DEMO) or split in ("train", *self.unlike) else self.paper

    def questions(self, source: str | Path, *, log: Callable[[str], None] = print) -> list[Question]:
        """The questions of a file in any form that formats.read_questions knows, or of the demo: 'demo:nq/train'.

        What is left out is counted, and log hears of it; of a test whose answers are hidden, all of them, nothing.
        """
        name = str(source)
        with waiting(f"{name}: its questions are read"):
            read = _of_demo(name.removeprefix(DEMO)) if name.startswith(DEMO) else read_questions(local(name))
        if self.labels:
            _only_labels(name, read)
        choose = self.choose if any(question.answers for question in read) else as_read
        kept, said = [], Counter[str]()
        for question in read:
            chosen, what = choose(question)
            if chosen is not None:
                kept.append(chosen)
            if what:
                reason, _, shown = what.partition(": ")
                said[reason] += 1
                if shown and said[reason] <= SHOWN:
                    log(f"{name}: question {question.id!r}: {what}")
        if said:
            reasons = ", ".join(f"{count:,} x {reason}" for reason, count in said.most_common())
            log(f"{name}: kept {len(kept):,} of {len(read):,} questions, dropped {len(read) - len(kept):,}; {reasons}")
        if not kept:
            fail(f"{name}: no question is left for data.task = {self.name!r}; expected another file or task")
        return kept


def _only_labels(name: str, questions: Iterable[Question]) -> None:
    """UserError for an answer that is no label of FEVER's."""
    for question in questions:
        if question.answers and question.answers[0] not in THREE_WAY:
            label, expected = question.answers[0], ", ".join(THREE_WAY)
            fail(f"{name}: question {question.id!r}: found the label {label!r}, expected {expected}")


def _of_demo(name: str) -> list[Question]:
    """The questions of a split of the demo, 'train', or of a few in the form of a task's files, 'nq/train'."""
    task, slash, split = name.partition("/")
    return forms.questions(task, split) if slash else demo.questions(name)


DPRS_OWN = ("valid",)  # without the questions for which DPR found no passage
_STRINGS = ("exact_match", "exact_match_orqa", "f1", "gold_recall", "answer_recall")

TASKS = {
    task.name: task
    for task in (
        Task("qa", ("exact_match", "f1", "gold_recall", "answer_recall")),
        Task("nq", _STRINGS, targets=targets.each),
        Task(
            "triviaqa", _STRINGS, targets=targets.held, depth=targets.DEPTH,
            submission=Submission("submission.json", qa.trivia_qa_submission),
        ),
        Task("webquestions", _STRINGS, targets=targets.each, unlike=DPRS_OWN),
        Task(
            "curatedtrec", ("regex_match", "regex_search", "regex_fullmatch", "answer_recall"),
            choose=patterns, targets=targets.mined, depth=targets.DEPTH, unlike=DPRS_OWN,
        ),
        Task(
            "msmarco", ("rouge_l_coco", "bleu_1", "distinct_3", "distinct_3_gold"),
            choose=partial(answered, kind="well-formed answer"),
            submission=Submission("submission.jsonl", msmarco.submission),
        ),
        Task("jeopardy", ("q_bleu_1", "bleu_1", "distinct_3", "distinct_3_gold"), choose=clue),
        Task("fever3", ("accuracy", "accuracy_2way_rows", "page_precision"), labels=THREE_WAY),
        Task("fever2", ("accuracy", "page_precision"), choose=two_way, labels=TWO_WAY),
        Task("squad", ("exact_match", "f1", "gold_recall", "answer_recall", "page_precision"), choose=answered),
        Task("kilt", ("exact_match", "f1", "accuracy_kilt", "kilt", "rouge_l_kilt", "page_precision")),
    )
}  # fmt: skip


def passages(
    data: ConfigDict,
    source: str = "",
    *,
    known: Iterable[str] = (),
    meter: Meter | None = None,
    log: Callable[[str], None] = print,
) -> Iterator[Passage]:
    """The passages of data.passages, or of another `source`, read as config.data says (see corpus.read_passages).

    A source is a file, a folder, or an edition of the demo ('demo:2016').
    """
    source = source or data.passages
    if source.startswith(DEMO):
        facts = demo.passages(source.removeprefix(DEMO))
        return corpus.check(((source, fact) for fact in facts), source, known=known, skip_bad=data.skip_bad, log=log)
    cut = Cut(data.words, data.overlap, data.minimum)
    return corpus.read_passages(source, cut=cut, skip_bad=data.skip_bad, known=known, meter=meter, log=log)


def files(source: str) -> list[list]:
    """[path, bytes, time of the last change] of each file of a source of passages; of the demo, its name."""
    return [[source]] if source.startswith(DEMO) else corpus.files(source)


def questions(data: ConfigDict, source: str, *, log: Callable[[str], None] = print) -> list[Question]:
    """The questions of a file, or of a split of the demo ('demo:train'), as data.task asks them; see Task.questions."""
    return TASKS[data.task].questions(source, log=log)


def checksum(questions: Iterable[Question]) -> str:
    """Of the texts and answers of questions, in their order."""
    return hashlib.sha256(json.dumps([[one.text, one.answers] for one in questions]).encode()).hexdigest()


def task(data: ConfigDict) -> Task:
    """The task that data.task names; where a label is said in one token, its word is what the generator learns."""
    found = TASKS[data.task]
    return replace(found, targets=targets.word) if data.classify == "token" else found


def labels(data: ConfigDict) -> tuple[str, ...]:
    """The labels that data.classify tells apart, in the order of their classes; none where answers are written."""
    return TASKS[data.task].labels if data.classify else ()


def classes(data: ConfigDict) -> int:
    """How many labels a head tells apart; 0 without one."""
    return len(labels(data)) if data.classify == "head" else 0


def check_labels(name: str, trained: ConfigDict, data: ConfigDict) -> None:
    """UserError where config.data asks for other labels, or in another way, than the model `name` was trained for."""
    if (trained.classify, labels(trained)) != (data.classify, labels(data)):
        found, learned = (f"classify = {of.classify!r} with task = {of.task!r}" for of in (data, trained))
        fail(f"config.data: found {found}, but {name} was trained for {learned}; leave that as it was")
