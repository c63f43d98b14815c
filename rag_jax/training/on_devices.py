"""Joint training with the search inside the step: encode, search, gather, loss in one program, no host in between.

What index.kind = 'exact' with retrieval.lag = 0 means, where nothing is done to the passages on the way: no made-up
names, no distant supervision, no null document.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Generic, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rag_jax.core.sources import Frame, sources
from rag_jax.data.formats import Question
from rag_jax.data.substitution import NameMaker
from rag_jax.index import on_devices
from rag_jax.index.on_devices import Documents, OnDevices, Rows, Texts
from rag_jax.models import rag
from rag_jax.parallel import Across, Devices
from rag_jax.retrieve import Retriever
from rag_jax.training.sources import Found, QuestionSource
from rag_jax.training.step import Batch, Leaf, TrainState, train_step


class Asked(NamedTuple, Generic[Leaf]):
    """What the host makes of questions: token ids for the encoder, for the generator with their number, and answers."""

    question_BQ: Leaf
    inner_BR: Leaf
    inner_B: Leaf
    token_BT: Leaf
    target_BT: Leaf | None
    weight_B: Leaf
    label_B: Leaf | None


class Search(NamedTuple):
    """How passages are searched and read: k of them, config.length.source tokens, config.data.truncation."""

    k: int
    recall: float
    length: int
    frame: Frame
    keep_question: bool


def search_step(
    state: TrainState[jax.Array],
    batch: tuple[Asked[jax.Array], Rows[jax.Array], Texts[jax.Array]],
    *,
    across: Across,
    config: rag.RagConfig,
    search: Search,
    **settings: Any,
) -> tuple[TrainState[jax.Array], dict[str, jax.Array]]:
    """train_step for the passages that its own parameters find; the metrics also tell those, of the whole batch."""
    asked, rows, texts = batch
    query_BE = jax.lax.stop_gradient(rag.encode_questions(config, state.params, asked.question_BQ))

    def find(
        across: Across, query_BE: jax.Array, rows: Rows[jax.Array], texts: Texts[jax.Array]
    ) -> tuple[jax.Array, jax.Array, Documents]:
        score_BK, id_BK = on_devices.winners(across, rows, query_BE, k=search.k, recall=search.recall)
        return score_BK, id_BK, on_devices.fetch(across, rows, texts, id_BK, tokens=search.length)

    # A barrier, or XLA lays the index out anew for what is computed from its rows: two more copies on a TPU.
    query_BE = jax.lax.optimization_barrier(query_BE)
    score_BK, id_BK, found = jax.lax.optimization_barrier(across.each(find, query_BE, rows, texts))
    source_BKS = sources(
        found.token_BKP, found.title_BK, found.text_BK, asked.inner_BR, asked.inner_B,
        length=search.length, frame=search.frame, keep_question=search.keep_question,
    )  # fmt: skip
    whole = Batch(
        asked.question_BQ, found.vector_BKE.astype(jnp.float32), id_BK >= 0, source_BKS,
        asked.token_BT, asked.target_BT, asked.weight_B, label_B=asked.label_B,
    )  # fmt: skip
    state, metrics = train_step(state, whole, across=across, config=config, **settings)
    return state, metrics | {"ids_BK": across.gather(id_BK), "score_BK": across.gather(score_BK)}


def possible(config: ConfigDict, stage: ConfigDict) -> bool:
    """Whether a stage searches inside its step."""
    plain = not stage.substitution and not stage.depth and stage.train_question_encoder
    exact = config.index.kind == "exact" and config.retrieval.lag == 0
    return plain and exact and config.retrieval.null_document == "none"


class DeviceSource(QuestionSource):
    """Questions whose passages the step itself finds."""

    def __init__(
        self, questions: Sequence[Question], retriever: Retriever, model: rag.RagConfig, config: ConfigDict,
        stage: ConfigDict, parallel: Devices, *, name: str, names: NameMaker | None,
    ):  # fmt: skip
        super().__init__(questions, retriever, model, config, stage, parallel, name=name, names=names)
        tokenizer, marks, searcher = retriever.generator_tokenizer, self._marks, retriever.open_book.searcher
        assert isinstance(searcher, OnDevices)  # see training.searchers
        self._passages = searcher
        separators = (tuple(ids.tolist()) for ids in (marks.title_separator, marks.document_separator))
        frame = Frame(tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, *separators)
        keep = config.data.truncation == "keep_question"
        search = Search(self._k, config.index.recall_target, config.length.source, frame, keep)
        self.step = partial(search_step, search=search)

    def encode(self, params: Any, step: int) -> None:
        """The step does."""

    def search(self, step: int, query: jax.Array | None) -> Found:
        """Nothing yet: the step finds them."""
        return Found(np.zeros((len(self._indices(step)), 0), np.int64), None)

    def put(self, step: int, found: Found) -> tuple[Asked[jax.Array], Rows[jax.Array], Texts[jax.Array]]:
        """The questions of batch `step` on the devices, beside the passages."""
        asked = self._asked(step)
        pieces = self._retriever.question_pieces([question.text for question in asked])
        inner_BR = np.zeros((len(asked), self._length.source), np.int32)
        inner_B = np.array([min(len(ids), self._length.source) for ids in pieces], np.int32)
        for row, ids in zip(inner_BR, pieces, strict=True):
            row[: len(ids)] = ids[: len(row)]
        said, weight_B = self._said(asked, self._answers(step)), np.ones(len(asked), np.float32)
        batch = Asked(
            self._question_ids(step), inner_BR, inner_B, said.token_BT, said.target_BT, weight_B, said.label_B
        )
        return self._parallel.put_batch(batch), self._passages.rows, self._passages.texts
