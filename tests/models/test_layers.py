"""Dropout, layer norm and the scan over layers by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from rag_jax.errors import UserError
from rag_jax.models import layers


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_dropout_keeps_the_mean(impl):
    y = layers.Dropout(0.1).apply({}, jnp.ones(100_000), False, rngs={"dropout": jax.random.key(3, impl=impl)})
    assert abs(float((y == 0).mean()) - 0.1) < 0.005
    assert abs(float(y.mean()) - 1) < 0.005
    assert len(np.unique(y)) == 2


def test_dropout_off_needs_no_key():
    x = jnp.ones(3)
    assert layers.Dropout(0.1).apply({}, x, True) is x
    assert layers.Dropout(0.0).apply({}, x, False) is x


def test_scanned_layers_drop_different_values():
    class Model(nn.Module):
        def setup(self):
            self.layer = layers.Dropout(0.5)

        def __call__(self, x):
            return layers.scan_layers(
                lambda layer, carry, _: (carry, layer(x, False)),
                self.layer,
                None,
                None,
                length=3,
                remat="none",
            )[1]

    ys = Model().apply({}, jnp.ones(64), rngs={"dropout": jax.random.key(0)})
    assert ys.shape == (3, 64)
    assert not (ys[0] == ys[1]).all() and not (ys[1] == ys[2]).all()


def test_layer_norm_statistics_are_fp32():
    # 300 + {0, 1}: in bf16 the mean itself would be off by more than the spread.
    x = (300 + 2.0 * (jnp.arange(64) % 2)).astype(jnp.bfloat16)[None]
    norm = layers.LayerNorm(1e-5)
    y = norm.apply(norm.init(jax.random.key(0), x), x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y[0], np.tile([-1, 1], 32), rtol=1e-2)


def test_embed_outside_the_table_is_nan():
    assert jnp.isnan(layers.embed(jnp.ones((3, 2)), jnp.array([3]), "float32")).all()


def test_check_length():
    layers.check_length(5, 5, "generator")
    with pytest.raises(UserError, match="generator: a sequence of 6 tokens, expected at most 5"):
        layers.check_length(6, 5, "generator")
