"""Half precision: what is trained in bf16 follows fp32's losses step by step."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rag_jax.models import rag
from rag_jax.parallel import ALONE
from rag_jax.training.step import Objective, TrainState, train_step

from ..runs import begun
from ..training.conftest import Tiny
from .conftest import DEMO

OBJECTIVE = Objective(train_question_encoder=True, label_smoothing=0.0, accumulation=1, seed=0)
DTYPES = "float32", "bfloat16"
BATCHES, STEPS, SMOOTHED = 3, 240, 15


def smooth(losses, steps):
    """The means of so many steps each."""
    return np.array(losses).reshape(-1, steps).mean(axis=1)


def by_heart(kind, dtype):
    """Nats per token of every step of learning three batches by heart."""
    config, optimizer = Tiny.config(kind, dtype), optax.adamw(3e-3)
    params = rag.init_params(config, jax.random.key(0))
    state = TrainState(jnp.int32(0), params, optimizer.init(params))
    step = jax.jit(partial(train_step, across=ALONE, config=config, optimizer=optimizer, objective=OBJECTIVE))
    losses = []
    for number in range(STEPS):
        state, metrics = step(state, Tiny.batch(number % BATCHES))
        losses.append(float(metrics["loss"]))
    return losses


@pytest.mark.parametrize("kind", ["token", pytest.param("sequence", marks=pytest.mark.long)])
def test_bf16_learns_by_heart_as_fp32_does(kind, compiled_in_haste):
    """From 3.6 nats a token to 0.05, over 15 steps each within 0.05 nats of fp32; measured: 0.027 and 0.020."""
    single, half = (smooth(by_heart(kind, dtype), SMOOTHED) for dtype in DTYPES)
    assert single[0] > 2 and single[-1] < 0.1
    assert 0 < np.abs(half - single).max() < 0.05


def losses_of(run, workdir, dtype, *settings):
    """Of every step of a run with another's retriever."""
    begun(run, workdir, "retriever", "index", "tokenizers")
    dtypes = f"--config.encoder.dtype={dtype}", f"--config.generator.dtype={dtype}"
    run.command("train", *settings, *dtypes, f"--workdir={workdir}")
    return [record["loss"] for record in run.records(workdir / "metrics.jsonl")]


@pytest.mark.long
def test_the_demo_in_bf16_follows_fp32(demo, tmp_path):
    """150 steps of reading and 10 joint ones: over 10 steps each within 0.05 nats a token; measured: 0.017."""
    few = "--config.reader.steps=150", "--config.joint.steps=10", "--config.evaluate.questions=8"
    single, half = (losses_of(demo, tmp_path / dtype, dtype, DEMO, *few) for dtype in DTYPES)
    difference = np.abs(smooth(single, 10) - smooth(half, 10))
    assert len(single) == 160 and 0 < difference.max() < 0.05, difference
