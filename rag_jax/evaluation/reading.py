"""Proof of reading: the same weights without passages, with other questions' passages, with answers renamed."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from rag_jax.api import Rag
from rag_jax.data.formats import Question
from rag_jax.data.substitution import Form, NameMaker, Substitution
from rag_jax.data.text import Document
from rag_jax.errors import UserError
from rag_jax.evaluation.answers import Change, Documents, read
from rag_jax.evaluation.sums import Rate
from rag_jax.evaluation.walks import Walks
from rag_jax.metrics.text import normalise
from rag_jax.retrieve import NOTHING


def reading_tests(walks: Walks, questions: Sequence[Question]) -> Iterator[tuple[str, Rate]]:
    """Yields EM with no passages, with another question's, and with every answer renamed where it stands."""
    rag = walks.rag
    tests = {
        "EM without passages": _without(questions),
        "EM with another question's passages": _of_another(rag, questions),
        "EM after answers are renamed in the passages": _renamed(rag, questions),
    }
    walked = walks.walk(
        "reading", questions, {name: partial(read, rag, change=change) for name, change in tests.items()}
    )
    for name in tests:
        yield name, Rate.of([prediction.exact_match for prediction in walked.predictions(name)])


def _answers(questions: Sequence[Question], numbers: Sequence[int]) -> list[tuple[str, ...]]:
    return [questions[number].answers for number in numbers]


def _without(questions: Sequence[Question]) -> Change:
    def change(numbers: Sequence[int], documents_BK: Documents) -> tuple[Documents, list[tuple[str, ...]]]:
        return [[NOTHING] * len(documents_K) for documents_K in documents_BK], _answers(questions, numbers)

    return change


def _of_another(rag: Rag, questions: Sequence[Question]) -> Change:
    """The passages of the question half a list away, moved on while it shares an answer."""
    gold = [{normalise(answer) for answer in question.answers} for question in questions]
    others = []
    for number, wanted in enumerate(gold):
        far = ((number + len(gold) // 2 + step) % len(gold) for step in range(len(gold)))
        other = next((i for i in far if wanted.isdisjoint(gold[i])), None)
        if other is None:
            raise UserError(
                f"--parts=reading: every question shares an answer with question '{questions[number].id}', "
                "expected questions with different answers; give another --split or a larger --limit"
            )
        others.append(other)

    def change(numbers: Sequence[int], documents_BK: Documents) -> tuple[Documents, list[tuple[str, ...]]]:
        found = rag.retrieve([questions[others[number]].text for number in numbers])
        return rag.retriever.documents(found.ids_BK), _answers(questions, numbers)

    return change


def _renamed(rag: Rag, questions: Sequence[Question]) -> Change:
    """Every answer, in all its forms, gives way to a fresh name in the passages; the name is then the answer.

    Where no passage held the answer nothing changes and the true answer still counts.
    """
    tokenizer = rag.retriever.generator_tokenizer
    names = NameMaker(tokenizer, {word for q in questions for a in q.answers for word in normalise(a).split()}, seed=1)
    substitution = Substitution(tokenizer)

    def rename(number: int, documents_K: list[Document]) -> tuple[list[Document], tuple[str, ...]]:
        question = questions[number]
        name = names.fresh(question.answers[0], np.random.default_rng([1, number]))
        if name is None:
            return documents_K, question.answers
        pieces, changed = [piece for document in documents_K for piece in document], False
        for answer in sorted(question.answers, key=len, reverse=True):
            pieces, count = substitution.substitute(pieces, Form.of(tokenizer, answer), name)
            changed |= bool(count.any())
        return list(zip(pieces[0::2], pieces[1::2], strict=True)), (name.text,) if changed else question.answers

    def change(numbers: Sequence[int], documents_BK: Documents) -> tuple[Documents, list[tuple[str, ...]]]:
        pairs = [rename(number, documents_K) for number, documents_K in zip(numbers, documents_BK, strict=True)]
        documents, answers = zip(*pairs, strict=True)
        return list(documents), list(answers)

    return change
