"""From questions to generator inputs: the one place where encoder ids, index and passages meet."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from rag_jax.data.text import Document, Marks, fill_sources, inner_pieces, round_trip
from rag_jax.data.tokenizer import Tokenizer
from rag_jax.errors import UserError
from rag_jax.index.base import Index, Queries

NOTHING: Document = (np.zeros(0, np.int32), np.zeros(0, np.int32))


class Retriever(NamedTuple):
    """An open index with both tokenizers, the lengths to cut to (config.length) and config.data's two policies."""

    index: Index
    encoder_tokenizer: Tokenizer
    generator_tokenizer: Tokenizer
    length: ConfigDict
    truncation: str
    question_text: str

    @classmethod
    def of(cls, config: ConfigDict, index: Index, encoder: Tokenizer, generator: Tokenizer) -> "Retriever":
        """The retriever that a configuration describes."""
        return cls(index, encoder, generator, config.length, config.data.truncation, config.data.question_text)

    def question_ids(self, questions: Sequence[str]) -> np.ndarray:
        """Question encoder inputs, ids_BQ int32."""
        return self.encoder_tokenizer.question_ids(questions, self.length.question)

    def too_long(self, questions: Sequence[str]) -> int:
        """How many questions do not fit into the question encoder's input whole; 0 where nothing reads it."""
        if not self.index.by_vector and not self._round_trip:
            return 0
        return self.encoder_tokenizer.too_long(questions, self.length.question)

    def search(self, questions: Sequence[str], query_BE: np.ndarray | None, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the k best passages, ids_BK int64, and their scores; -1 and -inf past the corpus.

        query_BE: scaled embeddings, whose inner products are the scores; None where the index has scores of its own.
        """
        return self.index.search(Queries(list(questions), query_BE), k)

    def vectors(self, ids_BK: np.ndarray) -> np.ndarray:
        """The passages' vectors, document_BKE fp32; zeros where there is none."""
        found_BK = ids_BK >= 0
        document_BKE = self.index.vectors.gather(np.where(found_BK, ids_BK, 0).ravel())
        return document_BKE.reshape(*ids_BK.shape, -1) * found_BK[..., None].astype(np.float32)

    def documents(self, ids_BK: np.ndarray) -> list[list[Document]]:
        """Generator tokens of title and text of every passage; empty ones where there is none."""
        found = iter(self.index.passages.tokens_of(ids_BK[ids_BK >= 0]))
        return [[next(found) if row >= 0 else NOTHING for row in ids_K] for ids_K in ids_BK.tolist()]

    @property
    def _round_trip(self) -> bool:
        return self.question_text.startswith("round_trip")

    def sources(self, documents_BK: Sequence[Sequence[Document]], questions: Sequence[str]) -> np.ndarray:
        """Generator inputs `<s> title / text // question </s>`, source_BKS int32."""
        if self._round_trip:
            clean = self.question_text == "round_trip_clean"
            questions = round_trip(self.encoder_tokenizer, questions, length=self.length.question, clean=clean)
        return fill_sources(
            documents_BK,
            inner_pieces(self.generator_tokenizer, questions),
            length=self.length.source,
            marks=Marks.of(self.generator_tokenizer),
            policy=self.truncation,
        )


def check_documents(questions: Sequence[str], documents_BK: Sequence[Sequence[Document]], prior_BK: np.ndarray) -> None:
    """Raises UserError unless every question has as many documents as the prior says."""
    if len(documents_BK) != len(questions):
        raise UserError(f"documents: found {len(documents_BK)} lists for {len(questions)} questions; give one for each")
    for number, documents_K in enumerate(documents_BK, 1):
        if len(documents_K) != prior_BK.shape[1]:
            raise UserError(
                f"documents of question {number}: found {len(documents_K)}, expected {prior_BK.shape[1]}, one for each "
                "probability of the prior"
            )


def check_questions(questions: Sequence[str]) -> None:
    """Raises UserError naming the first question without words, or for one string in place of several."""
    if isinstance(questions, str):
        raise UserError(f"questions: found the string '{questions}', expected a list of strings, as ['{questions}']")
    for number, question in enumerate(questions, 1):
        if not question.strip():
            raise UserError(f"question {number}: empty; expected some words")
