"""From questions to generator inputs: the one place where encoder ids, index and passages meet."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from rag_jax.core.bucket import bucket
from rag_jax.core.marginal import document_log_prior
from rag_jax.data.formats import Passage
from rag_jax.data.lines import is_unicode
from rag_jax.data.text import Document, Frame, Marks, Policy, fill_sources, inner_pieces, question_sources, round_trip
from rag_jax.data.tokenizer import Tokenizer
from rag_jax.errors import UserError
from rag_jax.index.base import Index, Queries
from rag_jax.models import null_document

NOTHING: Document = (np.zeros(0, np.int32), np.zeros(0, np.int32))
NO_PASSAGE = Passage("", "", "")


class Retriever(NamedTuple):
    """An open index with both tokenizers, the lengths to cut to (config.length) and config.data's two policies.

    A closed book has no index and no encoder. alone: whether the question is also read alone, as the null document or,
    in a closed book, as all there is.
    """

    index: Index | None  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    encoder_tokenizer: Tokenizer | None
    generator_tokenizer: Tokenizer
    length: ConfigDict
    truncation: Policy
    question_text: str
    alone: bool = False

    @classmethod
    def of(
        cls, config: ConfigDict, index: Index | None, encoder: Tokenizer | None, generator: Tokenizer
    ) -> "Retriever":
        """The retriever that a configuration describes."""
        policies = config.data.truncation, config.data.question_text
        alone = index is None or config.retrieval.null_document != "none"
        return cls(index, encoder, generator, config.length, *policies, alone)

    @property
    def by_vector(self) -> bool:
        """Whether questions must be encoded to find their passages."""
        return self.index is not None and self.index.by_vector

    @property
    def open_book(self) -> Index:
        """The index, which nobody asks a closed book for."""
        assert self.index is not None
        return self.index

    @property
    def _encoder(self) -> Tokenizer:
        """The question encoder's tokenizer, likewise."""
        assert self.encoder_tokenizer is not None
        return self.encoder_tokenizer

    def question_ids(self, questions: Sequence[str]) -> np.ndarray:
        """Question encoder inputs, ids_BQ int32."""
        return self._encoder.question_ids(questions, self.length.question)

    @property
    def question_limit(self) -> str:
        """The key of config.length that a question is cut to: what its encoder reads or, without one, the generator."""
        return "question" if self.by_vector or self._round_trip else "source"

    def too_long(self, questions: Sequence[str]) -> int:
        """How many questions are not read whole."""
        if self.question_limit == "question":
            return self._encoder.too_long(questions, self.length.question)
        around = 2 if self.index is None else Frame.of(Marks.of(self.generator_tokenizer)).size
        return sum(len(ids) + around > self.length.source for ids in self.question_pieces(questions))

    def search(self, questions: Sequence[str], query_BE: np.ndarray | None, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the k best passages, ids_BK int64, and their scores; -1 and -inf past the corpus.

        query_BE: scaled embeddings, whose inner products are the scores; None where the index has scores of its own.
        """
        return self.open_book.search(Queries(list(questions), query_BE), k)

    def vectors(self, ids_BK: np.ndarray) -> np.ndarray:
        """The passages' vectors, document_BKE fp32; zeros where there is none."""
        found_BK, vectors = ids_BK >= 0, self.open_book.vectors
        assert vectors is not None  # which BM25's index alone has none of
        document_BKE = vectors.gather(np.where(found_BK, ids_BK, 0).ravel())
        return document_BKE.reshape(*ids_BK.shape, -1) * found_BK[..., None].astype(np.float32)

    def documents(self, ids_BK: np.ndarray) -> list[list[Document]]:
        """Generator tokens of title and text of every passage; empty ones where there is none."""
        if self.index is None:
            return [[] for _ in ids_BK]
        found = iter(self.index.passages.tokens_of(ids_BK[ids_BK >= 0]))
        return [[next(found) if row >= 0 else NOTHING for row in ids_K] for ids_K in ids_BK.tolist()]

    @property
    def _round_trip(self) -> bool:
        return self.question_text.startswith("round_trip")

    def question_pieces(self, questions: Sequence[str]) -> list[np.ndarray]:
        """Generator tokens of the questions, as they stand in a source."""
        return inner_pieces(self.generator_tokenizer, self._as_read(questions))

    def _as_read(self, questions: Sequence[str]) -> Sequence[str]:
        if not self._round_trip:
            return questions
        clean = self.question_text == "round_trip_clean"
        return round_trip(self._encoder, questions, length=self.length.question, clean=clean)

    def sources(self, documents_BK: Sequence[Sequence[Document]], questions: Sequence[str]) -> np.ndarray:
        """Generator inputs `<s> title / text // question </s>`, source_BKS int32; the question alone is the last."""
        questions, sources = self._as_read(questions), []
        if self.index is not None:
            sources.append(
                fill_sources(
                    documents_BK,
                    inner_pieces(self.generator_tokenizer, questions),
                    length=self.length.source,
                    marks=Marks.of(self.generator_tokenizer),
                    policy=self.truncation,
                )
            )
        if self.alone:
            sources.append(question_sources(self.generator_tokenizer, questions, length=self.length.source))
        return np.concatenate(sources, axis=1)


class Retrieved(NamedTuple):
    """ids_BK: rows in the index, -1 where there is none; score_BK: logits of p(z|x); prior_BK: log p(z|x).

    null_B: the learned part of the null document's logit, None without such a document. It stands behind the passages,
    the last column of scores and prior, but not of ids. A closed book has no ids, and a prior of one column.
    """

    ids_BK: np.ndarray
    score_BK: np.ndarray
    prior_BK: np.ndarray
    null_B: np.ndarray | None = None

    @classmethod
    def of(cls, ids_BK: np.ndarray, score_BK: np.ndarray, null_B: np.ndarray | None, rows: int) -> "Retrieved":
        """Passages with their scores and what follows from them; computed in a batch of so many rows."""
        padded = (pad(score_BK, rows), pad(ids_BK >= 0, rows), None if null_B is None else pad(null_B, rows))
        score_BK, prior_BK = (array[: len(ids_BK)] for array in jax.device_get(_prior(*jax.device_put(padded))))
        return cls(ids_BK, score_BK, prior_BK, null_B)

    @classmethod
    def nothing(cls, count: int) -> "Retrieved":
        """What a closed book finds for so many questions: the question itself is all that is read."""
        return cls(np.zeros((count, 0), np.int64), np.zeros((count, 0), np.float32), np.zeros((count, 1), np.float32))

    def first(self, k: int) -> "Retrieved":
        """What a search for only k passages gives: the first k, with the prior over them."""
        ids_BK, rows = self.ids_BK[:, :k], bucket(len(self.ids_BK))
        return Retrieved.of(ids_BK, self.score_BK[:, : ids_BK.shape[1]], self.null_B, rows)

    def documents(self, row: int, index: Index | None) -> list[tuple[int, Passage]]:
        """A question's documents and where they stand: passages, and behind them the null document, an empty one."""
        ids = enumerate(self.ids_BK[row].tolist())
        found = [(place, index.passages[number]) for place, number in ids if index is not None and number >= 0]
        return found if self.null_B is None else [*found, (self.ids_BK.shape[1], NO_PASSAGE)]


def check_documents(questions: Sequence[str], documents_BK: Sequence[Sequence[Document]], K: int) -> None:
    """Raises UserError unless every question has K documents, as many as the prior says."""
    if len(documents_BK) != len(questions):
        raise UserError(f"documents: found {len(documents_BK)} lists for {len(questions)} questions; give one for each")
    for number, documents_K in enumerate(documents_BK, 1):
        if len(documents_K) != K:
            raise UserError(
                f"documents of question {number}: found {len(documents_K)}, expected {K}, one for each "
                "probability of the prior"
            )


def check_questions(questions: Sequence[str]) -> None:
    """Raises UserError naming the first question without words, or for one string in place of several."""
    if isinstance(questions, str):
        raise UserError(f"questions: found the string '{questions}', expected a list of strings, as ['{questions}']")
    for number, question in enumerate(questions, 1):
        if not question.strip():
            raise UserError(f"question {number}: empty; expected some words")
        if not is_unicode(question):
            raise UserError(f"question {number}: not UTF-8, or half a surrogate pair; expected Unicode text")


@jax.jit
def _prior(score_BK: jax.Array, mask_BK: jax.Array, null_B: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Scores and log p(z|x), with the null document behind the passages if it has a logit."""
    if null_B is not None:
        score_BK, mask_BK = null_document.appended(score_BK, mask_BK, null_B)
    return score_BK, document_log_prior(score_BK, mask_BK)


def pad(array: np.ndarray, rows: int) -> np.ndarray:
    """The array with its last row repeated up to `rows` rows."""
    return np.pad(array, [(0, rows - len(array)), *[(0, 0)] * (array.ndim - 1)], mode="edge")
