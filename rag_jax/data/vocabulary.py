"""The two tokenizers of a run: one's own Hugging Face folders, or vocabularies trained on the corpus."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from rag_jax.data import tasks
from rag_jax.data.formats import Passage
from rag_jax.data.labels import WORDS
from rag_jax.data.lines import Meter
from rag_jax.data.text import source_string
from rag_jax.data.tokenizer import Framing, Tokenizer, copy_files, seal, train_byte_bpe, train_wordpiece
from rag_jax.errors import UserError
from rag_jax.folders import build_folder
from rag_jax.progress import metered, waiting
from rag_jax.storage import publish

PARTS = ("encoder", "generator")


def load_or_train(config: ConfigDict, folder: Path) -> tuple[Tokenizer | None, Tokenizer]:
    """The (encoder, generator) tokenizers in `folder`; those that are not there are copied or trained first.

    A closed book has no encoder: None. Raises UserError where a folder given in the configuration holds another
    vocabulary than the run's own copy.
    """
    for part in _parts(config):
        if config.tokenizer[part]:
            keep_copy(Path(config.tokenizer[part]), folder / part, part)
    missing = [part for part in _parts(config) if not (folder / part).is_dir()]
    if missing:
        asked = tasks.questions(config.data, config.data.train, log=_silent) if config.data.train else []
        questions = [question.text for question in asked] or [""]

        def passages(part: str) -> Iterator[Passage]:  # read again for each: a corpus need not fit into memory
            meter = Meter()
            read = tasks.passages(config.data, meter=meter, log=_silent)
            return metered(read, meter.share, folder / part, "passages read for its tokenizer")

        if "encoder" in missing:
            texts = chain((f"{passage.title} {passage.text}" for passage in passages("encoder")), questions)
            with waiting(f"{folder / 'encoder'}: its tokenizer is trained"):
                train_wordpiece(texts, config.tokenizer.encoder_vocab, folder / "encoder")
        if "generator" in missing:
            sources = (
                source_string(passage.title, passage.text, questions[row % len(questions)])
                for row, passage in enumerate(passages("generator"))
            )
            whole = WORDS.values() if config.data.classify == "token" else ()
            with waiting(f"{folder / 'generator'}: its tokenizer is trained"):
                train_byte_bpe(sources, config.tokenizer.generator_vocab, folder / "generator", whole)
    publish(folder)
    return load_both(config, *(folder / part for part in PARTS))


def load_both(config: ConfigDict, encoder: Path, generator: Path) -> tuple[Tokenizer | None, Tokenizer]:
    """The tokenizers in two folders; the encoder's frames its texts as the configuration says, or is None as above."""
    framing = Framing(*(config.encoder[name] for name in Framing._fields))
    return Tokenizer.load(encoder, framing) if "encoder" in _parts(config) else None, Tokenizer.load(generator)


def _parts(config: ConfigDict) -> tuple[str, ...]:
    """Whose tokenizers a run has: in a closed book no question is encoded."""
    return PARTS[1:] if config.index.kind == "none" else PARTS


class Vocabulary(NamedTuple):
    """What of a tokenizer the model's shapes depend on, where there is none."""

    vocab_size: int
    pad_id: int
    bos_id: int
    eos_id: int


def keep_copy(given: Path, own: Path, part: str) -> None:
    """Copies a tokenizer's files into the run, which is whole without their source; an earlier copy must agree."""

    def copy(temporary: Path) -> None:
        copy_files(given, temporary)
        seal(temporary)

    if not own.is_dir():
        Tokenizer.load(given)
        build_folder(own, copy)
    elif given.is_dir() and Tokenizer.load(given).fingerprint != Tokenizer.load(own).fingerprint:
        raise UserError(
            f"config.tokenizer.{part}: {given} holds another vocabulary than {own}, with which this run began; "
            "leave it as it was, or train in another --workdir"
        )


def _silent(line: str) -> None:
    """For what is read again elsewhere, and told of there."""
