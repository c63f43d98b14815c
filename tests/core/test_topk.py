"""Blocked top-k against a sort of all products; ties, missing places and shard winners by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.core.topk import merge, topk

run = jax.jit(topk, static_argnames=("k", "block"))


def whole_numbers(seed, *shape):
    """Small integers in fp32: every inner product is exact, so equal scores are equal bits."""
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def brute_force(query_BE, vector_NE, k):
    score_BN = query_BE @ vector_NE.T
    order_BN = np.argsort(-score_BN, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(score_BN, order_BN, 1), order_BN


@pytest.mark.parametrize("block", [1, 4, 7, 23, 24, 100])
def test_equals_brute_force_with_many_ties_for_any_block(block):
    query_BE, vector_NE = whole_numbers(0, 5, 3), whole_numbers(1, 23, 3)
    score_BK, id_BK = run(query_BE, vector_NE, k=6, block=block)
    expected_score, expected_id = brute_force(query_BE, vector_NE, 6)
    np.testing.assert_array_equal(score_BK, expected_score)
    np.testing.assert_array_equal(id_BK, expected_id)
    assert score_BK.dtype == jnp.float32 and id_BK.dtype == jnp.int32


def test_k_above_the_corpus_leaves_places_marked_missing():
    vector_NE = jnp.array([[1.0], [3.0], [2.0]])
    score_BK, id_BK = run(jnp.array([[1.0]]), vector_NE, k=5, block=2)
    np.testing.assert_array_equal(id_BK, [[1, 2, 0, -1, -1]])
    np.testing.assert_array_equal(score_BK, [[3.0, 2.0, 1.0, -np.inf, -np.inf]])


def test_a_single_passage():
    score_BK, id_BK = run(jnp.array([[2.0], [-1.0]]), jnp.array([[3.0]]), k=1)
    np.testing.assert_array_equal(id_BK, [[0], [0]])
    np.testing.assert_array_equal(score_BK, [[6.0], [-3.0]])


def test_zero_and_minus_zero_tie():
    score_BK, id_BK = run(jnp.array([[-1.0]]), jnp.array([[0.0], [-0.0], [0.0]]), k=3, block=1)
    np.testing.assert_array_equal(id_BK, [[0, 1, 2]])
    np.testing.assert_array_equal(score_BK, np.zeros((1, 3)))


def test_bf16_vectors_are_scored_in_fp32():
    vector_NE = jnp.asarray(np.random.default_rng(2).standard_normal((40, 16)), jnp.bfloat16)
    query_BE = np.random.default_rng(3).standard_normal((4, 16)).astype(np.float32)
    score_BK, id_BK = run(query_BE, vector_NE, k=5, block=16)
    expected_score, expected_id = brute_force(query_BE, np.asarray(vector_NE, np.float32), 5)
    np.testing.assert_array_equal(id_BK, expected_id)
    np.testing.assert_allclose(score_BK, expected_score, rtol=1e-6, atol=1e-6)


def test_the_product_asks_for_highest_precision():
    jaxpr = str(jax.make_jaxpr(functools.partial(topk, k=2, block=4))(jnp.ones((2, 3)), jnp.ones((9, 3))))
    products = jaxpr.count("dot_general")
    assert products == 1 and "Precision.HIGHEST" in jaxpr


def test_never_holds_all_scores():
    jaxpr = str(jax.make_jaxpr(functools.partial(topk, k=2, block=4))(jnp.ones((2, 3)), jnp.ones((97, 3))))
    assert "[2,97]" not in jaxpr and "[97,2]" not in jaxpr


def test_merged_shard_winners_equal_the_search_of_the_whole():
    query_BE, vector_NE = whole_numbers(4, 5, 3), whole_numbers(5, 26, 3)
    parts = [run(query_BE, vector_NE[at : at + 13], k=20) for at in (13, 0)]
    score_SBK = jnp.stack([score for score, _ in parts])
    id_SBK = jnp.stack([jnp.where(ids < 0, ids, ids + at) for at, (_, ids) in zip((13, 0), parts, strict=True)])
    score_BK, id_BK = jax.jit(merge)(score_SBK, id_SBK)
    expected_score, expected_id = brute_force(query_BE, vector_NE, 20)
    np.testing.assert_array_equal(id_BK, expected_id)
    np.testing.assert_array_equal(score_BK, expected_score)


def test_merge_puts_missing_places_last():
    score_SBK = jnp.array([[[1.0, -np.inf]], [[-np.inf, -np.inf]]])
    id_SBK = jnp.array([[[7, -1]], [[-1, -1]]], jnp.int32)
    score_BK, id_BK = merge(score_SBK, id_SBK)
    np.testing.assert_array_equal(id_BK, [[7, -1]])
    np.testing.assert_array_equal(score_BK, [[1.0, -np.inf]])
