"""Labels told in place of answers: by hand from the whole model's probabilities, with documents that are not there."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from rag_jax.decode.classify import classify, names
from rag_jax.models.rag import init_classifier

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("compiled_in_haste")]
LABELS = (9, 4, 17)
B, K = 3, 2


@pytest.fixture(scope="module")
def inputs(make_inputs):
    """(sources, prior): the last question has no document, the second only its first."""
    source_BKS, prior_BK = make_inputs(5, B, K)
    prior_BK = np.array(prior_BK)
    prior_BK[1], prior_BK[2] = (0.0, -np.inf), -np.inf
    return source_BKS, prior_BK


@pytest.fixture(scope="module")
def params(tiny, make_params):
    return make_params(2) | init_classifier(replace(tiny[0], classes=len(LABELS)), jax.random.key(1))


@pytest.fixture(scope="module")
def tell(tiny, params, inputs):
    """tell('token' or 'head', other sources, other claims): after `</s> <s>`, or after the claims again."""
    compiled = jax.jit(classify, static_argnums=0)
    ways = {"token": replace(tiny[0], label_tokens=LABELS), "head": replace(tiny[0], classes=len(LABELS))}

    def tell(way, source_BKS=inputs[0], claim_BT=((2, 0, 5, 6, 7), (2, 0, 8, 1, 1), (2, 0, 9, 10, 1))):
        read_BT = np.array(claim_BT if way == "head" else [[2, 0]] * B, np.int32)
        return jax.device_get(compiled(ways[way], params, source_BKS, inputs[1], read_BT))

    return tell


def test_the_probability_of_a_word_is_that_of_the_next_token(tiny, params, inputs, tell):
    (config, naive), (source_BKS, prior_BK), found = tiny, inputs, tell("token")
    for row in (0, 1):
        there = prior_BK[row] > -np.inf
        logp_KTV = naive.logp_KTV(params, source_BKS[row], [config.generator.bos_id])
        joint_KC = (prior_BK[row][:, None] + logp_KTV[:, 1][:, LABELS])[there]
        marginal_C = np.logaddexp.reduce(joint_KC, axis=0)
        order = np.argsort(-marginal_C)
        np.testing.assert_array_equal(found.token_BNT[row, :, 0], order)
        expected = (marginal_C - np.logaddexp.reduce(marginal_C))[order]
        np.testing.assert_allclose(found.log_prob_BN[row], expected, atol=1e-5)
        posterior = np.exp(joint_KC - marginal_C).T[order]
        np.testing.assert_allclose(found.posterior_BNK[row][:, there], posterior, atol=1e-5)


@pytest.mark.parametrize("way", ["token", "head"])
def test_probabilities_sum_to_one_over_labels_and_documents(tell, way):
    found = tell(way)
    assert (np.diff(found.log_prob_BN[:2], axis=1) <= 0).all() and found.posterior_BNKT is None
    np.testing.assert_array_equal(np.sort(found.token_BNT[:, :, 0], axis=1), np.tile(np.arange(3), (B, 1)))
    np.testing.assert_allclose(np.exp(found.log_prob_BN[:2]).sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(found.posterior_BNK[:2].sum(axis=2), 1, rtol=1e-5)
    assert (found.posterior_BNK[1, :, 1] == 0).all()
    assert np.isneginf(found.log_prob_BN[2]).all() and (found.posterior_BNK[2] == 0).all()
    texts = names(found, ("a", "b", "c"))
    assert [set(row) for row in texts] == [{"a", "b", "c"}, {"a", "b", "c"}, {""}]


def test_the_head_reads_the_documents_that_are_there_and_the_claim(inputs, tell):
    (source_BKS, prior_BK), said = inputs, tell("head")
    other_BKS = np.where((prior_BK == -np.inf)[:, :, None], 7, source_BKS).astype(np.int32)
    jax.tree.map(np.testing.assert_array_equal, tell("head", other_BKS), said)
    assert (tell("head", source_BKS[:, ::-1]).log_prob_BN[:2] != said.log_prob_BN[:2]).all()
    changed = tell("head", claim_BT=((2, 0, 5, 6, 8), (2, 0, 8, 1, 1), (2, 0, 9, 10, 1)))
    assert (changed.log_prob_BN[0] != said.log_prob_BN[0]).all()
    np.testing.assert_array_equal(changed.log_prob_BN[1], said.log_prob_BN[1])
