"""Flat faiss files as faiss writes them, never whole in memory; and those that hold no exact vectors."""

import subprocess
import sys

import numpy as np
import pytest

from rag_jax.data import flat_faiss
from rag_jax.errors import UserError

faiss = pytest.importorskip("faiss")
VECTOR_NE = np.random.default_rng(0).normal(size=(5000, 4)).astype(np.float32)
NUMBERS = np.arange(5000) * 3 + 7


def write(path, index, ids=None):
    index.train(VECTOR_NE)
    index.add(VECTOR_NE) if ids is None else index.add_with_ids(VECTOR_NE, ids)
    faiss.write_index(index, str(path))
    return path


@pytest.mark.parametrize("flat", ["IndexFlatIP", "IndexFlatL2"])
@pytest.mark.parametrize("ids", [None, "IndexIDMap", "IndexIDMap2"])
def test_vectors_and_ids(tmp_path, flat, ids):
    index = getattr(faiss, flat)(4)
    path = write(tmp_path / "i.faiss", getattr(faiss, ids)(index) if ids else index, NUMBERS if ids else None)
    assert path.read_bytes().startswith(flat_faiss.FIRST_BYTES) and flat_faiss.count(path) == 5000
    assert np.concatenate(list(flat_faiss.vectors(path))).tobytes() == VECTOR_NE.tobytes()
    chunks = flat_faiss.ids(path)
    if ids is None:
        assert chunks is None
    else:
        assert [name for chunk in chunks for name in chunk] == list(map(str, NUMBERS))


@pytest.mark.parametrize(
    ("recipe", "name"), [("HNSW8", "IndexHNSWFlat"), ("IVF4,Flat", "IndexIVFFlat"), ("IDMap,SQ8", "IndexScalarQ")]
)
def test_an_index_of_another_kind_is_named(tmp_path, recipe, name):
    index = faiss.index_factory(4, recipe, faiss.METRIC_INNER_PRODUCT)
    path = write(tmp_path / "i.faiss", index, NUMBERS if "IDMap" in recipe else None)
    assert path.read_bytes().startswith(flat_faiss.FIRST_BYTES)
    with pytest.raises(UserError, match=rf"i\.faiss: {name}\w*; expected IndexFlatIP, IndexFlatL2 or an IndexIDMap"):
        flat_faiss.count(path)


@pytest.mark.parametrize("size", [3, 40, 9000])
def test_a_cut_file(tmp_path, size):
    path = write(tmp_path / "i.faiss", faiss.IndexFlatIP(4))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r"i\.faiss: cannot be read as a faiss index \(.*; it is cut, damaged"):
        flat_faiss.count(path)


def test_faiss_itself_is_not_needed(tmp_path):
    path = write(tmp_path / "i.faiss", faiss.IndexFlatIP(4))
    code = f"""
import sys
from pathlib import Path
sys.modules["faiss"] = None
from rag_jax.data import flat_faiss
print(flat_faiss.count(Path({str(path)!r})))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "5000\n"


def test_sizes_that_do_not_agree(tmp_path):
    path = write(tmp_path / "i.faiss", faiss.IndexIDMap(faiss.IndexFlatIP(4)), NUMBERS)
    whole = path.read_bytes()
    for at in (37, 41, 74):  # width and count of the inner index, how many numbers there are
        path.write_bytes(whole[: at + 4] + b"\x7f" + whole[at + 5 :])
        with pytest.raises(UserError, match=r"i\.faiss: cannot be read as a faiss index \(.*; it is cut, damaged"):
            flat_faiss.count(path)
