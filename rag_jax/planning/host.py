"""What a host's memory and disk must hold: passages, vectors, searchers and checkpoints."""

from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
from ml_collections import ConfigDict

from rag_jax.config import closed_book
from rag_jax.data import tasks
from rag_jax.files import MANIFEST
from rag_jax.index import exact, scann
from rag_jax.index.base import read_index_manifest
from rag_jax.index.searchers import SEARCHERS, has_vectors

WIKIPEDIA = 21_015_324  # passages of the paper's index (Lewis et al. 2020, section 3)
# Bytes of a word in the store, text and tokens: SQuAD's 20,958 paragraphs of 120 words take 12.0 a word.
WORD = 12.0
POSTING = 8  # bytes of a word's score in a passage, in BM25's matrix: fp32 and int32
DISTINCT = 0.7  # of a passage's words, about
CHECKPOINTS = 3  # the newest, the best, and the one being written
BOOT_DISK = 100e9  # of a TPU VM ("Attach durable block storage", Cloud TPU documentation)


class Host(NamedTuple):
    """Bytes by what holds them: memory while building, memory while training or answering, disk."""

    building: dict[str, float]
    running: dict[str, float]
    disk: dict[str, float]


class Corpus(NamedTuple):
    """How many passages, and whose number that is."""

    passages: int
    said_by: str


def corpus(config: ConfigDict, folder: Path | None, given: int | None) -> Corpus:
    """The passages: as given, or those of the index in `folder`, or the demo's own, or the paper's."""
    if given is not None:
        return Corpus(given, "--passages")
    if folder is not None and (folder / MANIFEST).is_file():
        return Corpus(read_index_manifest(folder).count, str(folder))
    if config.data.passages.startswith(tasks.DEMO):
        return Corpus(sum(1 for _ in tasks.passages(config.data)), config.data.passages)
    return Corpus(WIKIPEDIA, "the paper's Wikipedia; --passages=N for another number")


def host(config: ConfigDict, passages: int, width: int, on_host: int, state: float) -> Host:
    """What one host holds. width: E; on_host: its devices; state: bytes of parameters and optimizer state."""
    checkpoints = {f"checkpoints ({CHECKPOINTS})": CHECKPOINTS * state}
    if closed_book(config):
        return Host({}, {"a checkpoint being saved": state}, checkpoints)
    kind, itemsize = config.index.kind, jnp.dtype(config.index.dtype).itemsize
    store = passages * config.data.words * WORD
    building, running, disk = {"ids of the passages": 8.0 * passages}, {}, {"passages": store}
    if has_vectors(kind):
        disk["vectors"] = float(passages * width * itemsize)
    if "scann" in SEARCHERS[kind]:
        held = scann.memory(scann.parameters(passages, config.index.scann), passages, width, itemsize)
        building |= {"all vectors as fp32": 4.0 * passages * width, "ScaNN": float(held)}
        running["ScaNN"] = disk["ScaNN"] = float(held)
    if "exact" in SEARCHERS[kind]:
        rows = exact.padded(-(-passages // on_host))
        running["a device's share of the vectors, while it is read"] = float(rows * width * itemsize)
    if "bm25" in SEARCHERS[kind]:
        disk["BM25"] = passages * config.data.words * DISTINCT * POSTING
        building["BM25"] = 2 * disk["BM25"]
    running["a checkpoint being saved"] = state
    return Host(building, running, disk | checkpoints)
