"""The optimizer of a stage: AdamW, warm-up and linear decay, clipping; what is not trained stays bit for bit."""

from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

ADAM_EPSILON = 1e-8
UNDECAYED = ("bias", "scale", "final_logits_bias", "log_score_scale")


def learning_rate(stage: ConfigDict) -> optax.Schedule:
    """Linear from 0 to stage.learning_rate in stage.warmup steps, then linear to 0 at stage.steps."""
    warmup = min(stage.warmup, stage.steps)
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, stage.learning_rate, max(warmup, 1)),
            optax.linear_schedule(stage.learning_rate, 0.0, max(stage.steps - warmup, 1)),
        ],
        [warmup],
    )


def learning_rates(stage: ConfigDict) -> np.ndarray:
    """The learning rate of every step of a stage, for people."""
    steps_N = np.arange(stage.steps)
    return jax.device_get(jax.jit(jax.vmap(learning_rate(stage)))(jax.device_put(steps_N)))


def optimizer(stage: ConfigDict, trained: tuple[str, ...]) -> optax.GradientTransformation:
    """AdamW for the top-level entries of the parameters named in `trained`; the others get no update at all.

    Biases and LayerNorms (vectors within a layer) are not decayed. The gradient's global norm is clipped at stage.clip.
    """
    adamw = optax.chain(
        optax.clip_by_global_norm(stage.clip),
        optax.adamw(learning_rate(stage), eps=ADAM_EPSILON, weight_decay=stage.weight_decay, mask=decayed),
    )

    def labels(params: dict[str, Any]) -> dict[str, str]:
        return {name: "train" if name in trained else "keep" for name in params}

    return optax.partition({"train": adamw, "keep": optax.set_to_zero()}, labels)


def decayed(params: Any) -> Any:
    """True for weight matrices and embeddings: everything but biases, LayerNorm scales and the score scale."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in UNDECAYED, params)
