"""One trained model seen in several ways: its indexes, its marginals and its decodings share weights and programs."""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from ml_collections import ConfigDict

from rag_jax.api import Answer, Rag
from rag_jax.decode.generate import MODES, check
from rag_jax.errors import UserError, fail

MOST_BEAMS, MOST_K = 16, 100  # every number is a program to compile
MOST_LETTERS = 2000  # of a question


@dataclass(frozen=True)
class Settings:
    """How a question is answered; questions that agree in it are answered together.

    kind: 'token' or 'sequence'. mode: see DecodeConfig. A closed book has no index, and k is 0.
    """

    index: str
    kind: str
    mode: str
    beams: int
    k: int


class Views:
    """A model with several indexes of its passage encoder; nobody's choice changes what another one sees."""

    def __init__(self, rag: Rag, indexes: Mapping[str, str | Path]) -> None:
        """indexes: folders by name; the first is open in `rag`, the others are opened here. A closed book has none.

        Raises UserError for a folder that holds no index of this passage encoder.
        """
        self._rag, self._lock = rag, Lock()
        self._retrievers = {"": rag.retriever}
        if indexes:
            first, *others = indexes
            self._retrievers = {first: rag.retriever}
            for name in others:
                view = copy(rag)
                view.swap_index(indexes[name])
                self._retrievers[name] = view.retriever
        mode = rag.decode.mode or MODES[rag.decode.kind][0]
        k = rag.config.retrieval.k if indexes else 0
        self.own = Settings(next(iter(self._retrievers)), rag.decode.kind, mode, rag.decode.beams, k)
        self._ways = {(self.own.kind, self.own.mode, self.own.beams): rag}

    @property
    def indexes(self) -> list[str]:
        """The indexes' names; a closed book has none."""
        return [name for name in self._retrievers if name]

    @property
    def labelled(self) -> bool:
        """Whether the answers are labels, of which each is scored: nothing is decoded."""
        return bool(self._rag.labels)

    @property
    def batch(self) -> int:
        """The most questions that are read at once."""
        return self._rag.config.evaluate.batch

    def most_k(self, index: str) -> int:
        """The most passages that can be read."""
        if not index:
            return 0
        return min(max(MOST_K, self.own.k), len(self._retrievers[index].open_book.passages))

    def settings(self, **asked: Any) -> Settings:
        """The run's own settings but for those that are asked for (None: its own); UserError with all that is wrong.

        Another kind comes with its own first mode, if none is asked for.
        """
        given = {name: value for name, value in asked.items() if value is not None}
        kind, own = given.get("kind", self.own.kind), self.own
        if kind not in MODES:
            fail(f"kind: found {kind!r}, expected {' or '.join(map(repr, MODES))}")
        settings = replace(own if kind == own.kind else replace(own, mode=MODES[kind][0]), **given)
        if problems := [*self._misplaced(given), *self._wrong(settings)]:
            raise UserError("\n".join(problems))
        if not self.labelled:
            way = self._way(settings)
            check(way.model, way.decode, (settings.k or 1) + (way.model.null_document != "none"))
        return settings

    def tells_tokens(self, settings: Settings) -> bool:
        """Whether it is known of every token which passages it came from."""
        return settings.kind == "token" and bool(settings.index) and not self.labelled

    def problem(self, question: str) -> str:
        """What is wrong with a question, '' if nothing is."""
        retriever = self._retrievers[self.own.index]
        if not question.strip():
            return "found no words, expected a question"
        if len(question) > MOST_LETTERS:
            return f"found {len(question)} characters, expected at most {MOST_LETTERS}"
        if retriever.too_long([question]):
            key = retriever.question_limit
            who = "question encoder" if key == "question" else "generator"
            return f"found more tokens than the {who} reads, expected at most {retriever.length[key]} (length.{key})"
        return ""

    def answer(self, settings: Settings, questions: Sequence[str]) -> list[Answer]:
        """The answers to checked questions, with their tokens where these are known."""
        view = copy(self._way(settings))
        view.retriever = self._retrievers[settings.index]
        return view.answer(questions, k=settings.k or None, token_posterior=self.tells_tokens(settings))

    def _misplaced(self, given: Mapping[str, Any]) -> Iterator[str]:
        """What is asked for though this model has no such choice."""
        for name in ("index", "k") if not self.indexes else ():
            if name in given:
                yield f"{name}: found {given[name]!r}, expected none: this is a closed book, which reads no passages"
        for name in ("mode", "beams") if self.labelled else ():
            if name in given:
                yield f"{name}: found {given[name]!r}, expected none: this model tells labels, and scores each"

    def _wrong(self, settings: Settings) -> Iterator[str]:
        """Every setting that cannot be."""
        index, kind, mode, beams, k = asdict(settings).values()
        if index not in self._retrievers:
            yield f"index: found {index!r}, expected {' or '.join(map(repr, self.indexes))}"
        elif index and not 1 <= k <= self.most_k(index):
            yield f"k: found {k}, expected 1 to {self.most_k(index)} with index {index!r}"
        if mode not in MODES[kind]:
            yield f"mode: found {mode!r}, expected {' or '.join(map(repr, MODES[kind]))} with kind {kind!r}"
        most = 1 if mode == "sample" else max(MOST_BEAMS, self.own.beams)
        if not 1 <= beams <= most:
            yield f"beams: found {beams}, expected {f'1 to {most}' if most > 1 else '1'} with mode {mode!r}"

    def _way(self, settings: Settings) -> Rag:
        """The model that decodes so, made when it is first asked for; its programs serve all indexes."""
        way = settings.kind, settings.mode, settings.beams
        with self._lock:
            if way not in self._ways:
                config = ConfigDict(self._rag.config).copy_and_resolve_references().unlock()
                config.kind, config.decode.mode, config.decode.beams = way
                model, rag = replace(self._rag.model, kind=settings.kind), self._rag
                self._ways[way] = Rag(model, rag.params, rag.retriever, config.lock(), rag.parallel)
            return self._ways[way]
