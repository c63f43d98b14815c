"""Hugging Face folders into our configs and parameters: DPR, BERT and sentence encoders, BART, whole RAG models."""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rag_jax.data.text import DOCUMENT_SEPARATOR, TITLE_SEPARATOR
from rag_jax.data.tokenizer import Tokenizer
from rag_jax.errors import UserError, printable
from rag_jax.files import read_object
from rag_jax.hub import rules
from rag_jax.hub.configs import ARCHITECTURES, TOKENIZERS, bart_config, bart_json, bert_config, bert_json
from rag_jax.hub.convert import from_huggingface
from rag_jax.hub.generation import READ
from rag_jax.hub.rules import Rule
from rag_jax.hub.sentence import read_sentence
from rag_jax.hub.tensors import open_tensors
from rag_jax.models.bart import Bart, BartConfig
from rag_jax.models.bert import BertConfig, BertEncoder
from rag_jax.models.rag import RagConfig, init_params
from rag_jax.validation import KINDS as WORDS
from rag_jax.validation import LARGEST

CONFIG = "config.json"
KINDS = {architecture: kind for kind, architecture in ARCHITECTURES.items()}
# By model_type: what is read of a config, each with a value of the kind that it must have.
EXAMPLES = {
    "rag": {"dataset": "wiki_dpr", "n_docs": 5, "max_combined_length": 300},
    "dpr": bert_json(BertConfig()),
    "bert": bert_json(BertConfig()),
    "bart": bart_json(BartConfig()),
}


class Part(NamedTuple):
    """A half of a DPR pair: transformers' class, what its tensors' names begin with, an example on the hub."""

    name: str
    architecture: str
    tensors: str
    example: str


PARTS = {
    "question_encoder": Part(
        "question encoder", "DPRQuestionEncoder", "question_encoder", "facebook/dpr-question_encoder-multiset-base"
    ),
    "passage_encoder": Part(
        "passage encoder", "DPRContextEncoder", "ctx_encoder", "facebook/dpr-ctx_encoder-multiset-base"
    ),
}
# Layers of a BertFor... after the encoder, which is all that is taken.
BERT_HEADS = ("cls.*", "classifier.*", "qa_outputs.*")


class RagSettings(NamedTuple):
    """What a RAG folder says beside sizes and weights.

    kind: 'token' or 'sequence', None where the folder does not tell. dataset: its passages. max_combined_length: of a
    generator input. generation: those of generation.READ that are set, in transformers' meaning (lengths count the
    start token). clean_up: whether decoding the question's ids joins "who ' s" to "who's" again, as transformers'
    retriever rebuilds questions.
    """

    kind: str | None
    dataset: str
    n_docs: int
    max_combined_length: int
    generation: dict[str, Any]
    clean_up: bool


def encoder_config(folder: str | Path, part: str) -> BertConfig:
    """The encoder in a folder of DPR, BERT, a sentence encoder or RAG; reads JSON alone.

    part: 'question_encoder' or 'passage_encoder'. Raises UserError for another architecture, and for a DPR folder of
    the other part.
    """
    folder = Path(folder)
    if sentence := read_sentence(folder):
        same = {name: getattr(sentence, name) for name in ("pooling", "normalize", "question_prefix", "passage_prefix")}
        return bert_config(*_read(sentence.folder), title="joined", **same)
    config, source = _read(folder)
    if config.get("model_type") == "rag":
        if part != "question_encoder":
            raise _other_part(source, "a RAG model, which has no passage encoder", part)
        return bert_config(_within(config, "question_encoder", "dpr", source), f"{source}: question_encoder")
    architecture = _architecture(config, source)
    if config.get("model_type") == "dpr" and architecture not in (None, PARTS[part].architecture):
        raise _other_part(source, architecture, part)
    return bert_config(config, source)


def encoder_length(folder: str | Path, config: BertConfig) -> int:
    """How many tokens of a text the encoder was trained to read: its own limit, else its table of positions."""
    sentence = read_sentence(Path(folder))
    return (sentence and sentence.length) or config.positions


def generator_config(folder: str | Path) -> BartConfig:
    """The generator in a folder of BART or RAG; reads JSON alone. Raises UserError for another architecture."""
    config, source = _read(Path(folder))
    if config.get("model_type") == "rag":
        return bart_config(_within(config, "generator", "bart", source), f"{source}: generator")
    return bart_config(config, source)


def load_encoder(folder: str | Path, part: str, config: BertConfig) -> dict[str, Any]:
    """The encoder's parameters, fp32 numpy arrays nested like models.bert.BertEncoder's.

    Raises UserError naming a tensor that is missing, left over or of another shape, and for the other part of DPR.
    """
    folder = Path(folder)
    sentence = read_sentence(folder)
    tensors = open_tensors(sentence.folder if sentence else folder)
    ids = jnp.zeros((1, 2), jnp.int32)
    shapes = jax.eval_shape(BertEncoder(config).init, jax.random.key(0), ids, ids > 0)["params"]
    return from_huggingface(tensors, encoder_rows(tensors, part, str(folder)), shapes, str(folder))


def load_generator(folder: str | Path, config: BartConfig) -> dict[str, Any]:
    """The generator's parameters, as load_encoder gives the encoder's."""
    tensors = open_tensors(folder)
    ids = jnp.zeros((1, 2), jnp.int32)
    shapes = jax.eval_shape(Bart(config).init, jax.random.key(0), ids, ids > 0, ids)["params"]
    return from_huggingface(tensors, generator_rows(tensors), shapes, str(folder))


def load_rag(folder: str | Path, config: RagConfig) -> dict[str, Any]:
    """{'question_encoder', 'generator'} of a RAG folder, as load_encoder and load_generator give them."""
    tensors = open_tensors(folder)
    shapes = jax.eval_shape(partial(init_params, config), jax.random.key(0))
    shapes = {name: shapes[name] for name in ("question_encoder", "generator")}
    return from_huggingface(tensors, rules.rag(_rag_prefix(tensors)), shapes, str(folder))


def encoder_tokenizer(folder: str | Path) -> Path:
    """The folder of the encoder's tokenizer."""
    folder = Path(folder)
    if sentence := read_sentence(folder):
        return sentence.folder
    own = folder / TOKENIZERS[0]
    return own if own.is_dir() else folder


def generator_tokenizer(folder: str | Path) -> Path:
    """The folder of the generator's tokenizer."""
    own = Path(folder) / TOKENIZERS[1]
    return own if own.is_dir() else Path(folder)


def rag_settings(folder: str | Path) -> RagSettings:
    """What a RAG folder says beside sizes and weights.

    Raises UserError for a folder of another kind, and for generator inputs that are put together in another way.
    """
    folder = Path(folder)
    config, source = _read(folder)
    if config.get("model_type") != "rag":
        raise UserError(f"{source}: model_type is {config.get('model_type')!r}, expected 'rag'; give a whole RAG model")
    generator = _within(config, "generator", "bart", source)
    for key, found, expected in (
        ("title_sep", config.get("title_sep", " / "), f"{TITLE_SEPARATOR} "),
        ("doc_sep", config.get("doc_sep", " // "), f"{DOCUMENT_SEPARATOR} "),
        ("generator.prefix", generator.get("prefix") or "", ""),
    ):
        if found != expected:
            raise UserError(f"{source}: {key} is {found!r}, expected {expected!r}, the only one that is built here")
    return RagSettings(
        KINDS.get(_architecture(config, source) or ""),
        config.get("dataset") or "wiki_dpr",
        5 if config.get("n_docs") is None else config["n_docs"],
        300 if config.get("max_combined_length") is None else config["max_combined_length"],
        _generation(folder, config, generator),
        _clean_up(encoder_tokenizer(folder) / "tokenizer_config.json"),
    )


def generation_file(folder: Path) -> Path:
    """Which file of a RAG folder says how it decodes."""
    path = folder / "generation_config.json"
    return path if path.exists() else folder / CONFIG


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int, source: str) -> None:
    """Raises UserError for a tokenizer with ids that a table of vocab_size rows lacks; a larger table is fine.

    `<mask>` may lack its row, as in facebook/bart-large-cnn: no question, passage or answer holds it.
    """
    beyond = [token_id for token_id in range(vocab_size, tokenizer.vocab_size) if token_id != tokenizer.mask_id]
    if beyond:
        raise UserError(
            f"{source}: the table of embeddings has {vocab_size} rows, too few for {len(beyond)} tokens of "
            f"{tokenizer.folder}, such as {tokenizer.tokens()[beyond[0]]!r} = {beyond[0]}; expected a tokenizer and a "
            "model that belong together"
        )


def _read(folder: Path) -> tuple[dict[str, Any], str]:
    """A folder's config, and what messages call it."""
    path = folder / CONFIG
    return _typed(read_object(path), str(path)), str(path)


def _typed(config: dict[str, Any], source: str) -> dict[str, Any]:
    """The config itself; UserError for a value that is of another kind than in EXAMPLES."""
    for key, example in EXAMPLES.get(str(config.get("model_type")), {}).items():
        found, kind = config.get(key), type(example)
        as_float = kind is float and type(found) is int and abs(found) <= LARGEST
        if found is not None and type(found) is not kind and not as_float:
            raise UserError(f"{source}: {key} is {found!r}, expected {WORDS[kind]}; restore the file")
    return config


def _within(config: Mapping[str, Any], name: str, kind: str, source: str) -> dict[str, Any]:
    """A part's own config inside a RAG's; transformers takes its kind for granted."""
    part = config.get(name) or {}
    if not isinstance(part, dict):
        raise UserError(f"{source}: {name} is {part!r}, expected a JSON object; restore the file")
    return _typed({"model_type": kind} | part, f"{source}: {name}")


def _architecture(config: Mapping[str, Any], source: str) -> str | None:
    """transformers' class that wrote the folder, None where it does not tell."""
    listed = config.get("architectures") or [None]
    if not isinstance(listed, list) or not isinstance(listed[0], str | None):
        raise UserError(f"{source}: architectures is {listed!r}, expected a list of names; restore the file")
    return listed[0]


def _other_part(source: str, found: str, part: str) -> UserError:
    expected = PARTS[part]
    return UserError(
        f"{source}: found {printable(found)}, expected a {expected.name}; give a {expected.architecture}, "
        f"as {expected.example}, a BERT or a sentence encoder"
    )


def _prefixes(names: Iterable[str], end: str) -> set[str]:
    """What stands before `end` in the names that end so."""
    return {name.removesuffix(end) for name in names if name.endswith(end)}


def _rag_prefix(names: Iterable[str]) -> str:
    return "rag." if any(name.startswith("rag.") for name in names) else ""


def encoder_rows(names: Iterable[str], part: str, source: str) -> tuple[Rule, ...]:
    """The table for a checkpoint's encoder, by what stands before its embeddings; source: what messages call it."""
    found, own = _prefixes(names, "embeddings.word_embeddings.weight"), PARTS[part].tensors
    rag = f"{_rag_prefix(names)}question_encoder."
    if f"{own}.bert_model." in found:
        return rules.dpr(own)
    if part == "question_encoder" and f"{rag}question_encoder.bert_model." in found:
        others = (f"{_rag_prefix(names)}{name}.*" for name in ("generator", "ctx_encoder"))
        return (*rules.dpr("question_encoder", rag), *(Rule(None, name) for name in others))
    if "bert." in found:
        return rules.bert("bert.", drop=BERT_HEADS)
    if "" in found or not found:
        return rules.bert()
    raise _other_part(source, f"tensors {min(found)}*", part)


def generator_rows(names: Iterable[str]) -> tuple[Rule, ...]:
    """The table for a checkpoint's generator, by what stands before its encoder."""
    found, rag = _prefixes(names, "encoder.embed_positions.weight"), _rag_prefix(names)
    if f"{rag}generator.model." in found:
        others = (f"{rag}{name}.*" for name in ("question_encoder", "ctx_encoder"))
        return (*rules.bart(f"{rag}generator."), *(Rule(None, name) for name in others))
    return rules.bart(body="" if "" in found else "model.")


def _generation(folder: Path, config: Mapping[str, Any], generator: Mapping[str, Any]) -> dict[str, Any]:
    """From generation_config.json; in older folders, from config.json, and the generator's own where it is silent."""
    path = generation_file(folder)
    layers = (generator, config) if path.name == CONFIG else (read_object(path),)
    return {key: layer[key] for layer in layers for key in READ if layer.get(key) is not None}


def _clean_up(path: Path) -> bool:
    """True where the folder is silent: so it was in transformers 4, which wrote such folders."""
    return bool((read_object(path) if path.exists() else {}).get("clean_up_tokenization_spaces", True))
