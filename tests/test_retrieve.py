"""What is retrieved: the prior over passages and a null document, fewer passages of a deep search, a closed book."""

import numpy as np
import pytest

from rag_jax.data.formats import Passage
from rag_jax.retrieve import Retrieved

PASSAGES = [Passage(name, name.upper(), f"text {name}") for name in "abcd"]
IDS = np.array([[2, 0, 3], [1, -1, -1]])
SCORES = np.float32([[5, 4, 0], [7, -np.inf, -np.inf]])


class Index:
    passages = PASSAGES


@pytest.mark.parametrize("null_B", [None, np.float32([1, -2])])
def test_the_prior_is_the_softmax_of_the_scores_and_the_null_documents_is_behind(null_B):
    found = Retrieved.of(IDS, SCORES, null_B, rows=8)
    weight_BK = np.exp(SCORES.astype(np.float64))
    if null_B is not None:
        np.testing.assert_array_equal(found.score_BK[:, 3], [3 + 1, 7 - 2])
        weight_BK = np.concatenate([weight_BK, np.exp([[4.0], [5.0]])], axis=1)
    np.testing.assert_array_equal(found.score_BK[:, :3], SCORES)
    np.testing.assert_allclose(np.exp(found.prior_BK), weight_BK / weight_BK.sum(axis=1, keepdims=True), rtol=1e-5)


def test_documents_are_passages_and_an_empty_one_behind_them():
    found = Retrieved.of(IDS, SCORES, None, rows=2)
    assert found.documents(0, Index) == [(0, PASSAGES[2]), (1, PASSAGES[0]), (2, PASSAGES[3])]
    assert found.documents(1, Index) == [(0, PASSAGES[1])]
    found = Retrieved.of(IDS, SCORES, np.float32([0, 0]), rows=2)
    assert found.documents(1, Index) == [(0, PASSAGES[1]), (3, Passage("", "", ""))]


@pytest.mark.parametrize("null_B", [None, np.float32([1, -2])])
def test_the_first_of_a_deep_search_are_what_a_shallow_one_finds(null_B):
    deep = Retrieved.of(IDS, SCORES, null_B, rows=2)
    for k in (1, 2, 3):
        shallow = Retrieved.of(IDS[:, :k], SCORES[:, :k], null_B, rows=2)
        for one, other in zip(deep.first(k), shallow, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_closed_book_finds_nothing_and_has_one_thing_to_read():
    found = Retrieved.nothing(2)
    assert found.ids_BK.shape == (2, 0) and found.documents(1, None) == []
    np.testing.assert_array_equal(found.prior_BK, [[0], [0]])
