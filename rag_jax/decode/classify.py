"""Tells labels instead of writing answers: nothing is searched for, as every label is looked at."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rag_jax.core.marginal import label_marginal
from rag_jax.decode.generate import Generated
from rag_jax.models.rag import RagConfig, label_log_probs


def classify(
    config: RagConfig, params: dict, source_BKS: jax.Array, prior_BK: jax.Array, token_BT: jax.Array
) -> Generated[jax.Array]:
    """All C labels of each question by falling probability, in the form of `generate`: token_BNT holds their numbers.

    Log-probabilities are normalised over the labels; posterior_BNK is p(z|x,label). token_BT: what the decoder reads
    before it tells the label, see data.labels.decoder_inputs. A document whose prior is -inf is not there; without
    any, every label has log-probability -inf.
    """
    log_prob_BC, posterior_BKC = label_marginal(label_log_probs(config, params, source_BKS, token_BT), prior_BK)
    label_BN = jnp.argsort(-log_prob_BC, axis=1, stable=True)
    log_prob_BN = jnp.take_along_axis(log_prob_BC, label_BN, axis=1)
    posterior_BKN = jnp.take_along_axis(posterior_BKC, label_BN[:, None], axis=2)
    return Generated(label_BN[:, :, None], log_prob_BN, log_prob_BN, jnp.exp(jnp.swapaxes(posterior_BKN, 1, 2)), None)


def names(generated: Generated[np.ndarray], labels: Sequence[str]) -> list[list[str]]:
    """The labels of each question as strings, for numpy arrays; "" for a question without documents."""
    label_BN, there_BN = generated.token_BNT[:, :, 0], generated.log_prob_BN > -np.inf
    return np.where(there_BN, np.array(labels)[label_BN], "").tolist()
