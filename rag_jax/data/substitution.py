"""Answer substitution: a fresh made-up name in place of the answer, in every passage that holds it.

A model that sees the same answers again and again learns them by heart; one that sees names that occur
nowhere else can only copy from the passages it is given. The replacing is done on token ids, in the pipeline;
the store keeps the truth.
"""

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from rag_jax.data.text import as_ids, one_spaced
from rag_jax.data.tokenizer import Tokenizer

CONSONANTS, VOWELS = "bcdfghjklmnprstvwxz", "aeiouy"
ONSETS = "b br c ch cl d dr f fl g gr h j k kl l m n p pl qu r s sh sk st t th tr v w y z".split()
CODAS = ["", "", "", *"n r s l m th ck nd x t".split()]
ACCENTS = {
    "a": "áàâãäåă", "e": "éèêëě", "i": "íîï", "o": "óôõöø", "u": "úûü", "y": "ý", "c": "çčć", "d": "đð", "g": "ğ",
    "l": "ł", "n": "ñń", "s": "šşș", "t": "țþ", "z": "žż",
}  # fmt: skip
ACCENTED = 0.3  # share of made-up words with an accented letter, so that the pieces of such letters are learned too
RESIZED = 0.4  # share of the names of several words that get another number of them, 1 to WORDS
WORDS, PARTS = 5, 3  # long names of many pieces: what is hard to copy must be common in training
OPENERS = ("(", "[", "{", '"', "'", "“", "‘", "«", "¿", "¡")
TRIES = 50
CHARACTER = 4  # the most bytes, hence tokens, of one character
_GAP = as_ids([-1])


class Form(NamedTuple):
    """A string in generator tokens, as it stands after a space and without one."""

    text: str
    spaced: np.ndarray
    bare: np.ndarray

    @classmethod
    def of(cls, tokenizer: Tokenizer, text: str) -> "Form":
        """The two tokenisations of `text`, single-spaced."""
        text = one_spaced(text)
        spaced, bare = tokenizer.encode_batch([" " + text, text])
        return cls(text, as_ids(spaced), as_ids(bare))


def plain_word(word: str) -> str:
    """A word as answers are compared: lower-cased, without punctuation."""
    return re.sub(r"[\W_]+", "", word.lower())


class NameMaker:
    """Makes fresh names shaped like the answers that they replace, from a bank of made-up words.

    No name holds a word of `blocked_words`, the words of validation and test answers. The bank depends on the
    tokenizer, `blocked_words` and `seed` alone; names depend on the generator passed with each call.
    """

    def __init__(self, tokenizer: Tokenizer, blocked_words: Collection[str], seed: int, size: int = 20_000) -> None:
        self._tokenizer = tokenizer
        self._blocked = {plain_word(word) for word in blocked_words}
        self._bank = _bank(np.random.default_rng(seed), tokenizer, self._blocked, size)

    def fresh(self, answer: str, rng: np.random.Generator) -> Form | None:
        """A name like `answer`, word for word: made-up words in its case, numbers and symbols in their shape.

        "Marie Curie" may become "Trovelan Quith", "Fe" "Ku", "1867" "4920", "12 March 1990" "37 Oldrine 6215". A name
        of several words often has another number of them. None when no free name was found, as for a digit
        when all ten are blocked.
        """
        words = answer.split()
        named = len(words) > 1 and not any(character.isdecimal() for character in answer)
        if named and rng.random() < RESIZED:
            words = [words[i] for i in rng.integers(len(words), size=rng.integers(1, WORDS + 1))]
        drawn = [self._shaped(word, rng) if _has_shape(word) else self._word(word, rng) for word in words]
        name = [word for word in drawn if word is not None]
        if not words or len(name) < len(drawn) or name == words:
            return None
        return Form.of(self._tokenizer, " ".join(name))

    def _word(self, like: str, rng: np.random.Generator) -> str:
        word = "-".join(self._bank[rng.integers(len(self._bank))] for _ in re.split("[-'’]", like)[:2])
        return word.lower() if like.islower() else word

    def _shaped(self, word: str, rng: np.random.Generator) -> str | None:
        if not plain_word(word):
            return word
        for _ in range(TRIES):
            drawn = "".join(_same_kind(character, place, rng) for place, character in enumerate(word))
            if drawn != word and plain_word(drawn) not in self._blocked:
                return drawn
        return None


class Substitution:
    """Finds an answer in passages' token ids, as whole words, and puts a name in its place."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        strings = [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)]
        self._tokenizer = tokenizer
        # One row a token, then one for the gap between texts. Parts of characters need a closer look.
        self._part = np.array(["\ufffd" in s for s in strings] + [False])
        self._continues = np.array([s[:1].isalnum() for s in strings] + [False])
        self._digit = np.array([s[:1].isdecimal() for s in strings] + [False])
        self._digit_last = np.array([s[-1:].isdecimal() for s in strings])
        self._point = np.array([s in (".", ",") for s in strings] + [False])
        self._opens = np.array([s.endswith(OPENERS) for s in strings] + [True])

    def substitute(
        self, texts_K: Sequence[np.ndarray], answer: Form, name: Form
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Replaces `answer` by `name` wherever it stands; returns the texts and the places in each, int [K].

        Serves for passages' text and title ids alike. A match starts a word (after a space, an opening
        bracket or quote, or at the very start) and ends one; digits followed by ",5" or ".5" are part of a
        longer number and do not match.
        """
        # Searched as one array: a gap (-1, the last row of the tables) before, between and after the texts.
        flat = np.concatenate([_GAP, *(piece for text in texts_K for piece in (text, _GAP)), _GAP])
        spaced = self._matches(flat, answer.spaced)
        bare = self._matches(flat, answer.bare)
        places = [(i, answer.spaced, name.spaced) for i in spaced]
        places += [(i, answer.bare, name.bare) for i in bare if self._opens_before(flat, i)]
        pieces, end = [], 1
        count_K = np.zeros(len(texts_K), np.int64)
        if not places:
            return list(texts_K), count_K
        text_of = np.cumsum(flat == -1) - 1
        for start, old, new in sorted(places, key=lambda place: place[0]):
            if start >= end:  # an answer such as "a b a" may overlap itself
                pieces += [flat[end:start], new]
                end = start + len(old)
                count_K[text_of[start]] += 1
        flat = np.concatenate([*pieces, flat[end:]])
        ends = np.flatnonzero(flat == -1)[: len(texts_K)]
        return [flat[start:end] for start, end in zip([0, *(ends[:-1] + 1)], ends, strict=True)], count_K

    def _matches(self, flat: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Where `wanted` stands in `flat` and a word ends after it."""
        starts = np.flatnonzero(flat[: len(flat) - len(wanted) - 1] == wanted[0])
        for place, token in enumerate(wanted[1:], 1):
            starts = starts[flat[starts + place] == token]
        after = starts + len(wanted)
        ends = ~self._continues[flat[after]]
        for i in np.flatnonzero(self._part[flat[after]]):
            ends[i] = not self._text(flat[after[i] : after[i] + CHARACTER])[:1].isalnum()
        if self._digit_last[wanted[-1]]:
            ends &= ~(self._point[flat[after]] & self._digit[flat[after + 1]])
        return starts[ends]

    def _opens_before(self, flat: np.ndarray, start: int) -> bool:
        """Whether what stands before `start` lets a word begin without a space."""
        before = flat[start - 1]
        if self._part[before]:
            return self._text(flat[max(start - CHARACTER, 0) : start]).endswith(OPENERS)
        return bool(self._opens[before])

    def _text(self, ids: np.ndarray) -> str:
        return self._tokenizer.decode(ids[ids >= 0])


def _has_shape(word: str) -> bool:
    """Whether a word is a number or symbol, no name: digits, odd punctuation or capitals, two letters."""
    return not re.fullmatch(r"[^\W\d_][^\W\d_A-Z]{2,}([-'’][^\W\d_]+)*[.,]?", word)


def _same_kind(character: str, place: int, rng: np.random.Generator) -> str:
    """A random digit (no new leading zero), vowel or consonant of the same case; punctuation stays."""
    if character.isdecimal():
        return str(rng.integers(1 if place == 0 and character != "0" else 0, 10))
    if not character.isalpha():
        return character
    drawn = _one(rng, VOWELS if character.lower() in VOWELS else CONSONANTS)
    return drawn.upper() if character.isupper() else drawn


def _bank(rng: np.random.Generator, tokenizer: Tokenizer, blocked: Collection[str], size: int) -> list[str]:
    """`size` different made-up words: most from vocabulary pieces, to spread over it."""
    tokens = sorted(token.removeprefix("Ġ") for token in tokenizer.tokens())
    starts = [token for token in tokens if re.fullmatch(r"[A-Z][a-z]{0,6}", token)]
    parts = [token for token in tokens if re.fullmatch(r"[a-z]{2,7}", token)]
    words: dict[str, None] = {}
    while len(words) < size:
        if starts and parts and rng.random() < 0.75:
            word = _one(rng, starts) + "".join(_one(rng, parts) for _ in range(rng.integers(1, PARTS + 1)))
        else:
            word = "".join(_one(rng, ONSETS) + _one(rng, VOWELS) for _ in range(rng.integers(1, 4)))
            word = (word + _one(rng, CODAS)).capitalize()
        if rng.random() < ACCENTED:
            place = int(rng.integers(len(word)))
            accented = _one(rng, ACCENTS.get(word[place].lower(), word[place]))
            accented = accented.upper() if word[place].isupper() else accented
            word = word[:place] + accented + word[place + 1 :]
        if 3 <= len(word) <= 14 and plain_word(word) not in blocked:
            words[word] = None
    return list(words)


def _one(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]
