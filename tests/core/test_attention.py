"""Attention against a hand-worked case, a numpy reference and exactly zero gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.core import attention


def random(shape, seed):
    return jax.random.normal(jax.random.key(seed), shape)


def attend(query, key, value, bias):
    held = attention.hold(key, value)
    return attention.weighted_values(attention.attention_weights(query, held["key"], bias), held["value"])


def test_hand_worked():
    # One head of one channel: scores log 1, log 3 give weights 1/4, 3/4.
    query, value = jnp.ones((1, 1, 1, 1)), jnp.array([[[[8.0]], [[4.0]]]])
    key = jnp.log(jnp.array([[[[1.0]], [[3.0]]]]))
    np.testing.assert_allclose(attend(query, key, value, None), [[[[5.0]]]], rtol=1e-6)


def test_matches_loops():
    query, key, value = random((2, 3, 2, 4), 0), random((2, 5, 2, 4), 1), random((2, 5, 2, 4), 2)
    mask = np.array([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1]], bool)
    got = attend(query, key, value, attention.padding_bias(jnp.asarray(mask)))
    for r in range(2):
        for h in range(2):
            for t in range(3):
                keys = np.asarray(key, np.float64)[r, mask[r], h]
                weight = np.exp(keys @ np.asarray(query, np.float64)[r, t, h] / 2.0)
                expected = weight / weight.sum() @ np.asarray(value, np.float64)[r, mask[r], h]
                np.testing.assert_allclose(got[r, t, h], expected, rtol=1e-5, atol=1e-6)


def test_masked_keys_get_exactly_zero_gradient():
    query, key, value = random((1, 2, 1, 4), 0), random((1, 4, 1, 4), 1), random((1, 4, 1, 4), 2)
    bias = attention.padding_bias(jnp.array([[True, True, False, True]]))
    grads = jax.grad(lambda kv: (attend(query, *kv, bias) ** 2).sum())((key, value))
    for grad in grads:
        assert (grad[:, 2] == 0).all()
        assert (jnp.abs(grad).sum(axis=(0, 2, 3))[jnp.array([0, 1, 3])] > 0).all()


def test_fully_masked_row_is_finite():
    query, key, value = random((1, 2, 1, 4), 0), random((1, 3, 1, 4), 1), random((1, 3, 1, 4), 2)
    bias = attention.padding_bias(jnp.zeros((1, 3), bool))
    value_and_grads = jax.value_and_grad(lambda *qkv: attend(*qkv, bias).sum(), (0, 1, 2))(query, key, value)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(value_and_grads))


def test_causal_bias():
    seen = attention.causal_bias(3)[0, 0] == 0
    np.testing.assert_array_equal(seen, [[1, 0, 0], [1, 1, 0], [1, 1, 1]])


def test_softmax_is_fp32_for_bf16():
    query, key = (random((1, 2, 1, 4), s).astype(jnp.bfloat16) for s in (0, 1))
    key = attention.hold(key, key)["key"]
    jaxpr = jax.make_jaxpr(attention.attention_weights)(query, key, attention.causal_bias(2))
    (exp,) = (e for e in jaxpr.eqns if e.primitive.name == "exp")
    (dot,) = (e for e in jaxpr.eqns if e.primitive.name == "dot_general")
    assert exp.invars[0].aval.dtype == dot.outvars[0].aval.dtype == jnp.float32
    assert jaxpr.out_avals[0].dtype == jnp.bfloat16


def test_write_cache():
    cache = attention.hold(jnp.zeros((2, 5, 1, 3)), jnp.zeros((2, 5, 1, 3)))
    new = attention.hold(jnp.ones((2, 2, 1, 3)), jnp.full((2, 2, 1, 3), 2.0))
    written = jax.jit(attention.write_cache)(cache, new, 3)
    np.testing.assert_array_equal(written["key"][0, 0, 0], [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(written["value"][0, 0, :, 0], [0, 0, 0, 2, 2])
    assert (cache["key"] == 0).all() and (cache["value"] == 0).all()
