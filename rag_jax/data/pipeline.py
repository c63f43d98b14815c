"""The order of training examples: the global batch of a step is a pure function of (seed, step)."""

import grain
import jax
import numpy as np


class Batches:
    """Indices of the examples of every step: shuffled epoch after epoch, the same for the same seed.

    `batches[i]` is int64 [batch], this process's slice of the global batch i; nothing needs saving but i.
    """

    def __init__(self, count: int, batch: int, seed: int):
        self._order = grain.MapDataset.range(count).seed(seed).shuffle().repeat().batch(batch)
        self._slice = slice(
            jax.process_index() * batch // jax.process_count(),
            (jax.process_index() + 1) * batch // jax.process_count(),
        )

    def __getitem__(self, step: int) -> np.ndarray:
        return np.asarray(self._order[step])[self._slice]


def step_rng(seed: int, stage: str, step: int) -> np.random.Generator:
    """Random numbers of the host for one step of one stage, the same however often the run was stopped."""
    return np.random.default_rng([seed, *stage.encode(), step, jax.process_index()])
