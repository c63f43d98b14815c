"""A real run, configs/squad_open.py: does joint training find better passages, and do passages make better answers?

    python -m tests.benchmarks.squad_open --encoder=FOLDER --folder=FOLDER

DATA/squad_open has 20,958 passages and questions of 410 articles to train on, of 32 others to test; VALID articles are
taken out of the training questions to tune on. One reader is trained (start), first with single sentences; from there,
with SEEDS and for as many steps, the question encoder is trained with it (joint), or not (frozen); and the generator
alone, without passages (closedbook). What is measured: gold-passage and answer recall of each over all test questions,
beside BM25; EM and F1 over every eighth; intervals are bootstrapped over articles. Every command can be stopped and
given again; what was done is kept in --folder.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from scipy.stats import bootstrap

from rag_jax.api import Rag
from rag_jax.command import find_config, load_config
from rag_jax.data.corpus import read_passages
from rag_jax.data.formats import Question, read_questions
from rag_jax.data.lines import read_records
from rag_jax.data.tokenizer import Tokenizer
from rag_jax.evaluation import answers
from rag_jax.index.base import Queries, open_index
from rag_jax.metrics.answers_in_passages import answer_hits_at, holding_answer
from rag_jax.metrics.retrieval import hits_at
from rag_jax.metrics.text import exact_match, f1
from tests.benchmarks.sentences import asked_of_sentences
from tests.benchmarks.warm_start import warm_start

VALID, SEEDS = 32, (0, 1, 2)
CLOSED_BOOK = "squad_open:closedbook"
PLACES, HELD = (1, 5, 20, 100), (1, 5, 20)
EVERY = 8  # questions of the test that are answered
Values = dict[str, np.ndarray]  # measure -> what each question adds to it
Search = Callable[[list[str]], np.ndarray]  # texts -> rows of the passages, best first


def prepare(data: Path, folder: Path, encoder: Path) -> None:
    """The files that the configuration names: questions apart by articles, passages, the generator."""
    if not (folder / "sentences.jsonl").exists():
        passage_of = {passage.id: passage for passage in read_passages(data / "passages.tsv.gz")}
        asked = [record for *_, record in read_records(data / "questions_train.jsonl.gz")]
        names = sorted({passage_of[record["passage_id"]].title for record in asked})
        held_out = set(np.random.default_rng(0).choice(names, VALID, replace=False).tolist())
        parts = {"train": [], "valid": [], "test": [r for *_, r in read_records(data / "questions_valid.jsonl.gz")]}
        for record in asked:
            parts["valid" if passage_of[record["passage_id"]].title in held_out else "train"].append(record)
        # In turns through the articles, so that the first few questions are of all of them.
        np.random.default_rng(0).shuffle(parts["valid"])
        sentences, tokenizer = {}, Tokenizer.load(encoder)
        length = load_config(find_config("squad_sentences")).length
        for name in ("train", "valid"):
            pairs = list(asked_of_sentences(parts[name], passage_of, tokenizer, length.source, length.target))
            parts[f"{name}_sentences"] = [record for record, _ in pairs]
            sentences |= {sentence.id: asdict(sentence) for _, sentence in pairs}
        for name, records in (parts | {"sentences": sentences.values()}).items():
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if not (folder / "generator").exists():
        warm_start(encoder, str(data / "passages.tsv.gz"), folder / "generator")


class Runs:
    """The commands of the experiment, each in a process of its own."""

    def __init__(self, data: Path, folder: Path, encoder: Path):
        self.folder = folder
        self.generator = [f"--config.parts.generator={folder / 'generator'}"]
        self.parts = [f"--config.parts.question_encoder={encoder}", *self.generator]
        self.passages = self.files(data / "passages.tsv.gz", "train", "valid")
        self.reading = [
            *self.passages,
            f"--config.init_from={folder / 'sentences'}",
            f"--config.parts.passage_encoder={encoder}",
        ]

    def files(self, passages: Path, train: str, valid: str) -> list[str]:
        """The settings that name them."""
        questions = {"train": train, "valid": valid, "test": "test"}
        named = (f"--config.data.{split}={self.folder / name}.jsonl" for split, name in questions.items())
        return [f"--config.data.passages={passages}", *named]

    def run(self, command: str, place: Path, config: str, settings: Sequence[str]) -> None:
        """One command of the package; its output goes on to ours."""
        words = [f"--config={config}", f"--workdir={place}", *settings]
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", f"rag_jax.{command}", *words], check=True, env=os.environ)
        print(f"{command} {place.name}: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)

    def words(self) -> Path:
        """An index for BM25 alone."""
        place = self.folder / "words"
        if not (place / "index").exists():
            self.run("build_index", place, "squad_sentences", [*self.passages, *self.parts])
        return place

    def trained(self, name: str, config: str, settings: Sequence[str], start: Path | None = None) -> Path:
        """A run with an index of its own; or with the start's, which goes on from the start's last step."""
        place = self.folder / name
        if not (place / "done").exists():
            if start:
                self.begin(place, start)
            elif config != CLOSED_BOOK:
                self.run("build_index", place, config, settings)
            self.run("train", place, config, settings)
            (place / "done").touch()
        return place

    def start(self) -> Path:
        """The reader from which every arm begins: of single sentences, then of passages."""
        files = self.files(self.folder / "sentences.jsonl", "train_sentences", "valid_sentences")
        self.trained("sentences", "squad_sentences", [*files, *self.parts])
        return self.trained("start", "squad_open", [*self.reading, "--config.joint.steps=0"])

    def arm(self, name: str, seed: int, start: Path) -> Path:
        """Joint or frozen training with a seed."""
        config = "squad_open" + ":frozen" * (name == "frozen")
        return self.trained(f"{name}{seed}", config, [*self.reading, f"--config.seed={seed}"], start)

    def closed_book(self, seed: int) -> Path:
        """The same generator without passages, from its start."""
        settings = [*self.passages, *self.generator, f"--config.seed={seed}"]
        return self.trained(f"closedbook{seed}", CLOSED_BOOK, settings)

    def begin(self, place: Path, start: Path) -> None:
        """A run's folder with what the start made, whose index it shares."""
        if not (place / "index").exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            for part in ("tokenizers", "checkpoints"):
                shutil.copytree(start / part, place / part)
            shutil.copy(start / "metrics.jsonl", place)
            shutil.copytree(start / "index", place / "index", copy_function=os.link)


def measured(path: Path, measure: Callable[[], Values]) -> Values:
    """What was measured and is kept, else measured now."""
    if not path.exists():
        np.savez(path, **measure())
    return dict(np.load(path))


def retrieval(asked: Sequence[Question], search: Search, passages) -> Values:
    """Whether each question's gold passage is among the first k, and whether one of them holds the answer."""
    row_QK = np.concatenate([search([q.text for q in asked[at : at + 64]]) for at in range(0, len(asked), 64)])
    found_QK = [[passages[row] for row in row_K] for row_K in row_QK.tolist()]
    ids_QK = [[passage.id for passage in found_K] for found_K in found_QK]
    held_QK = [
        holding_answer([passage.text for passage in found_K[: max(HELD)]], question.answers)
        for found_K, question in zip(found_QK, asked, strict=True)
    ]
    gold = {f"gold@{k}": hits_at(ids_QK, [question.passage_ids for question in asked], k) for k in PLACES}
    answer = {f"answer@{k}": answer_hits_at(held_QK, k) for k in HELD}
    return {name: np.array(hits, np.float64) for name, hits in (gold | answer).items()}


def of_answers(rag: Rag, asked: Sequence[Question], text_of: dict[str, str]) -> Values:
    """EM and F1 of each question; text_of: passage id -> text."""
    everything = "\n".join(text_of.values())
    said = [
        as_written(prediction.text, [*(text_of[document.id] for document in prediction.passages), everything])
        for prediction in answers.predict(rag, asked)
    ]
    judged = {"EM": exact_match, "F1": f1}
    pairs = [(text, question.answers) for text, question in zip(said, asked, strict=True)]
    return {name: np.array([judge(*pair) for pair in pairs], np.float64) for name, judge in judged.items()}


def as_written(answer: str, texts: Sequence[str]) -> str:
    """The answer as the first text that has it writes it: WordPiece leaves '1, 000' of 1,000 and 'u. s.' of U.S.

    After the passages read comes the whole corpus, so that an answer without passages is mended too.
    """
    letters = "".join(answer.split())
    wanted = re.compile(r"\s*".join(map(re.escape, letters)), re.IGNORECASE)
    return next((found[0] for text in texts if letters and (found := wanted.search(text))), answer)


def interval(values_Q: np.ndarray, article_Q: Sequence[str]) -> str:
    """The mean in percent with its 95% percentile interval, articles drawn with replacement."""
    group_Q = np.unique(article_Q, return_inverse=True)[1]
    sums, counts = np.bincount(group_Q, values_Q), np.bincount(group_Q)
    ratio = lambda sums, counts, axis=-1: 100 * sums.sum(axis) / counts.sum(axis)  # noqa: E731
    found = bootstrap((sums, counts), ratio, paired=True, method="percentile", rng=0).confidence_interval
    return f"{ratio(sums, counts):.1f} [{found.low:.1f}, {found.high:.1f}]"


def table(title: str, systems: dict[str, Values], names: Sequence[str], article_Q: Sequence[str]) -> None:
    """Prints a row a system."""
    print(f"\n| {title} | {' | '.join(names)} |\n" + "|---" * (len(names) + 1) + "|")
    for system, values in systems.items():
        print(f"| {system} | {' | '.join(interval(values[name], article_Q) for name in names)} |", flush=True)


def mean(values: Sequence[Values]) -> Values:
    """Of several seeds, question by question."""
    return {name: np.mean([one[name] for one in values], axis=0) for name in values[0]}


def searches(runs: dict[str, Path], words: Path) -> dict[str, Callable[[], Search]]:
    """Name -> what opens its search: BM25's, and each run's, (texts) -> rows of the passages."""

    def by_words() -> Search:
        index = open_index(words / "index", kind="bm25")
        return lambda texts: index.search(Queries(texts, None), PLACES[-1])[0]

    def of(place: Path) -> Search:
        rag = Rag.load(place, checkpoint="last")
        return lambda texts: rag.retrieve(texts, k=PLACES[-1]).ids_BK

    return {"BM25": by_words} | {name: partial(of, place) for name, place in runs.items()}


def compared(systems: dict[str, Values]) -> dict[str, Values]:
    """The systems with the means over the seeds, and the difference that training the encoder makes."""
    joint, frozen = (mean([systems[f"{arm}{seed}"] for seed in SEEDS]) for arm in ("joint", "frozen"))
    difference = {name: joint[name] - frozen[name] for name in joint}
    return systems | {"joint, mean": joint, "frozen, mean": frozen, "joint - frozen": difference}


def report(asked: Sequence[Question], runs: dict[str, Path], words: Path, kept: Path) -> None:
    """Measures every run and prints the tables."""
    kept.mkdir(exist_ok=True)
    few, passages = asked[::EVERY], open_index(words / "index", kind="bm25").passages
    text_of = {passage.id: passage.text for passage in passages}
    article_of = {passage.id: passage.title for passage in passages}
    opened = searches({name: place for name, place in runs.items() if (place / "index").exists()}, words)
    found = {
        name: measured(kept / f"{name}_found.npz", lambda opening=opening: retrieval(asked, opening(), passages))
        for name, opening in opened.items()
    }
    said = {
        name: measured(
            kept / f"{name}_said.npz", lambda place=place: of_answers(Rag.load(place, checkpoint="last"), few, text_of)
        )
        for name, place in runs.items()
    }
    for questions, systems, names in (
        (asked, found, [f"gold@{k}" for k in PLACES] + [f"answer@{k}" for k in HELD]),
        (few, said, ["EM", "F1"]),
    ):
        article_Q = [article_of[question.passage_ids[0]] for question in questions]
        table(f"{len(questions):,} questions", compared(systems), names, article_Q)


def main() -> None:
    """Prepares, trains what is missing, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/squad_open"))
    parser.add_argument("--encoder", type=Path, required=True, help="a folder of all-MiniLM-L6-v2")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--split", choices=("valid", "test"), default="valid", help="test: once, when all is tuned")
    flags = parser.parse_args()
    flags.folder.mkdir(parents=True, exist_ok=True)
    prepare(flags.data, flags.folder, flags.encoder)
    runs = Runs(flags.data, flags.folder, flags.encoder)
    words = runs.words()
    start = runs.start()
    places = {"start": start}
    for seed in SEEDS:
        for arm in ("joint", "frozen"):
            places[f"{arm}{seed}"] = runs.arm(arm, seed, start)
    places[f"closedbook{SEEDS[0]}"] = runs.closed_book(SEEDS[0])
    asked = read_questions(flags.folder / f"{flags.split}.jsonl")
    report(asked, places, words, flags.folder / flags.split)


if __name__ == "__main__":
    main()
