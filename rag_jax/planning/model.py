"""The model of a configuration as far as it can be told without a network: its sizes, and what had to be assumed."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from rag_jax.api import rag_config
from rag_jax.config import closed_book
from rag_jax.data import tasks
from rag_jax.data.tokenizer import Tokenizer
from rag_jax.data.vocabulary import Vocabulary
from rag_jax.hub.resolve import resolve
from rag_jax.hub.source import is_hubs
from rag_jax.models.rag import RagConfig
from rag_jax.workdir import Workdir

# Of bert-base-uncased, which DPR has too, and of facebook/bart-base and bart-large.
PUBLISHED = {"encoder": Vocabulary(30522, 0, 101, 102), "generator": Vocabulary(50265, 1, 0, 2)}
PART = {"encoder": "question_encoder", "generator": "generator"}


class Described(NamedTuple):
    """The configuration with what its local parts fill in, the model, and what was assumed, a line each."""

    config: ConfigDict
    model: RagConfig
    assumed: tuple[str, ...]


def describe(config: ConfigDict, place: Workdir | None) -> Described:
    """Reads what is in folders here, those of the run `place` among them; a name of the hub is not looked up.

    Raises UserError where what is here does not fit together.
    """
    absent = list(_absent(config))
    assumed = [f"{key} = {name} is not here: the sizes are the configuration's own" for key, name in absent]
    config = config if absent else resolve(config)
    tokenizers: dict[str, Tokenizer | Vocabulary] = {}
    for part in ("generator",) if closed_book(config) else PUBLISHED:
        tokenizers[part] = _tokenizer(config, place, part) or _vocabulary(config, part)
        if isinstance(tokenizers[part], Vocabulary):
            assumed.append(f"the {part}'s tokenizer is not here: {tokenizers[part].vocab_size:,} tokens are assumed")
    plain = ConfigDict(config).copy_and_resolve_references().unlock()
    if plain.data.classify == "token":
        plain.data.classify = ""
    model = rag_config(plain, tokenizers.get("encoder"), tokenizers["generator"])
    if config.data.classify == "token":  # any tokens have the same shapes
        model = replace(model, label_tokens=tuple(range(len(tasks.labels(config.data)))))
    return Described(config, model, tuple(assumed))


def _absent(config: ConfigDict) -> Iterator[tuple[str, str]]:
    """Keys that name a model, and the name, where it is no folder here."""
    named = {f"config.parts.{part}": name for part, name in config.parts.items()}
    named |= {f"config.tokenizer.{part}": config.tokenizer[part] for part in PUBLISHED}
    for key, name in {"config.init_from": config.init_from, **named}.items():
        if name and (not Path(name).is_dir() or is_hubs(name)):
            yield key, name


def _tokenizer(config: ConfigDict, place: Workdir | None, part: str) -> Tokenizer | None:
    folders = [place.tokenizers / part] if place else []
    folders += [Path(config.tokenizer[part])] if config.tokenizer[part] else []
    return next((Tokenizer.load(folder) for folder in folders if folder.is_dir()), None)


def _vocabulary(config: ConfigDict, part: str) -> Vocabulary:
    """What is published of a model that is named, else what will be trained here."""
    named, own = config.init_from or config.parts[PART[part]] or config.tokenizer[part], config[part].vocab_size
    size = PUBLISHED[part].vocab_size if named else config.tokenizer[f"{part}_vocab"]
    return PUBLISHED[part]._replace(vocab_size=own or size)
