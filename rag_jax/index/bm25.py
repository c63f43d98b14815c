"""BM25 on the host: passages scored by the words that they share with a question, by bm25s.

The one file that imports bm25s and Stemmer. What a word adds to a passage's score is worked out when the index is
built (Lù 2024, arXiv 2407.03618); a search only adds up.
"""

import functools
import itertools
import logging
import os
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rag_jax.data.passages import PassageStore
from rag_jax.errors import fail
from rag_jax.progress import counted

METHODS = ("lucene", "robertson", "atire", "bm25l", "bm25+")  # formulas: Kamphuis et al. 2020
WORD = re.compile(r"\w+")
STEMS = 2**17  # words whose stems are remembered


def words(text: str) -> list[str]:
    """The words of any language that puts something between them, in lower case."""
    return WORD.findall(text.lower())


def english(text: str) -> list[str]:
    """English words without stop words, among them those that questions begin with; by Snowball's stemmer."""
    stop, stem = _english()
    return [stem(word) for word in words(text) if word not in stop]


TOKENIZERS = {"english": english, "words": words}


def fingerprint(settings: Mapping[str, Any]) -> str:
    """The name of the scores that these settings make; it stands where vectors have their encoder's fingerprint."""
    return "bm25:{method}:k1={k1}:b={b}:{tokenizer}".format(**settings)


def parameters(settings: Mapping[str, Any]) -> dict[str, Any]:
    """config.index.bm25 as the manifest remembers it; UserError for values that are none or missing packages."""
    for key, known in (("method", METHODS), ("tokenizer", TOKENIZERS)):
        if settings[key] not in known:
            fail(f"index.bm25.{key}: {settings[key]!r}; expected one of {', '.join(known)}")
    require()
    return dict(settings)


def stated(chosen: Mapping[str, Any]) -> str:
    """The parameters in words, for people."""
    return "BM25: " + ", ".join(f"{name} {value}" for name, value in chosen.items())


def build(store: PassageStore, folder: Path, chosen: Mapping[str, Any]) -> None:
    """Scores 'title text' of every passage and saves the scores in `folder`.

    Holds 4 bytes a word of the corpus in memory, and while the scores are sorted some 25 for each word of each passage.
    """
    corpus = _corpus(store, TOKENIZERS[chosen["tokenizer"]])
    if not corpus.vocab:
        fail(f"{store.folder}: no passage holds a word; expected some for index.bm25.tokenizer {chosen['tokenizer']!r}")
    scores = require().BM25(chosen["k1"], chosen["b"], method=chosen["method"], csc_backend="scipy")
    scores.index(corpus, create_empty_token=False, show_progress=False)
    scores.save(folder, show_progress=False)


class Bm25Searcher:
    """Saved scores, memory-mapped."""

    def __init__(self, folder: Path, chosen: Mapping[str, Any]):
        self._words = TOKENIZERS[chosen["tokenizer"]]
        bm25s = require()
        try:
            self._bm25 = bm25s.BM25.load(folder, mmap=True)
        except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
            fail(
                f"{folder}: BM25 cannot load its files ({error}); restore them or build the index again "
                "with `python -m rag_jax.build_index`"
            )

    def search(self, text_B: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (id_BK int64, score_BK fp32), score descending, then id ascending; -1 and -inf past the corpus.

        Where fewer than k passages share a word with the question, the first of the others follow with what they
        score, which is 0 but for 'bm25l' and 'bm25+'.
        """
        return self._best(text_B, k, others=True)

    def matches(self, text_B: Sequence[str], k: int) -> np.ndarray:
        """The id_BK of passages that share a word with the question alone, best first; -1 in the places left."""
        return self._best(text_B, k, others=False)[0]

    def _best(self, text_B: Sequence[str], k: int, *, others: bool) -> tuple[np.ndarray, np.ndarray]:
        known = self._bm25.vocab_dict
        numbers_B = [[known[word] for word in self._words(text) if word in known] for text in text_B]
        id_BK = np.full((len(text_B), k), -1, np.int64)
        score_BK = np.full((len(text_B), k), -np.inf, np.float32)

        def fill(row: int) -> None:
            score_N, nothing = self._scores(numbers_B[row])
            ids = _top(score_N, nothing, k, others=others)
            id_BK[row, : len(ids)], score_BK[row, : len(ids)] = ids, score_N[ids]

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(fill, range(len(text_B))))  # a list, so that errors are raised
        return id_BK, score_BK

    def _scores(self, numbers: list[int]) -> tuple[np.ndarray, float]:
        """score_N for a question's words, and what a passage without any of them scores."""
        if not numbers:
            return np.zeros(self._bm25.scores["num_docs"], np.float32), 0.0
        absent = self._bm25.nonoccurrence_array
        return self._bm25.get_scores_from_ids(numbers), 0.0 if absent is None else absent[numbers].sum()


def require() -> Any:
    """Imports bm25s, or says in one line what to install."""
    try:
        import bm25s
        import Stemmer  # noqa: F401
    except ImportError as error:
        fail(f"BM25: cannot be imported ({error}); run `pip install 'rag_jax[bm25]'`")
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells its steps to whoever listens
    return bm25s


@functools.cache
def _english() -> tuple[frozenset[str], Callable[[str], str]]:
    """The stop words, and the stem of a word."""
    import Stemmer
    from bm25s.stopwords import STOPWORDS_EN_PLUS

    return frozenset(STOPWORDS_EN_PLUS), functools.lru_cache(STEMS)(Stemmer.Stemmer("english", 0).stemWord)


class _Rows:
    """Lists of numbers that lie one behind the other in an array."""

    def __init__(self, numbers: array, ends: array):
        self._numbers, self._ends = numbers, ends

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[list[int]]:
        rows = (self._numbers[start:end].tolist() for start, end in itertools.pairwise([0, *self._ends]))
        return counted(rows, len(self), "BM25", "passages gone over, once of several times")


class _Corpus(NamedTuple):
    """What bm25s takes: the words of every passage by number, and every word's number."""

    ids: _Rows
    vocab: dict[str, int]


def _corpus(store: PassageStore, tokenizer: Callable[[str], list[str]]) -> _Corpus:
    vocab: dict[str, int] = {}
    numbers, ends = array("i"), array("q")
    for batch in counted(store.batches(), len(store), store.folder, "passages cut into words", size=len):
        for title, text in zip(batch.column("title").to_pylist(), batch.column("text").to_pylist(), strict=True):
            numbers.extend(vocab.setdefault(word, len(vocab)) for word in tokenizer(f"{title} {text}"))
            ends.append(len(numbers))
    return _Corpus(_Rows(numbers, ends), vocab)


def _top(score_N: np.ndarray, nothing: float, k: int, *, others: bool) -> np.ndarray:
    """The rows of the k largest scores, ties by row: of those above `nothing`, and then of the `others`."""
    rows = np.flatnonzero(score_N > nothing)
    if len(rows) > k:
        last = len(rows) - k
        rows = rows[score_N[rows] >= np.partition(score_N[rows], last)[last]]
    elif others:
        rows = np.concatenate([rows, np.flatnonzero(score_N[:k] <= nothing)[: k - len(rows)]])
    return rows[np.argsort(-score_N[rows], kind="stable")][:k]
