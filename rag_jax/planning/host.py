"""What a host's memory and disk must hold: passages, vectors, searchers and checkpoints."""

import json
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
from ml_collections import ConfigDict

from rag_jax.config import closed_book
from rag_jax.data import tasks
from rag_jax.errors import fail
from rag_jax.files import MANIFEST
from rag_jax.index import exact, scann
from rag_jax.index.base import read_index_manifest
from rag_jax.index.report import WIKIPEDIA
from rag_jax.index.searchers import SEARCHERS, has_vectors
from rag_jax.planning import layout
from rag_jax.planning.chips import Topology
from rag_jax.remote import Remote
from rag_jax.storage import address, shown
from rag_jax.workdir import Workdir

# Bytes of a word in the store, text and tokens: SQuAD's 20,958 paragraphs of 120 words take 12.0 a word.
WORD = 12.0
POSTING = 8  # bytes of a word's score in a passage, in BM25's matrix: fp32 and int32
DISTINCT = 0.7  # of a passage's words, about
CHECKPOINTS = 4  # the newest two, the best, and the one being written
BOOT_DISK = 100e9  # of a TPU VM ("Attach durable block storage", Cloud TPU documentation)


class Host(NamedTuple):
    """Bytes by what holds them: memory while building, training and answering, and disk."""

    building: dict[str, float]
    training: dict[str, float]
    answering: dict[str, float]
    disk: dict[str, float]


class Corpus(NamedTuple):
    """How many passages, and whose number that is."""

    passages: int
    said_by: str


def corpus(config: ConfigDict, run: Workdir | None, given: int | None) -> Corpus:
    """The passages: as given, or those of the run's index, or the demo's own, or the paper's."""
    if given is not None:
        return Corpus(given, "--passages")
    index = run.folder / "index" if run else None  # Workdir.index fetches what lies at a url, all of it
    if index and (found := _count(index)) is not None:
        return Corpus(found, shown(index))
    if config.data.passages.startswith(tasks.DEMO):
        return Corpus(sum(1 for _ in tasks.passages(config.data)), config.data.passages)
    return Corpus(WIKIPEDIA, "the paper's Wikipedia; --passages=N for another number")


def _count(index: Path) -> int | None:
    """The passages of an index, of one at a url by its manifest alone; None where there is none."""
    if (url := address(index)) is None:
        return read_index_manifest(index).count if (index / MANIFEST).is_file() else None
    remote = Remote(url)
    listing = remote.listing()
    content = remote.read(listing.place(MANIFEST)) if listing and MANIFEST in listing.files else None
    try:
        return None if content is None else int(json.loads(content)["index"]["count"])
    except (KeyError, TypeError, ValueError) as error:
        fail(f"{url}/{MANIFEST}: does not describe an index ({error}); publish it again, or give --passages=N")


def host(config: ConfigDict, passages: int, width: int, topology: Topology, state: float) -> Host:
    """What one host holds. width: E; state: bytes of parameters and optimizer state."""
    checkpoints, saved = {f"checkpoints ({CHECKPOINTS})": CHECKPOINTS * state}, {"a checkpoint being saved": state}
    if closed_book(config):
        return Host({}, saved, {}, checkpoints)
    kind, part = config.index.kind, layout.share(passages, layout.parts(config, topology.hosts))
    building, disk = {"ids of the passages": 8.0 * passages}, {"passages": passages * config.data.words * WORD}
    training, answering = (_searcher(config, count, width, topology.on_host) for count in (part, passages))
    if has_vectors(kind):
        disk["vectors"] = float(passages * width * jnp.dtype(config.index.dtype).itemsize)
    if "scann" in SEARCHERS[kind]:
        building["all vectors, while ScaNN is built"] = _building(config, passages, width)
        disk |= answering
    if "scann" in SEARCHERS[kind] and part < passages:  # it is built where it is searched, see index.split
        disk["ScaNN of its part"] = training["ScaNN"]
        training["the rest of its part's vectors, while ScaNN is built"] = (
            _building(config, part, width) - training["ScaNN"]
        )
    if layout.inside(config):
        training = _share(config, layout.share(passages, topology.devices), width)
    if "bm25" in SEARCHERS[kind]:
        disk["BM25"] = passages * config.data.words * DISTINCT * POSTING
        building["BM25"] = 2 * disk["BM25"]
    return Host(building, training | saved, answering, disk | checkpoints)


def _searcher(config: ConfigDict, passages: int, width: int, on_host: int) -> dict[str, float]:
    """What a host holds to search so many vectors."""
    found = SEARCHERS[config.index.kind]
    if "exact" in found:
        return _share(config, layout.of_device(passages, on_host), width)
    if "scann" not in found:
        return {}
    chosen = scann.parameters(passages, config.index.scann)
    return {"ScaNN": float(scann.memory(chosen, passages, width, jnp.dtype(config.index.dtype).itemsize))}


def _building(config: ConfigDict, passages: int, width: int) -> float:
    """What a host holds while it builds ScaNN of so many vectors, the searcher among it."""
    return float(scann.building(scann.parameters(passages, config.index.scann), passages, width))


def _share(config: ConfigDict, passages: int, width: int) -> dict[str, float]:
    size = exact.padded(passages) * width * jnp.dtype(config.index.dtype).itemsize
    return {"a device's share of the vectors, while it is read": float(size)}
