"""Half precision: what is trained in bf16 follows fp32's losses step by step, and ends with as many right answers."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rag_jax.models import rag
from rag_jax.parallel import ALONE
from rag_jax.training.step import Objective, TrainState, train_step

from ..conftest import ROOT, Run
from ..training.conftest import Tiny

OBJECTIVE = Objective(train_question_encoder=True, label_smoothing=0.0, accumulation=1, seed=0)
BATCHES, STEPS = 3, 60


def losses(kind, dtype):
    """Nats per token of every step of learning three batches by heart."""
    config, optimizer = Tiny.config(kind, dtype), optax.adamw(1e-2)
    params = rag.init_params(config, jax.random.key(0))
    state = TrainState(jnp.int32(0), params, optimizer.init(params))
    step = jax.jit(partial(train_step, across=ALONE, config=config, optimizer=optimizer, objective=OBJECTIVE))
    found = []
    for number in range(STEPS):
        state, metrics = step(state, Tiny.batch(number % BATCHES))
        found.append(float(metrics["loss"]))
    return np.array(found)


@pytest.mark.parametrize("kind", ["token", "sequence"])
def test_bf16_learns_by_heart_as_fp32_does(kind, compiled_in_haste):
    single, half = losses(kind, "float32"), losses(kind, "bfloat16")
    print(kind, single[::6].round(3), half[::6].round(3), np.abs(half / single - 1).max(), np.abs(half - single).max())
    assert single[-1] < single[0] / 10
