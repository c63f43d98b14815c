"""predictions.jsonl: a line a question, with all that is known of its answer; and KILT's form."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rag_jax.data.formats import Question
from rag_jax.data.passages import PassageStore
from rag_jax.evaluation.answers import Found, Prediction
from rag_jax.evaluation.measures import of_one, page_id
from rag_jax.evaluation.sums import Mean, Rate
from rag_jax.files import read_sealed_line, sealed_line, write_atomically

FIRST = 1000  # passages, among which are several of one page


def fingerprint(*made_from: Any) -> str:
    """16 hexadecimal digits over whose answers these are (Rag.identity), to what, and how they are judged."""
    return hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]


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


def kilt_note(passages: PassageStore, questions: Iterable[Question] = ()) -> str:
    """Why what passages' ids begin with cannot be the wikipedia_id that KILT asks for; '' where it may be.

    One title under two such ids: passages are numbered without their pages, as DPR's psgs_w100, whose numbers are other
    pages' ids. Or none of the pages that prove the questions' answers is in the corpus.
    """
    rule = "expected ids of passages that begin with their page's wikipedia_id and '#', as 290#3; wrong pages are named"
    pages: dict[str, str] = {}
    for passage in map(passages.__getitem__, range(min(FIRST, len(passages)))):
        page = page_id(passage.id)
        if passage.title and pages.setdefault(passage.title, page) != page:
            return f"note: KILT's pages: found {passage.title!r} as {pages[passage.title]!r} and {page!r}, {rule}"
    wanted = {page for question in questions for pages in question.evidence for page in pages}
    if wanted and not any(page_id(identity) in wanted for identity in passages.ids()):
        return f"note: KILT's pages: found none of the {len(wanted):,} that prove the questions' answers, {rule}"
    return ""


def read_lines(path: Path, questions: Sequence[Question]) -> list[tuple[Prediction, int]]:
    """The predictions at the beginning of the file, with the bytes up to each one's end."""
    held: list[tuple[Prediction, int]] = []
    end = 0
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
    record = read_sealed_line(line)
    if record is None or record["id"] != question.id:
        return None
    documents = tuple(Found(**document) for document in record["documents"])
    return Prediction(question, record["prediction"], record["score"], tuple(record["answers"]), documents)


def line(prediction: Prediction, names: Sequence[str] = (), places: Sequence[int] = ()) -> str:
    """A prediction as JSON, with what it adds to the measures of these names."""
    parts = of_one(prediction, names, places) if names else ()
    record = {
        "id": prediction.question.id,
        "question": prediction.question.text,
        "answers": prediction.answers,
        "prediction": prediction.text,
        "score": prediction.log_prob,
        "measures": {label: part.total for _, label, part in parts if isinstance(part, Rate | Mean)},
        "documents": [document._asdict() for document in prediction.documents],
    }
    return sealed_line(record)


def _provenance(prediction: Prediction) -> list[dict[str, Any]]:
    titles: dict[str, str] = {}
    for document in prediction.passages:
        titles.setdefault(page_id(document.id), document.title)
    return [{"wikipedia_id": page, "title": title} for page, title in titles.items()]
