"""Rag: a trained model with its index, which answers questions; the walk that answer, evaluate and training share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from rag_jax.checkpoint import Checkpoints
from rag_jax.config import score_scale
from rag_jax.core.marginal import document_log_prior
from rag_jax.data.text import Document as Pieces
from rag_jax.data.tokenizer import Tokenizer
from rag_jax.data.vocabulary import load_or_train
from rag_jax.decode.generate import DecodeConfig, answer_posterior, generate, texts
from rag_jax.errors import UserError
from rag_jax.index.base import open_index
from rag_jax.models import rag
from rag_jax.models.bart import BartConfig
from rag_jax.models.bert import BertConfig
from rag_jax.parallel import Pmap
from rag_jax.retrieve import Retriever, check_questions
from rag_jax.workdir import Workdir


@dataclass(frozen=True)
class Document:
    """A retrieved passage: its scaled inner product with the question, p(z|x), and how much of the answer came from it.

    posterior: p(z|x,y) under RAG-Sequence; under RAG-Token the mean over text tokens of p(z|x,y_1..y_i).
    """

    id: str
    title: str
    text: str
    score: float
    prior: float
    posterior: float


@dataclass(frozen=True)
class Answer:
    """An answer, log p(y|x) in nats (`</s>` counted, `<s>` not), and its documents by falling posterior."""

    question: str
    text: str
    log_prob: float
    documents: tuple[Document, ...]


class Retrieved(NamedTuple):
    """ids_BK: rows in the index, -1 where there is none; score_BK: scaled inner products; prior_BK: log p(z|x)."""

    ids_BK: np.ndarray
    score_BK: np.ndarray
    prior_BK: np.ndarray


class Reading(NamedTuple):
    """What the generator said: texts, log p(y|x), and the documents' posterior probabilities."""

    texts_B: list[str]
    log_prob_B: np.ndarray
    posterior_BK: np.ndarray


def rag_config(config: ConfigDict, encoder: Tokenizer, generator: Tokenizer) -> rag.RagConfig:
    """The model that a configuration describes, for two tokenizers' vocabularies and special ids."""
    special = {
        "pad_id": generator.pad_id,
        "bos_id": generator.bos_id,
        "eos_id": generator.eos_id,
        "start_id": generator.eos_id,
    }
    return rag.RagConfig(
        question_encoder=BertConfig(vocab_size=encoder.vocab_size, pad_id=encoder.pad_id, **config.encoder),
        generator=BartConfig(vocab_size=generator.vocab_size, **special, **config.generator),
        kind=config.kind,
        score_scale=score_scale(config),
        learn_score_scale=config.retrieval.learn_score_scale,
    )


class Rag:
    """Question encoder, index, passages and generator, ready to answer; batches are padded to few shapes."""

    def __init__(self, model: rag.RagConfig, params: Any, retriever: Retriever, config: ConfigDict, parallel: Pmap):
        self.model, self.params, self.retriever, self.config = model, params, retriever, config
        self.parallel = parallel
        self._encode = parallel.batch(partial(rag.encode_questions, model))
        decode = DecodeConfig(kind=model.kind, max_length=config.decode.max_length)

        def read(params: Any, batch: tuple[jax.Array, jax.Array]):
            generated = generate(model, decode, params, *batch)
            return generated.token_BT, generated.log_prob_B, answer_posterior(model, generated)

        self._read = parallel.batch(read)

    @classmethod
    def load(
        cls,
        workdir: str | Path,
        *,
        index: str | Path | None = None,
        checkpoint: str = "best",
        config: ConfigDict | None = None,
    ) -> "Rag":
        """Opens a run's 'best' or 'last' checkpoint with its index, or with another one made by the same encoder.

        config: in place of the one the run was trained with, for instance to decode as RAG-Sequence.
        """
        place = Workdir(workdir)
        config = place.load_config() if config is None else config
        checkpoints = Checkpoints(place.checkpoints) if place.checkpoints.is_dir() else None
        step = checkpoints and (checkpoints.best() if checkpoint == "best" else checkpoints.latest())
        if step is None:
            raise UserError(f"{place.checkpoints}: holds no checkpoint; run `python -m rag_jax.train` first")
        encoder, generator = load_or_train(config, place.tokenizers)
        model = rag_config(config, encoder, generator)
        parallel = Pmap()
        abstract = parallel.abstract_whole(jax.eval_shape(partial(rag.init_params, model), jax.random.key(0)))
        params = checkpoints.restore(step, params=abstract)["params"]
        fingerprint = checkpoints.extra(step)["passage_encoder"]
        opened = open_index(index or place.index, expect_fingerprint=fingerprint, tokenizer=generator)
        return cls(
            model,
            params,
            Retriever(opened, encoder, generator, config.length, config.data.truncation),
            config,
            parallel,
        )

    def swap_index(self, folder: str | Path) -> None:
        """Answers from another index of the same passage encoder from now on: new knowledge without training."""
        fingerprint = self.retriever.index.manifest.encoder_fingerprint
        opened = open_index(folder, expect_fingerprint=fingerprint, tokenizer=self.retriever.generator_tokenizer)
        self.retriever = self.retriever._replace(index=opened)

    def answer(self, questions: Sequence[str], *, k: int | None = None) -> list[Answer]:
        """Answers questions from their k best passages (by default the configuration's retrieval.k)."""
        return [answer for batch in self.answer_batch(questions, k=k) for answer in batch]

    def answer_batch(self, questions: Sequence[str], *, k: int | None = None) -> Iterator[list[Answer]]:
        """Yields the answers batch by batch: encode, search, read."""
        check_questions(questions)
        for start in range(0, len(questions), self.config.evaluate.batch):
            batch = questions[start : start + self.config.evaluate.batch]
            found = self.retrieve(batch, k=k)
            reading = self.read(batch, self.retriever.documents(found.ids_BK), found.prior_BK)
            yield [self._answer(question, row, found, reading) for row, question in enumerate(batch)]

    def retrieve(self, questions: Sequence[str], *, k: int | None = None) -> Retrieved:
        """The k best passages of each question, with scores and prior."""
        k = k or self.config.retrieval.k
        count = len(self.retriever.index.passages)
        if k > count:
            raise UserError(
                f"retrieval.k: found {k}, expected at most {count}, the passages of {self.retriever.index.folder}"
            )
        ids_BQ = _pad(self.retriever.question_ids(questions), self._rows(len(questions)))
        query_BE = self.parallel.to_host(self._encode(self.params, self.parallel.put_batch(ids_BQ)))
        ids_BK, score_BK = self.retriever.search(questions, query_BE[: len(questions)], k)
        return Retrieved(ids_BK, score_BK, np.asarray(document_log_prior(score_BK, ids_BK >= 0)))

    def read(self, questions: Sequence[str], documents_BK: Sequence[Sequence[Pieces]], prior_BK: np.ndarray) -> Reading:
        """What the generator answers from given documents (tokens of title and text) and their log prior."""
        rows = self._rows(len(questions))
        source_BKS = _pad(self.retriever.sources(documents_BK, questions), rows)
        batch = self.parallel.put_batch((source_BKS, _pad(prior_BK, rows)))
        token_BT, log_prob_B, posterior_BK = self.parallel.to_host(self._read(self.params, batch))
        count = len(questions)
        said = [text.strip() for text in texts(token_BT[:count], self.retriever.generator_tokenizer)]
        return Reading(said, log_prob_B[:count], posterior_BK[:count])

    def _rows(self, count: int) -> int:
        """The batch size that `count` questions are padded to: the next power of two, a multiple of the devices."""
        devices = len(self.parallel.devices)
        return -(-max(1 << (count - 1).bit_length(), devices) // devices) * devices

    def _answer(self, question: str, row: int, found: Retrieved, reading: Reading) -> Answer:
        prior_K = np.exp(found.prior_BK[row])
        documents = []
        for place, passage_row in enumerate(found.ids_BK[row].tolist()):
            if passage_row >= 0:
                passage = self.retriever.index.passages[passage_row]
                numbers = (found.score_BK[row, place], prior_K[place], reading.posterior_BK[row, place])
                documents.append(Document(passage.id, passage.title, passage.text, *map(float, numbers)))
        documents.sort(key=lambda document: -document.posterior)
        return Answer(question, reading.texts_B[row], float(reading.log_prob_B[row]), tuple(documents))


def _pad(array: np.ndarray, rows: int) -> np.ndarray:
    """The array with its last row repeated up to `rows` rows."""
    return np.pad(array, [(0, rows - len(array)), *[(0, 0)] * (array.ndim - 1)], mode="edge")
