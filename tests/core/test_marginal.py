import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.core import marginal

document_log_prior = jax.jit(marginal.document_log_prior)
document_posterior = jax.jit(marginal.document_posterior, static_argnames="kind")
label_marginal = jax.jit(marginal.label_marginal)
mean_token_posterior = jax.jit(marginal.mean_token_posterior)
rag_sequence_log_likelihood = jax.jit(marginal.rag_sequence_log_likelihood)
rag_token_log_likelihood = jax.jit(marginal.rag_token_log_likelihood)

KINDS = {"sequence": rag_sequence_log_likelihood, "token": rag_token_log_likelihood}
EOS, V, T, K = 0, 3, 3, 2
# Two documents, two tokens, worked by hand: priors 3/4 and 1/4.
PRIOR = np.log([[0.75, 0.25]]).astype(np.float32)
LOGP = np.log([[[0.5, 0.2], [0.1, 0.8]]]).astype(np.float32)
BOTH = np.ones((1, 2), bool)


@pytest.fixture(scope="module")
def world():
    """Every answer of at most T tokens over V words, ended by EOS or cut, under a random model."""
    rng = np.random.default_rng(0)
    prior = rng.dirichlet(np.ones(K))
    table = {p: rng.dirichlet(np.ones(V), K) for n in range(T) for p in itertools.product(range(V), repeat=n)}
    answers = set()
    for sequence in itertools.product(range(V), repeat=T):
        length = sequence.index(EOS) + 1 if EOS in sequence else T
        answers.add(sequence[:length])
    p_NKT, mask_NT = np.full((len(answers), K, T), 0.123), np.zeros((len(answers), T), bool)
    for row, answer in enumerate(sorted(answers)):
        mask_NT[row, : len(answer)] = True
        for t, token in enumerate(answer):
            p_NKT[row, :, t] = table[answer[:t]][:, token]
    return prior, p_NKT, mask_NT


def test_prior_by_hand():
    prior = document_log_prior(jnp.log(jnp.array([[3.0, 1.0, 4.0]])))
    np.testing.assert_allclose(np.exp(prior), [[0.375, 0.125, 0.5]], rtol=1e-6)


def test_prior_keeps_small_differences_of_large_scores():
    score = np.array([[75.0286, 74.4998, 74.0804, 74.0306, 73.9504]], np.float32)
    wide = score.astype(np.float64) - score.max()
    np.testing.assert_allclose(document_log_prior(score), wide - np.log(np.exp(wide).sum()), rtol=3e-7)


def test_prior_of_missing_documents():
    score = jnp.array([[1.0, 2.0, -jnp.inf], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    mask = jnp.array([[True, True, True], [True, True, False], [False, False, False]])
    prior = document_log_prior(score, mask)
    two = jax.nn.log_softmax(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(prior[:2, :2], [two, two], rtol=1e-6)
    assert np.isneginf(prior[:2, 2]).all() and np.isneginf(prior[2]).all()
    gradient = jax.jit(jax.jacrev(document_log_prior))(score, mask)
    assert np.isfinite(gradient).all()
    assert not gradient[2].any() and not gradient[:, :, 0, 2].any() and not gradient[:, :, 1, 2].any()


def test_bfloat16_is_computed_in_float32_and_float64_stays():
    assert document_log_prior(jnp.ones((1, 2), jnp.bfloat16)).dtype == jnp.float32
    low = rag_token_log_likelihood(jnp.asarray(LOGP, jnp.bfloat16), jnp.asarray(PRIOR), BOTH)
    assert low.dtype == jnp.float32
    with jax.enable_x64(True):
        prior = document_log_prior(jnp.zeros((1, 2), jnp.float64))
        logp = jnp.zeros((1, 2, 2), jnp.float64)
        assert rag_sequence_log_likelihood(logp, prior, BOTH).dtype == jnp.float64


def test_marginals_by_hand():
    sequence = rag_sequence_log_likelihood(LOGP, PRIOR, BOTH)
    np.testing.assert_allclose(np.exp(sequence), [0.75 * 0.5 * 0.2 + 0.25 * 0.1 * 0.8], rtol=1e-6)
    token = rag_token_log_likelihood(LOGP, PRIOR, BOTH)
    np.testing.assert_allclose(np.exp(token), [(0.75 * 0.5 + 0.25 * 0.1) * (0.75 * 0.2 + 0.25 * 0.8)], rtol=1e-6)


def test_posterior_by_hand():
    sequence = document_posterior(LOGP, PRIOR, BOTH, "sequence")
    np.testing.assert_allclose(np.exp(sequence), [[0.075 / 0.095, 0.02 / 0.095]], rtol=1e-6)
    token = document_posterior(LOGP, PRIOR, BOTH, "token")
    expected = np.array([[[0.375 / 0.4, 0.15 / 0.35], [0.025 / 0.4, 0.2 / 0.35]]])
    np.testing.assert_allclose(np.exp(token), expected, rtol=1e-6)
    np.testing.assert_allclose(mean_token_posterior(token, BOTH), expected.mean(2), rtol=1e-6)
    text = np.array([[False, True]])
    np.testing.assert_allclose(mean_token_posterior(token, text), expected[:, :, 1], rtol=1e-6)
    with pytest.raises(ValueError, match="'sequence' or 'token'"):
        document_posterior(LOGP, PRIOR, BOTH, "answer")


def test_every_answer_against_brute_force(world):
    prior_K, p_NKT, mask_NT = world
    prior = np.broadcast_to(np.log(prior_K), (len(p_NKT), K))
    kept = np.where(mask_NT[:, None], p_NKT, 1.0)
    joint_NK = prior_K * kept.prod(2)
    token_NT = np.where(mask_NT, (prior_K[:, None] * p_NKT).sum(1), 1.0)
    sequence = np.exp(rag_sequence_log_likelihood(np.log(p_NKT), prior, mask_NT))
    token = np.exp(rag_token_log_likelihood(np.log(p_NKT), prior, mask_NT))
    np.testing.assert_allclose(sequence, joint_NK.sum(1), rtol=2e-6)
    np.testing.assert_allclose(token, token_NT.prod(1), rtol=2e-6)
    np.testing.assert_allclose([sequence.sum(), token.sum()], [1.0, 1.0], rtol=1e-6)
    posterior = document_posterior(np.log(p_NKT), prior, mask_NT, "sequence")
    np.testing.assert_allclose(np.exp(posterior), joint_NK / joint_NK.sum(1, keepdims=True), rtol=2e-6)
    # p(z|x) is what remains when the posterior is averaged over the answers that the model gives.
    np.testing.assert_allclose((np.exp(posterior) * sequence[:, None]).sum(0), prior_K, rtol=1e-6)


def test_sequence_equals_token_where_one_position_is_scored(world):
    prior_K, p_NKT, _ = world
    prior, logp = np.broadcast_to(np.log(prior_K), (len(p_NKT), K)), np.log(p_NKT)
    for t in range(T):
        mask = np.zeros((len(p_NKT), T), bool)
        mask[:, t] = True
        np.testing.assert_allclose(
            rag_sequence_log_likelihood(logp, prior, mask),
            rag_token_log_likelihood(logp, prior, mask),
            rtol=1e-6,
        )
        np.testing.assert_allclose(
            document_posterior(logp, prior, mask, "sequence"),
            document_posterior(logp, prior, mask, "token")[:, :, t],
            rtol=1e-6,
        )


def test_labels_by_hand():
    """Two of a document's labels: what else it could say is left out."""
    logp = np.log([[[0.5, 0.25], [0.1, 0.4]]]).astype(np.float32)
    log_prob, posterior = label_marginal(logp, PRIOR)
    one, other = 0.75 * 0.5 + 0.25 * 0.1, 0.75 * 0.25 + 0.25 * 0.4
    np.testing.assert_allclose(np.exp(log_prob), [[one / (one + other), other / (one + other)]], rtol=1e-6)
    expected = [[[0.375 / one, 0.1875 / other], [0.025 / one, 0.1 / other]]]
    np.testing.assert_allclose(np.exp(posterior), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_is_an_answer_of_one_token_under_both_kinds(kind):
    rng = np.random.default_rng(4)
    logp_BKC = np.log(rng.dirichlet(np.ones(4), (2, 3))).astype(np.float32)
    prior = document_log_prior(jnp.array([[1.0, 2.0, 0.0], [0.5, -jnp.inf, 1.0]]))
    log_prob_BC, posterior_BKC = label_marginal(logp_BKC, prior)
    one = np.ones((2, 1), bool)
    for label in range(4):  # all of a vocabulary of four: nothing to normalise
        logp_BK1 = logp_BKC[:, :, label, None]
        np.testing.assert_allclose(log_prob_BC[:, label], KINDS[kind](logp_BK1, prior, one), atol=1e-6)
        posterior = document_posterior(logp_BK1, prior, one, kind).reshape(2, 3)
        np.testing.assert_allclose(posterior_BKC[:, :, label], posterior, atol=1e-6)


def test_labels_without_documents():
    log_prob, posterior = label_marginal(np.zeros((1, 2, 3), np.float32), np.full((1, 2), -np.inf, np.float32))
    assert np.isneginf(log_prob).all() and np.isneginf(posterior).all()


@pytest.mark.parametrize("kind", KINDS)
def test_empty_target_keeps_the_prior(kind):
    prior, mask = document_log_prior(jnp.array([[61.0, 60.5], [3.0, -jnp.inf]])), np.zeros((2, 2), bool)
    logp = jnp.tile(LOGP, (2, 1, 1))
    both = jax.jit(jax.value_and_grad(lambda a, b: KINDS[kind](a, b, mask).sum(), argnums=(0, 1)))
    value, gradients = both(logp, prior)
    np.testing.assert_allclose(value, 0.0, atol=2e-7)
    assert np.isfinite(gradients[1]).all() and not gradients[0].any()
    token = document_posterior(logp, prior, mask, "token")
    np.testing.assert_allclose(mean_token_posterior(token, ~mask), np.exp(prior), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_minus_infinity_gives_finite_gradients(kind):
    score = jnp.array([[1.0, 2.0, 3.0], [1.0, -jnp.inf, 0.0], [-jnp.inf] * 3, [0.0, 1.0, 2.0]])
    logp = jnp.full((4, 3, 2), -1.0).at[0, 0].set(-jnp.inf).at[3].set(-jnp.inf)
    mask = jnp.ones((4, 2), bool)

    def value(score, logp):
        return KINDS[kind](logp, document_log_prior(score), mask)

    np.testing.assert_array_equal(np.isneginf(value(score, logp)), [False, False, True, True])

    def posterior(score, logp):
        return document_posterior(logp, document_log_prior(score), mask, kind)[0, 2].sum()

    for gradient in jax.jit(jax.jacrev(value, argnums=(0, 1)))(score, logp):
        assert np.isfinite(gradient).all()
    for gradient in jax.jit(jax.grad(posterior, argnums=(0, 1)))(score, logp):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("kind", KINDS)
def test_isolation_by_gradient(kind):
    rng = np.random.default_rng(1)
    logp = jnp.asarray(-rng.exponential(size=(3, 3, 4)), jnp.float32)
    score = jnp.asarray(rng.normal(size=(3, 3)), jnp.float32).at[1, 2].set(-jnp.inf)
    mask = jnp.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0]], bool)

    def value(score, logp):
        return KINDS[kind](logp, document_log_prior(score), mask)

    by_score, by_logp = jax.jit(jax.jacrev(value, argnums=(0, 1)))(score, logp)
    for question in range(3):  # other questions, padding and missing documents: exactly zero
        touched = np.zeros((3, 3, 4), bool)
        touched[question] = mask[question][None]
        touched[1, 2] = False
        np.testing.assert_array_equal(np.asarray(by_logp[question]) != 0, touched)
        touched = np.zeros((3, 3), bool)
        touched[question] = True
        touched[1, 2] = False
        np.testing.assert_array_equal(np.asarray(by_score[question]) != 0, touched)


def test_gradient_of_the_likelihood_is_the_posterior():
    rng = np.random.default_rng(2)
    logp = jnp.asarray(-rng.exponential(size=(2, 3, 4)), jnp.float32)
    prior = document_log_prior(jnp.asarray(rng.normal(size=(2, 3)), jnp.float32))
    mask = jnp.ones((2, 4), bool)
    by_logp = jax.jit(jax.grad(lambda p: rag_token_log_likelihood(p, prior, mask).sum()))(logp)
    np.testing.assert_allclose(by_logp, np.exp(document_posterior(logp, prior, mask, "token")), rtol=1e-5)
    by_prior = jax.jit(jax.grad(lambda p: rag_sequence_log_likelihood(logp, p, mask).sum()))(prior)
    np.testing.assert_allclose(by_prior, np.exp(document_posterior(logp, prior, mask, "sequence")), rtol=1e-5)
