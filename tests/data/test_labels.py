"""The words that stand for labels: a token each of BART's vocabulary, and of a trained one; what is read before."""

from pathlib import Path

import numpy as np
import pytest

from rag_jax.data.labels import START, WORDS, decoder_inputs, label_tokens
from rag_jax.data.text import Marks, targets
from rag_jax.data.tokenizer import Tokenizer, train_byte_bpe
from rag_jax.errors import UserError
from rag_jax.metrics.labels import THREE_WAY, TWO_WAY

from .bart import bart_folder

REAL = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    return train_byte_bpe(corpus, 400, tmp_path_factory.mktemp("labels") / "generator", WORDS.values())


def test_each_word_is_one_token_of_barts_vocabulary(tmp_path):
    if not (REAL / "vocab").is_dir():
        pytest.skip(f"no vocabulary in {REAL}")
    tokenizer = Tokenizer.load(bart_folder(REAL, tmp_path / "bart"))
    assert label_tokens(THREE_WAY, tokenizer) == (1528, 3950, 4727)
    assert label_tokens(TWO_WAY, tokenizer) == (1528, 3950)


def test_each_word_is_one_token_of_a_vocabulary_trained_for_it(trained):
    tokens = label_tokens(THREE_WAY, trained)
    assert len({*tokens}) == 3 and [trained.decode([token]) for token in tokens] == [" true", " false", " unknown"]


def test_a_word_of_several_tokens_is_an_error_that_names_them(corpus, tmp_path):
    tokenizer = train_byte_bpe(corpus, 300, tmp_path / "plain")
    with pytest.raises(UserError, match=r"plain has \d tokens for ' true', '.*', expected one; give BART") as caught:
        label_tokens(THREE_WAY, tokenizer)
    assert "\n" not in str(caught.value)


def test_the_decoder_reads_the_start_and_the_claim_again(trained):
    claims = ["The river is old.", "No."]
    long, short = (trained.encode(f" {claim}") for claim in claims)
    read_BT = decoder_inputs(trained, claims, length=len(long) + 3)
    assert read_BT.tolist()[0] == [2, 0, *long, 1] and read_BT.tolist()[1][: len(short) + 3] == [2, 0, *short, 1]
    cut = decoder_inputs(trained, claims, length=5)
    assert cut.tolist()[0] == [2, 0, *long[:3]]
    np.testing.assert_array_equal(decoder_inputs(trained, claims, START), [[2, 0], [2, 0]])


def test_a_label_is_asked_for_where_it_was_learned(trained):
    """The state that tells it in training has read what is read before it when answering."""
    (token,) = label_tokens(("SUPPORTS",), trained)
    read_BT, learned_BT = targets([np.array([token])], length=4, marks=Marks.of(trained))
    assert read_BT[0, :START].tolist() == decoder_inputs(trained, [""], START)[0].tolist()
    assert learned_BT[0, START - 1] == token
