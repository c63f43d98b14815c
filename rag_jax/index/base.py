"""An index: a folder of passages, their vectors, a searcher, and a manifest naming the passage encoder."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from rag_jax.data.passages import PassageStore
from rag_jax.data.tokenizer import Tokenizer
from rag_jax.errors import UserError, fail
from rag_jax.files import MANIFEST, check_files, read_manifest, write_manifest
from rag_jax.index import hybrid
from rag_jax.index.bm25 import Bm25Searcher
from rag_jax.index.searchers import SEARCHERS, Searcher, has_vectors, open_searchers
from rag_jax.index.vectors import VECTORS, Vectors
from rag_jax.progress import tell, waiting
from rag_jax.storage import pull, shown, twin

FOLDER_KIND = "passage index"
BUILD = "`python -m rag_jax.build_index`"
TRIES = 3  # to open an index in whose place others are put meanwhile

T = TypeVar("T")
Maker = Callable[[Vectors, PassageStore], Searcher]  # of a searcher


class Queries(NamedTuple):
    """B questions: their texts, and for an index that compares vectors their embeddings [B, E]."""

    text_B: list[str]
    vector_BE: np.ndarray | None


@dataclass(frozen=True)
class IndexManifest:
    """What an index remembers.

    width: of the vectors; 0 for 'bm25', which has none.
    encoder_fingerprint: of the passage encoder's weights, pooling and passage prefix; for 'bm25' the name of its
      settings, which the scores depend on.
    score_scale: what the caller multiplies inner products with before the softmax; never changes the order.
    search: the parameters of each searcher, by its name.
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
    """An open index; `vectors` [N, E] and `passages` are memory-mapped.

    searcher: compares vectors. bm25: compares words. An index of kind 'hybrid' has both.
    files: size and SHA-256 of each by its name; the folder may hold another index by now.
    """

    folder: Path
    manifest: IndexManifest
    vectors: Vectors | None
    passages: PassageStore
    searcher: Searcher | None
    bm25: Bm25Searcher | None
    files: dict[str, Any]

    @property
    def by_vector(self) -> bool:
        """Whether questions must be encoded, and scores are inner products; BM25 brings scores of its own."""
        return self.searcher is not None

    def vectors_checksum(self) -> str:
        """16 hexadecimal digits over the vectors' files: one encoder makes others of passages cut elsewhere."""
        sums = sorted((name, entry["sha256"]) for name, entry in self.files.items() if name.startswith(VECTORS))
        return hashlib.sha256(str(sums).encode()).hexdigest()[:16]

    def search(self, queries: Queries, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (id_BK int64, score_BK fp32): the k passages with the largest scores, best first.

        Scores are unscaled inner products, or BM25's. Equal scores come by lower id; places past the corpus hold id -1
        and score -inf. A hybrid index returns inner products too, in the order of the fused ranks (index/hybrid.py).
        Raises UserError for embeddings that are missing, of another width or not finite.
        """
        if k < 1:
            fail(f"retrieval.k: {k}; expected at least 1")
        if self.searcher is None:
            assert self.bm25 is not None  # there is one of both at least
            return self.bm25.search(queries.text_B, k)
        vector_BE = self._checked(queries.vector_BE)
        if self.bm25 is None:
            return self.searcher.search(vector_BE, k)
        depth = max(k, hybrid.DEPTH)
        by_vector_BD, _ = self.searcher.search(vector_BE, depth)
        id_BK = hybrid.fuse((by_vector_BD, self.bm25.matches(queries.text_B, depth)), k)
        assert self.vectors is not None  # what the searcher compares
        score_BK = np.einsum("BE,BKE->BK", vector_BE, self.vectors.gather(id_BK))
        return id_BK, np.where(id_BK >= 0, score_BK, np.float32(-np.inf))

    def _checked(self, vector_BE: np.ndarray | None) -> np.ndarray:
        width = self.manifest.width
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
        return vector_BE


class Contents(NamedTuple):
    """What an index holds beside its searchers."""

    manifest: IndexManifest
    vectors: Vectors | None
    passages: PassageStore


def open_index(
    folder: str | Path,
    *,
    expect_fingerprint: str | None = None,
    tokenizer: Tokenizer | None = None,
    kind: str | None = None,
    verify: bool = False,
    searcher: Maker | None = None,
) -> Index:
    """Opens a finished index; `verify` hashes every file.

    kind: another way to search than the one it was made for: 'exact' where there are vectors, and either half of a
    hybrid index. searcher: makes what compares the vectors, in place of all that.

    Raises UserError when the folder holds no finished index or a damaged file, when another passage encoder
    than `expect_fingerprint` made the vectors, or when `tokenizer`, the generator's, did not make the tokens.
    """
    folder = pull(twin(folder))

    def opened() -> Index:
        contents = _opened_contents(folder, expect_fingerprint, tokenizer, verify)
        manifest, vectors, passages = contents
        files = read_manifest(folder, FOLDER_KIND)["files"]
        if searcher is not None and vectors is not None:
            return Index(folder, *contents, searcher(vectors, passages), None, files)
        wanted = kind or manifest.kind
        if not verify:  # the searchers' files, which their libraries load without a check
            names = SEARCHERS.get(wanted, ())
            check_files(folder, {name: entry for name, entry in files.items() if name.split("/")[0] in names})
        with waiting(f"{folder}: being opened"):
            made = open_searchers(folder, wanted, manifest.kind, manifest.search, vectors)
        return Index(folder, *contents, *made, files)

    return _of_one_index(folder, opened)


def open_contents(
    folder: Path, *, expect_fingerprint: str | None, tokenizer: Tokenizer | None, verify: bool = False
) -> Contents:
    """Opens what lies in an index without its searchers; errors as open_index."""
    return _of_one_index(folder, lambda: _opened_contents(folder, expect_fingerprint, tokenizer, verify))


def _of_one_index(folder: Path, opened: Callable[[], T]) -> T:
    """What `opened` opens, file by file; once more where a build has put another index in its place meanwhile.

    Else the manifest might be the old one's, and the vectors the new one's, of another encoder.
    Raises UserError where that happens time and again.
    """
    seen = "another took its place"
    for _ in range(TRIES):
        before = _manifest_bytes(folder)
        try:
            found = opened()
            if _manifest_bytes(folder) == before:
                return found
            del found  # its memory is needed for the next
        except (FileNotFoundError, UserError) as error:
            if _manifest_bytes(folder) == before:
                raise
            seen = str(error)
    fail(
        f"{shown(folder)}: changed each of {TRIES} times that it was opened ({seen}); expected an index that stays "
        f"meanwhile; wait until {BUILD} has ended"
    )


def _manifest_bytes(folder: Path) -> bytes | None:
    """They tell one index from another, for they hold every file's SHA-256; None where there are none."""
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError:
        return None


def _opened_contents(
    folder: Path, expect_fingerprint: str | None, tokenizer: Tokenizer | None, verify: bool
) -> Contents:
    manifest = read_index_manifest(folder, verify=verify)
    if expect_fingerprint is not None and manifest.encoder_fingerprint != expect_fingerprint:
        fail(
            f"{folder}: made by passage encoder {manifest.encoder_fingerprint}, not by {expect_fingerprint}; "
            f"build it again with {BUILD} or use the encoder it was made with"
        )
    shape = manifest.count, manifest.width, manifest.dtype, manifest.shard_size
    vectors = Vectors(folder, *shape) if has_vectors(manifest.kind) else None
    passages = PassageStore.open(folder / "passages", tokenizer=tokenizer)
    if passages.checksum != manifest.passages_checksum or len(passages) != manifest.count:
        fail(f"{folder / 'passages'}: not the passages of the vectors beside it; build it again with {BUILD}")
    return Contents(manifest, vectors, passages)


def check_kind(kind: str, index: Index, *, as_built: bool = True) -> None:
    """UserError where config.index.kind is of vectors and the index of words, or the other way round.

    as_built: whether its own searcher searches it; then another kind of the same family is noted.
    """
    built = index.manifest.kind
    if index.by_vector != has_vectors(kind):
        fail(
            f"config.index.kind: found {kind!r}, but {shown(index.folder)} was made for {built!r}; set that, or build "
            f"the index again with {BUILD}"
        )
    if kind != built and as_built:
        tell(
            f"note: config.index.kind is {kind!r}, but {shown(index.folder)} was built as {built!r}, and is searched so"
        )


def verify_index(folder: Path) -> str:
    """Reads every byte of an index and of its passages and compares checksums; returns what was read, in words.

    Raises UserError naming the first file that is damaged.
    """
    manifest, vectors, passages = open_contents(folder, expect_fingerprint=None, tokenizer=None, verify=True)
    if vectors is not None:
        vectors.check()
    passages.check()
    sizes = [entry["size"] for entry in read_manifest(folder, FOLDER_KIND)["files"].values()]
    return f"{manifest.count:,} passages, {manifest.kind} index, {len(sizes)} files, {sum(sizes):,} bytes read"


def read_index_manifest(folder: Path, *, verify: bool = False) -> IndexManifest:
    """Reads the manifest and checks its files; UserError when the index is missing, unfinished or damaged."""
    path = folder / MANIFEST
    if not path.exists():
        fail(f"{shown(folder)}: holds no finished index ({MANIFEST} is missing); build it with {BUILD}")
    try:
        manifest = IndexManifest(**read_manifest(folder, FOLDER_KIND, verify=verify)["index"])
        searchers = SEARCHERS[manifest.kind]
    except (KeyError, TypeError) as error:
        fail(f"{path}: does not describe an index ({error}); build it again with {BUILD}")
    if set(manifest.search) != set(searchers):
        fail(f"{path}: made by an earlier version of this program; build it again with {BUILD}")
    return manifest


def write_index_manifest(folder: Path, manifest: IndexManifest) -> None:
    """Writes the manifest with every file's checksum: the last act of a build."""
    write_manifest(folder, {"kind": FOLDER_KIND, "index": asdict(manifest)})
