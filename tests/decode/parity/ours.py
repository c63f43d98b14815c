"""What this package answers to a case."""

import jax.numpy as jnp
import numpy as np

from rag_jax.core.marginal import document_log_prior
from rag_jax.decode.generate import Generated, generate

from .cases import Case
from .oracle import answers, models
from .watch import TIE


def decoded(case: Case) -> Generated:
    """By compat='huggingface'."""
    ours, (source_BKS, score_BK) = models(case.world), case.arrays()
    return generate(ours.config, case.decode, ours.params, source_BKS, document_log_prior(jnp.asarray(score_BK)))


def verdict(case: Case) -> str:
    """'equal', 'tie' where tokens differ by a choice too close to call, else 'wrong'."""
    expected = answers(case)
    if np.array_equal(decoded(case).token_BNT, expected.token_BNT):
        return "equal"
    return "tie" if expected.gap < TIE else "wrong"
