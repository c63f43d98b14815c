from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.core import likelihood
from rag_jax.core.likelihood import TokenLikelihood
from rag_jax.core.loss import rag_loss
from rag_jax.core.marginal import document_log_prior

token_log_likelihood = jax.jit(likelihood.token_log_likelihood, static_argnames=("smoothing", "block"))
B, K, T, D, V = 2, 3, 7, 4, 50


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    prior = document_log_prior(normal(B, K))
    return normal(B, K, T, D), normal(V, D), normal(V), jnp.asarray(rng.integers(0, V, (B, T))), prior


@jax.jit
def plain(hidden, embedding, bias, target, prior):
    """The same three quantities from the full [B, K, T, V] log-softmax."""
    logits = jnp.einsum("bktd,vd->bktv", hidden, embedding, precision="highest") + bias[None, None, None]
    logp = jax.nn.log_softmax(logits)
    index = jnp.broadcast_to(target[:, None, :, None], (*logits.shape[:3], 1))
    marginal = jax.nn.logsumexp(logp + prior[:, :, None, None], axis=1)
    return jnp.take_along_axis(logp, index, 3)[..., 0], logp.mean(3), marginal.sum(2)


def mixed(outputs):
    """A scalar that reaches all that is there with uneven weights; linear, for marginal_sum is in the hundreds."""
    total = 0.0
    for x, weight in zip(outputs, (1.0, 0.3, 0.01), strict=True):
        if x is not None:
            total += weight * jnp.sum(x * jnp.sin(jnp.arange(x.size) + 1.0).reshape(x.shape))
    return total


def assert_gradients_close(got, expected):
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())
        assert np.abs(theirs).max() > 1e-3


def with_gradients(function, arrays):
    """Three quantities and the gradients of their mixture."""
    hidden, embedding, bias, target, prior = arrays

    @partial(jax.value_and_grad, argnums=(0, 1, 2, 3), has_aux=True)
    def run(hidden, embedding, bias, prior):
        outputs = function(hidden, embedding, bias, target, prior)
        return mixed(outputs), outputs

    (_, outputs), gradients = jax.jit(run)(hidden, embedding, bias, prior)
    return outputs, gradients


@pytest.fixture(scope="module")
def of_whole_logits(arrays):
    return with_gradients(plain, arrays)


@pytest.mark.parametrize("block", [None, 1, 16])  # 16: the last block is moved back
def test_values_and_gradients_equal_the_plain_form(arrays, of_whole_logits, block):
    ours = with_gradients(lambda *inputs: likelihood.token_log_likelihood(*inputs, True, block)[:3], arrays)
    for got, expected in zip(ours[0], of_whole_logits[0], strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert_gradients_close(ours[1], of_whole_logits[1])


@pytest.mark.parametrize("kind", ["token", "sequence"])
def test_losses_and_their_gradients_equal_those_of_whole_logits(arrays, kind):
    """Masked as a batch is, without smoothing and with it, in our form and transformers'."""
    hidden, embedding, bias, target, _ = arrays
    mask = jnp.arange(T)[None] < jnp.array([[4], [7]])
    forms = [(0.0, None), (0.1, None), (0.1, "huggingface")]

    def losses(likelihood_of, hidden, embedding, bias, score):
        prior = document_log_prior(score)
        smoothed = likelihood_of(hidden, embedding, bias, target, prior)
        sharp = smoothed._replace(mean_logp_BKT=None, marginal_sum_BT=None)
        return jnp.stack(
            [
                rag_loss(
                    kind, smoothed if eps else sharp, prior, target, mask, label_smoothing=eps, compat=compat
                ).sum()
                for eps, compat in forms
            ]
        )

    def whole(*inputs):
        return TokenLikelihood(*plain(*inputs), V)

    def ours(*inputs):
        return likelihood.token_log_likelihood(*inputs, True, 16)

    inputs = hidden, embedding, bias, jnp.array([[1.0, 0.0, -0.5], [0.3, -jnp.inf, 0.1]])
    results = [
        jax.jit(lambda *a, f=f: (losses(f, *a), jax.jacrev(losses, argnums=(1, 2, 3, 4))(f, *a)))(*inputs)
        for f in (ours, whole)
    ]
    (got, gradients), (expected, expected_gradients) = results
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    for form in range(len(forms)):
        assert_gradients_close(*([leaf[form] for leaf in leaves] for leaves in (gradients, expected_gradients)))


def test_without_smoothing_there_is_one_quantity(arrays):
    result = token_log_likelihood(*arrays)
    assert result.mean_logp_BKT is None and result.marginal_sum_BT is None and result.vocabulary == V
    assert result.logp_BKT.shape == (B, K, T)


def test_every_token_of_the_vocabulary_sums_to_one(arrays):
    hidden, embedding, bias, _, prior = arrays
    total = 0.0
    for token in range(V):
        target = jnp.full((B, T), token)
        total += np.exp(token_log_likelihood(hidden, embedding, bias, target, prior).logp_BKT)
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)


def test_missing_document_and_impossible_word_give_finite_gradients(arrays):
    hidden, embedding, bias, target, _ = arrays
    prior = document_log_prior(jnp.array([[0.0, 1.0, -jnp.inf], [-jnp.inf] * 3]))
    bias = bias.at[int(target[0, 0])].set(-jnp.inf)

    def total(hidden, embedding, prior):
        logp = token_log_likelihood(hidden, embedding, bias, target, prior, True, 3).logp_BKT
        return jnp.where(jnp.isfinite(logp), logp, 0.0).sum()

    def marginal(hidden, embedding, prior):
        return token_log_likelihood(hidden, embedding, arrays[2], target, prior, True, 3).marginal_sum_BT[0].sum()

    for function in (total, marginal):
        gradients = jax.jit(jax.grad(function, argnums=(0, 1, 2)))(hidden, embedding, prior)
        assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert not gradients[0][0, 2].any()


def test_isolation_by_gradient(arrays):
    hidden, embedding, bias, target, prior = arrays

    def one(hidden):
        return token_log_likelihood(hidden, embedding, bias, target, prior, block=3).logp_BKT[1, 2, 4]

    at = jax.jit(jax.grad(one))(hidden)
    touched = np.zeros((B, K, T), bool)
    touched[1, 2, 4] = True
    np.testing.assert_array_equal(np.any(np.asarray(at) != 0, axis=3), touched)


def test_bfloat16_inputs_are_computed_in_float32(arrays):
    hidden, embedding, bias, target, prior = arrays
    low = hidden.astype(jnp.bfloat16), embedding.astype(jnp.bfloat16), bias
    got = token_log_likelihood(*low, target, prior).logp_BKT
    assert got.dtype == jnp.float32
    expected = plain(low[0].astype(jnp.float32), low[1].astype(jnp.float32), bias, target, prior)[0]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_states_lose_no_more_by_the_output_layer_than_by_their_own_rounding():
    """At BART-large's width, logits some nats apart: the table's rounding adds what the states' last one took."""
    rng, width, words = np.random.default_rng(1), 1024, 4000
    hidden = jnp.asarray(rng.normal(size=(2, 2, 16, width)), jnp.float32)
    embedding = jnp.asarray(rng.normal(size=(words, width)) * 3 / width**0.5, jnp.float32)
    target = jnp.asarray(rng.integers(0, words, (2, 16)))

    @jax.jit
    def run(hidden, embedding):
        def loss(hidden, embedding):
            bias, prior = jnp.zeros(words), jnp.zeros((2, 2))
            logp = likelihood.token_log_likelihood(hidden, embedding, bias, target, prior).logp_BKT
            return logp.sum(), logp

        gradient, logp = jax.grad(loss, argnums=(0, 1), has_aux=True)(hidden, embedding)
        return logp, *(g.astype(jnp.float32) for g in gradient)

    low = hidden.astype(jnp.bfloat16)
    exact, states, both = run(hidden, embedding), run(low.astype(jnp.float32), embedding), run(low, embedding)

    def error(found, of):
        return float(jnp.sqrt(jnp.mean((found - of) ** 2)))

    of_states, of_both = error(states[0], exact[0]), error(both[0], exact[0])
    assert 1e-3 < of_states < of_both < 1.6 * of_states < 0.02  # nats; twice the variance is 1.41
    for got, expected in zip(both[1:], states[1:], strict=True):
        assert error(got, expected) < 4e-3 * error(expected, 0)


def equations(jaxpr):
    """Every equation of a jaxpr and of those inside it: scan, checkpoint, jit, custom rules."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "eqns"):
                yield from equations(getattr(inner, "jaxpr", inner))


def traced(block, smoothing=True, dtype=jnp.float32):
    """Equations of the forward pass and of value with all gradients; 97 is no other axis's factor."""
    shapes = [(B, K, 8, D), (97, D), (97,), (B, K)]
    target = jnp.zeros((B, 8), jnp.int32)

    def total(hidden, embedding, bias, prior):
        outputs = token_log_likelihood(hidden, embedding, bias, target, prior, smoothing, block)[:3]
        return mixed(outputs)

    inputs = [jnp.zeros(shape) for shape in shapes]
    inputs[0] = inputs[0].astype(dtype)
    forward = list(equations(jax.make_jaxpr(total)(*inputs).jaxpr))
    backward = list(equations(jax.make_jaxpr(jax.value_and_grad(total, argnums=(0, 1, 2, 3)))(*inputs).jaxpr))
    return forward, backward


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("smoothing", [False, True])
def test_every_contraction_has_highest_precision(smoothing, dtype):
    highest = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
    for found, least in zip(traced(25, smoothing, dtype), (1, 4), strict=True):
        contractions = [e for e in found if e.primitive.name.startswith(("dot", "conv_", "ragged"))]
        assert len(contractions) >= least  # backward: the logits, the logits again, two gradients
        for equation in contractions:
            assert equation.primitive.name == "dot_general"
            assert equation.params["precision"] == highest
            assert all(v.aval.dtype == dtype for v in equation.invars)  # bf16 products are exact in fp32
            assert all(v.aval.dtype == jnp.float32 for v in equation.outvars)


@pytest.mark.parametrize("smoothing", [False, True])
def test_the_logits_of_the_whole_vocabulary_never_exist(smoothing):
    full = B * K * 8 * 97
    for found in traced(25, smoothing):
        sizes = [v.aval.size for e in found for v in e.outvars if hasattr(v.aval, "size")]
        assert max(sizes) < full // 3  # a block of 25 words is a quarter
        assert B * K * 8 * 25 in sizes
    for found in traced(97, smoothing):  # the reader does see them where one block holds all
        assert full in [v.aval.size for e in found for v in e.outvars if hasattr(v.aval, "size")]


def compiled(function, shapes, **static):
    """Gradients by states, table, bias and prior, compiled for abstract values."""
    dtypes = jnp.float32, jnp.float32, jnp.float32, jnp.int32, jnp.float32
    inputs = [jax.ShapeDtypeStruct(*both) for both in zip(shapes, dtypes, strict=True)]

    def total(*inputs):
        return sum(jnp.sum(jnp.sin(x)) for x in function(*inputs, **static) if isinstance(x, jax.Array))

    return jax.jit(jax.grad(total, argnums=(0, 1, 2, 4))).lower(*inputs).compile()


@pytest.mark.parametrize("smoothing", [False, True])
def test_memory_is_at_most_a_third_of_whole_logits_at_the_width_of_bart_large(smoothing):
    b, k, t, d, v = 4, 10, 64, 1024, 50265
    shapes = (b, k, t, d), (v, d), (v,), (b, t), (b, k)
    ours = compiled(likelihood.token_log_likelihood, shapes, smoothing=smoothing).memory_analysis()
    whole = compiled(lambda *a: plain(*a)[: 3 if smoothing else 1], shapes).memory_analysis()
    assert whole.temp_size_in_bytes > b * k * t * v * 4
    assert ours.temp_size_in_bytes <= whole.temp_size_in_bytes / 3


def test_smoothing_that_the_loss_does_not_use_costs_nothing():
    shapes = (B, K, T, D), (V, D), (V,), (B, T), (B, K)

    def loops(function, **static):
        return compiled(function, shapes, block=16, **static).as_text().count(" while(")

    def first_two(*inputs, block):
        return likelihood.token_log_likelihood(*inputs, True, block)[:2]

    assert loops(first_two) == loops(likelihood.token_log_likelihood) == 2  # forward and backward
    assert loops(likelihood.token_log_likelihood, smoothing=True) == 4


def test_default_block_is_bounded():
    shapes = [(8, 5, 32, 16), (50265, 16), (50265,), (8, 32), (8, 5)]
    inputs = [jax.ShapeDtypeStruct(s, jnp.int32 if s == (8, 32) else jnp.float32) for s in shapes]
    gradient = jax.grad(lambda h, e, b, t, p: token_log_likelihood(h, e, b, t, p).logp_BKT.sum(), argnums=(0, 1, 2))
    found = equations(jax.make_jaxpr(gradient)(*inputs).jaxpr)
    sizes = [v.aval.size for e in found for v in e.outvars if hasattr(v.aval, "size")]
    assert 1 << 20 < max(sizes) <= 9 << 18  # 8 MiB and some words that fill a tile
