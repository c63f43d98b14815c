"""The head that tells a label from the decoder's last state, as BART classifies (Lewis et al. 2019, section 3.1)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from rag_jax.models.layers import Dense, Dropout


class Classifier(nn.Module):
    """States [..., D] -> logits of C classes: dropout, dense, tanh, dropout, dense, in fp32.

    It is transformers' BartClassificationHead.
    """

    width: int
    classes: int
    dropout: float
    init_std: float

    @nn.compact
    def __call__(self, hidden: jax.Array, deterministic: bool = True) -> jax.Array:
        """Returns [..., C]."""
        with jax.default_matmul_precision("highest"):
            x = Dropout(self.dropout)(hidden, deterministic)
            x = jnp.tanh(Dense(self.width, self.init_std, "float32", name="dense")(x))
            x = Dropout(self.dropout)(x, deterministic)
            return Dense(self.classes, self.init_std, "float32", name="out")(x)
