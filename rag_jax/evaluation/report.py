"""Runs the measurements of a trained model and writes them down: evaluation.json and predictions.jsonl."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from ml_collections import ConfigDict

from rag_jax.api import Rag
from rag_jax.data import tasks
from rag_jax.errors import UserError
from rag_jax.evaluation.answers import Prediction, Rate, predict, scores
from rag_jax.evaluation.hot_swap import square
from rag_jax.evaluation.reading import reading_tests
from rag_jax.files import read_json, write_atomically, write_json


def evaluate(rag: Rag, config: ConfigDict, folder: Path, *, parts: Iterable[str], swap_index: str | None) -> None:
    """Prints and saves each part asked for: 'test', 'reading' or 'hot_swap', with Wilson's 95% intervals.

    Beside the parts, under 'of', stands whose answers they measure (Rag.identity), so that a model card shows no
    other model's scores.
    """
    measures = {"test": _test, "reading": _reading, "hot_swap": _hot_swap}
    unknown = [part for part in parts if part not in measures]
    if unknown:
        raise UserError(f"--parts: found {', '.join(unknown)}, expected some of {', '.join(measures)}")
    if {"test", "reading"} & set(parts) and not config.data.test:
        raise UserError("config.data.test: empty, expected a .jsonl file of questions, or 'demo:test'")
    if "hot_swap" in parts and not (swap_index and all(config.hot_swap.questions)):
        raise UserError(
            "--parts=hot_swap: expected --swap_index, a second index, and config.hot_swap.questions, two files"
        )
    identity = rag.identity()
    for part in parts:
        print(f"{part.replace('_', ' '):<56} percent  [95% interval]  sum of count", flush=True)
        results = {}
        for name, rate in measures[part](rag, config, folder, swap_index):
            print(f"  {name:<54} {rate}", flush=True)
            results[name] = {"percent": rate.percent, "sum": rate.total, "count": rate.count}
        path = folder / "evaluation.json"
        written = read_json(path) if path.exists() else {}
        measured = written.get("of", {}) | {part: identity}
        write_json(path, written | {part: results, "of": measured})


def _test(rag: Rag, config: ConfigDict, folder: Path, _) -> Iterator[tuple[str, Rate]]:
    predictions = list(predict(rag, tasks.questions(config.data.test)))
    write_atomically(folder / "predictions.jsonl", "".join(map(_line, predictions)))
    yield from scores(predictions, config.evaluate.recall)


def _reading(rag: Rag, config: ConfigDict, *_) -> Iterator[tuple[str, Rate]]:
    yield from reading_tests(rag, tasks.questions(config.data.test))


def _hot_swap(rag: Rag, config: ConfigDict, _, swap_index: str | None) -> Iterator[tuple[str, Rate]]:
    editions = [tasks.questions(source) for source in config.hot_swap.questions]
    yield from square(rag, [rag.retriever.index.folder, Path(swap_index)], editions)


def _line(prediction: Prediction) -> str:
    question = prediction.question
    record = {
        "id": question.id,
        "question": question.text,
        "prediction": prediction.text,
        "answers": prediction.answers,
        "exact_match": prediction.exact_match,
        "log_prob": prediction.log_prob,
        "passages": prediction.passages,
    }
    return json.dumps(record, ensure_ascii=False) + "\n"
