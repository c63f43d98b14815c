"""Any text, of no letters and of a million: what the text policy makes of it, and how long its readers take."""

import json
import time

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rag_jax.data.corpus import Cut, read_passages
from rag_jax.data.denoising import mask_spans
from rag_jax.data.formats import read_questions
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
    title_string,
)
from rag_jax.data.tokenizer import Framing, Tokenizer, train_byte_bpe, train_wordpiece

from .inputs import WHOLE

pytestmark = pytest.mark.more
SAMPLE = [
    "Marie Curie found radium in Paris / 1898, it's said // who's been there?",
    'the river\'s name is "Łódź"',
] * 20
POLICIES = st.sampled_from(("keep_question", "huggingface"))
LETTERS = 10**6


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return train_byte_bpe(SAMPLE, 400, tmp_path_factory.mktemp("text") / "generator")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return train_wordpiece(SAMPLE, 400, tmp_path_factory.mktemp("text") / "encoder")


def source_ids(title, text, question, *, marks, **how):
    """The one source of these pieces, unpadded."""
    row = fill_sources([[(title, text)]], [question], marks=marks, **how)[0, 0]
    return row[row != marks.pad]


@given(WHOLE, WHOLE, WHOLE)
@example("", "", "")
@example("'s", "'s", "'s")
@example('"', "\u2028", "\u00a0")
def test_pieces_joined_are_the_tokenizer_s_own_ids(generator, title, text, question):
    marks, joined = Marks.of(generator), generator.encode(source_string(title, text, question))
    (head,), (body, asked) = title_pieces(generator, [title]), inner_pieces(generator, [text, question])
    whole = [marks.bos, *joined, marks.eos]
    assert source_ids(head, body, asked, length=len(whole), marks=marks).tolist() == whole
    assert generator.decode(joined) == source_string(title, text, question)  # nothing of any text is lost
    alone = question_sources(generator, [question], length=len(whole))[0, 0].tolist()
    asked_alone = generator.encode(one_spaced(question))
    assert alone == [marks.bos, *asked_alone, marks.eos] + [marks.pad] * (len(whole) - 2 - len(asked_alone))


@given(st.lists(WHOLE, min_size=3, max_size=3), st.integers(2, 40), POLICIES)
def test_a_source_of_any_length(generator, texts, length, policy):
    """It is as long as it may be, framed, and padded in a batch; a question that fits stays whole under its policy."""
    marks = Marks.of(generator)
    (head,), (body, asked) = title_pieces(generator, texts[:1]), inner_pieces(generator, texts[1:])
    row = source_ids(head, body, asked, length=length, marks=marks, policy=policy).tolist()
    fixed = 2 + len(marks.title_separator) + len(marks.document_separator)
    uncut = fixed + len(head) + len(body) + len(asked)
    assert len(row) == min(length, uncut) and row[0] == marks.bos and row[-1] == marks.eos
    batch = fill_sources([[(head, body), (head[:0], body[:0])]], [asked], length=length, marks=marks, policy=policy)
    assert batch[0, 0].tolist() == row + [marks.pad] * (length - len(row))
    if policy == "keep_question" and fixed + len(asked) <= length:
        assert row[len(row) - 1 - len(asked) : -1] == asked.tolist()


@given(st.lists(WHOLE, min_size=1, max_size=3), st.integers(3, 20), st.sampled_from((None, "huggingface_finetune")))
def test_targets_of_any_answer(generator, answers, length, compat):
    marks, pieces = Marks.of(generator), inner_pieces(generator, answers)
    token_BT, target_BT = targets(pieces, length=length, marks=marks, compat=compat)
    assert token_BT.shape == target_BT.shape == (len(answers), length)
    for row, piece in zip(target_BT.tolist(), pieces, strict=True):
        said = [marks.bos] * (compat is None) + [*piece[: length - 2].tolist(), marks.eos]
        assert row == said + [marks.pad] * (length - len(said))


@given(st.lists(WHOLE, min_size=1, max_size=3), st.integers(2, 24), st.sampled_from(("pair", "joined", "sentence")))
def test_inputs_of_the_encoder(encoder, texts, length, title):
    told = Tokenizer.load(encoder.folder, Framing("query: ", "passage: ", title))
    for ids in (told.question_ids(texts, length), told.passage_ids(texts[::-1], texts, length)):
        assert ids.shape == (len(texts), length) and (ids[:, 0] == told.cls_id).all()
        assert ((ids == told.sep_id).any(axis=1)).all() and ids.max() < told.vocab_size
    assert 0 <= told.too_long(texts, length) <= len(texts)
    for clean in (True, False):
        assert len(round_trip(encoder, texts, length=length, clean=clean)) == len(texts)


@given(WHOLE)
def test_one_spaced_text(text):
    spaced = one_spaced(text)
    assert one_spaced(spaced) == spaced and spaced.split() == text.split() and title_string(f'"{text}"') == spaced


@given(st.lists(st.integers(0, 500), max_size=60), st.integers(0, 2**32 - 1), st.floats(0.05, 0.95))
def test_holes_in_any_text(ids, seed, share):
    holes = mask_spans(np.asarray(ids, np.int32), np.random.default_rng(seed), 777, share) == 777
    assert (~holes).sum() == len(ids) - round(share * len(ids)) and not (holes[1:] & holes[:-1]).any()


def seconds(action, text):
    """The processor time that an action took."""
    start = time.process_time()
    action(text)
    return time.process_time() - start


KINDS = {
    "one word": "a", "words": "word ", "no spaces": "é", "lines": "a\n", "spaces": " ", "astral": "👩🏽‍🚀",
    "accents": "\u0301", "quotes": '"', "digits": "1", "dotted": "a.", "apostrophes": "n't", "brackets": "[",
    "separators": " / ", "specials": "</s>",
}  # fmt: skip


def letters(kind, count):
    return (KINDS[kind] * (count // len(KINDS[kind]) + 1))[:count]


def grows_evenly(action, kind):
    """Sixteen times the letters take sixteen times the time, not 256 times: far from either, whatever else runs."""
    few, many = (seconds(action, letters(kind, count)) for count in (LETTERS // 16, LETTERS))
    assert many < 64 * few + 1, f"{few:.3f} s, then {many:.3f} s"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_million_letters_are_read_in_the_time_of_their_number(kind, tmp_path):
    def read(text):
        record = {"question": f"q{text}", "answer": f"a{text}", "text": f"t{text}"}
        (tmp_path / "q.jsonl").write_text(json.dumps(record, ensure_ascii=False) + "\n", "utf-8")
        (tmp_path / "q.txt").write_text(f"t{text}", "utf-8")
        assert read_questions(tmp_path / "q.jsonl")[0].text == f"q{text}"
        assert [passage.text for passage in read_passages(tmp_path / "q.jsonl")] == [f"t{text}"]
        assert sum(1 for _ in read_passages(tmp_path / "q.txt", cut=Cut(100, 10)))

    grows_evenly(read, kind)


@pytest.mark.long
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_million_letters_are_encoded_in_the_time_of_their_number(kind, generator, encoder):
    def encode(text):
        (head,), (body,) = title_pieces(generator, [text]), inner_pieces(generator, [text])
        fill_sources([[(head, body)]], [body], length=64, marks=Marks.of(generator))
        encoder.question_ids([text], 64)

    grows_evenly(encode, kind)
