"""What transformers 5.23 draws its tokens from: the distributions, not the draws."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rag_jax.core.constraints import constrain, warp
from rag_jax.core.marginal import document_log_prior
from rag_jax.decode.generate import generate, operands
from rag_jax.models.bart import Bart

from .cases import Case, sampling_cases
from .oracle import models, sampled
from .watch import EOS

CASES = sampling_cases()
DRAWS, SEEDS = 64, 16


@cache
def logits(config):
    """A compiled (params, source_RS, token_RT) -> logits_RTV of the generator, by its training path."""
    model = Bart(config.generator)

    def run(params, source_RS, token_RT):
        variables = {"params": params["generator"]}
        hidden = model.apply(variables, source_RS, source_RS != config.generator.pad_id, token_RT)
        return model.apply(variables, hidden, method="logits")

    return jax.jit(run)


def marginals(case: Case, token_BT: np.ndarray) -> np.ndarray:
    """log p(y_t | x, y_<t) under the mixture after every beginning of the answers [B, T, V]."""
    ours, (source_BKS, score_BK) = models(case.world), case.arrays()
    (B, T), K = token_BT.shape, case.shape.K
    given_BT = np.full((B, case.shape.T), ours.config.generator.pad_id, np.int32)
    given_BT[:, 0], given_BT[:, 1:T] = case.world.start_id, token_BT[:, :-1]
    source_RS = source_BKS.reshape(B * K, -1)
    logits_RTV = logits(ours.config)(ours.params, source_RS, np.repeat(given_BT, K, axis=0))[:, :T]
    logp_BKTV = jax.nn.log_softmax(logits_RTV).reshape(B, K, T, -1)
    prior_BK11 = document_log_prior(jnp.asarray(score_BK))[:, :, None, None]
    return np.asarray(jax.nn.logsumexp(logp_BKTV + prior_BK11, axis=1))


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.number))
def test_distributions(case):
    token_BT, expected_TBV = sampled(case)
    rules, marginal_BTV = operands(models(case.world).config, case.decode), marginals(case, token_BT)
    token_BMT = jnp.asarray(np.pad(token_BT, ((0, 0), (0, case.shape.T - token_BT.shape[1])))[:, None], jnp.int32)
    for t in range(token_BT.shape[1]):
        open_B = ~(token_BT[:, :t] == EOS).any(axis=1)
        logp_BMV = constrain(rules, EOS, jnp.asarray(marginal_BTV[:, None, t]), token_BMT, jnp.int32(t))
        found_BV = jax.nn.softmax(warp(rules, logp_BMV)[:, 0], axis=1)
        assert_allclose(found_BV[open_B], expected_TBV[t, open_B], rtol=1e-4, atol=1e-6)
        assert_array_equal(found_BV[open_B] > 0, expected_TBV[t, open_B] > 0)


def test_draws_follow_the_distribution():
    case = CASES[1]
    ours, (source_BKS, score_BK) = models(case.world), case.arrays()
    prior_BK, expected_BV = document_log_prior(jnp.asarray(score_BK)), sampled(case)[1][0]
    drawn = []
    for seed in range(SEEDS):
        decode = replace(case.decode, num_return_sequences=DRAWS, seed=seed)
        drawn.append(generate(ours.config, decode, ours.params, source_BKS, prior_BK).token_BNT[:, :, 0])
    first_BN = np.concatenate(drawn, axis=1)
    share_BV = np.stack([np.bincount(first_N, minlength=case.shape.V) for first_N in first_BN]) / first_BN.shape[1]
    deviation_BV = np.sqrt(expected_BV * (1 - expected_BV) / first_BN.shape[1])
    assert (np.abs(share_BV - expected_BV) <= 4 * deviation_BV).all()
