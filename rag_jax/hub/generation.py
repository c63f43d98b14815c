"""Decoding settings in ours and transformers' words: a table of names, and what their lengths count."""

from collections.abc import Mapping
from typing import Any

from rag_jax.errors import fail
from rag_jax.models.bart import BartConfig

# Ours (decode.generate.DecodeConfig and config.decode) -> theirs.
SETTINGS = {
    "beams": "num_beams",
    "max_length": "max_length",
    "min_length": "min_length",
    "length_penalty": "length_penalty",
    "early_stopping": "early_stopping",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
    "bad_words": "bad_words_ids",
    "forced_bos_id": "forced_bos_token_id",
    "forced_eos_id": "forced_eos_token_id",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
}
START_COUNTED = ("max_length", "min_length")  # theirs count the start token
OF_BEAMS = ("length_penalty", "early_stopping")
OF_SAMPLING = ("temperature", "top_k", "top_p")
# Of those with the same name in ours and theirs; all others: int.
KINDS = {"early_stopping": str, "length_penalty": float, "temperature": float, "top_p": float}
UNSET = {"max_length": 20, "top_k": 50}  # what transformers' generate does where nothing is said, and we would not
IDS = {
    "bos_id": "bos_token_id",
    "eos_id": "eos_token_id",
    "pad_id": "pad_token_id",
    "start_id": "decoder_start_token_id",
}
# What transformers applies and we have no setting for -> the values with which it does nothing.
UNAPPLIED: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (1,),
    "encoder_repetition_penalty": (1,),
    "encoder_no_repeat_ngram_size": (0,),
    "diversity_penalty": (0,),
    "guidance_scale": (1,),
    "penalty_alpha": (0,),
    "exponential_decay_length_penalty": (),
    "sequence_bias": ({}, []),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "force_words_ids": ([],),
    "stop_strings": ([], ""),
}
UNAPPLIED_OF_SAMPLING: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "typical_p": (1,),
    "min_p": (0,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
}
OWN = ("eos_id", "start_id")  # of the generator, which a folder's decoding may have otherwise
# What a folder may say about decoding, in transformers' words.
READ = (
    *SETTINGS.values(), *(IDS[ours] for ours in OWN), "do_sample", "max_new_tokens", "min_new_tokens", *UNAPPLIED,
    *(name for name in UNAPPLIED_OF_SAMPLING if name not in SETTINGS.values()),
)  # fmt: skip


def generation_json(decode: Mapping[str, Any], generator: BartConfig) -> dict[str, Any]:
    """What transformers' generate needs to say the same, for a generation_config.json or as its arguments.

    decode: the fields of a DecodeConfig. Settings that would not be read, or that forbid nothing, are left out; so is
    the number of answers.
    """
    sampled = decode["mode"] == "sample"
    unread = (() if decode["beams"] > 1 else OF_BEAMS) + (() if sampled else OF_SAMPLING)
    theirs = {"do_sample": sampled}
    for ours, name in SETTINGS.items():
        value = decode[ours] + 1 if ours in START_COUNTED else decode[ours]
        if ours == "bad_words":
            value = [list(word) for word in value]
        if ours not in unread and not _is_nothing(ours, value):
            theirs[name] = value
    return theirs | {name: getattr(generator, ours) for ours, name in IDS.items()}


def decode_keys(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of config.decode for the settings of a generation_config.json, or of an old config.json.

    Raises UserError for a value of another kind; it names the setting, not the file.
    """
    sampled = bool(theirs.get("do_sample"))
    keys = {"mode": "sample", "beams": 1} if sampled else {}
    told = {ours: _value(name, theirs[name]) for ours, name in SETTINGS.items() if theirs.get(name) is not None}
    for ours, new in zip(START_COUNTED, ("max_new_tokens", "min_new_tokens"), strict=True):
        if theirs.get(new) is not None:
            told[ours] = _value(new, theirs[new])
        elif ours in told:
            told[ours] = max(told[ours] - 1, 0)
    for ours, value in told.items():
        if ours == "bad_words":
            keys["bad_words_ids"] = value
        elif ours not in (("beams", *OF_BEAMS) if sampled else OF_SAMPLING):
            keys[ours] = value
    return keys


def unapplied(theirs: Mapping[str, Any], generator: BartConfig) -> list[str]:
    """What transformers would do with these settings and we do not, as 'name = value'; generator: the folder's."""
    idle = UNAPPLIED | (UNAPPLIED_OF_SAMPLING if theirs.get("do_sample") else {})
    for ours in OWN:
        own = getattr(generator, ours)
        idle[IDS[ours]] = (own, [own])
    return [f"{name} = {theirs[name]!r}" for name in idle if name in theirs and theirs[name] not in idle[name]]


def _value(name: str, value: Any) -> Any:
    """One of theirs as our configuration has it; UserError naming a setting that is of another kind."""
    try:
        if name == SETTINGS["bad_words"]:
            return tuple(" ".join(map(str, ids)) for ids in value)
        return KINDS.get(name, int)(value)
    except (OverflowError, TypeError, ValueError):
        expected = "lists of token ids" if name == SETTINGS["bad_words"] else "a number"
        fail(f"{name} is {value!r}, expected {expected}; restore the file")


def _is_nothing(ours: str, value: Any) -> bool:
    """Whether a setting is one that transformers leaves out, too."""
    return value is None or (ours in ("bad_words", "no_repeat_ngram_size") and not value)
