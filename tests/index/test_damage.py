"""One flipped bit anywhere in an index: named by --verify, and by nothing taken for a passage before."""

import shutil

import numpy as np
import pytest

from rag_jax.errors import UserError
from rag_jax.index.base import Queries, open_index, verify_index

TIMES = 12  # places in each file


def first_use(folder, vector_NE):
    """Everything that a reader of an index takes from it."""
    index = open_index(folder)
    ids_BK, score_BK = index.search(Queries(["a", "b"], vector_NE[:2]), 5)
    tokens = [[part.tolist() for part in pair] for pair in index.passages.tokens_of(range(23))]
    return (
        ids_BK.tolist(),
        score_BK.tolist(),
        index.vectors.gather(np.arange(23)).tolist(),
        list(index.passages),
        tokens,
    )


@pytest.mark.parametrize("kind", ["exact", "hybrid"])
def test_a_flipped_byte_is_named_by_verify_and_never_read_as_something_else(build, vector_NE, kind):
    """ScaNN's and BM25's files have no checksums inside: they are compared with the manifest when they are opened."""
    if kind == "hybrid":
        pytest.importorskip("scann")
        pytest.importorskip("bm25s")
    bm25 = {"method": "lucene", "k1": 0.9, "b": 0.4, "tokenizer": "words"}
    folder, _ = build(kind=kind, search={"bm25": bm25})
    for path in list(folder.rglob("*")):  # the store's files have a second name elsewhere
        if path.is_file():
            shutil.copy(path, path.with_suffix(".copy"))
            path.with_suffix(".copy").rename(path)
    whole = first_use(folder, vector_NE)
    assert "23 passages" in verify_index(folder)
    random = np.random.default_rng(0)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert {"manifest.json", "recipe.json", "vectors-00000.npy", "vectors-00000.crc.npy"} < set(names)
    assert {"passages/manifest.json", "passages/passages.arrow", "passages/rows.crc32"} < set(names)
    for name in names:
        content = (folder / name).read_bytes()
        places = random.integers(0, len(content), TIMES).tolist() if len(content) else []
        for place in {0, len(content) - 1, *places} if content else ():
            damaged = bytearray(content)
            damaged[place] ^= int(random.integers(1, 256))
            (folder / name).write_bytes(damaged)
            with pytest.raises(UserError) as caught:
                verify_index(folder)
            assert str(folder / name) in str(caught.value), (name, place)
            try:
                assert first_use(folder, vector_NE) == whole, (name, place)
            except UserError as error:
                assert str(folder) in str(error), (name, place)
        (folder / name).write_bytes(content)
    assert first_use(folder, vector_NE) == whole


def test_damage_older_than_the_manifest_is_found_by_the_blocks_own_checksums(build, vector_NE):
    """The manifest swears to the damaged file: it was hashed after the bit had flipped."""
    from rag_jax.index.base import read_index_manifest, write_index_manifest

    folder, _ = build()
    manifest = read_index_manifest(folder)
    damaged = bytearray((folder / "vectors-00001.npy").read_bytes())
    damaged[-1] ^= 1
    (folder / "vectors-00001.npy").write_bytes(damaged)
    write_index_manifest(folder, manifest)
    with pytest.raises(UserError, match=r"vectors-00001\.npy: rows 0 to 9 are damaged"):
        verify_index(folder)
