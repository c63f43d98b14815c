import sys
import unicodedata

import pytest

from rag_jax.metrics.tokenise import TOKENISERS, simple, treebank, whitespace


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Eiffel-Tower (1889).", ["the", "eiffel", "-", "tower", "(", "1889", ")", "."]),
        ("U.S. 3,5", ["u", ".", "s", ".", "3", ",", "5"]),
        ("don’t", ["don", "’", "t"]),
        ("Zürich", ["zu\u0308rich"]),  # one word, in NFD's spelling
        ("नमस्ते 東京2020", ["नमस्ते", "東京2020"]),  # marks join words; there are no spaces to part Japanese at
        ("½ x² ①", ["½", "x²", "①"]),  # numbers of all kinds; NFD leaves them
        ("a\u00a0b\u200bc\x00d\ue000e", ["a", "b", "c", "d", "e"]),  # spaces, controls and private use part words
        ("ΟΔΟΣ", ["οδος"]),
        ("", []),
        ("\u200b \n", []),
    ],
)
def test_simple(text, expected):
    assert simple(text) == expected


def test_simple_takes_every_character_as_its_definition_says():
    regex = pytest.importorskip("regex")  # which has the Unicode categories that re lacks; it comes with transformers
    definition = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        kind = unicodedata.category(character)
        if kind not in ("Cn", "Cs"):  # unassigned to Python's Unicode, which may be older; surrogates
            text = f"-{unicodedata.normalize('NFD', character)}-"
            assert simple(f"-{character}-") == [word.lower() for word in definition.findall(text)], hex(code)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's John's, isn't it?", ["it", "'s", "john", "'s", "is", "n't", "it"]),
        ("They’re sure we'll say I'd've", ["they", "'re", "sure", "we", "'ll", "say", "i'd", "'ve"]),
        ("the day 's news", ["the", "day", "'s", "news"]),
        ("You cannot.", ["you", "can", "not"]),
        ("Well-known U.S. firms -- at 10:30, 1,000.5 m", "well-known u.s. firms at 10:30 1,000.5 m".split()),
        ("“Quoted” (and) [so] ...", ["quoted", "and", "so"]),
        ("$5 is 50%", ["$", "5", "is", "50", "%"]),
        ("Zu\u0308rich \u00ad x", ["zürich", "x"]),
        ("?!", []),
        ("", []),
    ],
)
def test_treebank(text, expected):
    assert treebank(text) == expected


def test_tokenisers_go_by_their_names():
    assert all(function.__name__ == name for name, function in TOKENISERS.items())
    assert whitespace(" The  U.S.\tis ") == ["The", "U.S.", "is"]
