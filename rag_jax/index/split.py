"""An index split over the processes of a job: each searches its part of the passages, for the questions of all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rag_jax.errors import UserError
from rag_jax.files import MANIFEST, read_manifest, read_object, write_manifest
from rag_jax.folders import build_folder
from rag_jax.index import scann
from rag_jax.index.exact import ExactSearcher
from rag_jax.index.scann import ScannSearcher
from rag_jax.index.searchers import Parameters, Searcher
from rag_jax.index.vectors import Stored
from rag_jax.progress import waiting

KIND = "part of an index"


class Part:
    """The rows [first, stop) of an index's vectors, as if they were all."""

    def __init__(self, vectors: Stored, first: int, stop: int):
        self._vectors, self._first = vectors, first
        self.shape, self.dtype = (stop - first, vectors.shape[1]), vectors.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) of the part, as Vectors.read."""
        return self._vectors.read(self._first + start, self._first + stop)

    def gather(self, id_: np.ndarray) -> np.ndarray:
        """The vectors of ids in the part, as Vectors.gather."""
        return self._vectors.gather(np.where(np.asarray(id_) >= 0, np.asarray(id_) + self._first, -1))


class SplitSearcher:
    """Searches one part with a searcher of its own; winners of all parts are merged, equal scores by lower id.

    of_all: the rows that every process has, one after the other (parallel.Devices). All processes search together, with
    as many questions each.
    """

    def __init__(self, part: Searcher, first: int, process: int, of_all: Callable[[np.ndarray], np.ndarray]):
        self._part, self._first, self._process, self._of_all = part, first, process, of_all

    def search(self, vector_BE: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (id_BK int64, score_BK fp32) of this process's questions among all passages."""
        id_AK, score_AK = self._part.search(self._of_all(np.asarray(vector_BE, np.float32)), k)
        id_AK = np.where(id_AK >= 0, id_AK + self._first, -1)
        # jax has no 64-bit numbers by default; an index of 2^31 passages is refused elsewhere.
        id_SAK, score_SAK = (self._of_all(found[None]) for found in (id_AK.astype(np.int32), score_AK))
        own = slice(self._process * len(vector_BE), (self._process + 1) * len(vector_BE))
        id_BM, score_BM = (np.concatenate(found[:, own], axis=1) for found in (id_SAK, score_SAK))
        order_BK = np.lexsort((np.where(id_BM < 0, np.iinfo(np.int32).max, id_BM), -score_BM), axis=-1)[:, :k]
        return np.take_along_axis(id_BM, order_BK, 1).astype(np.int64), np.take_along_axis(score_BM, order_BK, 1)


def open_part(
    index: Path, kept: Path, kind: str, told: Parameters, vectors: Stored, part: tuple[int, int]
) -> tuple[Searcher, int]:
    """The searcher of part (number, of how many), and its first row.

    index, vectors: of all passages. kept: a folder where ScaNN's files of the part are kept for the next time. told:
    what config.index says of each searcher, by its name; what is expected of each part, recall_target, is of all.
    """
    number, parts = part
    first, stop = len(vectors) * number // parts, len(vectors) * (number + 1) // parts
    rows = Part(vectors, first, stop)
    if kind == "exact":
        return ExactSearcher(rows, **told.get("exact", {})), first
    parameters = scann.parameters(len(rows), told.get("scann"))
    made_of = {"part": [number, parts], "scann": parameters, "seal": read_object(index / MANIFEST)["seal"]}
    folder = kept / f"{number + 1}-of-{parts}"
    if not _is_made_of(folder, made_of):

        def build(temporary: Path) -> None:
            with waiting(f"{folder}: ScaNN is built for {len(rows):,} passages"):
                scann.build(rows, temporary, parameters)
            write_manifest(temporary, {"kind": KIND, "made_of": made_of})

        build_folder(folder, build)
    return ScannSearcher(folder, parameters, rows), first


def _is_made_of(folder: Path, made_of: dict[str, Any]) -> bool:
    """Whether the folder holds ScaNN's files of this part, with no byte changed."""
    try:
        return (folder / MANIFEST).exists() and read_manifest(folder, KIND, verify=True)["made_of"] == made_of
    except UserError as error:
        print(f"{error}; building it again", flush=True)
        return False
