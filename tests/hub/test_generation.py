"""Decoding settings in transformers' words: what is counted, what is left out, what transformers makes of them."""

import warnings
from dataclasses import asdict

import pytest

from rag_jax.decode.generate import DecodeConfig
from rag_jax.hub.generation import (
    SETTINGS,
    UNAPPLIED,
    UNAPPLIED_OF_SAMPLING,
    UNSET,
    decode_keys,
    generation_json,
    unapplied,
)
from rag_jax.models.bart import BartConfig

transformers = pytest.importorskip("transformers")

SIZES = BartConfig(vocab_size=40, pad_id=3, bos_id=4, eos_id=5, start_id=6)
IDS = {"bos_token_id": 4, "eos_token_id": 5, "pad_token_id": 3, "decoder_start_token_id": 6}


def written(**settings):
    return generation_json(asdict(DecodeConfig(**settings)), SIZES)


def test_greedy_says_little_and_counts_the_start_token():
    expected = {"do_sample": False, "num_beams": 1, "max_length": 23, "min_length": 4}
    assert written(max_length=22, min_length=3) == expected | IDS


def test_beams_bring_their_settings():
    found = written(beams=4, length_penalty=0.5, early_stopping="never", bad_words=((7,), (8, 9)), forced_eos_id=5)
    assert (found["num_beams"], found["length_penalty"], found["early_stopping"]) == (4, 0.5, "never")
    assert found["bad_words_ids"] == [[7], [8, 9]] and found["forced_eos_token_id"] == 5
    assert "forced_bos_token_id" not in found and "temperature" not in found


def test_sampling_turns_their_default_of_top_k_off():
    found = written(mode="sample", temperature=0.7)
    assert found["do_sample"] and found["top_k"] == 0 and (found["temperature"], found["top_p"]) == (0.7, 1.0)


def test_what_is_not_said_is_as_transformers_has_it():
    defaults = transformers.GenerationConfig._get_default_generation_params()
    assert {name: defaults[name] for name in UNSET} == UNSET
    assert decode_keys(UNSET | {"do_sample": True}) == {"mode": "sample", "beams": 1, "max_length": 19, "top_k": 50}
    assert decode_keys(UNSET | {"max_new_tokens": 7}) == {"max_length": 7}


def test_every_setting_has_a_name_but_those_that_say_how_many_and_where():
    assert set(asdict(DecodeConfig())) - set(SETTINGS) == {"kind", "mode", "num_return_sequences", "seed", "compat"}


@pytest.mark.parametrize(
    "settings",
    [{}, {"beams": 3, "early_stopping": True, "no_repeat_ngram_size": 2}, {"mode": "sample", "top_p": 0.9}],
)
def test_transformers_takes_them_without_complaint(settings):
    found = written(**settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = transformers.GenerationConfig(**found)
        config.validate(strict=True)
    assert {name: getattr(config, name) for name in found} == found


def test_the_way_back_is_the_same_table():
    """A configuration's keys for what was written; the ids come from the tokenizer."""
    theirs = written(beams=4, max_length=22, min_length=3, early_stopping="never", bad_words=((7,), (8, 9)), top_k=0)
    assert decode_keys(theirs) == {
        "beams": 4, "max_length": 22, "min_length": 3, "length_penalty": 1.0, "early_stopping": "never",
        "bad_words_ids": ("7", "8 9"),
    }  # fmt: skip
    drawn = {"do_sample": True, "max_length": 20, "max_new_tokens": 5, "top_k": 3, "temperature": 1, "num_beams": 2}
    assert decode_keys(drawn) == {"mode": "sample", "beams": 1, "max_length": 5, "top_k": 3, "temperature": 1.0}
    assert decode_keys({"min_length": 0, "early_stopping": False}) == {"min_length": 0, "early_stopping": "False"}


def test_what_transformers_does_and_we_do_not_is_told():
    odd = {"suppress_tokens": [7], "repetition_penalty": 1.2, "eos_token_id": [5, 8], "decoder_start_token_id": 4}
    assert unapplied(odd, SIZES) == [
        "repetition_penalty = 1.2", "suppress_tokens = [7]", "eos_token_id = [5, 8]", "decoder_start_token_id = 4",
    ]  # fmt: skip
    drawn = {"num_beams": 4, "typical_p": 0.9, "min_p": 0.0}
    assert unapplied(drawn, SIZES) == [] and len(unapplied(drawn | {"do_sample": True}, SIZES)) == 2
    idle = {"repetition_penalty": 1.0, "suppress_tokens": [], "eos_token_id": [5], "decoder_start_token_id": 6}
    assert unapplied(idle, SIZES) == unapplied(written(beams=4, bad_words=((7,),)), SIZES) == []
    assert unapplied(written(mode="sample"), SIZES) == []


def test_transformers_own_defaults_are_nothing_to_tell_of():
    """Nor is a name in the table that transformers does not know."""
    defaults = transformers.GenerationConfig._get_default_generation_params()
    known = {**vars(transformers.GenerationConfig()), **defaults}
    assert {*UNAPPLIED, *UNAPPLIED_OF_SAMPLING} <= set(known)
    assert unapplied({name: value for name, value in defaults.items() if value is not None}, SIZES) == []
