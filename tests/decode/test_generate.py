"""The settings of a decoding: what is refused, what is compiled, what comes out; and strings."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rag_jax.decode import generate as module
from rag_jax.decode.generate import DecodeConfig, generate, operands, texts
from rag_jax.errors import UserError

LENGTH = 8


@pytest.mark.parametrize("kind", ["token", "sequence"])
def test_numbers_are_operands(tiny, make_params, make_inputs, kind):
    """One program for every setting of a plan, and for all lengths of a bucket."""
    config, _ = tiny
    inputs = make_inputs(0, 2, 3)
    settings = [
        {},
        {"max_length": 5, "min_length": 3, "length_penalty": 0.3, "early_stopping": "never"},
        {"max_length": 6, "forced_bos_id": 0, "forced_eos_id": 2, "no_repeat_ngram_size": 2, "early_stopping": True},
        {"bad_words": ((5, 6), (7, 8))},
        {"bad_words": ((2,), (3, 4), (1, 9))},
    ]
    generate(config, DecodeConfig(kind, beams=2, max_length=LENGTH), make_params(0), *inputs)
    generate(config, DecodeConfig(kind, beams=2, max_length=7, bad_words=((3, 4), (4, 4))), make_params(0), *inputs)
    programs = module._compiled._cache_size()
    for changed in settings:
        decode = DecodeConfig(kind, beams=2, **{"max_length": LENGTH} | changed)
        assert generate(config, decode, make_params(1), *inputs).token_BNT.shape == (2, 1, decode.max_length)
    assert module._compiled._cache_size() == programs


def test_a_shorter_answer_is_the_beginning_of_a_longer_one(tiny, make_params, make_inputs):
    config, _ = tiny
    arrays = make_params(3, eos_bias=-9.0), *make_inputs(3, 2, 3)
    whole, cut = (generate(config, DecodeConfig(max_length=length), *arrays) for length in (8, 5))
    assert_array_equal(cut.token_BNT, whole.token_BNT[..., :5])
    assert_allclose(cut.posterior_BNKT, whole.posterior_BNKT[..., :5], rtol=1e-5)


def test_posterior_by_hand(tiny):
    """Over the text; an answer without any has the mean of its `</s>`, or up to where it was cut: of what it said."""
    posterior_BNKT = np.log([[[[0.9, 0.2, 0.4, 0.5], [0.1, 0.8, 0.6, 0.5]]] * 3]).astype(np.float32)
    token_BNT = np.array([[[0, 5, 6, 2], [2, 1, 1, 1], [0, 1, 1, 1]]])
    mean_BNK = module._mean_posterior(tiny[0].generator, 2, token_BNT, posterior_BNKT)
    assert_allclose(mean_BNK, [[[0.3, 0.7], [0.9, 0.1], [0.55, 0.45]]], rtol=1e-5)


def test_an_answer_without_text_has_one_posterior_in_every_room(tiny, make_params, make_inputs):
    arrays = make_params(0, eos_bias=99.0), *make_inputs(0, 2, 3)
    short, long = (generate(tiny[0], DecodeConfig(max_length=length), *arrays) for length in (8, 16))
    assert (short.token_BNT[..., 0] == tiny[0].generator.eos_id).all()
    assert_allclose(short.posterior_BNK, np.exp(short.posterior_BNKT[..., 0]), rtol=1e-5)
    assert_allclose(short.posterior_BNK, long.posterior_BNK, rtol=1e-5)


@pytest.mark.parametrize(("kind", "mode"), [("token", "search"), ("sequence", "thorough"), ("sequence", "fast")])
def test_posteriors_sum_to_one(tiny, make_params, make_inputs, kind, mode):
    config, _ = tiny
    decode = DecodeConfig(kind, mode, beams=2, num_return_sequences=2, max_length=LENGTH)
    generated = generate(config, decode, make_params(0), *make_inputs(0, 2, 3))
    assert_allclose(np.sum(generated.posterior_BNK, axis=2), np.ones((2, 2)), rtol=1e-5)
    assert (np.diff(generated.score_BN) <= 0).all()
    if kind == "token":
        assert_allclose(np.exp(generated.posterior_BNKT).sum(axis=2), np.ones((2, 2, LENGTH)), rtol=1e-5)
    else:
        assert generated.posterior_BNKT is None


def test_operands_of_words(tiny):
    rules = operands(tiny[0], DecodeConfig(bad_words=((2,), (3, 4), (5, 6, 7), (8,))))
    assert_array_equal(rules.bad_word_NL, [[-1, -1, 3, 4], [-1, 5, 6, 7], [-1, -1, -1, 8], [-1] * 4])
    assert operands(tiny[0], DecodeConfig(bad_words=((2,),))).bad_word_NL.size == 0
    assert (rules.before, operands(tiny[0], DecodeConfig(compat="huggingface")).before) == (-1, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "tokens"}, r"kind: found 'tokens', expected 'token' or 'sequence'"),
        ({"mode": "thorough"}, r"mode: found 'thorough', expected 'search' or 'sample' for kind 'token'"),
        ({"kind": "sequence", "mode": "sample"}, r"mode: found 'sample', expected 'thorough' or 'fast'"),
        ({"beams": 0}, r"beams: found 0, expected 1 or more"),
        ({"mode": "sample", "beams": 2}, r"beams: found 2, expected 1 with decode.mode 'sample'"),
        ({"num_return_sequences": 0}, r"num_return_sequences: found 0, expected 1 or more"),
        ({"beams": 3, "num_return_sequences": 4}, r"num_return_sequences: found 4, expected 1 to 3"),
        (
            {"kind": "sequence", "num_return_sequences": 3},
            r"num_return_sequences: found 3, expected 1 to 2, .*1 times 2 documents",
        ),
        ({"max_length": 17}, r"max_length: found 17, expected 1 to 16, the generator's positions"),
        ({"max_length": 0}, r"max_length: found 0"),
        ({"min_length": 9, "max_length": 8}, r"min_length: found 9, expected 0 to decode.max_length = 8"),
        ({"early_stopping": "always"}, r"early_stopping: found 'always', expected False, True or 'never'"),
        ({"forced_bos_id": 20}, r"forced_bos_id: found 20, expected None or 0 to 19"),
        ({"bad_words": ((3,), ())}, r"bad_words: .* none empty"),
        ({"bad_words": ((20,),)}, r"bad_words: .* from 0 to 19"),
        ({"no_repeat_ngram_size": -1}, r"no_repeat_ngram_size: found -1"),
        ({"temperature": 0.0}, r"temperature: found 0.0, expected more than 0; for the likeliest"),
        ({"top_k": -1}, r"top_k: found -1"),
        ({"top_p": 1.5}, r"top_p: found 1.5, expected more than 0, up to 1"),
        ({"compat": "fairseq"}, r"compat: found 'fairseq', expected None or 'huggingface'"),
    ],
)
def test_refuses_what_it_cannot_do(tiny, make_params, make_inputs, settings, message):
    programs = module._compiled._cache_size()
    with pytest.raises(UserError, match=f"^decode.{message}"):
        generate(tiny[0], DecodeConfig(**{"max_length": LENGTH} | settings), make_params(0), *make_inputs(0, 1, 2))
    assert module._compiled._cache_size() == programs


def test_documents_need_their_prior(tiny, make_params, make_inputs):
    source_BKS, prior_BK = make_inputs(0, 2, 3)
    with pytest.raises(UserError, match=r"documents: found sources for \[2, 3\] .* prior for \[2, 2\]"):
        generate(tiny[0], DecodeConfig(max_length=LENGTH), make_params(0), source_BKS, prior_BK[:, :2])


class WordTokenizer:
    """Ids to words, without the specials."""

    def decode(self, ids):
        return "".join(f" w{i}" for i in ids if i > 2)


def test_texts():
    token_BT = jax.numpy.array([[0, 5, 6, 2, 1], [2, 1, 1, 1, 1]])
    assert texts(token_BT, WordTokenizer()) == ["w5 w6", ""]
