"""Weights in every form, damaged: each tensor is read, or one line says what is wrong and where."""

import io
import shutil
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from rag_jax.hub.tensors import BIN, SAFETENSORS, open_tensors

from .inputs import as_bytes, as_json, damaged, nearly, told

pytestmark = pytest.mark.more
TABLE = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1.5, -2.0], np.float16)}
# What stands before the numbers of a file of safetensors.
HEADERS = (
    {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}},
    {"a": {"dtype": "BF16", "shape": [], "data_offsets": [0, 2]}, "__metadata__": {"format": "pt"}},
    {"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}},
    {"a": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}},
)


def binary(value, *, zipped=True):
    """A value as torch saves it, today or as it once did."""
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


STATE = {name: torch.from_numpy(array) for name, array in TABLE.items()}
BINARIES = (
    *(binary(STATE, zipped=zipped) for zipped in (True, False)),
    binary({"a": torch.zeros(2, dtype=torch.bfloat16), "b": torch.zeros(2, dtype=torch.int64)}),
    binary([1, 2]),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tensors")


def check(folder, name, content):
    """A checkpoint's file of that content gives numbers of the shapes that it says, or is refused."""
    box = folder / "box"
    shutil.rmtree(box, ignore_errors=True)
    box.mkdir()
    (box / name).write_bytes(content)
    tensors = told(lambda: open_tensors(box), box / name) or {}
    for tensor in tensors.values():
        array = told(lambda tensor=tensor: np.asarray(tensor), box / name)
        assert array is None or (array.dtype.itemsize > 1 and array.shape == tensor.shape)


@given(damaged(save(TABLE)))
def test_safetensors(folder, content):
    check(folder, SAFETENSORS, content)


@given(nearly(HEADERS), st.integers(0, 24))
def test_headers_of_safetensors(folder, header, size):
    """Of every length that there is in the header, and of fewer numbers than that."""
    told_of = as_bytes(as_json(header))
    check(folder, SAFETENSORS, struct.pack("<Q", len(told_of)) + told_of + bytes(size))


@given(st.sampled_from(BINARIES).flatmap(damaged))
def test_old_binaries(folder, content):
    check(folder, BIN, content)


@given(nearly(({"weight_map": {"a.weight": SAFETENSORS, "b": SAFETENSORS}}, {"metadata": {"total_size": 28}})))
def test_tables_of_shards(folder, table):
    box = folder / "shards"
    box.mkdir(exist_ok=True)
    (box / "one.safetensors").write_bytes(save(TABLE))
    (box / f"{SAFETENSORS}.index.json").write_bytes(as_bytes(as_json(table).replace(SAFETENSORS, "one.safetensors")))
    tensors = told(lambda: open_tensors(box), box)
    assert tensors is None or tensors.keys() == TABLE.keys()
