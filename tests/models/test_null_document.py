"""The null document's logit by hand: where it starts, what is learned beside it, and what reaches it."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.core.marginal import document_log_prior
from rag_jax.models import null_document

KINDS = ("embedding", "bias", "network")
WIDTH = 6
learned = jax.jit(null_document.learned, static_argnums=0)


@jax.jit
def appended(score_BK, mask_BK, learned_B):
    """Scores and mask with the null document, and the prior over all of them."""
    found_BK, mask_BK = null_document.appended(score_BK, mask_BK, learned_B)
    return found_BK, mask_BK, jnp.exp(document_log_prior(found_BK, mask_BK))


@pytest.fixture(scope="module")
def query_BE():
    return np.random.default_rng(0).normal(size=(3, WIDTH)).astype(np.float32)


@cache
def fresh(kind):
    """Parameters as they start."""
    return null_document.init(kind, WIDTH, jax.random.key(0))


def drawn(kind, seed=1):
    """Parameters that are 0 nowhere."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), fresh(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_as_one_more_passage_of_average_score(kind, query_BE):
    """However large the scores are: of passages that are alike it is the like, and beside a better one it is not."""
    learned_B = np.broadcast_to(learned(kind, fresh(kind), query_BE), 3)
    np.testing.assert_array_equal(learned_B, 0)
    for shift in (0.0, 70.0, -1000.0):
        score_BK = np.float32([[0, 0, 0], [2, -1, -1], [0, 0, 9]]) + np.float32(shift)
        _, mask_BK, prior_BK = appended(score_BK, np.ones((3, 3), bool), learned_B)
        assert mask_BK.all()
        np.testing.assert_allclose(prior_BK[0], 0.25, rtol=1e-5)
        weight = np.exp([[2, -1, -1, 0], [0, 0, 9, 3]])
        np.testing.assert_allclose(prior_BK[1:], weight / weight.sum(axis=1, keepdims=True), rtol=1e-3)


def test_what_is_learned_by_hand(query_BE):
    embedding, bias, network = (drawn(kind) for kind in KINDS)
    learned_B = learned("embedding", embedding, query_BE)
    np.testing.assert_allclose(learned_B, query_BE @ embedding["embedding"], rtol=1e-5)
    assert learned("bias", bias, None) == np.float32(30) * bias["bias"]
    hidden, out = network["hidden"], network["out"]
    assert hidden["kernel"].shape == (WIDTH, 128)
    expected_B = np.tanh(query_BE @ hidden["kernel"] + hidden["bias"]) @ out["kernel"][:, 0] + out["bias"]
    np.testing.assert_allclose(learned("network", network, query_BE), expected_B, rtol=1e-4)


def test_a_vector_beside_the_average_passage_is_what_the_embedding_is(query_BE):
    """mean_k <q, d_k> + <q, d_0> = <q, mean_k d_k + d_0>."""
    document_BKE = np.random.default_rng(2).normal(size=(3, 3, WIDTH)).astype(np.float32)
    score_BK, params = np.einsum("BE,BKE->BK", query_BE, document_BKE), drawn("embedding")
    learned_B = learned("embedding", params, query_BE)
    found_BK, *_ = appended(score_BK, np.ones((3, 3), bool), learned_B)
    null_BE = document_BKE.mean(axis=1) + params["embedding"]
    np.testing.assert_allclose(found_BK[:, 3], (query_BE * null_BE).sum(axis=1), rtol=1e-4)
    np.testing.assert_array_equal(found_BK[:, :3], score_BK)


def test_missing_passages_do_not_count_and_without_any_it_is_all_there_is():
    score_BK = np.float32([[3, 1, -np.inf], [5, -np.inf, -np.inf], [-np.inf] * 3])
    found_BK, mask_BK, prior_BK = appended(score_BK, np.isfinite(score_BK), np.float32([0.5, 0, 0.25]))
    np.testing.assert_array_equal(found_BK[:, 3], [2.5, 5, 0.25])
    np.testing.assert_array_equal(mask_BK, [[1, 1, 0, 1], [1, 0, 0, 1], [0, 0, 0, 1]])
    np.testing.assert_allclose(prior_BK[1:], [[0.5, 0, 0, 0.5], [0, 0, 0, 1]], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_learned_has_a_gradient_from_the_start(kind, query_BE):
    """Of a network the last layer, and with that the rest."""

    @jax.jit
    @jax.grad
    def of_prior(params):
        learned_B = null_document.learned(kind, params, query_BE)
        score_BK, mask_BK = jnp.float32([[75, 73, 72]] * 3), jnp.ones((3, 3), bool)
        return document_log_prior(*null_document.appended(score_BK, mask_BK, learned_B))[0, 3]

    assert any((leaf != 0).any() for leaf in jax.device_get(jax.tree.leaves(of_prior(fresh(kind)))))
    assert all((leaf != 0).any() for leaf in jax.device_get(jax.tree.leaves(of_prior(drawn(kind)))))


@pytest.mark.parametrize("kind", ["embedding", "network"])
def test_it_is_fp32_at_highest_precision(kind):
    query_BE = jax.ShapeDtypeStruct((2, WIDTH), jnp.bfloat16)
    traced = jax.make_jaxpr(partial(null_document.learned, kind, drawn(kind)))(query_BE)
    products = [e for e in traced.eqns if e.primitive.name == "dot_general"]
    assert products
    for product in products:
        assert product.params["precision"] == (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
        assert {v.aval.dtype for v in (*product.invars, *product.outvars)} == {jnp.dtype("float32")}
