"""predictions.jsonl: a line a question, appended batch by batch, so that a killed run goes on where it stopped."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rag_jax.api import Rag
from rag_jax.data.formats import Question
from rag_jax.evaluation import answers
from rag_jax.evaluation.answers import Found, Prediction
from rag_jax.evaluation.measures import holding, of_one, page_id
from rag_jax.evaluation.sums import Mean, Rate
from rag_jax.files import write_atomically


def fingerprint(identity: str, questions: Sequence[Question], names: Sequence[str], places: Sequence[int]) -> str:
    """16 hexadecimal digits over whose answers these are (Rag.identity), to what, and how they are judged."""
    return hashlib.sha256(repr((identity, questions, names, places)).encode()).hexdigest()[:16]


def predict(
    rag: Rag, questions: Sequence[Question], path: Path, *, names: Sequence[str], places: Sequence[int]
) -> Iterator[Prediction]:
    """Yields the predictions that the file holds, then those of the other questions, which go to its end.

    It goes on with the batch that is not whole in the file, so that batches, and with them the bytes written, are those
    of a run that was never stopped. What follows a damaged line is answered again.
    """
    held = _read(path, questions)
    if len(held) < len(questions):
        held = held[: len(held) // rag.config.evaluate.batch * rag.config.evaluate.batch]
        with path.open("ab") as file:
            file.truncate(held[-1][1] if held else 0)
    if held:
        print(f"{path}: holds {len(held)} of {len(questions)} answers already", flush=True)
    yield from (prediction for prediction, _ in held)
    with path.open("a", encoding="utf-8") as file:
        for batch in answers.retrieve(rag, questions, start=len(held)):
            done = answers.read(rag, batch, holding=holding(names))
            file.write("".join(_line(prediction, names, places) for prediction in done))
            file.flush()
            yield from done


def write_kilt(path: Path, predictions: Sequence[Prediction]) -> None:
    """Writes predictions as KILT takes them: an answer with the Wikipedia pages it stands on, best first."""
    records = [
        {
            "id": prediction.question.id,
            "input": prediction.question.text,
            "output": [{"answer": prediction.text, "provenance": _provenance(prediction)}],
        }
        for prediction in predictions
    ]
    write_atomically(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def _read(path: Path, questions: Sequence[Question]) -> list[tuple[Prediction, int]]:
    """The predictions at the beginning of the file, with the bytes up to each one's end."""
    held, end = [], 0
    if not path.exists():
        return held
    with path.open("rb") as file:
        for line, question in zip(file, questions, strict=False):
            prediction, end = _parse(line, question), end + len(line)
            if prediction is None:
                break
            held.append((prediction, end))
    return held


def _parse(line: bytes, question: Question) -> Prediction | None:
    """What a line says of the question; None for another question's, a damaged or an unfinished one."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
        if record["id"] != question.id:
            return None
        documents = tuple(Found(**document) for document in record["documents"])
        return Prediction(question, record["prediction"], record["score"], question.answers, documents)
    except (ValueError, KeyError, TypeError):
        return None


def _line(prediction: Prediction, names: Sequence[str], places: Sequence[int]) -> str:
    parts = of_one(prediction, names, places)
    record = {
        "id": prediction.question.id,
        "question": prediction.question.text,
        "answers": prediction.answers,
        "prediction": prediction.text,
        "score": prediction.log_prob,
        "measures": {label: part.total for _, label, part in parts if isinstance(part, Rate | Mean)},
        "documents": [document._asdict() for document in prediction.documents],
    }
    return json.dumps(record, ensure_ascii=False) + "\n"


def _provenance(prediction: Prediction) -> list[dict[str, Any]]:
    titles: dict[str, str] = {}
    for document in prediction.documents:
        titles.setdefault(page_id(document), document.title)
    return [{"wikipedia_id": page, "title": title} for page, title in titles.items()]
