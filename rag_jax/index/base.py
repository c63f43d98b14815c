"""An index: a folder of passages, their vectors, a searcher, and a manifest naming the passage encoder."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from rag_jax.data.passages import PassageStore
from rag_jax.data.tokenizer import Tokenizer
from rag_jax.errors import fail
from rag_jax.files import MANIFEST, read_manifest, write_manifest
from rag_jax.index.exact import ExactSearcher
from rag_jax.index.scann import ScannSearcher
from rag_jax.index.vectors import Vectors

FOLDER_KIND = "passage index"
KINDS = ("scann", "exact")
BUILD = "`python -m rag_jax.build_index`"


class Queries(NamedTuple):
    """B questions: their texts, and their embeddings [B, E] for an index that compares vectors."""

    text_B: list[str]
    vector_BE: np.ndarray | None


class Searcher(Protocol):
    def search(self, vector_BE: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class IndexManifest:
    """What an index remembers.

    encoder_fingerprint: of the passage encoder's weights, pooling and passage prefix.
    score_scale: what the caller multiplies inner products with before the softmax; never changes the order.
    search: the searcher's parameters.
    """

    kind: str
    count: int
    width: int
    dtype: str
    shard_size: int
    encoder_fingerprint: str
    score_scale: float
    passages_checksum: str
    search: dict[str, Any]


@dataclass(frozen=True)
class Index:
    """An open index; `vectors` [N, E] and `passages` are memory-mapped."""

    folder: Path
    manifest: IndexManifest
    vectors: Vectors
    passages: PassageStore
    searcher: Searcher

    def search(self, queries: Queries, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (id_BK int64, score_BK fp32): the k passages with the largest inner products, best first.

        Scores are unscaled. Equal scores come by lower id; places past the corpus hold id -1 and score -inf.
        Raises UserError for embeddings that are missing, of another width or not finite.
        """
        vector_BE, width = queries.vector_BE, self.manifest.width
        if vector_BE is None:
            fail(f"{self.folder}: no question embeddings given; expected [B, {width}]; encode the questions")
        vector_BE = np.asarray(vector_BE, np.float32)
        if vector_BE.ndim != 2 or vector_BE.shape[1] != width:
            fail(f"{self.folder}: embeddings {list(vector_BE.shape)}; expected [B, {width}]; use its encoder")
        if not np.isfinite(vector_BE).all():
            row = int(np.flatnonzero(~np.isfinite(vector_BE).all(axis=1))[0])
            fail(
                f"question {row + 1} of {len(vector_BE)}: its embedding is not finite; "
                "the question encoder has diverged; use an earlier checkpoint"
            )
        if k < 1:
            fail(f"retrieval.k: {k}; expected at least 1")
        return self.searcher.search(vector_BE, k)


class Contents(NamedTuple):
    """What an index holds beside its searcher."""

    manifest: IndexManifest
    vectors: Vectors
    passages: PassageStore


def open_index(
    folder: str | Path,
    *,
    expect_fingerprint: str | None = None,
    tokenizer: Tokenizer | None = None,
    kind: str | None = None,
    verify: bool = False,
) -> Index:
    """Opens a finished index; kind='exact' searches any index exactly; `verify` hashes every file.

    Raises UserError when the folder holds no finished index or a damaged file, when another passage encoder
    than `expect_fingerprint` made the vectors, or when `tokenizer`, the generator's, did not make the tokens.
    """
    folder = Path(folder)
    contents = open_contents(folder, expect_fingerprint=expect_fingerprint, tokenizer=tokenizer, verify=verify)
    manifest, vectors, _ = contents
    return Index(folder, *contents, _searcher(folder, kind or manifest.kind, manifest, vectors))


def open_contents(
    folder: Path, *, expect_fingerprint: str | None, tokenizer: Tokenizer | None, verify: bool = False
) -> Contents:
    """Opens what lies in an index without its searcher; errors as open_index."""
    manifest = read_index_manifest(folder, verify=verify)
    if expect_fingerprint is not None and manifest.encoder_fingerprint != expect_fingerprint:
        fail(
            f"{folder}: made by passage encoder {manifest.encoder_fingerprint}, not by {expect_fingerprint}; "
            f"build it again with {BUILD} or use the encoder it was made with"
        )
    vectors = Vectors(folder, manifest.count, manifest.width, manifest.dtype, manifest.shard_size)
    passages = PassageStore.open(folder / "passages", tokenizer=tokenizer)
    if passages.checksum != manifest.passages_checksum or len(passages) != manifest.count:
        fail(f"{folder / 'passages'}: not the passages of the vectors beside it; build it again with {BUILD}")
    return Contents(manifest, vectors, passages)


def read_index_manifest(folder: Path, *, verify: bool = False) -> IndexManifest:
    """Reads the manifest and checks its files; UserError when the index is missing, unfinished or damaged."""
    path = folder / MANIFEST
    if not path.exists():
        fail(f"{folder}: holds no finished index ({MANIFEST} is missing); build it with {BUILD}")
    try:
        return IndexManifest(**read_manifest(folder, FOLDER_KIND, verify=verify)["index"])
    except (KeyError, TypeError) as error:
        fail(f"{path}: does not describe an index ({error}); build it again with {BUILD}")


def write_index_manifest(folder: Path, manifest: IndexManifest) -> None:
    """Writes the manifest with every file's checksum: the last act of a build."""
    write_manifest(folder, {"kind": FOLDER_KIND, "index": asdict(manifest)})


def _searcher(folder: Path, kind: str, manifest: IndexManifest, vectors: Vectors) -> Searcher:
    if kind == "exact":
        return ExactSearcher(vectors)
    if kind == "scann" and manifest.kind == "scann":
        return ScannSearcher(folder / "scann", manifest.search)
    fail(
        f"{folder}: made for index.kind = {manifest.kind!r}, it cannot be searched as {kind!r}; "
        f"build it again with {BUILD}"
    )
