"""Training of the bi-encoder: DPR's softmax over the passages of the batch (Karpukhin et al. 2020, section 3.2)."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, Generic, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rag_jax.data.formats import Passage, Question
from rag_jax.data.tokenizer import Tokenizer
from rag_jax.errors import UserError
from rag_jax.metrics.answers_in_passages import holding_match, passage_patterns
from rag_jax.metrics.text import normalise
from rag_jax.models import rag
from rag_jax.models.bert import BertConfig, BertEncoder
from rag_jax.models.layers import applied
from rag_jax.parallel import Across
from rag_jax.progress import counted
from rag_jax.training.step import Leaf, TrainState

INVERSE_CLOZE_KEEPS = 0.5  # share of the spans that also stay in their passage
TRIES = 16  # passages that are looked at for one hard negative, of each kind
TEXTS = 2**16  # normalised texts that are kept, more than a batch asks for


class PairBatch(NamedTuple, Generic[Leaf]):
    """question_BQ: token ids; passage_BNP: each question's positive, then its hard negatives;

    negative_BC: True where passage c of the whole batch (C = N x all questions) may serve question b as a negative.
    """

    question_BQ: Leaf
    passage_BNP: Leaf
    negative_BC: Leaf


def init_params(model: rag.RagConfig, key: jax.Array, *, shared: bool) -> dict[str, Any]:
    """{'question_encoder'}; unless it is shared, 'passage_encoder' from the same weights; if learned, the scale."""
    ids = jnp.zeros((1, 2), jnp.int32)
    params = jax.jit(BertEncoder(model.encoder).init)(key, ids, ids > 0)["params"]
    names = ("question_encoder",) if shared else ("question_encoder", "passage_encoder")
    return {name: jax.tree.map(jnp.copy, params) for name in names} | rag.init_score_scale(model)


def passage_encoder(params: dict[str, Any]) -> Any:
    """The passage encoder's parameters, which are the question encoder's where both are one."""
    return params["passage_encoder" if "passage_encoder" in params else "question_encoder"]


def encode_passages(config: BertConfig, params: Any, ids_BP: jax.Array) -> jax.Array:
    """vector_BE of token ids `[CLS] title [SEP] text [SEP]`, by a passage encoder's own parameters."""
    return applied(BertEncoder(config), params, ids_BP, ids_BP != config.pad_id)


def in_batch_loss(
    params: dict[str, Any],
    batch: PairBatch[jax.Array],
    key: jax.Array | None,
    *,
    across: Across,
    config: BertConfig,
    scale: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The summed -log softmax of the positive among the negatives of all devices, and the number of hits."""
    encoder = BertEncoder(config)

    def encode(params: Any, ids: jax.Array, number: int) -> jax.Array:
        dropout: dict[str, Any] = {"deterministic": True}
        if key is not None:
            dropout = {"deterministic": False, "rngs": {"dropout": jax.random.fold_in(key, number)}}
        return applied(encoder, params, ids, ids != config.pad_id, **dropout)

    B, N, P = batch.passage_BNP.shape
    query_BE = encode(params["question_encoder"], batch.question_BQ, 0)
    passage_CE = across.gather(encode(passage_encoder(params), batch.passage_BNP.reshape(B * N, P), 1))
    query_BE = rag.score_scale(params, scale) * query_BE
    score_BC = jnp.einsum("BE,CE->BC", query_BE, passage_CE, precision=jax.lax.Precision.HIGHEST)
    positive_B = (across.index() * B + jnp.arange(B)) * N
    is_positive_BC = jnp.arange(score_BC.shape[1])[None, :] == positive_B[:, None]
    score_BC = jnp.where(batch.negative_BC | is_positive_BC, score_BC, -jnp.inf)
    loss_B = -jax.nn.log_softmax(score_BC)[jnp.arange(B), positive_B]
    hits = jnp.sum(jnp.argmax(score_BC, axis=1) == positive_B)
    return jnp.sum(loss_B), {"loss": jnp.sum(loss_B), "hits": hits, "questions": jnp.asarray(B)}


def retriever_step(
    state: TrainState[jax.Array],
    batch: PairBatch[jax.Array],
    *,
    across: Across,
    config: BertConfig,
    optimizer: optax.GradientTransformation,
    scale: float,
    seed: int,
) -> tuple[TrainState[jax.Array], dict[str, jax.Array]]:
    """One update from the mean loss over all devices' questions; returns it with {'loss', 'in_batch_accuracy'}."""
    key = jax.random.key(seed)
    key = jax.random.fold_in(jax.random.fold_in(key, state.step), across.index())
    loss = partial(in_batch_loss, across=across, config=config, scale=scale)
    gradient, sums = jax.grad(loss, has_aux=True)(state.params, batch, key)
    gradient, sums = across.sum((gradient, sums))
    gradient = jax.tree.map(lambda g: g / sums["questions"], gradient)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    state = TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state)
    return state, {
        "loss": sums["loss"] / sums["questions"],
        "in_batch_accuracy": sums["hits"] / sums["questions"],
    }


class Example(NamedTuple):
    """What one question of a batch comes with.

    holds: whether the passage of a row holds one of the answers. known: rows of the passages known to hold it, the
    positive first. rows, texts: of the positive, whose text may lack a span, then of the hard negatives.
    """

    id: str
    asked: str
    answers: tuple[str, ...]
    holds: Callable[[int], bool]
    known: tuple[int, ...]
    rows: list[int]
    texts: list[str]


class Pairs:
    """Makes batches of (question, positive, hard negatives) from questions with known passages and from the passages.

    An inverse cloze pair asks with a span of a passage's words for the passage itself, out of which the span was cut
    half of the time (Lee et al. 2019, ORQA, section 3). A hard negative is one that the question names; else another
    passage of the positive's title; else any. Those that hold the answer, by name or by its words, are passed over.

    patterns: whether answers are regular expressions, which a passage holds where they find something in it.
    """

    def __init__(
        self, passages: Sequence[Passage], questions: Sequence[Question], tokenizer: Tokenizer, length: Any,
        *, inverse_cloze: float, hard_negatives: int, patterns: bool = False,
    ):  # fmt: skip
        self.passages, self.tokenizer, self.length, self.patterns = passages, tokenizer, length, patterns
        self.inverse_cloze, self.hard_negatives = inverse_cloze, hard_negatives
        asked = [question for question in questions if question.passage_ids]
        wanted = {name for question in asked for name in (*question.passage_ids, *question.hard_negatives)}
        rows: dict[str, int] = {}
        self._siblings: dict[str, list[int]] = {}
        for row, passage in enumerate(counted(passages, len(passages), "retriever", "passages looked through")):
            if passage.id in wanted:
                rows[passage.id] = row
            if hard_negatives and passage.title:  # passages without a title have nothing in common
                self._siblings.setdefault(passage.title, []).append(row)
        self.asked = [(question, _known(rows, question)) for question in asked]
        self._named = [[rows[name] for name in question.hard_negatives if name in rows] for question in asked]
        self._text = lru_cache(TEXTS)(self._normalised)

    def batch(self, indices: np.ndarray, rng: np.random.Generator, own: slice = slice(None)) -> PairBatch[np.ndarray]:
        """The batch of the questions with these indices; some of them become inverse cloze pairs.

        own: this process's rows of it; the passages of all stand in negative_BC, which says whose they may oppose.
        """
        examples = [self._example(int(index), rng) for index in indices]
        row_C = np.array([example.rows for example in examples]).ravel()
        examples = examples[own]
        passages = self.tokenizer.passage_ids(
            [self.passages[row].title for example in examples for row in example.rows],
            [text for example in examples for text in example.texts],
            self.length.passage,
        )
        return PairBatch(
            self.tokenizer.question_ids([example.asked for example in examples], self.length.question),
            passages.reshape(len(examples), -1, self.length.passage),
            self._negatives(examples, row_C),
        )

    def told(self, indices: np.ndarray, rng: np.random.Generator) -> list[dict[str, Any]]:
        """The same batch as a file of questions has them, and the hard negatives that were drawn."""
        examples = [self._example(int(index), rng) for index in indices]
        return [
            {
                "id": example.id,
                "question": example.asked,
                "answers": example.answers,
                "passage_ids": [self.passages[row].id for row in example.known],
                "hard_negatives": [self.passages[row].id for row in example.rows[1:]],
            }
            for example in examples
        ]

    def _example(self, index: int, rng: np.random.Generator) -> Example:
        known: tuple[int, ...]
        answers: tuple[str, ...] = ()
        named: list[int] = []
        if not self.asked or rng.random() < self.inverse_cloze:
            known = (int(rng.integers(len(self.passages))),)
            asked, text = _cut_span(self.passages[known[0]].text, rng)
            name = f"passage {self.passages[known[0]].id}"
        else:
            question, known = self.asked[index % len(self.asked)]
            named = self._named[index % len(self.asked)]
            name, asked, text = question.id, question.text, self.passages[known[0]].text
            answers = question.answers
        holds = self._holds(answers)
        others = [self._hard_negative(known, holds, named, rng) for _ in range(self.hard_negatives)]
        texts = [text, *(self.passages[other].text for other in others)]
        return Example(name, asked, answers, holds, known, [known[0], *others], texts)

    def _hard_negative(
        self, known: tuple[int, ...], holds: Callable[[int], bool], named: list[int], rng: np.random.Generator
    ) -> int:
        """A passage without the answer; where all that were tried have it, the last of them, which _negatives masks."""
        siblings = self._siblings.get(self.passages[known[0]].title, [])
        kinds: tuple[Sequence[int], ...] = (named, siblings, range(len(self.passages)))
        for rows in kinds:
            for place in rng.choice(len(rows), min(TRIES, len(rows)), replace=False).tolist():
                row = rows[place]
                if row not in known and not holds(row):
                    return row
        return row

    def _holds(self, answers: tuple[str, ...]) -> Callable[[int], bool]:
        if self.patterns and answers:
            found = passage_patterns(answers)
            return lambda row: bool(found.compiled) and holding_match([self._whole(row)], found)[0]
        wanted = [f" {normalise(answer)} " for answer in answers]
        return lambda row: any(words in self._text(row) for words in wanted)

    def _whole(self, row: int) -> str:
        return f"{self.passages[row].title} {self.passages[row].text}"

    def _normalised(self, row: int) -> str:
        return f" {normalise(self._whole(row))} "

    def _negatives(self, own: Sequence[Example], row_C: np.ndarray) -> np.ndarray:
        """Not a negative: a passage known to hold the answer, whosever it is in the batch, or with the answer in it."""
        negative_BC = np.array([~np.isin(row_C, example.known) for example in own])
        for negative_C, example in zip(negative_BC, own, strict=True):
            if example.answers:
                negative_C &= [not example.holds(row) for row in row_C.tolist()]
        return negative_BC


def _known(rows: dict[str, int], question: Question) -> tuple[int, ...]:
    """The rows of a question's passages; of all but the first, the positive, those that there are."""
    if question.passage_ids[0] not in rows:
        raise UserError(
            f"config.data.train: question {question.id!r} names passage {question.passage_ids[0]!r}, "
            "which config.data.passages does not hold; check passage_ids"
        )
    return tuple(rows[name] for name in question.passage_ids if name in rows)


def _cut_span(text: str, rng: np.random.Generator) -> tuple[str, str]:
    """A span of a third to two thirds of the words, and the text, from which it was cut half of the time."""
    words = text.split()
    size = max(1, int(len(words) * rng.uniform(0.33, 0.67)))
    start = int(rng.integers(len(words) - size + 1))
    rest = words[:start] + words[start + size :]
    kept = rng.random() < INVERSE_CLOZE_KEEPS or not rest
    return " ".join(words[start : start + size]), text if kept else " ".join(rest)
