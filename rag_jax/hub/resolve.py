"""A configuration made whole: sizes, tokenizers and prefixes of the models that it starts from."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rag_jax.config import default_config
from rag_jax.data.tokenizer import Tokenizer
from rag_jax.errors import UserError
from rag_jax.hub import huggingface, source
from rag_jax.hub.pretrained import Pretrained, check_fits, open_pretrained, sizes, take_own
from rag_jax.models.bart import BartConfig
from rag_jax.models.bert import BertConfig
from rag_jax.validation import validate


def resolve(config: ConfigDict) -> ConfigDict:
    """Returns a locked copy in which init_from and parts.* have filled in what their weights demand.

    What the configuration leaves at its default is filled in; what it states must be the same there. init_from goes
    before parts.question_encoder and parts.generator. Raises UserError for what disagrees.
    """
    config = ConfigDict(config).copy_and_resolve_references().unlock()
    for part in ("encoder", "generator"):
        if name := config.tokenizer[part]:
            config.tokenizer[part] = str(source.find(name, f"config.tokenizer.{part}"))
    if config.init_from:
        _from_whole(config, open_pretrained(config.init_from, "config.init_from"))
    for part in ("passage_encoder",) if config.init_from else PARTS:
        _from_part(config, part)
    validate(config)
    return config.lock()


def as_made(config: ConfigDict, found: Pretrained) -> ConfigDict:
    """Returns the resolved configuration for a model that is opened with it, not trained on."""
    config = resolve(config).unlock()
    take_own(config, found)
    config.retrieval.learn_score_scale &= not found.scaled  # its weights know nothing of one
    return config.lock()


def _from_whole(config: ConfigDict, found: Pretrained) -> None:
    flag = f"init_from = {config.init_from}"
    check_fits(config, found.config, flag)
    for group in ("encoder", "generator"):
        _take(config, group, {key: found.config[group][key] for key in SIZES[group]}, flag)
    take_own(config, found)
    config.retrieval.score_scale = config.retrieval.score_scale or found.config.retrieval.score_scale
    config.retrieval.learn_score_scale |= found.config.retrieval.learn_score_scale
    if config.retrieval.null_document == "none":
        config.retrieval.null_document = found.config.retrieval.null_document
    config.tokenizer.update(
        encoder=config.tokenizer.encoder or str(found.encoder_tokenizer),
        generator=config.tokenizer.generator or str(found.generator_tokenizer),
    )


def _from_part(config: ConfigDict, part: str) -> None:
    if name := config.parts[part]:
        group, read, tokenizer = PARTS[part]
        folder = source.find(name, f"config.parts.{part}")
        model = read(folder)
        _take(config, group, sizes(model), f"parts.{part} = {name}")
        _take_tokenizer(config, group, tokenizer(folder), model, name)


def _take(config: ConfigDict, group: str, told: Mapping[str, Any], flag: str) -> None:
    """Puts what is told into a group of the configuration; UserError where it states something else."""
    default = default_config()[group]
    for key, value in told.items():
        if key == "title" and config[group][key] != default[key]:
            continue  # no weight depends on it
        if config[group][key] not in (value, default[key]):
            raise UserError(
                f"config.{group}.{key}: found {config[group][key]!r}, but {flag} has {value!r}; leave it out"
            )
        config[group][key] = value


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
