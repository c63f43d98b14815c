"""Answers against gold: exact match, F1 and recall as sums and counts, with 95% intervals."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from rag_jax.api import Rag
from rag_jax.data.formats import Question
from rag_jax.data.text import Document
from rag_jax.metrics.retrieval import hits_at, interval
from rag_jax.metrics.text import exact_match, f1

Documents = list[list[Document]]
# (numbers of the questions, their retrieved passages) -> the passages that are read, and the answers that then count
Change = Callable[[Sequence[int], Documents], tuple[Documents, list[tuple[str, ...]]]]


class Rate(NamedTuple):
    """A share of questions, as sum and count so that hosts may add them."""

    total: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Rate":
        return cls(float(sum(values)), len(values))

    @property
    def percent(self) -> float:
        return 100 * self.total / self.count if self.count else float("nan")

    def __str__(self) -> str:
        low, high = interval(round(self.total), self.count)
        return f"{self.percent:5.1f}  [{100 * low:.1f}, {100 * high:.1f}]  {self.total:.0f} of {self.count}"


class Prediction(NamedTuple):
    """One question's outcome: what was said, whether it was right, and the ids of the passages retrieved."""

    question: Question
    text: str
    log_prob: float
    answers: tuple[str, ...]
    passages: tuple[str, ...]

    @property
    def exact_match(self) -> float:
        return exact_match(self.text, self.answers)


def predict(
    rag: Rag, questions: Sequence[Question], *, k: int | None = None, change: Change | None = None
) -> Iterator[Prediction]:
    """Answers every question; `change` may put other passages, and other gold answers, before the reader."""
    for start in range(0, len(questions), rag.config.evaluate.batch):
        numbers = range(start, min(start + rag.config.evaluate.batch, len(questions)))
        batch = [questions[number] for number in numbers]
        texts = [question.text for question in batch]
        found = rag.retrieve(texts, k=k)
        documents, answers = rag.retriever.documents(found.ids_BK), [question.answers for question in batch]
        if change is not None:
            documents, answers = change(numbers, documents)
        reading = rag.read(texts, documents, found.prior_BK)
        passages = rag.retriever.index.passages
        for row, question in enumerate(batch):
            ids = tuple(passages[place].id for place in found.ids_BK[row].tolist() if place >= 0)
            log_prob = float(reading.generated.log_prob_BN[row, 0])
            yield Prediction(question, reading.texts_BN[row][0], log_prob, tuple(answers[row]), ids)


def exact_match_of(rag: Rag, questions: Sequence[Question]) -> float:
    """Exact match in [0, 1]."""
    return float(np.mean([prediction.exact_match for prediction in predict(rag, questions)]))


def scores(predictions: Sequence[Prediction], recall: Sequence[int]) -> Iterator[tuple[str, Rate]]:
    """Yields EM and F1, recall@k where gold passages are known, and EM by group where questions have groups."""
    yield "EM", Rate.of([prediction.exact_match for prediction in predictions])
    yield "F1", Rate.of([f1(prediction.text, prediction.answers) for prediction in predictions])
    known = [prediction for prediction in predictions if prediction.question.passage_ids]
    for k in recall:
        if known:
            hits = hits_at([p.passages for p in known], [p.question.passage_ids for p in known], k)
            yield f"recall@{k}", Rate.of(hits)
    for group in sorted({prediction.question.group for prediction in predictions} - {""}):
        yield f"EM {group}", Rate.of([p.exact_match for p in predictions if p.question.group == group])
