from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rag_jax.core.marginal import document_log_prior, rag_sequence_log_likelihood
from rag_jax.decode import rag_sequence, rag_token
from rag_jax.decode.generate import DecodeConfig, generate

LENGTH = 8


@pytest.fixture(scope="module")
def thorough(tiny):
    config, _ = tiny
    return partial(generate, config, DecodeConfig("sequence", LENGTH))


def naive_thorough(naive, params, source_KS, prior_K):
    """The best, and all, (token_T, log p(y|x), log p(z|x,y)) of the documents' own greedy answers."""
    judged = []
    for k in np.flatnonzero(prior_K > -np.inf):
        token_T = naive.greedy(params, source_KS[k : k + 1], np.zeros(1))[0]
        joint_K = naive.joint_K(params, source_KS, prior_K, token_T)
        log_prob = np.logaddexp.reduce(joint_K)
        judged.append((token_T, log_prob, joint_K - log_prob))
    return max(judged, key=lambda answer: answer[1]), judged


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_exhaustive_best_of_the_candidates(tiny, thorough, make_params, make_inputs, seed):
    _, naive = tiny
    params, (source_BKS, prior_BK) = make_params(seed, eos_bias=-0.5), make_inputs(seed, 2, 3)
    generated = thorough(params, source_BKS, prior_BK)
    assert generated.token_BT.dtype == np.int32
    for b in range(2):
        (token_T, log_prob, posterior_K), _ = naive_thorough(naive, params, source_BKS[b], prior_BK[b])
        assert_array_equal(generated.token_BT[b], token_T)
        assert_allclose(generated.log_prob_B[b], log_prob, rtol=1e-5)
        assert_allclose(generated.posterior_BK[b], posterior_K, rtol=1e-4, atol=1e-5)


def test_the_cases_are_varied(tiny, make_params, make_inputs):
    _, naive = tiny
    candidates, overruled = set(), 0
    for seed in range(12):
        params, (source_BKS, prior_BK) = make_params(seed, eos_bias=-0.5), make_inputs(seed, 2, 3)
        best, judged = naive_thorough(naive, params, source_BKS[0], prior_BK[0])
        candidates.add(len({tuple(token_T) for token_T, *_ in judged}))
        overruled += int((best[0] != judged[prior_BK[0].argmax()][0]).any())
    assert candidates >= {2, 3}
    assert overruled >= 2  # the likeliest document's answer does not always win


def test_distinct_by_hand():
    a, b, c = [5, 2], [6, 2], [7, 2]
    candidate_BMT = jnp.array([[a, b, a, c], [b, b, b, b], [a, a, b, c], [c, b, a, a]])
    valid_BM = jnp.array([[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], bool)
    moved_BMT, count_B = rag_sequence.distinct(candidate_BMT, valid_BM)
    assert_array_equal(count_B, [3, 1, 2, 0])
    assert_array_equal(moved_BMT[0, :3], [a, b, c])
    assert_array_equal(moved_BMT[1, :1], [b])
    assert_array_equal(moved_BMT[2, :2], [a, c])


def test_score_goes_no_further_than_the_count(tiny, make_params, make_inputs):
    config, naive = tiny
    params, (source_BKS, prior_BK) = make_params(0), make_inputs(0, 2, 3)
    candidate_BMT = jax.random.randint(jax.random.key(0), (2, 4, LENGTH), 3, 20)

    @jax.jit
    def score(count_B):
        memory = rag_token.read(config, params, source_BKS)
        return rag_sequence.score(config, params, memory, candidate_BMT, count_B, prior_BK)

    log_prob_BM, posterior_BKM = score(jnp.array([3, 1]))
    for b, m in ((0, 0), (0, 1), (0, 2), (1, 0)):
        joint_K = naive.joint_K(params, source_BKS[b], prior_BK[b], candidate_BMT[b, m].tolist())
        assert_allclose(log_prob_BM[b, m], np.logaddexp.reduce(joint_K), rtol=1e-5)
        assert_allclose(posterior_BKM[b, :, m], joint_K - np.logaddexp.reduce(joint_K), rtol=1e-4, atol=1e-5)
    assert_array_equal(np.isneginf(log_prob_BM), [[0, 0, 0, 1], [0, 1, 1, 1]])
    assert_array_equal(posterior_BKM[1, :, 1:], np.broadcast_to(prior_BK[1][:, None], (3, 3)))


@pytest.mark.parametrize("seed", range(4))
def test_log_prob_is_the_training_likelihood(
    tiny, thorough, taught, make_params, make_inputs, beginning_with_bos, seed
):
    config, _ = tiny
    source_BKS, prior_BK = make_inputs(seed, 2, 3)
    params, source_BKS = beginning_with_bos(make_params(seed, eos_bias=-0.5), source_BKS)
    generated = thorough(params, source_BKS, prior_BK)
    logp_BKT = taught(params, source_BKS, prior_BK, generated.token_BT)
    mask_BT = rag_token.counted(config.generator, generated.token_BT)
    assert_allclose(generated.log_prob_B, rag_sequence_log_likelihood(logp_BKT, prior_BK, mask_BT), rtol=1e-5)


def test_one_token_answers_have_the_same_probability_in_both_models(tiny, thorough, make_params, make_inputs):
    config, _ = tiny
    params, (source_BKS, prior_BK) = make_params(3, eos_bias=4.0), make_inputs(3, 2, 3)
    sequence = thorough(params, source_BKS, prior_BK)
    token = generate(config, DecodeConfig("token", LENGTH), params, source_BKS, prior_BK)
    assert_array_equal(sequence.token_BT, [[2] + [1] * 7] * 2)
    assert_array_equal(token.token_BT, sequence.token_BT)
    assert_allclose(token.log_prob_B, sequence.log_prob_B, rtol=1e-5)
    assert_allclose(token.posterior_BKT[:, :, 0], sequence.posterior_BK, rtol=1e-5, atol=1e-6)


def test_copies_of_a_document_say_what_it_says_alone(tiny, thorough, make_params, make_inputs):
    _, naive = tiny
    params, (source_BKS, prior_BK) = make_params(5, eos_bias=-0.5), make_inputs(5, 2, 3)
    source_BKS = np.repeat(source_BKS[:, :1], 3, axis=1)
    generated = thorough(params, source_BKS, prior_BK)
    token_T, log_prob, _ = naive.greedy(params, source_BKS[0, :1], np.zeros(1))
    assert_array_equal(generated.token_BT[0], token_T)
    assert_allclose(generated.log_prob_B[0], log_prob, rtol=1e-5)
    assert_allclose(generated.posterior_BK[0], prior_BK[0], atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_missing_document_neither_proposes_nor_judges(tiny, thorough, make_params, make_inputs, seed):
    _, naive = tiny
    params, (source_BKS, prior_BK) = make_params(seed, eos_bias=-0.5), make_inputs(seed, 2, 3)
    prior_BK = np.array(document_log_prior(jnp.where(jnp.arange(3)[None] == 1, -jnp.inf, prior_BK)))
    expected = thorough(params, source_BKS, prior_BK)
    for other_BS in (make_inputs(seed + 100, 2, 3)[0][:, 1], np.full_like(source_BKS[:, 1], 1)):
        changed_BKS = source_BKS.copy()
        changed_BKS[:, 1] = other_BS
        jax.tree.map(assert_array_equal, thorough(params, changed_BKS, prior_BK), expected)
    for b in range(2):
        (token_T, log_prob, _), _ = naive_thorough(naive, params, source_BKS[b], prior_BK[b])
        assert_array_equal(expected.token_BT[b], token_T)
        assert_allclose(expected.log_prob_B[b], log_prob, rtol=1e-5)
    assert_array_equal(np.isneginf(expected.posterior_BK), [[False, True, False]] * 2)


def test_a_question_without_documents_is_silent(thorough, make_params, make_inputs):
    params, (source_BKS, prior_BK) = make_params(1, eos_bias=-0.5), make_inputs(1, 2, 3)
    expected = thorough(params, source_BKS, prior_BK)
    prior_BK = prior_BK.copy()
    prior_BK[1] = -np.inf
    generated = thorough(params, source_BKS, prior_BK)
    assert_array_equal(generated.token_BT[1], np.full(LENGTH, 1))
    assert generated.log_prob_B[1] == -np.inf
    assert_array_equal(generated.posterior_BK[1], np.full(3, -np.inf))
    jax.tree.map(lambda x, y: assert_array_equal(x[0], y[0]), generated, expected)


@pytest.mark.parametrize("seed", range(3))
def test_an_answer_does_not_depend_on_its_neighbours(thorough, make_params, make_inputs, seed):
    params, (source_BKS, prior_BK) = make_params(seed, eos_bias=-0.5), make_inputs(seed, 2, 3)
    expected = thorough(params, source_BKS, prior_BK)
    other_BKS, other_BK = make_inputs(seed + 50, 2, 3)
    source_BKS[1], prior_BK = other_BKS[1], np.stack([prior_BK[0], other_BK[1]])
    among_others = thorough(params, source_BKS, prior_BK)
    jax.tree.map(lambda x, y: assert_array_equal(x[0], y[0]), among_others, expected)
    alone = thorough(params, source_BKS[:1], prior_BK[:1])
    assert_array_equal(alone.token_BT[0], expected.token_BT[0])
    assert_allclose(alone.log_prob_B[0], expected.log_prob_B[0], rtol=1e-5)
