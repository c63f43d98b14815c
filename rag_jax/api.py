"""Rag: a trained model with its index, which answers questions; the walk that answer, evaluate and training share."""

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rag_jax.config import closed_book, score_scale
from rag_jax.core.bucket import bucket
from rag_jax.data import tasks
from rag_jax.data.labels import START, decoder_inputs, label_tokens
from rag_jax.data.text import Document as Pieces
from rag_jax.data.tokenizer import Tokenizer
from rag_jax.data.vocabulary import Vocabulary, load_both
from rag_jax.decode.classify import classify, names
from rag_jax.decode.generate import STOPPING, DecodeConfig, Generated, generate, texts
from rag_jax.errors import UserError, fail
from rag_jax.hub.folder import Trained, write_folder
from rag_jax.hub.huggingface import check_vocabulary
from rag_jax.hub.pretrained import open_pretrained
from rag_jax.hub.resolve import as_made
from rag_jax.index.base import BUILD, check_kind, open_index
from rag_jax.models import null_document, rag
from rag_jax.models.bart import BartConfig
from rag_jax.models.bert import BertConfig
from rag_jax.models.fingerprint import model_fingerprint
from rag_jax.parallel import Devices, Pmap
from rag_jax.progress import slow_at_first, waiting
from rag_jax.retrieve import Retrieved, Retriever, check_documents, check_questions, pad


@dataclass(frozen=True)
class Document:
    """A retrieved passage: its score, p(z|x), and how much of the answer came from it.

    The null document, which is the question read alone, has no id, title or text.
    score: the logit of p(z|x): the scaled inner product with the question, or BM25's score.
    posterior: p(z|x,y) under RAG-Sequence; under RAG-Token the mean over text tokens of p(z|x,y_1..y_i).
    """

    id: str
    title: str
    text: str
    score: float
    prior: float
    posterior: float


@dataclass(frozen=True)
class Token:
    """A token of an answer's text and log p(z|x,y_1..y_i) as far as it tells, of the answer's documents in order."""

    text: str
    posterior: tuple[float, ...]


@dataclass(frozen=True)
class Answer:
    """An answer, log p(y|x) in nats (`</s>` counted, `<s>` not), and its documents by falling posterior.

    lower_bound: whether log_prob is one, as fast RAG-Sequence decoding leaves documents out. tokens: the posterior of
    every text token, if asked for. others: the next best answers, or draws, if the configuration asks for several. Of a
    label that data.classify tells, the others are all other labels, and log_prob is normalised over them.
    """

    question: str
    text: str
    log_prob: float
    documents: tuple[Document, ...]
    lower_bound: bool = False
    tokens: tuple[Token, ...] = ()
    others: tuple["Answer", ...] = ()


class Reading(NamedTuple):
    """What the generator said: the answers' texts by falling score, and all that is known of them, as numpy arrays."""

    texts_BN: list[list[str]]
    generated: Generated[np.ndarray]


def rag_config(
    config: ConfigDict, encoder: Tokenizer | Vocabulary | None, generator: Tokenizer | Vocabulary
) -> rag.RagConfig:
    """The model that a configuration describes, for two tokenizers' vocabularies and special ids.

    A closed book has no encoder.
    """
    sizes = {"encoder": dict(config.encoder), "generator": dict(config.generator)}
    for part, tokenizer in (("encoder", encoder), ("generator", generator)):
        if tokenizer is None:
            continue
        sizes[part]["vocab_size"] = sizes[part]["vocab_size"] or tokenizer.vocab_size
        if not isinstance(tokenizer, Vocabulary):
            check_vocabulary(tokenizer, sizes[part]["vocab_size"], f"config.{part}.vocab_size")
    if config.generator.start_id < 0:
        sizes["generator"]["start_id"] = generator.eos_id
    special = {name: getattr(generator, name) for name in ("pad_id", "bos_id", "eos_id")}
    told: tuple[int, ...] = ()
    if config.data.classify == "token":
        assert not isinstance(generator, Vocabulary)
        told = label_tokens(tasks.labels(config.data), generator)
    return rag.RagConfig(
        question_encoder=None if encoder is None else BertConfig(pad_id=encoder.pad_id, **sizes["encoder"]),
        generator=BartConfig(**special, **sizes["generator"]),
        kind=config.kind,
        score_scale=score_scale(config),
        learn_score_scale=config.retrieval.learn_score_scale,
        classes=tasks.classes(config.data),
        label_tokens=told,
        null_document=config.retrieval.null_document,
    )


def decode_config(config: ConfigDict) -> DecodeConfig:
    """The decoding that a configuration describes, but for `bad_words`, which need a tokenizer."""
    stopping = {str(name): name for name in STOPPING}
    told = {key: value for key, value in config.decode.items() if not key.startswith("bad_words")}
    told["early_stopping"], told["compat"] = stopping[told["early_stopping"]], told["compat"] or None
    for key in ("forced_bos_id", "forced_eos_id"):
        told[key] = None if told[key] < 0 else told[key]
    return DecodeConfig(kind=config.kind, **told)


def bad_words(decode: ConfigDict, tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Token ids of every forbidden word, at the start of a text and after a space, and those given as ids."""
    spelled = [form for word in decode.bad_words if word.strip() for form in (word.strip(), f" {word.strip()}")]
    given = [tuple(map(int, ids.split())) for ids in decode.bad_words_ids if ids.split()]
    return tuple(dict.fromkeys([*map(tuple, tokenizer.encode_batch(spelled)), *given]))


def read_batch(
    model: rag.RagConfig, decode: DecodeConfig, labelled: bool, params: Any, batch: tuple[jax.Array, ...]
) -> Generated[jax.Array]:
    """What the generator says to a batch: sources, priors, and decoder inputs where it tells labels, else places."""
    return classify(model, params, *batch) if labelled else generate(model, decode, params, *batch)


def null_logits(kind: str, params: dict[str, Any], query_BE: jax.Array) -> jax.Array:
    """The learned part of the null document's logit [B], also where it reads no question, as a bias."""
    return jnp.broadcast_to(null_document.learned(kind, params, query_BE), query_BE.shape[:1])


class Rag:
    """Question encoder, index, passages and generator, ready for any thread; batches are padded to few shapes."""

    def __init__(self, model: rag.RagConfig, params: Any, retriever: Retriever, config: ConfigDict, parallel: Devices):
        self.model, self.params, self.retriever, self.config = model, params, retriever, config
        self.parallel, self.labels = parallel, tasks.labels(config.data)
        self._encode = slow_at_first(parallel.batch(partial(rag.encode_questions, model)), "encoding is compiled")
        self._null = parallel.batch(partial(null_logits, model.null_document))
        self.decode = replace(decode_config(config), bad_words=bad_words(config.decode, retriever.generator_tokenizer))
        read = parallel.batch(partial(read_batch, model, self.decode, bool(self.labels)))
        self._read = slow_at_first(read, "answering is compiled")

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        index: str | Path | None = None,
        checkpoint: str = "best",
        config: ConfigDict | None = None,
    ) -> "Rag":
        """Opens a trained model with its index, or with another one made by the same passage encoder.

        name: the folder of a run, a folder that `rag_jax.export` or transformers wrote, or a hub name; a run brings an
        index, and so may an export; folders may lie at a url, as gs://bucket/runs/demo. checkpoint: 'best' or 'last' of
        a run. config: in place of the one that the model was trained with, for instance to decode as RAG-Sequence.
        """
        found = open_pretrained(name, checkpoint=checkpoint, decodes=config is None)
        config = found.config if config is None else as_made(config, found, str(name))
        tasks.check_labels(str(name), found.config.data, config.data)
        null, own = (settings.retrieval.null_document for settings in (config, found.config))
        if null not in ("none", own):
            fail(f"config.retrieval.null_document: found {null!r}, but {name} was trained with {own!r}; expected that")
        if index and closed_book(config):
            fail(f"index: found {index}, expected none with index.kind = 'none', a closed book; leave it out")
        place = index or found.index()
        if place is None and not closed_book(config):
            raise UserError(f"{name}: comes without an index; build one with {BUILD} and give its folder as index")
        encoder, generator = load_both(config, found.encoder_tokenizer, found.generator_tokenizer)
        model, parallel = rag_config(config, encoder, generator), Pmap(jax.local_devices())
        with waiting(f"{name}: parameters are loaded"):
            params, opened = found.load(model, parallel), None
        if place is not None and not closed_book(config):
            opened = open_index(place, expect_fingerprint=found.passage_encoder, tokenizer=generator)
            check_kind(config.index.kind, opened)
        return cls(model, params, Retriever.of(config, opened, encoder, generator), config, parallel)

    def swap_index(self, folder: str | Path) -> None:
        """Answers from another index of the same passage encoder from now on: new knowledge without training.

        Any thread may swap while others ask. A request that has begun ends with the index that it began with, whose
        files and memory are let go when the last of these is answered.
        """
        if self.retriever.index is None:
            fail(f"index: found {folder}, but this is a closed book, index.kind = 'none', which reads no passages")
        fingerprint = self.retriever.index.manifest.encoder_fingerprint
        opened = open_index(folder, expect_fingerprint=fingerprint, tokenizer=self.retriever.generator_tokenizer)
        self.retriever = self.retriever._replace(index=opened)

    def identity(self) -> str:
        """16 hexadecimal digits over weights, passages and settings: whose answers were measured."""
        config = self.config
        index: tuple[Any, ...] = ()
        if (opened := self.retriever.index) is not None:
            manifest = opened.manifest
            made = manifest.encoder_fingerprint, manifest.passages_checksum, opened.vectors_checksum()
            index = *made, manifest.kind, manifest.dtype, manifest.search
        reading = config.retrieval.k, sorted(config.length.items()), config.data.truncation, config.data.question_text
        return model_fingerprint(str((self.model, self.decode, index, reading)), self.params)

    def save_pretrained(
        self, folder: str | Path, *, with_index: bool = False, scores: Mapping[str, Any] | None = None
    ) -> None:
        """Writes a new Hugging Face folder, which transformers' RAG opens; see hub.folder.write_folder."""
        retriever = self.retriever
        tokenizers = retriever.encoder_tokenizer, retriever.generator_tokenizer
        trained = Trained(self.model, self.params, self.config, self.decode, tokenizers, retriever.index)
        write_folder(folder, trained, with_index=with_index, scores=scores)

    def answer(self, questions: Sequence[str], *, k: int | None = None, token_posterior: bool = False) -> list[Answer]:
        """Answers questions from their k best passages (by default the configuration's retrieval.k)."""
        batches = self.answer_batch(questions, k=k, token_posterior=token_posterior)
        return [answer for batch in batches for answer in batch]

    def answer_batch(
        self, questions: Sequence[str], *, k: int | None = None, token_posterior: bool = False
    ) -> Iterator[list[Answer]]:
        """Yields the answers batch by batch: encode, search, read.

        token_posterior: also tell for every token of a RAG-Token answer which documents it came from.
        """
        check_questions(questions)
        if token_posterior and (self.labels or self.decode.kind != "token"):
            what = "a label" if self.labels else "kind 'sequence'"
            raise UserError(f"token_posterior: found {what}, which has one posterior for a whole answer")
        if token_posterior and self.retriever.index is None:
            fail("token_posterior: found index.kind 'none', a closed book, whose answers come from no documents")
        long = self.retriever.too_long(questions)
        if long:
            limit = self.retriever.length[self.retriever.question_limit]
            warnings.warn(f"{long} of {len(questions)} questions exceed {limit} tokens and were cut", stacklevel=2)
        now = copy.copy(self)  # with the index that is open now, whatever swap_index does meanwhile
        for start in range(0, len(questions), self.config.evaluate.batch):
            batch = questions[start : start + self.config.evaluate.batch]
            found = now.retrieve(batch, k=k)
            reading = now.read(batch, now.retriever.documents(found.ids_BK), found.prior_BK)
            yield [now._answers(question, row, found, reading, token_posterior) for row, question in enumerate(batch)]

    def retrieve(self, questions: Sequence[str], *, k: int | None = None) -> Retrieved:
        """The k best passages of each question, and the null document if there is one, with scores and prior."""
        if self.retriever.index is None:
            if k:
                fail(f"k: found {k}, expected none: with index.kind = 'none', a closed book, no passages are read")
            return Retrieved.nothing(len(questions))
        k = self.config.retrieval.k if k is None else k
        count = len(self.retriever.index.passages)
        if not 1 <= k <= count:
            most = f"at most {count}, the passages of {self.retriever.index.folder}"
            raise UserError(f"retrieval.k: found {k}, expected {most if k > count else 'at least 1'}")
        query_BE = self._embeddings(questions) if self.retriever.by_vector else None
        ids_BK, score_BK = self.retriever.search(questions, query_BE, k)
        return Retrieved.of(ids_BK, score_BK, self._null_logits(query_BE, len(questions)), self._rows(len(questions)))

    def read(self, questions: Sequence[str], documents_BK: Sequence[Sequence[Pieces]], prior_BK: np.ndarray) -> Reading:
        """What the generator answers from given documents (tokens of title and text) and their log prior."""
        check_documents(questions, documents_BK, prior_BK.shape[1] - self.retriever.alone)
        rows, count = self._rows(len(questions)), len(questions)
        given = [self._shorter(self.retriever.sources(documents_BK, questions)), prior_BK]
        if self.labels:
            length = self.config.length.target if self.model.classes else START
            given.append(decoder_inputs(self.retriever.generator_tokenizer, questions, length))
        else:
            given.append(np.arange(rows, dtype=np.int32))  # their places, whatever device reads them
        batch = self.parallel.put_batch(tuple(pad(array, rows) for array in given))
        generated = self.parallel.to_host(self._read(self.params, batch))
        generated = jax.tree.map(lambda array: array[:count], generated)
        if self.labels:
            return Reading(names(generated, self.labels), generated)
        tokenizer = self.retriever.generator_tokenizer
        said = [[text.strip() for text in texts(token_NT, tokenizer)] for token_NT in generated.token_BNT]
        return Reading(said, generated)

    def _embeddings(self, questions: Sequence[str]) -> np.ndarray:
        ids_BQ = pad(self.retriever.question_ids(questions), self._rows(len(questions)))
        return self.parallel.to_host(self._encode(self.params, self.parallel.put_batch(ids_BQ)))[: len(questions)]

    def _null_logits(self, query_BE: np.ndarray | None, count: int) -> np.ndarray | None:
        """The learned part of the null document's logit for so many questions, None without such a document."""
        if self.model.null_document == "none":
            return None
        query_BE = np.zeros((count, 0), np.float32) if query_BE is None else query_BE
        batch = self.parallel.put_batch(pad(query_BE, self._rows(count)))
        return self.parallel.to_host(self._null(self.params["null_document"], batch))[:count]

    def _shorter(self, source_BKS: np.ndarray) -> np.ndarray:
        """The sources without the padding that all have in common, but for what makes their length a rare one."""
        if self.decode.compat and self.decode.kind == "sequence":
            return source_BKS  # there padding is read
        used_S = (source_BKS != self.model.generator.pad_id).any(axis=(0, 1))
        longest = len(used_S) - int(np.argmax(used_S[::-1]))
        return source_BKS[:, :, : bucket(longest, 32)]

    def _rows(self, count: int) -> int:
        """The batch size that `count` questions are padded to: the next power of two, a multiple of the devices."""
        devices = len(self.parallel.local)
        return -(-bucket(count) // devices) * devices

    def _answers(self, question: str, row: int, found: Retrieved, reading: Reading, tokens: bool) -> Answer:
        """The best answer, with the others that there are."""
        there = [n for n, value in enumerate(reading.generated.log_prob_BN[row]) if n == 0 or value > -np.inf]
        best, *others = [self._answer(question, row, n, found, reading, tokens) for n in there]
        return replace(best, others=tuple(others))

    def _answer(self, question: str, row: int, n: int, found: Retrieved, reading: Reading, tokens: bool) -> Answer:
        prior_K, generated = np.exp(found.prior_BK[row]), reading.generated
        posterior_K = generated.posterior_BNK[row, n]
        there = sorted(found.documents(row, self.retriever.index), key=lambda pair: -posterior_K[pair[0]])
        documents = []
        for place, passage in there:
            numbers = (found.score_BK[row, place], prior_K[place], posterior_K[place])
            documents.append(Document(passage.id, passage.title, passage.text, *map(float, numbers)))
        return Answer(
            question,
            reading.texts_BN[row][n],
            float(generated.log_prob_BN[row, n]),
            tuple(documents),
            lower_bound=self.decode.mode == "fast" and not self.labels,
            tokens=self._tokens(generated, row, n, [place for place, _ in there]) if tokens else (),
        )

    def _tokens(self, generated: Generated[np.ndarray], row: int, n: int, order: list[int]) -> tuple[Token, ...]:
        tokenizer = self.retriever.generator_tokenizer
        assert generated.posterior_BNKT is not None  # of RAG-Token, whose answers alone have posteriors of tokens
        share_KT = np.exp(generated.posterior_BNKT[row, n])
        return tuple(
            Token(tokenizer.decode([token]), tuple(share_KT[order, t].tolist()))
            for t, token in enumerate(generated.token_BNT[row, n].tolist())
            if token not in tokenizer.special_ids
        )
