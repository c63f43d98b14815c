"""Runs the measurements of a trained model and writes them down: metrics.json, predictions.jsonl, sweep.json."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rag_jax.api import Rag
from rag_jax.config import closed_book
from rag_jax.data import tasks
from rag_jax.data.formats import Question
from rag_jax.data.tasks import TASKS, Submission
from rag_jax.errors import fail
from rag_jax.evaluation import answers, measures, plots, predictions
from rag_jax.evaluation.hot_swap import square
from rag_jax.evaluation.measures import Totals
from rag_jax.evaluation.reading import reading_tests
from rag_jax.evaluation.sums import Sum
from rag_jax.evaluation.sweep import sweep
from rag_jax.evaluation.walks import Walks
from rag_jax.files import read_sealed, write_atomically, write_sealed
from rag_jax.progress import tell
from rag_jax.storage import local, publish, pull, twin
from rag_jax.team import SINGLE, Team

PARTS = ("answers", "retrieval", "reading", "hot_swap")
Lines = Iterator[tuple[str, Sum, float | None]]  # name, what was measured, the paper's own number in percent


@dataclass(frozen=True)
class Asked:
    """What evaluate is asked for.

    parts: of PARTS. split: 'train', 'valid' or 'test'. limit: only so many questions. swap_index: the second index of
    the square. n_docs: the numbers of passages of a sweep. beside: other runs that were swept. kilt_out: a file for the
    answers in KILT's form.

    Of the task: names of its measures, the headline first, see evaluation.measures; the paper's own numbers in percent,
    by measure or, as 'gold_page@10', by label; and the file that answers are handed in with.
    """

    parts: tuple[str, ...] = ("answers",)
    split: str = "test"
    limit: int | None = None
    swap_index: str | None = None
    n_docs: tuple[int, ...] = ()
    beside: tuple[str, ...] = ()
    kilt_out: str | None = None
    names: tuple[str, ...] = TASKS["qa"].metrics
    paper: Mapping[str, float] = field(default_factory=dict)
    submission: Submission | None = None


def evaluate(rag: Rag, config: ConfigDict, folder: Path, asked: Asked, team: Team = SINGLE) -> None:
    """Prints and saves each part asked for, with 95% intervals, and the sweep.

    Beside the parts in metrics.json, under 'of', stands what they measure (see whose), so that a model card shows no
    other model's scores. team: the processes that answer together; the first prints and saves.
    Called again after it was killed, it answers nothing twice.
    """
    _check(config, asked)
    team.wait("what to measure", f"{replace(asked, submission=None)} {config.evaluate}")
    if closed_book(config):
        asked = replace(asked, names=tuple(measures.of_closed_book(asked.names)))
    measures_of = {"answers": _answers, "retrieval": _retrieval, "reading": _reading, "hot_swap": _hot_swap}
    walks = Walks(rag, folder / f"{_heading('evaluate', asked)}.partial", rag.identity(), team)
    of = whose(walks.identity, config.data, asked.split)
    for part in dict.fromkeys(asked.parts):
        lines = measures_of[part](walks, config, asked, folder)
        if team.first:
            _report(_heading(part, asked), lines, folder, of)
        else:
            deque(lines, maxlen=0)  # which answers its share
    if asked.n_docs:
        questions, path = _answered("--sweep", config, asked), _beside(folder, "sweep.json", asked)
        sweep(walks, questions, asked.n_docs, asked.names, path, {"of": of, "split": asked.split}, asked.beside)
    walks.clear()


def whose(identity: str, data: ConfigDict, split: str) -> str:
    """What scores are of: the model with its passages and settings (Rag.identity), the task, the split's questions."""
    return f"{identity} {data.task} {data[split]}"


def own_numbers(
    published: Mapping[str, Mapping[str, Mapping[str, float]]], kind: str, split: str, ablation: str = ""
) -> dict[str, float]:
    """The paper's numbers of a task (split -> system -> measure -> percent) for one kind of model and one split.

    kind: 'token', 'sequence' or 'closed book', the paper's BART. ablation: of the first two, '', 'bm25' or 'frozen'.
    With them come those of which the paper does not say the split.
    """
    model = {"token": "RAG-Token", "sequence": "RAG-Sequence", "closed book": "BART"}[kind]
    ablated = {"": "", "bm25": "-BM25", "frozen": "-Frozen"}[ablation]
    systems = [model + ablated] if ablated or model == "BART" else ["RAG", model]
    systems.append("gold answers")
    found = [published.get(part, {}).get(system, {}) for part in ("unstated", split) for system in systems]
    return {name: percent for numbers in found for name, percent in numbers.items()}


def _check(config: ConfigDict, asked: Asked) -> None:
    unknown = [part for part in asked.parts if part not in PARTS]
    if unknown:
        fail(f"--parts: found {', '.join(unknown)}, expected some of {', '.join(PARTS)}")
    if not asked.parts and not asked.n_docs:
        fail(f"--parts: found none, expected some of {', '.join(PARTS)}")
    if ({*asked.parts} - {"hot_swap"} or asked.n_docs) and not config.data[asked.split]:
        example = "expected a .jsonl file of questions, or 'demo:test'"
        fail(f"config.data.{asked.split}: empty, so there is no split '{asked.split}'; {example}")
    if "hot_swap" in asked.parts and not (asked.swap_index and all(config.hot_swap.questions)):
        fail("--parts=hot_swap: expected --swap_index, a second index, and config.hot_swap.questions, two files")
    if closed_book(config) and ({*asked.parts} - {"answers"} or asked.n_docs):
        found = "--sweep" if asked.n_docs else f"--parts={','.join(asked.parts)}"
        fail(f"{found}: with index.kind = 'none', a closed book, nothing is retrieved; expected --parts=answers alone")
    if asked.limit is not None and asked.limit < 1:
        fail(f"--limit: found {asked.limit}, expected 1 or more questions")
    if asked.kilt_out and "answers" not in asked.parts:
        fail(f"--kilt_out: found --parts={','.join(asked.parts)}, expected answers among them")
    if asked.kilt_out and twin(asked.kilt_out).is_dir():
        fail(f"--kilt_out: found the folder {asked.kilt_out}, expected a file to write")
    for part in asked.parts:
        if part in ("reading", "hot_swap") and measures.PATTERNS.intersection(asked.names):
            fail(f"--parts={part}: the answers of this task are patterns, expected words; leave that part out")
    if asked.beside and not asked.n_docs:
        fail("--beside: found no --sweep, expected one, as --sweep=n_docs=1,5,10")
    if asked.beside:
        plots.check_installed("--beside")
    if asked.swap_index and "hot_swap" not in asked.parts:
        tell(f"note: --swap_index={asked.swap_index} is read by --parts=hot_swap alone; --index names another index")
    if asked.limit and "hot_swap" in asked.parts:
        fail("--limit: found --parts=hot_swap, which asks all of config.hot_swap.questions; leave one of them out")
    if "retrieval" in asked.parts and not measures.of_retrieval(asked.names):
        fail("--parts=retrieval: the task has no measure of retrieval; expected --parts=answers")


def _report(heading: str, lines: Lines, folder: Path, of: str) -> None:
    results = {}
    print(f"{heading.replace('_', ' '):<56} percent  [95% interval]  sum of count", flush=True)
    for name, found, paper in lines:
        print(f"  {name:<54} {found}" + ("" if paper is None else f"   paper {paper}"), flush=True)
        results[name] = found.json() | ({} if paper is None else {"paper": paper})
    _write(folder, {heading: results}, {heading: of})


def _answers(walks: Walks, config: ConfigDict, asked: Asked, folder: Path) -> Lines:
    """Answers the questions that predictions.jsonl does not hold yet; places past what is read are left out."""
    questions, path = _questions(config, asked), pull(_beside(folder, "predictions.jsonl", replace(asked, limit=None)))
    places = [place for place in config.evaluate.recall if place <= walks.rag.config.retrieval.k]
    _tell_of_pages(walks, asked, questions)
    ours = predictions.fingerprint(walks.identity, questions, asked.names, places)
    goes_on = _written(folder).get("of", {}).get(path.name) == ours
    if not goes_on and path.exists() and walks.team.first:  # nobody's, for whoever is stopped once it is another's
        _write(folder, {}, {path.name: ""})
    totals, kept = Totals(asked.names, places), []
    said = walks.predict(questions[: asked.limit], path, names=asked.names, places=places, goes_on=goes_on)
    for prediction in said:
        totals.add(prediction)
        if asked.kilt_out or asked.submission:
            kept.append(prediction)
    if not walks.team.first:
        return
    publish(path)
    _write(folder, {}, {path.name: ours})
    if asked.kilt_out:
        predictions.write_kilt(twin(asked.kilt_out), kept)
        publish(twin(asked.kilt_out))
    if asked.submission:
        handed_in = _beside(folder, asked.submission.name, asked)
        write_atomically(handed_in, asked.submission.text((one.question.id, one.text) for one in kept))
        publish(handed_in)
    yield from _lines(totals, asked)


def _retrieval(walks: Walks, config: ConfigDict, asked: Asked, *_) -> Lines:
    """Searches as deep as the places looked at; nothing is generated."""
    rag, names, places = walks.rag, measures.of_retrieval(asked.names), config.evaluate.recall
    k = min(max([measures.KILT_PLACES, *places]), len(rag.retriever.open_book.passages))
    questions = _questions(config, asked)
    _tell_of_pages(walks, asked, questions)
    readings = {"retrieval": partial(answers.unread, rag, holding=measures.holding(asked.names))}
    walked = walks.walk("retrieval", questions[: asked.limit], readings, k=k, about=asked.names)
    totals = Totals(names, places)
    for prediction in walked.predictions("retrieval"):
        totals.add(prediction)
    yield from _lines(totals, asked)


def _reading(walks: Walks, config: ConfigDict, asked: Asked, *_) -> Lines:
    questions = _answered("--parts=reading", config, asked)
    yield from ((name, rate, None) for name, rate in reading_tests(walks, questions))


def _hot_swap(walks: Walks, config: ConfigDict, asked: Asked, *_) -> Lines:
    editions = [tasks.questions(config.data, source) for source in config.hot_swap.questions]
    assert asked.swap_index is not None  # without it this part is not asked for
    rates = square(walks, [walks.rag.retriever.open_book.folder, local(asked.swap_index)], editions)
    yield from ((name, rate, None) for name, rate in rates)


def _questions(config: ConfigDict, asked: Asked) -> list[Question]:
    """All questions of the split."""
    return tasks.questions(config.data, config.data[asked.split])


def _answered(flag: str, config: ConfigDict, asked: Asked) -> list[Question]:
    """Those that are asked, each of which has an answer; UserError in a hidden test."""
    questions = _questions(config, asked)[: asked.limit]
    if hidden := next((question for question in questions if not question.answers), None):
        fail(f"{flag}: question '{hidden.id}' has no answer, as in a hidden test; expected another --split")
    return questions


def _tell_of_pages(walks: Walks, asked: Asked, questions: Sequence[Question]) -> None:
    """A note where KILT's scores or form are asked for and the ids of passages do not tell their pages'."""
    index, scored = walks.rag.retriever.index, "kilt" in asked.names
    if index is None or not walks.team.first or not (scored or asked.kilt_out):
        return
    if note := predictions.kilt_note(index.passages, questions if scored else ()):
        tell(note)


def _lines(totals: Totals, asked: Asked) -> Lines:
    """Every sum, with the paper's own number of that label or, beside its first in percent, of the measure."""
    lines: dict[str, tuple[Sum, float | None]] = {}
    for name, sums in totals.sums().items():
        first = next((label for label, found in sums.items() if hasattr(found, "percent")), None)
        for label, found in sums.items():
            beside = asked.paper.get(name) if label == first else None
            lines[label] = found, asked.paper.get(label.replace(" ", "_"), beside)
    yield from ((label, *line) for label, line in lines.items())


def _heading(part: str, asked: Asked) -> str:
    """What a part is called in metrics.json: 'test', 'valid', 'retrieval', 'reading_valid', 'test_first_100'."""
    if part == "hot_swap":
        return part
    words = [asked.split] if part == "answers" else [part] if asked.split == "test" else [part, asked.split]
    return "_".join(words + ([f"first_{asked.limit}"] if asked.limit else []))


def _beside(folder: Path, name: str, asked: Asked) -> Path:
    """'sweep.json' of the test, 'sweep_valid.json' of another split, 'sweep_valid_first_10.json' of its beginning."""
    stem, dot, suffix = name.partition(".")
    words = ([] if asked.split == "test" else [asked.split]) + ([f"first_{asked.limit}"] if asked.limit else [])
    return folder / f"{'_'.join([stem, *words])}{dot}{suffix}"


def _written(folder: Path) -> dict[str, Any]:
    path = pull(folder / "metrics.json")
    return read_sealed(path) if path.exists() else {}


def _write(folder: Path, results: Mapping[str, Any], of: Mapping[str, str]) -> None:
    written = _written(folder)
    write_sealed(folder / "metrics.json", {**written, **results, "of": {**written.get("of", {}), **of}})
    publish(folder / "metrics.json")
