"""Ways to cut a text into words. A score of words means little without the name of the one it was taken with."""

import re
import unicodedata
from collections.abc import Callable

Tokenise = Callable[[str], list[str]]

_COCO_DROPS = frozenset("' '' ` `` \" . ? ! , : ; - -- ... ( ) [ ] { }".split())
_TREEBANK = re.compile(
    r"(?:[^\W\d_]\.){2,}"  # u.s.
    r"|\d+(?:[.,:/]\d+)+"  # 1,000.5 and 10:30
    r"|[\w\u0300-\u036f]+(?:[-'.&][\w\u0300-\u036f]+)*"  # well-known, don't, example.com
    r"|'(?:s|re|ve|ll|d|m)\b"  # parted already
    r"|\.\.\.|--|\S"
)
_CONTRACTION = re.compile(r"(.+)(n't|'(?:s|re|ve|ll|d|m))")
_ASCII_MARKS = str.maketrans("‘’“”–—", "''\"\"--")


def whitespace(text: str) -> list[str]:
    """The text's own words, for texts that are tokenised already; case and punctuation stay."""
    return text.split()


def simple(text: str) -> list[str]:
    """DPR's words (Karpukhin et al. 2020; DrQA's SimpleTokenizer, uncased), after Unicode's NFD.

    A word is a run of letters, numbers and marks, or one other character that is neither space nor control.
    """
    return [word.lower() for word in unicodedata.normalize("NFD", text).translate(_SPACED).split()]


def treebank(text: str) -> list[str]:
    """English words in lower case as coco-caption counts them: Penn Treebank's contractions, without punctuation.

    coco-caption runs Stanford's PTBTokenizer, in Java; these are the treebank's rules for contractions, hyphens,
    numbers and dotted abbreviations. The two differ on what needs a word list (Mr. loses its dot here, gonna stays
    one word) and on brackets, which Stanford turns into words (-lrb-).
    """
    text = unicodedata.normalize("NFC", text).translate(_ASCII_MARKS).lower()
    words = [part for word in _TREEBANK.findall(text) for part in _parted(word)]
    return [word for word in words if word not in _COCO_DROPS and word.isprintable()]


TOKENISERS: dict[str, Tokenise] = {"whitespace": whitespace, "simple": simple, "treebank": treebank}


def _parted(word: str) -> tuple[str, ...]:
    if word == "cannot":
        return "can", "not"
    contraction = _CONTRACTION.fullmatch(word)
    return contraction.groups() if contraction else (word,)


class _Spaced(dict):
    """A table for str.translate, filled as characters come: spaces around what is a word of its own."""

    def __missing__(self, code: int) -> str:
        kind = unicodedata.category(chr(code))[0]
        self[code] = chr(code) if kind in "LNM" else " " if kind in "ZC" else f" {chr(code)} "
        return self[code]


_SPACED = _Spaced()
