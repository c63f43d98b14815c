"""The two tokenizers of a run: one's own Hugging Face folders, or vocabularies trained on the corpus."""

from pathlib import Path

from ml_collections import ConfigDict

from rag_jax.data import tasks
from rag_jax.data.text import source_string
from rag_jax.data.tokenizer import Framing, Tokenizer, train_byte_bpe, train_wordpiece

PARTS = ("encoder", "generator")


def load_or_train(config: ConfigDict, folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """The (encoder, generator) tokenizers in `folder`; those that are not there are trained and saved first."""
    given = {part: config.tokenizer[part] for part in PARTS}
    missing = [part for part in PARTS if not given[part] and not (folder / part).is_dir()]
    if missing:
        questions = [question.text for question in tasks.questions(config.data.train)] if config.data.train else [""]
        passages = list(tasks.passages(config.data.passages))
        if "encoder" in missing:
            texts = [*(f"{passage.title} {passage.text}" for passage in passages), *questions]
            train_wordpiece(texts, config.tokenizer.encoder_vocab, folder / "encoder")
        if "generator" in missing:
            texts = [
                source_string(passage.title, passage.text, questions[row % len(questions)])
                for row, passage in enumerate(passages)
            ]
            train_byte_bpe(texts, config.tokenizer.generator_vocab, folder / "generator")
    encoder, generator = (given[part] or folder / part for part in PARTS)
    return Tokenizer.load(encoder, framing(config)), Tokenizer.load(generator)


def framing(config: ConfigDict) -> Framing:
    """The text that a configuration's encoder reads."""
    return Framing(*(config.encoder[name] for name in Framing._fields))
