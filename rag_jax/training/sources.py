"""What a stage learns from: questions with the passages found for them, or passages with holes.

A source hands out batch i in three moves, so that the loop can overlap them: `encode` dispatches the questions to the
devices, `search` finds their passages on the host, `batch` makes the arrays of the step.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from rag_jax.data import tasks
from rag_jax.data.denoising import mask_spans
from rag_jax.data.formats import Question
from rag_jax.data.labels import decoder_inputs
from rag_jax.data.pipeline import Batches, step_rng
from rag_jax.data.substitution import Form, NameMaker, Substitution
from rag_jax.data.text import Document, Marks, one_spaced, targets
from rag_jax.metrics.text import normalise
from rag_jax.models import rag
from rag_jax.parallel import Devices
from rag_jax.retrieve import Retrieved, Retriever
from rag_jax.training.health import Health
from rag_jax.training.step import Batch, train_step

COMPAT = {"generation": None, "huggingface_finetune": "huggingface_finetune"}


class Found(NamedTuple):
    """The passages of a batch, ids_BK, and the retrieval's health; None where nothing was searched.

    score_BK: the logits of their prior, where the retriever brings its own.
    """

    ids_BK: np.ndarray
    health: Health | None
    score_BK: np.ndarray | None = None


class Said(NamedTuple):
    """What the decoder reads and learns to say, an answer; or a claim, and the class that is its label."""

    token_BT: np.ndarray
    target_BT: np.ndarray | None
    label_B: np.ndarray | None = None


class QuestionSource:
    """Questions, their retrieved passages and their answers; some answers give way to made-up names."""

    step = staticmethod(train_step)  # what its batches are for

    def __init__(
        self, questions: Sequence[Question], retriever: Retriever, model: rag.RagConfig, config: ConfigDict,
        stage: ConfigDict, parallel: Devices, *, name: str, names: NameMaker | None,
    ):  # fmt: skip
        self._questions, self._retriever, self._parallel = questions, retriever, parallel
        self._by_vector, self._closed = retriever.by_vector, retriever.index is None
        self._k, self._depth, self._share = stage.k, stage.depth, stage.substitution
        self._seed, self._name = config.seed, name
        self._length, self._compat = config.length, COMPAT[config.data.target_layout]
        self._order, self._own = Batches(len(questions), stage.batch, config.seed), parallel.share(stage.batch)
        self._encode = parallel.batch(partial(rag.encode_questions, model))
        # A frozen encoder finds the same passages in every epoch: they are looked up once. Of several processes, each
        # has other questions in the next epoch.
        self._known: dict[int, tuple[np.ndarray, np.ndarray]] | None = None
        if not stage.train_question_encoder and parallel.processes == 1:
            self._known = {}
        self._names, self._substitution = names, Substitution(retriever.generator_tokenizer)
        self._marks = Marks.of(retriever.generator_tokenizer)
        self._labels = tasks.labels(config.data) if model.classes else ()

    def encode(self, params: Any, step: int) -> jax.Array | None:
        """Dispatches the question encoder on batch `step`; returns before it is done.

        None where all is known, or where the index reads the questions' words.
        """
        if not self._by_vector or self._already(step) is not None:
            return None
        return self._encode(params, self._parallel.put_batch(self._question_ids(step)))

    def search(self, step: int, query: jax.Array | None) -> Found:
        """The passages of batch `step` for its questions, as `encode` left them; waits for the devices.

        In a closed book none: there is one score, that of the question alone.
        """
        indices = self._indices(step)
        if self._closed:
            ids_BK, _, score_BK, _ = Retrieved.nothing(len(indices))
            return Found(ids_BK, None, score_BK)
        if (known := self._already(step)) is not None:
            ids_BK, score_BK = map(np.stack, zip(*known, strict=True))
        else:
            texts = [question.text for question in self._asked(step)]
            depth = max(self._k, self._depth)
            query_BE = self._parallel.to_host(query) if self._by_vector else None
            ids_BK, score_BK = self._retriever.search(texts, query_BE, depth)
            if self._depth:
                ids_BK, score_BK = self._holding_first(step, ids_BK, score_BK)
            if self._known is not None:
                self._known.update(zip(indices, zip(ids_BK, score_BK, strict=True), strict=True))
        return Found(ids_BK, Health.of(ids_BK, score_BK), None if self._by_vector else score_BK)

    def batch(self, step: int, ids_BK: np.ndarray, score_BK: np.ndarray | None = None) -> Batch[np.ndarray]:
        """The arrays of batch `step` for passages already found, with the scores that came with them."""
        asked, answers, mask_BK = self._asked(step), self._answers(step), ids_BK >= 0
        documents_BK = self._retriever.documents(ids_BK)
        if self._closed and score_BK is not None:  # of the question alone
            mask_BK = np.ones(score_BK.shape, bool)
        if self._names is not None and self._share:
            given = zip(documents_BK, answers, self._fresh_names(self._names, step), strict=True)
            documents_BK, answers = map(list, zip(*(self._renamed(*one) for one in given), strict=True))
        said = self._said(asked, answers)
        return Batch(
            question_BQ=self._question_ids(step) if self._by_vector else None,
            document_BKE=self._retriever.vectors(ids_BK) if self._by_vector else None,
            mask_BK=mask_BK,
            source_BKS=self._retriever.sources(documents_BK, [question.text for question in asked]),
            token_BT=said.token_BT,
            target_BT=said.target_BT,
            weight_B=np.ones(len(asked), np.float32),
            score_BK=score_BK,
            label_B=said.label_B,
        )

    def put(self, step: int, found: Found) -> tuple[Any, ...]:
        """The arrays of batch `step` on the devices, as `self.step` takes them."""
        return self._parallel.put_batch(self.batch(step, found.ids_BK, found.score_BK))

    def told(self, step: int) -> list[dict[str, Any]]:
        """The questions of batch `step`, those of all processes, as a file of questions has them."""
        asked = [self._questions[index] for index in self._order[step].tolist()]
        return [{"id": one.id, "question": one.text, "answers": one.answers} for one in asked]

    def _already(self, step: int) -> list[tuple[np.ndarray, np.ndarray]] | None:
        """What is known to be found for batch `step`, None unless it is known for all."""
        if self._known is None or any(index not in self._known for index in self._indices(step)):
            return None
        return [self._known[index] for index in self._indices(step)]

    def _indices(self, step: int) -> list[int]:
        """The questions of batch `step` that are this process's."""
        return self._order[step][self._own].tolist()

    def _holding_first(self, step: int, ids_BK: np.ndarray, score_BK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The k passages that come first when those that hold the answer stand before the others."""

        def holds(document: Document, answer: Form) -> bool:
            return bool(self._substitution.substitute(document, answer, answer)[1].any())

        answers = self._answers(step)
        documents_BK = self._retriever.documents(ids_BK)
        holds_BK = np.array(
            [[holds(document, a) for document in row] for row, a in zip(documents_BK, answers, strict=True)]
        )
        order_BK = np.argsort(~holds_BK, axis=1, kind="stable")[:, : self._k]
        return np.take_along_axis(ids_BK, order_BK, axis=1), np.take_along_axis(score_BK, order_BK, axis=1)

    def _said(self, asked: Sequence[Question], answers: Sequence[Form]) -> Said:
        """What the decoder reads and learns to say, an answer; or a claim, and the class that is its label."""
        length = self._length.target
        if not self._labels:
            spaced = [answer.spaced for answer in answers]
            token_BT, target_BT = targets(spaced, length=length, marks=self._marks, compat=self._compat)
            return Said(token_BT, target_BT)
        token_BT = decoder_inputs(self._retriever.generator_tokenizer, [question.text for question in asked], length)
        label_B = np.array([self._labels.index(question.answers[0]) for question in asked], np.int32)
        return Said(token_BT, None, label_B)

    def _answers(self, step: int) -> list[Form]:
        return [Form.of(self._retriever.generator_tokenizer, question.answers[0]) for question in self._asked(step)]

    def _asked(self, step: int) -> list[Question]:
        return [self._questions[index] for index in self._indices(step)]

    def _question_ids(self, step: int) -> np.ndarray:
        return self._retriever.question_ids([question.text for question in self._asked(step)])

    def _fresh_names(self, names: NameMaker, step: int) -> list[Form | None]:
        """A made-up name for each answer that gives way to one: drawn for the whole batch, this process's returned."""
        rng, drawn = step_rng(self._seed, self._name, step), []
        for index in self._order[step].tolist():
            answer = one_spaced(self._questions[index].answers[0])
            drawn.append(names.fresh(answer, rng) if rng.random() < self._share else None)
        return drawn[self._own]

    def _renamed(self, documents_K: list[Document], answer: Form, name: Form | None) -> tuple[list[Document], Form]:
        """The documents with the fresh name wherever the answer stands, and the name, where there is one."""
        if name is None:
            return documents_K, answer
        pieces, count = self._substitution.substitute(
            [piece for document in documents_K for piece in document], answer, name
        )
        if not count.any():
            return documents_K, answer
        return list(zip(pieces[0::2], pieces[1::2], strict=True)), name


class PassageSource:
    """Passages to be repaired: the source has holes, the target is the whole passage (BART's text infilling)."""

    step = staticmethod(train_step)

    def __init__(self, retriever: Retriever, config: ConfigDict, stage: ConfigDict, parallel: Devices):
        self._retriever, self._length, self._seed = retriever, config.length, config.seed
        self._parallel, self._own = parallel, parallel.share(stage.batch)
        self._order = Batches(len(retriever.open_book.passages), stage.batch, config.seed)
        self._marks = Marks.of(retriever.generator_tokenizer)
        self._mask_id = retriever.generator_tokenizer.mask_id

    def encode(self, params: Any, step: int) -> None:
        """Nothing to encode."""

    def search(self, step: int, query: None) -> Found:
        """The passages of batch `step`, one each."""
        return Found(self._order[step][self._own, None], None)

    def batch(self, step: int, ids_BK: np.ndarray, score_BK: None = None) -> Batch[np.ndarray]:
        """Passages with holes as sources, whole as targets; the document prior of one document is 1."""
        rng = step_rng(self._seed, "denoise", step)
        whole = [  # of all processes: holes are drawn one passage after the other
            np.concatenate([title, self._marks.title_separator, text])
            for [(title, text)] in self._retriever.documents(self._order[step][:, None])
        ]
        length, marks = self._length.source, self._marks
        source_BKS = np.full((len(whole), 1, length), marks.pad, np.int32)
        for row, ids in zip(source_BKS[:, 0], whole, strict=True):
            holed = mask_spans(ids[: length - 2], rng, self._mask_id)[: length - 2]
            row[: len(holed) + 2] = np.concatenate([[marks.bos], holed, [marks.eos]])
        source_BKS = source_BKS[self._own]
        token_BT, target_BT = targets(whole[self._own], length=length, marks=marks)
        alone_BK, weight_B = np.zeros(ids_BK.shape, np.float32), np.ones(len(ids_BK), np.float32)
        return Batch(None, None, ids_BK >= 0, source_BKS, token_BT, target_BT, weight_B, alone_BK)

    def put(self, step: int, found: Found) -> Batch[jax.Array]:
        """The arrays of batch `step` on the devices."""
        return self._parallel.put_batch(self.batch(step, found.ids_BK))

    def told(self, step: int) -> list[dict[str, Any]]:
        """The passages of batch `step`, those of all processes, as a file of passages has them."""
        passages = [self._retriever.open_book.passages[row] for row in self._order[step].tolist()]
        return [{"id": one.id, "title": one.title, "text": one.text} for one in passages]


def blocked_words(*sets: Sequence[Question]) -> set[str]:
    """The words of all answers of some sets of questions, which made-up names must not hold."""
    return {
        word
        for questions in sets
        for question in questions
        for answer in question.answers
        for word in normalise(answer).split()
    }
