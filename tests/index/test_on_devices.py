"""Exact search inside a program: every device's questions among all devices' passages, in both modes."""

from functools import partial

import jax
import numpy as np
import pytest

from rag_jax.errors import UserError
from rag_jax.index import on_devices
from rag_jax.index.on_devices import OnDevices
from rag_jax.index.vectors import Vectors, write_shard
from rag_jax.parallel import Pmap, Sharded

K, B = 5, 16
MODES = {"pmap on 1": lambda: Pmap(jax.devices()[:1]), "pmap on 8": Pmap, "sharded": Sharded}


@pytest.fixture(scope="module")
def vector_of(store):
    """Whole numbers have no rounding, and many ties."""
    return np.random.default_rng(0).integers(-2, 3, (len(store), 4)).astype(np.float32)


@pytest.fixture(scope="module", params=MODES)
def opened(request, store, vector_of, tmp_path_factory):
    folder, parallel = tmp_path_factory.mktemp("vectors"), MODES[request.param]()
    write_shard(folder, 0, vector_of)
    vectors = Vectors(folder, *vector_of.shape, "float32", len(vector_of))
    return parallel, OnDevices(vectors, store, parallel, tokens=8, vocabulary=300)


def test_the_best_of_all_devices_are_found_with_their_vectors_and_tokens(opened, store, vector_of):
    parallel, index = opened
    query_BE = np.random.default_rng(1).integers(-2, 3, (B, 4)).astype(np.float32)

    def find(across, rows, texts, query_BE):
        score_BK, id_BK = on_devices.winners(across, rows, query_BE, k=K)
        return score_BK, id_BK, on_devices.fetch(across, rows, texts, id_BK, tokens=8)

    put = parallel.put_batch(query_BE)
    with jax.transfer_guard("disallow"):
        found = parallel.each(find)(index.rows, index.texts, put)
    score_BK, id_BK, found = parallel.to_host(found)
    score_BN = query_BE @ vector_of.T
    expected_BK = np.argsort(-score_BN, axis=1, kind="stable")[:, :K]
    np.testing.assert_array_equal(id_BK, expected_BK)
    np.testing.assert_array_equal(score_BK, np.take_along_axis(score_BN, expected_BK, 1))
    np.testing.assert_array_equal(found.vector_BKE, vector_of[expected_BK])
    tokens = store.tokens_of(expected_BK.reshape(-1))
    for (b, k), (title, text) in zip(np.ndindex(B, K), tokens, strict=True):
        assert (found.title_BK[b, k], found.text_BK[b, k]) == (len(title), len(text))
        whole = np.concatenate([title, text])[:8]
        np.testing.assert_array_equal(found.token_BKP[b, k, : len(whole)], whole)


def test_more_tokens_than_a_device_can_number_are_refused(store, vector_of, tmp_path, monkeypatch):
    write_shard(tmp_path, 0, vector_of)
    vectors = Vectors(tmp_path, *vector_of.shape, "float32", len(vector_of))
    monkeypatch.setattr(on_devices, "LIMIT", len(vector_of))
    with pytest.raises(UserError, match=r"tokens of passages on a device; at most .* have int32 places"):
        OnDevices(vectors, store, Pmap(jax.devices()[:1]), tokens=8, vocabulary=300)


def test_it_searches_as_other_searchers_do(opened, vector_of):
    """Any number of questions, and more places than passages."""
    _, index = opened
    query_BE = np.random.default_rng(2).integers(-2, 3, (3, 4)).astype(np.float32)
    id_BK, score_BK = index.search(query_BE, len(vector_of) + 2)
    score_BN = query_BE @ vector_of.T
    order_BN = np.argsort(-score_BN, axis=1, kind="stable")
    np.testing.assert_array_equal(id_BK, np.pad(order_BN, ((0, 0), (0, 2)), constant_values=-1))
    expected = np.pad(np.take_along_axis(score_BN, order_BN, 1), ((0, 0), (0, 2)), constant_values=-np.inf)
    np.testing.assert_array_equal(score_BK, expected)
    assert id_BK.dtype == np.int64


def test_a_place_without_a_passage_is_all_zero(opened):
    parallel, index = opened
    missing = parallel.put_batch(np.full((8, 2), -1, np.int32))
    fetch = parallel.each(partial(on_devices.fetch, tokens=8))
    assert not any(map(np.any, parallel.to_host(fetch(index.rows, index.texts, missing))))
