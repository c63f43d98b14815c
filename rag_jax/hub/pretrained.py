"""What a name stands for: a run's folder, an exported folder, a Hugging Face RAG folder or a hub name."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from rag_jax.checkpoint import Checkpoints
from rag_jax.config import default_config
from rag_jax.errors import UserError
from rag_jax.files import read_json
from rag_jax.hub import huggingface, source
from rag_jax.models import rag
from rag_jax.parallel import Pmap
from rag_jax.workdir import Workdir, configuration

EXPORTED = "rag_jax.json"


class Pretrained(NamedTuple):
    """A trained model that is not in memory yet.

    config: what it was trained with, or what its folder says of itself. encoder_tokenizer, generator_tokenizer:
    folders. passage_encoder: the fingerprint of the encoder whose index it reads; None where nobody knows. index: the
    folder of the index that comes with it, if one does. load: (model, parallel) -> parameters, whole on every device.
    """

    config: ConfigDict
    encoder_tokenizer: Path
    generator_tokenizer: Path
    passage_encoder: str | None
    index: Path | None
    load: Callable[[rag.RagConfig, Pmap], dict[str, Any]]


def open_pretrained(name: str | Path, flag: str = "", *, checkpoint: str = "best") -> Pretrained:
    """Finds out what `name` is and reads what is small.

    flag: the key of the configuration that gave the name, for messages. checkpoint: 'best' or 'last' of a run.
    Raises UserError for what is none of them.
    """
    place = Workdir(name)
    if place.checkpoints.is_dir() or (place.config.is_file() and "model_type" not in read_json(place.config)):
        return _run(place, checkpoint)
    if not place.config.is_file() and (place.folder.is_dir() or str(name).count("/") != 1):
        given = f"{flag} = {name}" if flag else name
        raise UserError(
            f"{given}: holds no trained model (no config.json); run `python -m rag_jax.train` first, or name a RAG "
            "folder of transformers"
        )
    folder = source.find(str(name), flag or "Rag.load")
    return _export(folder) if (folder / EXPORTED).is_file() else _foreign(folder)


def _run(place: Workdir, checkpoint: str) -> Pretrained:
    config = place.load_config()
    checkpoints = Checkpoints(place.checkpoints) if place.checkpoints.is_dir() else None
    step = checkpoints and (checkpoints.best() if checkpoint == "best" else checkpoints.latest())
    if step is None:
        raise UserError(f"{place.checkpoints}: holds no checkpoint; run `python -m rag_jax.train` first")

    def load(model: rag.RagConfig, parallel: Pmap) -> dict[str, Any]:
        shapes = jax.eval_shape(partial(rag.init_params, model), jax.random.key(0))
        return checkpoints.restore(step, params=parallel.abstract_whole(shapes))["params"]

    encoder, generator = (place.tokenizers / part for part in ("encoder", "generator"))
    return Pretrained(config, encoder, generator, checkpoints.extra(step)["passage_encoder"], place.index, load)


def _export(folder: Path) -> Pretrained:
    told = read_json(folder / EXPORTED)
    config = configuration(told.get("config"), folder / EXPORTED)
    index = folder / "index"
    return Pretrained(
        config, *_tokenizers(folder), told.get("passage_encoder"), index if index.is_dir() else None, _load(folder)
    )


def _foreign(folder: Path) -> Pretrained:
    """A model of transformers, which reads the question as its encoder's tokens say it.

    A folder that does not tell its kind is opened as RAG-Token; pass a configuration for the other.
    """
    config, told = default_config(), huggingface.rag_settings(folder)
    config.kind = told.kind or "token"
    config.encoder.update(sizes(huggingface.encoder_config(folder, "question_encoder")))
    config.generator.update(sizes(huggingface.generator_config(folder)))
    config.length.update(question=64, source=told.max_combined_length)
    config.retrieval.k = told.n_docs
    config.data.question_text = "round_trip_clean" if told.clean_up else "round_trip"
    config.decode.update(decode_keys(told.generation))
    return Pretrained(config, *_tokenizers(folder), None, None, _load(folder))


def decode_keys(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """config.decode of transformers' generation settings, whose lengths count the start token."""
    keys = {ours: theirs[name] for name, ours in DECODE.items() if theirs.get(name) is not None}
    for name, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        if name in keys:
            keys[name] = max(keys[name] - 1, 0)
        if theirs.get(new) is not None:
            keys[name] = theirs[new]
    for name, convert in (("early_stopping", str), ("length_penalty", float), ("temperature", float), ("top_p", float)):
        if name in keys:
            keys[name] = convert(keys[name])
    if theirs.get("bad_words_ids"):
        keys["bad_words_ids"] = tuple(" ".join(map(str, ids)) for ids in theirs["bad_words_ids"])
    if theirs.get("do_sample"):
        return keys | {"mode": "sample", "beams": 1}
    return {name: value for name, value in keys.items() if name not in OF_SAMPLING}


def _tokenizers(folder: Path) -> tuple[Path, Path]:
    return huggingface.encoder_tokenizer(folder), huggingface.generator_tokenizer(folder)


def _load(folder: Path) -> Callable[[rag.RagConfig, Pmap], dict[str, Any]]:
    return lambda model, parallel: parallel.put_whole(huggingface.load_rag(folder, model))


DECODE = {
    "num_beams": "beams",
    "num_return_sequences": "num_return_sequences",
    "max_length": "max_length",
    "min_length": "min_length",
    "length_penalty": "length_penalty",
    "early_stopping": "early_stopping",
    "forced_bos_token_id": "forced_bos_id",
    "forced_eos_token_id": "forced_eos_id",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
}
OF_SAMPLING = ("temperature", "top_k", "top_p")
# Of an encoder's or generator's config, what is a matter of training or comes from the tokenizer.
FREE = {"dropout", "attention_dropout", "activation_dropout", "init_std", "position_init", "dtype", "remat"}
FREE |= {"pad_id", "bos_id", "eos_id"}


def sizes(config: Any) -> dict[str, Any]:
    """What of a BertConfig or BartConfig cannot be chosen freely for given weights: the keys of config.encoder, say."""
    return {name: value for name, value in asdict(config).items() if name not in FREE}
