import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.core import likelihood
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
    """A scalar that reaches all three quantities with uneven weights."""
    return sum(jnp.sum(jnp.sin(x) * w) for x, w in zip(outputs, (1.0, 0.3, 0.01), strict=True))


@pytest.mark.parametrize("block", [None, 1, 3])
def test_values_and_gradients_equal_the_plain_form(arrays, block):
    hidden, embedding, bias, target, prior = arrays

    def ours(hidden, embedding, bias, prior):
        return token_log_likelihood(hidden, embedding, bias, target, prior, True, block)[:3]

    def theirs(hidden, embedding, bias, prior):
        return plain(hidden, embedding, bias, target, prior)

    inputs = hidden, embedding, bias, prior
    for got, expected in zip(ours(*inputs), theirs(*inputs), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    ours_grad = jax.jit(jax.grad(lambda *a: mixed(ours(*a)), argnums=(0, 1, 2, 3)))(*inputs)
    theirs_grad = jax.jit(jax.grad(lambda *a: mixed(theirs(*a)), argnums=(0, 1, 2, 3)))(*inputs)
    for got, expected in zip(ours_grad, theirs_grad, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-5)
        assert np.abs(expected).max() > 1e-3


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


def equations(jaxpr):
    """Every equation of a jaxpr and of those inside it: scan, checkpoint, jit, custom rules."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "eqns"):
                yield from equations(getattr(inner, "jaxpr", inner))


def traced(block, smoothing=True):
    """Equations of the forward pass and of value with all gradients; 97 is no other axis's factor."""
    shapes = [(B, K, 8, D), (97, D), (97,), (B, K)]
    target = jnp.zeros((B, 8), jnp.int32)

    def total(hidden, embedding, bias, prior):
        outputs = token_log_likelihood(hidden, embedding, bias, target, prior, smoothing, block)[:3]
        return mixed([x for x in outputs if x is not None] if smoothing else (outputs[0], 0.0, 0.0))

    inputs = [jnp.zeros(shape) for shape in shapes]
    forward = list(equations(jax.make_jaxpr(total)(*inputs).jaxpr))
    backward = list(equations(jax.make_jaxpr(jax.value_and_grad(total, argnums=(0, 1, 2, 3)))(*inputs).jaxpr))
    return forward, backward


@pytest.mark.parametrize("smoothing", [False, True])
def test_every_contraction_has_highest_precision(smoothing):
    highest = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
    for found, least in zip(traced(2, smoothing), (1, 4), strict=True):
        contractions = [e for e in found if e.primitive.name.startswith(("dot", "conv_", "ragged"))]
        assert len(contractions) >= least  # backward: the logits, the logits again, two gradients
        for equation in contractions:
            assert equation.primitive.name == "dot_general"
            assert equation.params["precision"] == highest
            assert all(v.aval.dtype == jnp.float32 for v in (*equation.invars, *equation.outvars))


@pytest.mark.parametrize("smoothing", [False, True])
def test_the_logits_of_all_positions_never_exist(smoothing):
    full = B * K * 8 * 97
    for found in traced(2, smoothing):
        sizes = [v.aval.size for e in found for v in e.outvars if hasattr(v.aval, "size")]
        assert max(sizes) < full // 3  # a block of two positions is a quarter
        assert full // 4 in sizes
    for found in traced(8, smoothing):  # the reader does see them where one block holds all
        assert full in [v.aval.size for e in found for v in e.outvars if hasattr(v.aval, "size")]


def test_default_block_is_bounded():
    shapes = [(8, 5, 32, 16), (50265, 16), (50265,), (8, 32), (8, 5)]
    inputs = [jax.ShapeDtypeStruct(s, jnp.int32 if s == (8, 32) else jnp.float32) for s in shapes]
    gradient = jax.grad(lambda h, e, b, t, p: token_log_likelihood(h, e, b, t, p).logp_BKT.sum(), argnums=(0, 1, 2))
    found = equations(jax.make_jaxpr(gradient)(*inputs).jaxpr)
    sizes = [v.aval.size for e in found for v in e.outvars if hasattr(v.aval, "size")]
    assert 8 * 5 * 50265 < max(sizes) <= 1 << 24
