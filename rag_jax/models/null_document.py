"""The null document: a question is also read alone, as one more document of the marginal, whose logit is learned.

Lewis et al. 2020, appendix "Null Document Probabilities": "if k documents were retrieved, we would additionally
'retrieve' an empty document and predict a logit for the null document, before marginalizing over k + 1 predictions",
the logit from an embedding of the null document, a static bias or a neural network. It says no more than that, and saw
no gain.

Here the logit is the mean score of the question's passages plus what is learned, which starts at 0: the null document
begins as one more passage of average score, and training moves it from there. A logit on its own would begin dead:
DPR's scores are 60 to 75, those of BM25 and of a learned scale are others, and a prior of exp(-60) passes no gradient.
"""

from typing import Any

import jax
import jax.numpy as jnp

from rag_jax.core.marginal import widen

HIDDEN = 128  # units of the network
# Adam moves a number by at most the learning rate a step: 12,000 steps at 3e-5 would move a lone one by 0.2 nats.
BIAS_UNIT = 30.0


def init(kind: str, width: int, key: jax.Array) -> dict[str, Any]:
    """Fresh fp32 parameters of a kind of null document ('embedding', 'bias', 'network'); width: E, of a question."""
    if kind == "embedding":
        return {"embedding": jnp.zeros(width)}
    if kind == "bias":
        return {"bias": jnp.zeros(())}
    kernel_EH = jax.random.normal(key, (width, HIDDEN)) / jnp.sqrt(width)
    out = {"kernel": jnp.zeros((HIDDEN, 1)), "bias": jnp.zeros(1)}
    return {"hidden": {"kernel": kernel_EH, "bias": jnp.zeros(HIDDEN)}, "out": out}


def learned(kind: str, params: dict[str, Any], query_BE: jax.Array | None) -> jax.Array:
    """The learned part of the logit, [B] in fp32; [] of a bias, which reads no question.

    'embedding' is <query, d_0>, so that with the mean score the null document's vector is that of the average passage
    plus d_0; 'bias' is a number; 'network' is one hidden layer over the query.
    """
    if kind == "bias":
        return BIAS_UNIT * params["bias"]
    assert query_BE is not None  # all others read the question
    query_BE = widen(query_BE)
    if kind == "embedding":
        return jnp.einsum("BE,E->B", query_BE, params["embedding"], precision=jax.lax.Precision.HIGHEST)
    hidden_BH = jnp.tanh(_dense(params["hidden"], query_BE))
    return _dense(params["out"], hidden_BH)[:, 0]


def appended(score_BK: jax.Array, mask_BK: jax.Array, learned_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scores and mask [B, K+1] with the null document behind the K passages; where there is none, it is all there is.

    mask_BK: True where a passage is there.
    """
    score_BK = widen(score_BK)
    count_B = jnp.maximum(jnp.sum(mask_BK, axis=1), 1)
    null_B = jnp.sum(jnp.where(mask_BK, score_BK, 0.0), axis=1) / count_B + learned_B
    score_BK = jnp.concatenate([score_BK, null_B[:, None]], axis=1)
    return score_BK, jnp.pad(mask_BK, [(0, 0), (0, 1)], constant_values=True)


def _dense(params: dict[str, jax.Array], x_BI: jax.Array) -> jax.Array:
    product_BO = jnp.einsum("BI,IO->BO", x_BI, params["kernel"], precision=jax.lax.Precision.HIGHEST)
    return product_BO + params["bias"][None]
