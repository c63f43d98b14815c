"""Sizes in transformers' config.json and in our configs: tables of names, read both ways."""

from collections.abc import Mapping
from typing import Any

from rag_jax.errors import UserError
from rag_jax.models.bart import BartConfig
from rag_jax.models.bert import BertConfig

ARCHITECTURES = {"token": "RagTokenForGeneration", "sequence": "RagSequenceForGeneration"}
TOKENIZERS = ("question_encoder_tokenizer", "generator_tokenizer")  # folders in a RAG folder
# Ours -> theirs. Several names of theirs must agree: we have one number for both sides.
BERT = {
    "vocab_size": ("vocab_size",),
    "width": ("hidden_size",),
    "layers": ("num_hidden_layers",),
    "heads": ("num_attention_heads",),
    "ffn": ("intermediate_size",),
    "positions": ("max_position_embeddings",),
    "type_vocab": ("type_vocab_size",),
    "dropout": ("hidden_dropout_prob",),
    "attention_dropout": ("attention_probs_dropout_prob",),
    "norm_eps": ("layer_norm_eps",),
    "projection": ("projection_dim",),
    "pad_id": ("pad_token_id",),
    "init_std": ("initializer_range",),
}
BART = {
    "vocab_size": ("vocab_size",),
    "width": ("d_model",),
    "encoder_layers": ("encoder_layers",),
    "decoder_layers": ("decoder_layers",),
    "heads": ("encoder_attention_heads", "decoder_attention_heads"),
    "ffn": ("encoder_ffn_dim", "decoder_ffn_dim"),
    "positions": ("max_position_embeddings",),
    "dropout": ("dropout",),
    "attention_dropout": ("attention_dropout",),
    "activation_dropout": ("activation_dropout",),
    "scale_embedding": ("scale_embedding",),
    "pad_id": ("pad_token_id",),
    "bos_id": ("bos_token_id",),
    "eos_id": ("eos_token_id",),
    "start_id": ("decoder_start_token_id",),
    "init_std": ("init_std",),
}
# What our models take for granted; a config.json without the key means the same, and transformers' defaults for the
# sizes that it leaves out are ours.
BERT_FIXED = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
BART_FIXED = {
    "activation_function": "gelu",
    "normalize_before": False,
    "normalize_embedding": True,
    "add_final_layer_norm": False,
    "static_position_embeddings": False,
    "add_bias_logits": False,
}


def bert_config(theirs: Mapping[str, Any], source: str, **ours: Any) -> BertConfig:
    """The sizes in a BERT or DPR config.json; `ours`: what stands elsewhere, such as the pooling.

    source: what messages call the file. Raises UserError for a config that our encoder cannot express.
    """
    _expect_kind(theirs, ("bert", "dpr"), source)
    _expect_fixed(theirs, BERT_FIXED, source)
    return BertConfig(**_read(theirs, BERT, source), **ours)


def bart_config(theirs: Mapping[str, Any], source: str) -> BartConfig:
    """The sizes in a BART config.json; source and errors as for bert_config."""
    _expect_kind(theirs, ("bart",), source)
    _expect_fixed(theirs, BART_FIXED, source)
    return BartConfig(**_read(theirs, BART, source))


def bert_json(config: BertConfig) -> dict[str, Any]:
    """What bert_config reads: for a config.json, or for transformers' BertConfig or DPRConfig."""
    return _write(config, BERT) | BERT_FIXED


def bart_json(config: BartConfig) -> dict[str, Any]:
    """What bart_config reads: for a config.json, or for transformers' BartConfig."""
    return _write(config, BART) | {"activation_function": BART_FIXED["activation_function"]}


def _read(theirs: Mapping[str, Any], table: Mapping[str, tuple[str, ...]], source: str) -> dict[str, Any]:
    ours = {}
    for name, names in table.items():
        found = {key: theirs[key] for key in names if theirs.get(key) is not None}
        if len(set(found.values())) > 1:
            listed = ", ".join(f"{key} = {value}" for key, value in found.items())
            raise UserError(f"{source}: found {listed}, expected them equal; a model of unequal sides is not supported")
        if found:
            ours[name] = next(iter(found.values()))
    return ours


def _write(config: BertConfig | BartConfig, table: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    return {key: getattr(config, name) for name, names in table.items() for key in names}


def _expect_kind(theirs: Mapping[str, Any], kinds: tuple[str, ...], source: str) -> None:
    found = theirs.get("model_type")
    if found not in kinds:
        raise UserError(
            f"{source}: model_type is {found!r}, expected {' or '.join(map(repr, kinds))}; other architectures are not "
            "built here"
        )


def _expect_fixed(theirs: Mapping[str, Any], fixed: Mapping[str, Any], source: str) -> None:
    for key, value in fixed.items():
        if theirs.get(key, value) != value:
            raise UserError(f"{source}: {key} is {theirs[key]!r}, expected {value!r}, the only one that is built here")
