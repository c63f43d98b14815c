"""Exact search over one and several devices against a stable sort of all products."""

import jax
import ml_dtypes
import numpy as np
import pytest

from rag_jax.errors import UserError
from rag_jax.index import exact
from rag_jax.index.exact import ExactSearcher, padded
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


@pytest.mark.parametrize(("block", "dtype"), [(2, np.float32), (8, ml_dtypes.bfloat16)])
def test_equals_brute_force_on_any_number_of_devices_with_duplicates_and_zero_vectors(tmp_path, block, dtype):
    """29 passages divide over no number of devices; sums of whole numbers have no rounding to hide behind."""
    vector_NE, query_BE = whole_numbers(0, 29, 4), whole_numbers(1, 5, 4)
    vector_NE[[4, 11, 28]] = vector_NE[7]
    vector_NE[[0, 13, 27]] = 0
    query_BE[3] = 0  # all passages tie
    vectors = vectors_of(tmp_path, vector_NE.astype(dtype))
    expected_id, expected_score = brute_force(query_BE, vector_NE, 9)
    for devices in (1, 2, 8):
        searcher = ExactSearcher(vectors, devices=jax.devices()[:devices], block=block)
        with jax.transfer_guard("disallow"):
            id_BK, score_BK = searcher.search(query_BE, 9)
        np.testing.assert_array_equal(id_BK, expected_id)
        np.testing.assert_array_equal(score_BK, expected_score)
        assert id_BK.dtype == np.int64 and score_BK.dtype == np.float32


def test_padding_is_never_found_even_where_every_score_is_below_its_zero(tmp_path):
    vector_NE = -np.arange(1, 20, dtype=np.float32)[:, None]
    for devices in (1, 2):
        searcher = ExactSearcher(vectors_of(tmp_path, vector_NE), devices=jax.devices()[:devices], block=8)
        id_BK, score_BK = searcher.search(np.ones((1, 1), np.float32), 25)
        np.testing.assert_array_equal(id_BK, [[*range(19), *[-1] * 6]])
        np.testing.assert_array_equal(score_BK, [[*vector_NE[:, 0], *[-np.inf] * 6]])


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


def test_bf16_vectors_add_up_in_fp32(tmp_path):
    """256 + 1 is 256 in bf16: one who adds there would see no difference between these."""
    vector_NE = np.ones((4, 257), ml_dtypes.bfloat16)
    for row in range(4):
        vector_NE[row, 256 - row :] = 0
    searcher = ExactSearcher(vectors_of(tmp_path, vector_NE))
    id_BK, score_BK = searcher.search(np.ones((1, 257), np.float32), 4)
    np.testing.assert_array_equal(id_BK, [[0, 1, 2, 3]])
    np.testing.assert_array_equal(score_BK, [[256, 255, 254, 253]])


def test_few_programs_for_all_sizes(tmp_path):
    """One for numbers of passages, or of questions, up to the next power of two; above 8 blocks an eighth apart."""
    compiled = set()
    for count in (30, 20, 17, 32):
        (tmp_path / str(count)).mkdir()
        searcher = ExactSearcher(vectors_of(tmp_path / str(count), whole_numbers(0, count, 5)))
        for questions in (7, 5):
            searcher.search(whole_numbers(1, questions, 5), 3)
            compiled.add(exact.search_shard._cache_size())
    assert len(compiled) == 1
    assert [padded(rows, 8) for rows in (1, 3, 8, 9, 24, 25, 200, 1000, 1025)] == [1, 4, 8, 16, 24, 32, 208, 1024, 1152]
    for rows in range(65, 5000, 7):
        assert rows <= padded(rows, 8) <= rows * 9 / 8


def test_below_a_recall_target_of_1_other_devices_than_a_tpu_stay_exact(tmp_path):
    random = np.random.default_rng(2)
    vector_NE, query_BE = (random.standard_normal((count, 6), np.float32) for count in (60, 4))
    vectors = vectors_of(tmp_path, vector_NE)
    for devices in (1, 2):
        searcher = ExactSearcher(vectors, recall_target=0.9, devices=jax.devices()[:devices], block=8)
        id_BK, score_BK = searcher.search(query_BE, 7)
        expected_id, expected_score = brute_force(query_BE, vector_NE, 7)
        np.testing.assert_array_equal(id_BK, expected_id)
        np.testing.assert_allclose(score_BK, expected_score, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("recall", "approximate"), [(0.9, True), (1.0, False)])
def test_a_tpu_is_told_to_approximate_and_of_how_many_passages(recall, approximate):
    """Lowered for a TPU, without one: shapes only; what it finds is not known here."""
    shape = jax.ShapeDtypeStruct
    number = shape((), np.int32)
    arguments = shape((4, 8), np.float32), shape((128, 8), ml_dtypes.bfloat16), number, number
    settings = {"k": 3, "block": 64, "recall": recall, "of": 1024}
    program = jax.export.export(exact.search_shard, platforms=["tpu"])(*arguments, **settings)
    assert [out.shape for out in program.out_avals] == [(4, 3), (4, 3)]
    text = program.mlir_module()
    assert ("@ApproxTopK" in text) == ("reduction_input_size_override = 1024" in text) == approximate


def test_more_passages_than_int32_ids_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(exact, "LIMIT", 2)
    with pytest.raises(UserError, match="3 passages; at most 2 have int32 ids"):
        ExactSearcher(vectors_of(tmp_path, whole_numbers(0, 3, 2)))
