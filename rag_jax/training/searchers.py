"""How training searches the index, where that is not how the index is opened elsewhere."""

import jax
from ml_collections import ConfigDict

from rag_jax.data.passages import PassageStore
from rag_jax.index.base import Maker
from rag_jax.index.on_devices import OnDevices
from rag_jax.index.searchers import Searcher
from rag_jax.index.split import SplitSearcher, open_part
from rag_jax.index.vectors import Vectors
from rag_jax.parallel import Devices
from rag_jax.training import on_devices
from rag_jax.workdir import Workdir


def of_training(
    config: ConfigDict, stages: dict[str, ConfigDict], place: Workdir, parallel: Devices, vocabulary: int
) -> Maker | None:
    """What makes the searcher: on all devices of the step, or split over the processes; None for the index's own.

    vocabulary: of the generator.
    """
    if any(on_devices.possible(config, stage) for stage in stages.values()):

        def on_all(vectors: Vectors, passages: PassageStore) -> Searcher:
            recall = config.index.recall_target
            tokens = config.length.source
            return OnDevices(vectors, passages, parallel, tokens=tokens, vocabulary=vocabulary, recall_target=recall)

        return on_all
    if not config.index.split or parallel.processes == 1:
        return None

    def split(vectors: Vectors, passages: PassageStore) -> Searcher:
        part = jax.process_index(), parallel.processes
        told = {"scann": config.index.scann.to_dict(), "exact": {"recall_target": config.index.recall_target}}
        searcher, first = open_part(place.index, place.parts, config.index.kind, told, vectors, part)
        return SplitSearcher(searcher, first, part[0], parallel.of_all)

    return split
