"""The walk over questions: retrieve, read, and what came of each question."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from rag_jax.api import Rag, Retrieved
from rag_jax.data.formats import Question
from rag_jax.data.text import Document
from rag_jax.metrics.text import exact_match
from rag_jax.progress import counted

Documents = list[list[Document]]
# (numbers of the questions, their retrieved passages) -> the passages that are read, and the answers that then count
Change = Callable[[Sequence[int], Documents], tuple[Documents, list[tuple[str, ...]]]]
# (texts of passages, answers) -> which passages hold an answer; nothing where that cannot be told
Holding = Callable[[Sequence[str], Sequence[str]], Sequence[bool]]


class Found(NamedTuple):
    """A retrieved passage; holds_answer is None where nobody looked, posterior where nothing was read.

    The null document has no id and no title.
    """

    id: str
    title: str
    score: float
    prior: float
    posterior: float | None = None
    holds_answer: bool | None = None


class Prediction(NamedTuple):
    """One question's outcome: what was said, log p(y|x), the answers that count, and the passages, best first."""

    question: Question
    text: str
    log_prob: float
    answers: tuple[str, ...]
    documents: tuple[Found, ...]

    @property
    def passages(self) -> list[Found]:
        """What was retrieved: the documents without the null one."""
        return [document for document in self.documents if document.id]

    @property
    def exact_match(self) -> float:
        return exact_match(self.text, self.answers)


class Batch(NamedTuple):
    """Questions, their numbers over all batches, and what was retrieved for them."""

    numbers: range
    questions: Sequence[Question]
    found: Retrieved


def batches(count: int, size: int, start: int = 0) -> list[range]:
    """The numbers of the questions of each batch, from number `start` on."""
    return [range(first, min(first + size, count)) for first in range(start, count, size)]


def retrieve(
    rag: Rag, questions: Sequence[Question], *, k: int | None = None, wanted: Iterable[range] | None = None
) -> Iterator[Batch]:
    """Yields the questions in batches, all or those wanted, with the k best passages of each."""
    for numbers in batches(len(questions), rag.config.evaluate.batch) if wanted is None else wanted:
        batch = questions[numbers.start : numbers.stop]
        found = rag.retrieve([question.text for question in batch], k=k)
        yield Batch(numbers, batch, found)


def read(rag: Rag, batch: Batch, *, change: Change | None = None, holding: Holding | None = None) -> list[Prediction]:
    """Answers a batch; `change` may put other passages, and other gold answers, before the reader."""
    documents, answers = rag.retriever.documents(batch.found.ids_BK), [question.answers for question in batch.questions]
    if change is not None:
        documents, answers = change(batch.numbers, documents)
    reading = rag.read([question.text for question in batch.questions], documents, batch.found.prior_BK)
    generated = reading.generated
    return [
        Prediction(
            question,
            reading.texts_BN[row][0],
            float(generated.log_prob_BN[row, 0]),
            tuple(answers[row]),
            _documents(rag, batch, row, generated.posterior_BNK[row, 0].tolist(), holding),
        )
        for row, question in enumerate(batch.questions)
    ]


def unread(rag: Rag, batch: Batch, *, holding: Holding | None = None) -> list[Prediction]:
    """What was retrieved for a batch, with nothing said about it; no generator runs."""
    nothing = [None] * batch.found.prior_BK.shape[1]
    return [
        Prediction(question, "", math.nan, question.answers, _documents(rag, batch, row, nothing, holding))
        for row, question in enumerate(batch.questions)
    ]


def predict(
    rag: Rag,
    questions: Sequence[Question],
    *,
    k: int | None = None,
    change: Change | None = None,
    where: str = "",
    log: Callable[[str], None] = lambda line: None,
) -> Iterator[Prediction]:
    """Answers every question, see `retrieve` and `read`; log hears now and then how many, for what is said `where`."""
    told = counted(
        retrieve(rag, questions, k=k), len(questions), where, "questions answered",
        size=lambda batch: len(batch.numbers), log=log,
    )  # fmt: skip
    for batch in told:
        yield from read(rag, batch, change=change)


def _documents(
    rag: Rag, batch: Batch, row: int, posterior_K: Sequence[float | None], holding: Holding | None
) -> tuple[Found, ...]:
    """The documents of one question, without the places past the corpus; the null document is the last."""
    score_K, prior_K = batch.found.score_BK[row].tolist(), batch.found.prior_BK[row].tolist()
    there = batch.found.documents(row, rag.retriever.index)
    answers = batch.questions[row].answers
    held = holding([passage.text for _, passage in there if passage.id], answers) if holding and answers else ()
    return tuple(
        Found(
            passage.id,
            passage.title,
            score=score_K[place],
            prior=math.exp(prior_K[place]),
            posterior=posterior_K[place],
            holds_answer=held[n] if n < len(held) else None,
        )
        for n, (place, passage) in enumerate(there)
    )
