"""A trained model as a Hugging Face folder, which transformers' RAG classes open."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from rag_jax.data.text import DOCUMENT_SEPARATOR, TITLE_SEPARATOR
from rag_jax.data.tokenizer import Tokenizer, copy_files
from rag_jax.errors import fail
from rag_jax.files import MANIFEST, described, read_json, write_atomically, write_json, write_sealed
from rag_jax.folders import build_folder, check_replaceable, link
from rag_jax.hub import knowledge, rules
from rag_jax.hub.card import card
from rag_jax.hub.configs import ARCHITECTURES, TOKENIZERS, bart_json, bert_json
from rag_jax.hub.convert import to_huggingface
from rag_jax.hub.generation import generation_json
from rag_jax.hub.pretrained import EXPORTED, VERSION
from rag_jax.hub.source import INDEX
from rag_jax.hub.tensors import SAFETENSORS, write_tensors
from rag_jax.models import rag
from rag_jax.models.bert import BertConfig
from rag_jax.progress import waiting
from rag_jax.remote import Remote
from rag_jax.storage import address, publish, pull, shown, twin


class Only(NamedTuple):
    """A setting of config.encoder that transformers' RAG has one value for, and why."""

    name: str
    value: Any
    why: str


ENCODERS = (
    Only("pooling", "cls", "transformers' RAG takes a question's first position for its embedding"),
    Only("normalize", False, "transformers' RAG does not scale a question's embedding to length 1"),
    Only("question_prefix", "", "transformers' RAG puts nothing before a question"),
)


class Trained(NamedTuple):
    """What is exported: a model, its parameters, the run's configuration, and what stands beside them.

    decode: a decode.generate.DecodeConfig. tokenizers: the encoder's and the generator's. index: an open index, whose
    passage encoder is the one that the question encoder was trained against.
    """

    model: rag.RagConfig
    params: Mapping[str, Any]
    config: ConfigDict
    decode: Any
    tokenizers: tuple[Tokenizer | None, Tokenizer]
    index: Any


def write_folder(
    folder: str | Path,
    trained: Trained,
    *,
    with_index: bool = False,
    scores: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Writes weights, configs, tokenizers and a model card; with_index: also passages and vectors, in both formats.

    scores: what evaluate wrote of the test, for the card. Raises UserError, before anything is written, for a folder
    that holds something, for an encoder, a classifier or an index that transformers' RAG cannot express, or without the
    packages that write an index.
    """
    folder = new_folder(folder)
    check_alone(trained.model)
    check_encoder(trained.model.encoder)
    check_classifier(trained.model)
    if with_index:
        check_vectors(trained.index)
        knowledge.check_installed()
    settings = generation_json(asdict(trained.decode), trained.model.generator)

    def write(temporary: Path) -> None:
        with waiting(f"{shown(folder)}: its weights are written"):
            write_tensors(temporary / SAFETENSORS, to_huggingface(folded(trained.model, trained.params), rules.rag()))
        os.chmod(temporary / SAFETENSORS, 0o644)  # safetensors lets nobody else read
        write_json(temporary / "config.json", rag_json(trained.model, trained.config, with_index=with_index))
        write_json(temporary / "generation_config.json", settings)
        for name, tokenizer in zip(TOKENIZERS, trained.tokenizers, strict=True):
            assert tokenizer is not None  # an encoder's, which is missing in a closed book alone
            (temporary / name).mkdir()
            copy_files(tokenizer.folder, temporary / name)
        if with_index:
            knowledge.write_knowledge(temporary, trained.index.vectors, trained.index.passages)
            _link_index(trained.index.folder, temporary / INDEX)
        write_sealed(temporary / EXPORTED, _ours(trained) | {"files": described(temporary, _read_here(temporary))})
        model, config, name = trained.model, trained.config, folder.resolve().name
        kind = trained.index.manifest.kind
        text = card(name, model, config, trained.decode, settings, kind, with_index=with_index, scores=scores)
        write_atomically(temporary / "README.md", text)

    build_folder(folder, write)
    publish(folder)


def new_folder(name: str | Path) -> Path:
    """Where to write a folder of that name; UserError for one that holds something, or has no name for another to take.

    A url's twin may hold an export that never got there, as after a kill: it is written anew.
    """
    folder = pull(twin(name))
    if not folder.name:
        fail(f"{folder}: expected a folder with a name, such as ./model; give another --out")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        fail(f"{shown(folder)}: found a file or a link, expected a new or an empty folder; give another --out")
    check_replaceable(folder)
    url = address(folder)
    unsent = url is not None and (folder / EXPORTED).is_file() and Remote(url).listing() is None
    if folder.is_dir() and any(folder.iterdir()) and not unsent:
        fail(f"{shown(folder)}: found files in it, expected a new or an empty folder; delete it or give another --out")
    return folder


def check_alone(model: rag.RagConfig) -> None:
    """UserError for a model that reads a question alone, which transformers' RAG cannot express."""
    if model.question_encoder is None:
        fail(
            "index.kind: found 'none', a closed book, expected passages for an export: transformers' RAG reads no "
            "question alone; use it with rag_jax alone"
        )
    if model.null_document != "none":
        fail(
            f"retrieval.null_document: found {model.null_document!r}, expected 'none' for an export: transformers' RAG "
            "has no place for it; use it with rag_jax alone"
        )


def check_encoder(encoder: BertConfig) -> None:
    """UserError for a question encoder that transformers' RAG cannot express."""
    for name, value, why in ENCODERS:
        found = getattr(encoder, name)
        if found != value:
            fail(f"encoder.{name}: found {found!r}, expected {value!r} for an export: {why}; use it with rag_jax alone")


def check_classifier(model: rag.RagConfig) -> None:
    """UserError for a model that tells labels by a head, for which transformers' RAG has no place."""
    if model.classes:
        fail(
            "data.classify: found 'head', expected 'token' or '' for an export: transformers' RAG has no classifier; "
            "use the model with rag_jax alone"
        )


def check_vectors(index: Any) -> None:
    """UserError for an index without vectors, which transformers' RAG cannot search."""
    if index.vectors is None:
        fail(
            f"--with_index: found {index.folder}, an index of kind {index.manifest.kind!r}, expected vectors: "
            "transformers' RAG has no BM25; leave --with_index out"
        )


def folded(model: rag.RagConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """numpy parameters whose document scores have a scale of 1: it goes into the question encoder's last map.

    That is its projection, or the last layer's normalisation. Parameters of scale 1 stay what they are.
    """
    scale = np.float32(rag.score_scale(dict(params), model.score_scale))
    encoder, generator = (jax.tree.map(np.asarray, params[part]) for part in ("question_encoder", "generator"))
    if scale == 1:
        return {"question_encoder": encoder, "generator": generator}
    if "projection" in encoder:
        projection = {name: scale * array for name, array in encoder["projection"].items()}
        return {"question_encoder": encoder | {"projection": projection}, "generator": generator}

    def last_scaled(path: Sequence[Any], stacked: np.ndarray) -> np.ndarray:
        if [key.key for key in path[:-1]] != ["layers", "feed_forward", "norm"]:
            return stacked
        return np.concatenate([stacked[:-1], scale * stacked[-1:]])

    return {"question_encoder": jax.tree_util.tree_map_with_path(last_scaled, encoder), "generator": generator}


def rag_json(model: rag.RagConfig, config: ConfigDict, *, with_index: bool) -> dict[str, Any]:
    """A config.json of transformers' RagConfig.

    Its paths lead from inside the folder; without an index they are empty, so that RagRetriever asks for them instead
    of opening another encoder's index.
    """
    generator = model.generator
    return {
        "architectures": [ARCHITECTURES[model.kind]],
        "model_type": "rag",
        "is_encoder_decoder": True,
        "question_encoder": {"model_type": "dpr", **bert_json(model.encoder)},
        "generator": {"model_type": "bart", **bart_json(generator), "forced_eos_token_id": None},
        "vocab_size": generator.vocab_size,
        "bos_token_id": generator.bos_id,
        "eos_token_id": generator.eos_id,
        "pad_token_id": generator.pad_id,
        "decoder_start_token_id": generator.start_id,
        "title_sep": f"{TITLE_SEPARATOR} ",
        "doc_sep": f"{DOCUMENT_SEPARATOR} ",
        "n_docs": config.retrieval.k,
        "max_combined_length": config.length.source,
        "retrieval_vector_size": model.encoder.embedding_width,
        "index_name": "custom",
        "passages_path": knowledge.DATASET if with_index else None,
        "index_path": knowledge.FAISS if with_index else None,
    }


def _ours(trained: Trained) -> dict[str, Any]:
    """What rag_jax needs to open the folder as the run it came from."""
    config = json.loads(trained.config.to_json_best_effort())
    config["retrieval"] |= {"score_scale": 1.0, "learn_score_scale": False}
    return {"version": VERSION, "config": config, "passage_encoder": trained.index.manifest.encoder_fingerprint}


def _read_here(folder: Path) -> list[str]:
    """The files that rag_jax reads too: weights and tokenizers; an index has its own manifest."""
    tokenizers = (f"{name}/{path.name}" for name in TOKENIZERS for path in (folder / name).iterdir())
    return [SAFETENSORS, *tokenizers]


def _link_index(source: Path, target: Path) -> None:
    """The files of an index under a second name."""
    for name in (*read_json(source / MANIFEST)["files"], MANIFEST):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        link(source / name, target / name)
