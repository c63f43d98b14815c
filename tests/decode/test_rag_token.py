from functools import partial

import jax
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from numpy.testing import assert_allclose, assert_array_equal

from rag_jax.core.marginal import document_posterior, rag_token_log_likelihood
from rag_jax.decode import rag_token
from rag_jax.decode.generate import DecodeConfig, generate

LENGTH = 8


@pytest.fixture(scope="module")
def greedy(tiny):
    config, _ = tiny
    return partial(generate, config, DecodeConfig("token", LENGTH))


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_search_without_cache_or_batch(tiny, greedy, make_params, make_inputs, seed):
    _, naive = tiny
    params, (source_BKS, prior_BK) = make_params(seed), make_inputs(seed, 2, 3)
    generated = greedy(params, source_BKS, prior_BK)
    assert generated.token_BT.dtype == np.int32
    for b in range(2):
        token_T, log_prob, posterior_KT = naive.greedy(params, source_BKS[b], prior_BK[b])
        assert_array_equal(generated.token_BT[b], token_T)
        assert_allclose(generated.log_prob_B[b], log_prob, rtol=1e-5)
        said = posterior_KT.shape[1]
        assert_allclose(generated.posterior_BKT[b, :, :said], posterior_KT, rtol=1e-4, atol=1e-5)
        unsaid_KT = np.broadcast_to(prior_BK[b][:, None], (3, LENGTH - said))
        assert_array_equal(generated.posterior_BKT[b, :, said:], unsaid_KT)


def test_the_cases_are_varied(greedy, make_params, make_inputs):
    answers = np.concatenate([greedy(make_params(seed), *make_inputs(seed, 2, 3)).token_BT for seed in range(12)])
    assert len({tuple(token_T) for token_T in answers.tolist()}) >= 15
    assert len({(token_T == 2).argmax() for token_T in answers}) >= 4  # they end at several lengths


@pytest.mark.parametrize("seed", range(4))
def test_log_prob_is_the_training_likelihood(tiny, greedy, taught, make_params, make_inputs, beginning_with_bos, seed):
    config, _ = tiny
    source_BKS, prior_BK = make_inputs(seed, 2, 3)
    params, source_BKS = beginning_with_bos(make_params(seed, eos_bias=-0.5), source_BKS)
    generated = greedy(params, source_BKS, prior_BK)
    logp_BKT = taught(params, source_BKS, prior_BK, generated.token_BT)
    mask_BT = rag_token.counted(config.generator, generated.token_BT)
    assert_allclose(generated.log_prob_B, rag_token_log_likelihood(logp_BKT, prior_BK, mask_BT), rtol=1e-5)
    posterior_BKT = document_posterior(logp_BKT, prior_BK, mask_BT, kind="token")
    ours, theirs = (np.where(mask_BT[:, None], x, 0) for x in (generated.posterior_BKT, posterior_BKT))
    assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_leading_bos_is_free(tiny, greedy, make_params, make_inputs, beginning_with_bos):
    _, naive = tiny
    begun = 0
    for seed in range(8):
        source_BKS, prior_BK = make_inputs(seed, 2, 3)
        params, source_BKS = beginning_with_bos(make_params(seed, eos_bias=-0.5), source_BKS)
        generated = greedy(params, source_BKS, prior_BK)
        for b in range(2):
            begun += int(generated.token_BT[b, 0] == 0)
            assert_allclose(generated.log_prob_B[b], naive.greedy(params, source_BKS[b], prior_BK[b])[1], rtol=1e-5)
    assert begun >= 4


def test_counted_by_hand(tiny):
    config, _ = tiny
    token_BT = np.array([[0, 5, 2, 1, 1], [5, 0, 1, 2, 1], [2, 1, 1, 1, 1], [0, 0, 3, 4, 5]], np.int32)
    expected = [[0, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [0, 1, 1, 1, 1]]
    assert_array_equal(rag_token.counted(config.generator, token_BT), np.array(expected, bool))


@pytest.mark.parametrize("seed", range(3))
def test_a_missing_document_has_no_influence(tiny, greedy, make_params, make_inputs, seed):
    _, naive = tiny
    params, (source_BKS, prior_BK) = make_params(seed), make_inputs(seed, 2, 3)
    prior_BK = prior_BK.copy()
    prior_BK[:, 1] = -np.inf
    expected = greedy(params, source_BKS, prior_BK)
    for other_BS in (make_inputs(seed + 100, 2, 3)[0][:, 1], np.full_like(source_BKS[:, 1], 1)):
        changed_BKS = source_BKS.copy()
        changed_BKS[:, 1] = other_BS
        jax.tree.map(assert_array_equal, greedy(params, changed_BKS, prior_BK), expected)
    token_T, log_prob, _ = naive.greedy(params, source_BKS[0, ::2], prior_BK[0, ::2])
    assert_array_equal(expected.token_BT[0], token_T)
    assert_allclose(expected.log_prob_B[0], log_prob, rtol=1e-5)
    assert not np.isnan(expected.posterior_BKT).any()


def test_a_question_without_documents_is_silent(greedy, make_params, make_inputs):
    params, (source_BKS, prior_BK) = make_params(1), make_inputs(1, 2, 3)
    expected = greedy(params, source_BKS, prior_BK)
    prior_BK = prior_BK.copy()
    prior_BK[1] = -np.inf
    generated = greedy(params, source_BKS, prior_BK)
    assert_array_equal(generated.token_BT[1], np.full(LENGTH, 1))
    assert generated.log_prob_B[1] == -np.inf
    assert_array_equal(generated.posterior_BKT[1], np.full((3, LENGTH), -np.inf))
    jax.tree.map(lambda x, y: assert_array_equal(x[0], y[0]), generated, expected)


@pytest.mark.parametrize("seed", range(3))
def test_an_answer_does_not_depend_on_its_neighbours(greedy, make_params, make_inputs, seed):
    params, (source_BKS, prior_BK) = make_params(seed), make_inputs(seed, 2, 3)
    expected = greedy(params, source_BKS, prior_BK)
    other_BKS, other_BK = make_inputs(seed + 50, 2, 3)
    source_BKS[1], prior_BK = other_BKS[1], np.stack([prior_BK[0], other_BK[1]])
    among_others = greedy(params, source_BKS, prior_BK)
    jax.tree.map(lambda x, y: assert_array_equal(x[0], y[0]), among_others, expected)
    alone = greedy(params, source_BKS[:1], prior_BK[:1])
    assert_array_equal(alone.token_BT[0], expected.token_BT[0])
    assert_allclose(alone.log_prob_B[0], expected.log_prob_B[0], rtol=1e-5)


def test_a_step_holds_one_position_of_the_vocabulary(tiny, make_params, make_inputs):
    config, _ = tiny
    arrays = make_params(0), *make_inputs(0, 2, 3)
    jaxpr = jax.make_jaxpr(lambda *arrays: rag_token.greedy(config, *arrays, max_length=LENGTH))(*arrays)
    shapes = set(_shapes(jaxpr.jaxpr))
    assert (2, 3, 1, 20) in shapes
    assert not [shape for shape in shapes if 20 in shape and LENGTH in shape]


def _shapes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from _shapes(inner)
