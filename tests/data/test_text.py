import random

import numpy as np
import pytest
from transformers import AutoTokenizer

from rag_jax.data.text import (
    Marks,
    fill_sources,
    inner_pieces,
    one_spaced,
    question_sources,
    round_trip,
    source_string,
    targets,
    title_pieces,
)

WORDS = [
    "Marie Curie",
    "radium",
    "1898",
    "3.14",
    "1,000",
    "it's",
    "don't",
    "'s",
    "“quoted”",
    "a/b",
    "$5",
    "Łódź",
]
MARKUP = ["/", "//", " / ", " // ", "...", "<s>", "</s>", "<mask>", "  ", "   ", "\r\n"]
CHARACTERS = "'\"-–?!()«№½²Ⅷ_Ġ▁東ñ\u0301🙂 \u200b\u200d\ufeff\u180e\x1c\x85\u00a0\u3000\u2028\t\n\x00\x7f"
FRAGMENTS = [*WORDS, *MARKUP, *CHARACTERS, "👩‍🔬", "مرحبا", "שלום", "नमस्ते", "ไทย"]


@pytest.fixture(scope="module")
def marks(bpe):
    return Marks.of(bpe)


def source_ids(title, text, question, *, marks, **how):
    """The one source of these pieces, unpadded."""
    row = fill_sources([[(title, text)]], [question], marks=marks, **how)[0, 0]
    return row[row != marks.pad]


def varied(random_, low):
    parts = [random_.choice(FRAGMENTS) for _ in range(random_.randint(low, 12))]
    return random_.choice(["", " "]).join(parts)


def pieces(bpe, titles, texts, questions):
    return zip(title_pieces(bpe, titles), inner_pieces(bpe, texts), inner_pieces(bpe, questions), strict=True)


def test_joined_pieces_are_the_ids_of_the_joined_string(bpe, marks):
    random_ = random.Random(1)
    triples = [[varied(random_, low) for low in (0, 1, 1)] for _ in range(1500)]
    triples = [t for t in triples if one_spaced(t[1]) and one_spaced(t[2])]
    assert len(triples) > 1200
    for (title, text, question), expected in zip(
        pieces(bpe, *zip(*triples, strict=True)),
        bpe.encode_batch([source_string(*t) for t in triples]),
        strict=True,
    ):
        ours = source_ids(title, text, question, length=10_000, marks=marks)
        assert ours.tolist() == [marks.bos, *expected, marks.eos]


def test_every_character_may_stand_at_the_ends_of_a_piece(bpe, marks):
    characters = [chr(c) for c in [*range(0x3100), *range(0xFE00, 0x10000), *range(0x1F300, 0x1F700)]]
    characters = [c for c in characters if one_spaced(c) and not "\ud800" <= c <= "\udfff"]
    strings = bpe.encode_batch([source_string(c, c, c) for c in characters])
    for piece, expected in zip(pieces(bpe, characters, characters, characters), strings, strict=True):
        assert source_ids(*piece, length=100, marks=marks).tolist() == [marks.bos, *expected, marks.eos]


def test_sources_are_those_of_transformers(bpe, marks):
    """Titles lose one quote on each side; cut on the right at `length`, as RagRetriever does."""
    theirs = AutoTokenizer.from_pretrained(bpe.folder)
    title, text, question = '""Radium"', "An element, found in 1898 by Marie Curie.", "who found radium?"
    joined = f'"Radium / {text} // {question}'
    for length in (5, 12, 20, 30, 200):
        expected = theirs(joined, max_length=length, padding="max_length", truncation=True)["input_ids"]
        (piece,) = pieces(bpe, [title], [text], [question])
        document, questions = piece[:2], [piece[2]]
        source = fill_sources([[document]], questions, length=length, marks=marks, policy="huggingface")
        assert source[0, 0].tolist() == expected


def test_a_question_alone_is_what_the_tokenizer_makes_of_it(bpe):
    theirs, questions = AutoTokenizer.from_pretrained(bpe.folder), [" who  found radium?", "", "</s> or radium? " * 9]
    for length in (5, 12, 200):
        source_B1S = question_sources(bpe, questions, length=length)
        expected = theirs(
            [one_spaced(question) for question in questions], split_special_tokens=True,
            max_length=length, padding="max_length", truncation=True,
        )  # fmt: skip
        assert source_B1S.dtype == np.int32 and source_B1S[:, 0].tolist() == expected["input_ids"]


def test_a_long_source_keeps_its_question(marks):
    title, text, question = (np.arange(start, start + 10, dtype=np.int32) for start in (1000, 2000, 3000))
    s, d = marks.title_separator, marks.document_separator
    fixed = 2 + len(s) + len(d)

    def expected(t, x, q):
        return [marks.bos, *title[:t], *s, *text[:x], *d, *question[:q], marks.eos]

    for room, kept in [
        (30, (10, 10, 10)),
        (25, (10, 5, 10)),
        (20, (10, 0, 10)),
        (14, (4, 0, 10)),
        (7, (0, 0, 7)),
    ]:
        ids = source_ids(title, text, question, length=fixed + room, marks=marks)
        assert ids.tolist() == expected(*kept)
    for length in range(2, fixed):
        assert source_ids(title, text, question, length=length, marks=marks).tolist() == [
            marks.bos,
            *[*s, *d][: length - 2],
            marks.eos,
        ]


@pytest.mark.parametrize("policy", ["keep_question", "huggingface"])
def test_filled_rows_are_the_single_sources(bpe, marks, corpus, policy):
    random_ = random.Random(2)
    texts, titles = (
        inner_pieces(bpe, corpus),
        title_pieces(bpe, [text[: random_.randint(0, 30)] for text in corpus]),
    )
    questions = [ids[: random_.randint(1, 20)] for ids in texts[:6]]
    documents = [[(titles[i], texts[i]) for i in random_.sample(range(300), 4)] for _ in questions]
    empty = np.zeros(0, np.int32)
    documents[2][3] = (empty, empty)
    fixed = 2 + len(marks.title_separator) + len(marks.document_separator)
    asked = zip(documents, questions, strict=True)
    lengths_BK = np.array([[fixed + sum(map(len, (*pair, question))) for pair in pairs] for pairs, question in asked])
    for length in (16, 50, int(lengths_BK.max())):
        source_BKS = fill_sources(documents, questions, length=length, marks=marks, policy=policy)
        assert source_BKS.shape == (6, 4, length)
        assert source_BKS.dtype == np.int32
        for b, k in np.ndindex(6, 4):
            one = source_ids(*documents[b][k], questions[b], length=length, marks=marks, policy=policy)
            assert len(one) == min(length, lengths_BK[b, k])
            assert source_BKS[b, k].tolist() == [*one, *[marks.pad] * (length - len(one))]


def test_targets(marks):
    answers = [np.array(ids, np.int32) for ids in ([10, 11], [10], [], [10, 11, 12, 13])]
    s, e, p = marks.bos, marks.eos, marks.pad
    token_BT, target_BT = targets(answers, length=5, marks=marks)
    assert token_BT.tolist() == [[e, s, 10, 11, p], [e, s, 10, p, p], [e, s, p, p, p], [e, s, 10, 11, 12]]
    assert target_BT.tolist() == [[s, 10, 11, e, p], [s, 10, e, p, p], [s, e, p, p, p], [s, 10, 11, 12, e]]
    assert token_BT.dtype == target_BT.dtype == np.int32
    token_BT, target_BT = targets(answers, length=5, marks=marks, compat="huggingface_finetune")
    assert token_BT.tolist() == [[s, 10, 11, e, p], [s, 10, e, p, p], [s, e, p, p, p], [s, 10, 11, 12, e]]
    assert target_BT.tolist() == [[10, 11, e, p, p], [10, e, p, p, p], [e, p, p, p, p], [10, 11, 12, e, p]]


def test_an_answer_has_the_tokens_that_it_has_in_a_passage(bpe):
    text, answer = inner_pieces(bpe, ["It was found by Marie Curie, in Paris.", " Marie  Curie"])
    text, answer = text.tolist(), answer.tolist()
    assert any(text[i : i + len(answer)] == answer for i in range(len(text)))


@pytest.mark.parametrize("clean", [False, True])
def test_a_round_trip_is_what_transformers_retriever_makes_of_a_question(wordpiece, clean):
    """RagRetriever decodes the question encoder's ids; version 4 cleaned up after itself, version 5 does when told."""
    random_ = random.Random(3)
    questions = [varied(random_, 1) for _ in range(300)]
    questions += ["Who's the 'Mayor' of Paris, don't you know ?! It's I'm we've they're 3 . 4", "", "Zürich's river"]
    theirs = AutoTokenizer.from_pretrained(wordpiece.folder)
    for length in (8, 64):
        ids = [theirs(question, truncation=True, max_length=length).input_ids for question in questions]
        expected = [theirs.decode(i, skip_special_tokens=True, clean_up_tokenization_spaces=clean) for i in ids]
        assert round_trip(wordpiece, questions, length=length, clean=clean) == expected
    assert any(question != said for question, said in zip(questions, expected, strict=True))
