"""Shards on disk: what is written is read, in any dtype and across shards; damage is named."""

import ml_dtypes
import numpy as np
import pytest

from rag_jax.errors import UserError
from rag_jax.index.vectors import BLOCK, Vectors, is_whole, shard_path, write_shard


def written(folder, vector_NE, shard_size):
    for shard, start in enumerate(range(0, len(vector_NE), shard_size)):
        write_shard(folder, shard, vector_NE[start : start + shard_size])
    dtype = "float32" if vector_NE.dtype == np.float32 else "bfloat16"
    return Vectors(folder, *vector_NE.shape, dtype, shard_size)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_read_and_gather_cross_shards(tmp_path, dtype):
    vector_NE = np.random.default_rng(0).standard_normal((11, 3)).astype(dtype)
    vectors = written(tmp_path, vector_NE, 4)
    np.testing.assert_array_equal(vectors.read(0, 11), vector_NE)
    np.testing.assert_array_equal(vectors.read(3, 9), vector_NE[3:9])
    np.testing.assert_array_equal(vectors.read(4, 8), vector_NE[4:8])
    ids = np.array([[10, 0, 3], [4, 4, -1]])
    expected = vector_NE[ids].astype(np.float32)
    expected[1, 2] = 0
    got = vectors.gather(ids)
    assert got.dtype == np.float32 and vectors.read(0, 1).dtype == dtype
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("bad", [11, -2])
def test_ids_outside_the_index_are_refused(tmp_path, bad):
    vectors = written(tmp_path, np.ones((11, 3), np.float32), 4)
    with pytest.raises(IndexError, match="11 passages"):
        vectors.gather(np.array([bad]))


def test_a_flipped_bit_is_found_when_its_block_is_read_and_only_then(tmp_path):
    written(tmp_path, np.ones((BLOCK + 5, 2), np.float32), 2 * BLOCK)
    path = shard_path(tmp_path, 0)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    vectors = Vectors(tmp_path, BLOCK + 5, 2, "float32", 2 * BLOCK)
    vectors.gather(np.arange(BLOCK))
    with pytest.raises(UserError, match=rf"vectors-00000\.npy: rows {BLOCK} to {BLOCK + 4} are damaged"):
        vectors.gather(np.array([BLOCK + 1]))
    assert not is_whole(tmp_path, 0)


@pytest.mark.parametrize("content", [b"", b"not an array at all", None])
def test_an_unreadable_shard_is_named(tmp_path, content):
    written(tmp_path, np.ones((3, 2), np.float32), 4)
    path = shard_path(tmp_path, 0)
    path.write_bytes(content) if content is not None else path.unlink()
    with pytest.raises(UserError, match=r"vectors-00000\.npy"):
        Vectors(tmp_path, 3, 2, "float32", 4)
    assert not is_whole(tmp_path, 0)


def test_another_shape_or_dtype_is_refused(tmp_path):
    written(tmp_path, np.ones((3, 2), np.float32), 4)
    with pytest.raises(UserError, match=r"vectors-00000\.npy: float32 \[3, 2\]; expected float32 \[3, 5\]"):
        Vectors(tmp_path, 3, 5, "float32", 4)
    with pytest.raises(UserError, match=r"expected bfloat16 \[3, 2\]"):
        Vectors(tmp_path, 3, 2, "bfloat16", 4)
