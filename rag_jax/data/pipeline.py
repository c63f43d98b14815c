"""The order of training examples: the global batch of a step is a pure function of (seed, step)."""

import grain
import numpy as np


class Batches:
    """Indices of the examples of every step: shuffled epoch after epoch, the same for the same seed.

    `batches[i]` is int64 [batch], of which each process takes its share; nothing needs saving but i.
    """

    def __init__(self, count: int, batch: int, seed: int):
        self._order = grain.MapDataset.range(count).seed(seed).shuffle().repeat().batch(batch)

    def __getitem__(self, step: int) -> np.ndarray:
        return np.asarray(self._order[step])


def step_rng(seed: int, stage: str, step: int) -> np.random.Generator:
    """Random numbers of the host for one step of one stage, the same however often the run was stopped.

    Every process draws them for the whole batch, so that a run does not depend on how many there are.
    """
    return np.random.default_rng([seed, *stage.encode(), step, 0])
