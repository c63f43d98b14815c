"""Exact search over one and several devices against a stable sort of all products."""

import jax
import ml_dtypes
import numpy as np
import pytest

from rag_jax.errors import UserError
from rag_jax.index import exact
from rag_jax.index.exact import ExactSearcher
from rag_jax.index.vectors import Vectors, write_shard


def vectors_of(folder, vector_NE):
    write_shard(folder, 0, vector_NE)
    dtype = "float32" if vector_NE.dtype == np.float32 else "bfloat16"
    return Vectors(folder, *vector_NE.shape, dtype, len(vector_NE))


def whole_numbers(seed, *shape):
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def brute_force(query_BE, vector_NE, k):
    score_BN = query_BE @ vector_NE.T
    order_BK = np.argsort(-score_BN, axis=1, kind="stable")[:, :k]
    return order_BK, np.take_along_axis(score_BN, order_BK, 1)


@pytest.mark.parametrize(("devices", "block"), [(1, 8), (3, 8), (4, 2)])
def test_equals_brute_force_with_duplicates_and_a_zero_vector(tmp_path, devices, block):
    vector_NE, query_BE = whole_numbers(0, 29, 4), whole_numbers(1, 5, 4)
    vector_NE[[4, 11, 28]] = vector_NE[7]
    vector_NE[13] = 0
    searcher = ExactSearcher(vectors_of(tmp_path, vector_NE), devices=jax.devices()[:devices], block=block)
    with jax.transfer_guard("disallow"):
        id_BK, score_BK = searcher.search(query_BE, 9)
    expected_id, expected_score = brute_force(query_BE, vector_NE, 9)
    np.testing.assert_array_equal(id_BK, expected_id)
    np.testing.assert_array_equal(score_BK, expected_score)
    assert id_BK.dtype == np.int64 and score_BK.dtype == np.float32


@pytest.mark.parametrize("devices", [1, 2])
def test_k_above_the_corpus_leaves_places_marked_missing(tmp_path, devices):
    vector_NE = np.array([[1.0], [3.0], [2.0]], np.float32)
    searcher = ExactSearcher(vectors_of(tmp_path, vector_NE), devices=jax.devices()[:devices], block=1)
    id_BK, score_BK = searcher.search(np.array([[1.0]], np.float32), 5)
    np.testing.assert_array_equal(id_BK, [[1, 2, 0, -1, -1]])
    np.testing.assert_array_equal(score_BK, [[3, 2, 1, -np.inf, -np.inf]])


def test_a_single_passage(tmp_path):
    searcher = ExactSearcher(vectors_of(tmp_path, np.array([[2.0, 1.0]], np.float32)))
    id_BK, score_BK = searcher.search(np.array([[1.0, 3.0]], np.float32), 1)
    assert (id_BK.tolist(), score_BK.tolist()) == ([[0]], [[5.0]])


def test_bf16_vectors_stay_bf16_on_the_device_and_score_in_fp32(tmp_path):
    vector_NE = np.random.default_rng(2).standard_normal((40, 8)).astype(ml_dtypes.bfloat16)
    query_BE = np.random.default_rng(3).standard_normal((3, 8)).astype(np.float32)
    searcher = ExactSearcher(vectors_of(tmp_path, vector_NE))
    assert searcher._shards[0][0].dtype == ml_dtypes.bfloat16
    id_BK, score_BK = searcher.search(query_BE, 4)
    expected_id, expected_score = brute_force(query_BE, vector_NE.astype(np.float32), 4)
    np.testing.assert_array_equal(id_BK, expected_id)
    np.testing.assert_allclose(score_BK, expected_score, rtol=1e-6, atol=1e-6)


def test_same_shapes_compile_once(tmp_path):
    searcher = ExactSearcher(vectors_of(tmp_path, whole_numbers(0, 30, 5)))
    searcher.search(whole_numbers(1, 7, 5), 3)
    before = exact._search._cache_size()
    searcher.search(whole_numbers(2, 7, 5), 3)
    assert exact._search._cache_size() == before


def test_more_passages_than_int32_ids_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(exact, "LIMIT", 2)
    with pytest.raises(UserError, match="3 passages; at most 2 have int32 ids"):
        ExactSearcher(vectors_of(tmp_path, whole_numbers(0, 3, 2)))
