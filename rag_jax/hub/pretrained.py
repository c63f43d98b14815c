"""What a name stands for: a run's folder, an exported folder, a Hugging Face RAG folder or a hub name."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from rag_jax.checkpoint import Checkpoints
from rag_jax.config import closed_book, default_config
from rag_jax.data import tasks
from rag_jax.errors import UserError, fail, said_by
from rag_jax.files import check_files, read_object, read_sealed
from rag_jax.hub import huggingface, source
from rag_jax.hub.generation import UNSET, decode_keys, unapplied
from rag_jax.models import rag
from rag_jax.parallel import Devices
from rag_jax.progress import tell
from rag_jax.storage import shown
from rag_jax.validation import validate
from rag_jax.workdir import Workdir, configuration

EXPORTED, VERSION = "rag_jax.json", 1


@dataclass(frozen=True)
class Pretrained:
    """A trained model that is not in memory yet.

    config: what it was trained with, or what its folder says of itself. encoder_tokenizer, generator_tokenizer:
    folders. passage_encoder: the fingerprint of the encoder whose index it reads; None where nobody knows.
    index(): the folder of the index that comes with it, downloaded now if it must be; None where none comes.
    load: (model, parallel) -> parameters, whole on every device; of a run, with the classifier that it trained, and
    none of a null document that it has not learned. scaled: whether its question encoder's embeddings bring the scale
    of the scores along, as an export's do.
    """

    config: ConfigDict
    encoder_tokenizer: Path
    generator_tokenizer: Path
    passage_encoder: str | None
    index: Callable[[], Path | None]
    load: Callable[[rag.RagConfig, Devices], dict[str, Any]]
    scaled: bool = False


def open_pretrained(name: str | Path, flag: str = "", *, checkpoint: str = "best", decodes: bool = False) -> Pretrained:
    """Finds out what `name` is and reads what is small.

    flag: the key of the configuration that gave the name, for messages. checkpoint: 'best' or 'last' of a run. decodes:
    it will answer as transformers' folder says, which then must be possible here.
    Raises UserError for what is none of them.
    """
    place = Workdir(name)
    if place.checkpoints.is_dir() or (place.config.is_file() and "model_type" not in read_object(place.config)):
        return _run(place, checkpoint)
    if not place.config.is_file() and not source.is_hubs(str(name)):
        given = f"{flag} = {name}" if flag else shown(place.folder)
        raise UserError(
            f"{given}: holds no trained model (no config.json); run `python -m rag_jax.train` first, or name a RAG "
            "folder of transformers"
        )
    folder = source.find(str(name), flag or "Rag.load")
    return _export(folder, str(name)) if (folder / EXPORTED).is_file() else _foreign(folder, decodes)


def take_own(config: ConfigDict, found: Pretrained) -> None:
    """Puts the model's own into an unlocked configuration: the scale that its weights bring, whatever is stated, and

    how the question is written where nothing is.
    """
    config.data.question_text = config.data.question_text or found.config.data.question_text
    if found.scaled:
        config.retrieval.score_scale = found.config.retrieval.score_scale


def check_fits(config: ConfigDict, own: ConfigDict, name: str) -> None:
    """UserError where one of both is a closed book; own: the configuration of a model of that name."""
    if closed_book(config) != closed_book(own):
        trained = "without passages" if closed_book(own) else "with passages"
        fail(
            f"config.index.kind: found {config.index.kind!r}, but {name} was trained {trained}, index.kind = "
            f"{own.index.kind!r}; expected that, or another model"
        )


def _run(place: Workdir, checkpoint: str) -> Pretrained:
    if checkpoint not in ("best", "last"):
        fail(f"checkpoint: found {checkpoint!r}, expected 'best' or 'last'")
    config = place.load_config()
    checkpoints = Checkpoints(place.checkpoints)
    step = checkpoints.best() if checkpoint == "best" else checkpoints.latest()
    if step is None:
        raise UserError(f"{place.checkpoints}: holds no checkpoint; run `python -m rag_jax.train` first")

    def load(model: rag.RagConfig, parallel: Devices) -> dict[str, Any]:
        had = config.retrieval.null_document, config.retrieval.learn_score_scale
        own = replace(model, classes=tasks.classes(config.data), null_document=had[0], learn_score_scale=had[1])
        shapes = jax.eval_shape(partial(rag.init_params, own), jax.random.key(0))
        params = checkpoints.restore(step, params=parallel.abstract_state(shapes))["params"]
        learned = own.null_document == model.null_document
        return {name: params[name] for name in params if name != "null_document" or learned}

    encoder, generator = (place.tokenizers / part for part in ("encoder", "generator"))
    return Pretrained(config, encoder, generator, checkpoints.extra(step)["passage_encoder"], lambda: place.index, load)


def _export(folder: Path, name: str) -> Pretrained:
    path = folder / EXPORTED
    told = read_sealed(path)
    if told.get("version") != VERSION:
        raise UserError(
            f"{path}: version {told.get('version')!r}, expected {VERSION}; install the rag_jax that wrote it"
        )
    config, files = configuration(told.get("config"), path), told.get("files", {})
    weights = {name: files.pop(name) for name in [*files] if "/" not in name}
    check_files(folder, files, listed_in=EXPORTED)

    def load(model: rag.RagConfig, parallel: Devices) -> dict[str, Any]:
        check_files(folder, weights, listed_in=EXPORTED)
        return _load(folder)(model, parallel)

    index = partial(source.find_index, name)
    return Pretrained(config, *_tokenizers(folder), told.get("passage_encoder"), index, load, scaled=True)


def _foreign(folder: Path, decodes: bool) -> Pretrained:
    """A model of transformers, which reads the question as its encoder's tokens say it.

    A folder that does not tell its kind is opened as RAG-Token; pass a configuration for the other. Raises UserError
    naming the file that says what no configuration may.
    """
    config, told = default_config(), huggingface.rag_settings(folder)
    config.kind = told.kind or "token"
    config.data.passages = told.dataset
    config.encoder.update(sizes(huggingface.encoder_config(folder, "question_encoder")))
    generator = huggingface.generator_config(folder)
    config.generator.update(sizes(generator))
    positions = config.generator.positions
    config.length.update(question=64, source=min(told.max_combined_length, positions))
    for key in ("question", "passage"):  # of which the folder says nothing
        config.length[key] = min(config.length[key], config.encoder.positions)
    config.length.target = config.decode.max_length = min(config.length.target, positions)
    config.retrieval.k = told.n_docs
    config.data.question_text = "round_trip_clean" if told.clean_up else "round_trip"
    with said_by(folder / huggingface.CONFIG):
        validate(config)
    if decodes:
        with said_by(huggingface.generation_file(folder)):
            config.decode.update(decode_keys(UNSET | told.generation))
            config.decode.max_length = min(config.decode.max_length, positions)
            validate(config)
        if left := unapplied(told.generation, generator):
            tell(f"note: {folder}: {', '.join(left)} not applied; transformers' answers may be others")
    return Pretrained(config, *_tokenizers(folder), None, lambda: None, _load(folder))


def _tokenizers(folder: Path) -> tuple[Path, Path]:
    return huggingface.encoder_tokenizer(folder), huggingface.generator_tokenizer(folder)


def _load(folder: Path) -> Callable[[rag.RagConfig, Devices], dict[str, Any]]:
    return lambda model, parallel: parallel.put_state(huggingface.load_rag(folder, model))


# Of an encoder's or generator's config, what is a matter of training or comes from the tokenizer.
FREE = {"dropout", "attention_dropout", "activation_dropout", "init_std", "position_init", "dtype", "remat"}
FREE |= {"pad_id", "bos_id", "eos_id"}


def sizes(config: Any) -> dict[str, Any]:
    """What of a BertConfig or BartConfig cannot be chosen freely for given weights: the keys of config.encoder, say."""
    return {name: value for name, value in asdict(config).items() if name not in FREE}
