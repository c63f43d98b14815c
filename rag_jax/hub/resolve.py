"""A configuration made whole: sizes, tokenizers and prefixes of the models that it starts from."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rag_jax.config import closed_book, default_config, score_scale
from rag_jax.data.tokenizer import Tokenizer
from rag_jax.errors import UserError
from rag_jax.hub import huggingface, source
from rag_jax.hub.pretrained import Pretrained, check_fits, open_pretrained, sizes, take_own
from rag_jax.models.bart import BartConfig
from rag_jax.models.bert import BertConfig
from rag_jax.progress import tell
from rag_jax.validation import validate

Told = dict[str, str]  # a key, as 'encoder.width' -> which model has told it


def resolve(config: ConfigDict) -> ConfigDict:
    """Returns a locked copy in which init_from and parts.* have filled in what their weights demand.

    What the configuration leaves at its default is filled in; what it states must be the same there. init_from goes
    before parts.question_encoder and parts.generator. Raises UserError for what disagrees.
    """
    config = _filled_in(config)
    validate(config)
    return config.lock()


def as_made(config: ConfigDict, found: Pretrained, name: str) -> ConfigDict:
    """Returns the resolved configuration for a model of that name that is opened with it, not trained on."""
    config = _filled_in(config)
    check_fits(config, found.config, name)
    _take_sizes(config, found.config, name, {})
    take_own(config, found)
    retrieval, own = config.retrieval, found.config.retrieval
    retrieval.score_scale = retrieval.score_scale or own.score_scale
    retrieval.learn_score_scale &= not found.scaled  # its weights know nothing of one
    validate(config)
    stated, trained = score_scale(config), score_scale(found.config)
    if stated != trained and not (own.learn_score_scale or closed_book(config)):
        tell(f"note: config.retrieval.score_scale: found {stated:g}, but {name} was trained with {trained:g}")
    return config.lock()


def _filled_in(config: ConfigDict) -> ConfigDict:
    """An unlocked copy with what init_from and parts.* demand."""
    config = ConfigDict(config).copy_and_resolve_references().unlock()
    told: Told = {}
    for part in ("encoder", "generator"):
        if name := config.tokenizer[part]:
            config.tokenizer[part] = str(source.find(name, f"config.tokenizer.{part}"))
    if config.init_from:
        _from_whole(config, open_pretrained(config.init_from, "config.init_from"), told)
    for part in ("passage_encoder",) if config.init_from else PARTS:
        _from_part(config, part, told)
    return config


def _from_whole(config: ConfigDict, found: Pretrained, told: Told) -> None:
    flag = f"init_from = {config.init_from}"
    check_fits(config, found.config, flag)
    _take_sizes(config, found.config, flag, told)
    take_own(config, found)
    if found.config.kind != config.kind and not closed_book(config):
        tell(f"note: {flag} has kind {found.config.kind!r}; config.kind = {config.kind!r} makes another model of it")
    config.retrieval.score_scale = config.retrieval.score_scale or found.config.retrieval.score_scale
    config.retrieval.learn_score_scale |= found.config.retrieval.learn_score_scale
    if config.retrieval.null_document == "none":
        config.retrieval.null_document = found.config.retrieval.null_document
    config.tokenizer.update(
        encoder=config.tokenizer.encoder or str(found.encoder_tokenizer),
        generator=config.tokenizer.generator or str(found.generator_tokenizer),
    )


def _from_part(config: ConfigDict, part: str, told: Told) -> None:
    if name := config.parts[part]:
        group, read, tokenizer = PARTS[part]
        folder = source.find(name, f"config.parts.{part}")
        model = read(folder)
        _take(config, group, sizes(model), f"parts.{part} = {name}", told)
        _take_tokenizer(config, group, tokenizer(folder), model, name)


def _take_sizes(config: ConfigDict, own: ConfigDict, flag: str, told: Told) -> None:
    """Takes what cannot be chosen freely for the weights of a whole model; own: its configuration."""
    for group in ("generator",) if closed_book(config) else ("encoder", "generator"):
        _take(config, group, {key: own[group][key] for key in SIZES[group]}, flag, told)


def _take(config: ConfigDict, group: str, values: Mapping[str, Any], flag: str, told: Told) -> None:
    """Puts a model's values into a group of the configuration.

    UserError where the configuration, or a model that was there before, says something else.
    """
    default = default_config()[group]
    for key, value in values.items():
        name, found = f"{group}.{key}", config[group][key]
        if key == "title" and found != default[key]:
            continue  # no weight depends on it
        if name in told and found != value:
            raise UserError(
                f"config.{name}: {told[name]} has {found!r}, but {flag} has {value!r}; give models that agree"
            )
        if found not in (value, default[key]):
            raise UserError(f"config.{name}: found {found!r}, but {flag} has {value!r}; leave it out")
        config[group][key] = value
        if key not in EITHERS:
            told[name] = flag


def _take_tokenizer(config: ConfigDict, part: str, folder: Path, model: BertConfig | BartConfig, name: str) -> None:
    """Chooses the tokenizer that came with the weights, unless another one is given, and checks that it fits them."""
    config.tokenizer[part] = config.tokenizer[part] or str(folder)
    tokenizer = Tokenizer.load(config.tokenizer[part])
    special = ("pad_id",) if part == "encoder" else ("pad_id", "bos_id", "eos_id")
    for key in special:
        if (found := getattr(tokenizer, key)) != (expected := getattr(model, key)):
            raise UserError(
                f"config.tokenizer.{part}: {tokenizer.folder} has {key} {found}, but {name} has {expected}; "
                "give the tokenizer of these weights"
            )


EITHERS = ("title", "question_prefix", "passage_prefix")  # what either encoder of two may tell
SIZES = {"encoder": tuple(sizes(BertConfig())), "generator": tuple(sizes(BartConfig()))}
# Of config.parts: the group of keys that it fills in, and what reads its config and finds its tokenizer.
PARTS: dict[str, tuple[str, Callable[[Path], BertConfig | BartConfig], Callable[[Path], Path]]] = {
    "question_encoder": (
        "encoder", partial(huggingface.encoder_config, part="question_encoder"), huggingface.encoder_tokenizer
    ),
    "generator": ("generator", huggingface.generator_config, huggingface.generator_tokenizer),
    "passage_encoder": (
        "encoder", partial(huggingface.encoder_config, part="passage_encoder"), huggingface.encoder_tokenizer
    ),
}  # fmt: skip
