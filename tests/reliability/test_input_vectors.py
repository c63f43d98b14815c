"""Vectors in every form, nearly right: arrays and their ids, flat faiss files, DPR's pickles; read, or refused."""

import io
import json
import pickle
import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rag_jax.data.embeddings import open_embeddings
from rag_jax.data.ids import IdRows, IdSet
from rag_jax.errors import UserError

from .inputs import TEXT, VALUES, as_bytes, as_file, as_json, damaged, is_text, nearly, told

pytestmark = pytest.mark.more
VECTOR_NE = np.arange(12, dtype=np.float32).reshape(4, 3)
HEADER = "<4siqqq?i"  # faiss's: kind, width, count, two numbers without meaning, trained, metric


def npy(array):
    """An array as numpy saves it."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def faiss(ids=None, width=3, count=4, numbers=12):
    """A flat index as faiss writes it, in a map of ids or not."""
    head = struct.pack(HEADER, b"IxMp", width, count, 1 << 20, 1 << 20, True, 0) if ids else b""
    flat = struct.pack(HEADER, b"IxFI", width, count, 1 << 20, 1 << 20, True, 0) + struct.pack("<Q", numbers)
    tail = struct.pack(f"<Q{len(ids)}q", len(ids), *ids) if ids else b""
    return head + flat + VECTOR_NE.tobytes() + tail


ARRAYS = tuple(
    npy(array)
    for array in (
        VECTOR_NE, VECTOR_NE.astype(np.float16), np.asfortranarray(VECTOR_NE, np.float64), VECTOR_NE.astype(">f4"),
        VECTOR_NE[0], np.zeros((0, 3), np.float32), np.zeros((4, 0), np.float32), np.arange(6).reshape(3, 2),
        np.zeros(4, [("a", "f4")]), np.array([["a", "b"]]),
    )
)  # fmt: skip
IDS = {
    ".txt": tuple(map(as_bytes, ("a\nb\nc\nd\n", "1\r\n2\r\n\r\n4", "a\nb\n"))),
    ".npy": tuple(map(npy, (np.arange(4), np.array(["a", "b", "c", "d"]), np.array(["\ud800"] * 4), np.zeros(4)))),
    ".json": tuple(map(as_bytes, ('["a", "b", "c", "d"]', "[1, 2, 3, 4]", '["\\ud800", 2, 3, 4]', "{}", "[" * 990))),
}
PICKLES = tuple(pickle.dumps(list(zip("abcd", VECTOR_NE, strict=True)), protocol) for protocol in (2, 3, 4, 5)) + tuple(
    pickle.dumps(value, 4)
    for value in (
        [(np.str_("a"), VECTOR_NE[0], "more"), [np.int64(2), VECTOR_NE[1]]], [("a", VECTOR_NE)], [], {}, [("a",)],
        [("\ud800", VECTOR_NE[0])], [("a", VECTOR_NE[0].astype(">f8")), ("b", VECTOR_NE[1].astype(">f8"))],
    )
)  # fmt: skip
LONG_MEMO = b"\x80\x03]r\xff\xff\xff\x7f."  # the place of a memo that C's reader of pickles makes room for
BYTEARRAY = b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"."
INDEXES = (faiss(), faiss([7, 8, 9, 10]), faiss(width=-3, count=-4), faiss(numbers=1 << 61), faiss([1], numbers=13))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("vectors")


def read(source):
    """All of a source: as many vectors as it says, of one width, and ids that may be looked up."""
    found = open_embeddings(str(source))
    chunks = found.ids()
    ids = None if chunks is None else [name for chunk in chunks for name in chunk]
    blocks = list(found.vectors())
    assert found.count() == sum(map(len, blocks)) and len({block.shape[1] for block in blocks}) <= 1
    assert all(block.dtype in (np.float16, np.float32, np.float64) for block in blocks)
    if ids is not None:
        assert is_text(*ids) and IdSet(ids).holds(ids).all()
    return ids, blocks


def check(folder, files):
    """A folder of these files, {name: content}, is read whole or refused."""
    for path in folder.iterdir():
        path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    told(lambda: read(folder), folder)


def any_of(contents):
    return st.sampled_from(contents).flatmap(damaged)


def test_vectors_without_numbers(folder):
    for path in folder.iterdir():
        path.unlink()
    (folder / "v.npy").write_bytes(ARRAYS[6])
    with pytest.raises(UserError, match=r"v\.npy: vectors without any number"):
        read(folder)


@given(st.dictionaries(st.sampled_from(("v1.npy", "v2.npy")), any_of(ARRAYS), min_size=1), st.data())
def test_arrays(folder, files, data):
    for suffix in data.draw(st.lists(st.sampled_from(sorted(IDS)), max_size=2)):
        files[f"v1.ids{suffix}"] = data.draw(any_of(IDS[suffix]))
    check(folder, files)


@given(any_of(INDEXES), st.none() | any_of(IDS[".txt"]))
@example(INDEXES[2], None)
@example(INDEXES[3], None)
def test_faiss_files(folder, index, ids):
    check(folder, {"v.faiss": index} | ({} if ids is None else {"v.ids.txt": ids}))


@given(any_of(PICKLES))
@example(LONG_MEMO)
@example(BYTEARRAY)
@example(pickle.dumps([("a", print)], 4))
def test_pickles(folder, content):
    check(folder, {"wikipedia_passages_0.pkl": content})


@given(nearly((["a", "b", 3, "d"], [1, 2, 3, 4])), st.lists(TEXT, max_size=5), VALUES)
def test_ids_beside_an_array(folder, ids, lines, more):
    for name, content in (
        ("v.ids.json", as_bytes(as_json(ids))),
        ("v.ids.txt", as_bytes("\n".join(lines))),
        ("v.ids.npy", npy(np.array([str(more).replace("\0", "")] * 4))),
    ):
        check(folder, {"v.npy": ARRAYS[0], name: content})


@given(st.lists(TEXT.map(lambda text: text.encode(errors="ignore").decode()), unique=True, min_size=1))
def test_an_id_is_found_in_its_row(ids):
    assert IdRows(ids).rows(ids).tolist() == list(range(len(ids)))
    assert IdRows(ids).rows([f"{ids[0]} and more"]).tolist() == [-1]
    assert IdSet().add(ids + ids).tolist() == [True] * len(ids) + [False] * len(ids)


@given(TEXT)
@example("\ud800../*")
def test_a_source_of_any_name(folder, name):
    for source in (f"{folder}/no{name}", f"{folder}/{name.replace('/', '')}*.npy"):
        told(lambda source=source: open_embeddings(source), source, folder)


@given(as_file(json.dumps(["a"] * 4).encode()))
def test_ids_of_any_json(folder, file):
    check(folder, {"v.npy": ARRAYS[0], "v.ids.json": file[1]})
