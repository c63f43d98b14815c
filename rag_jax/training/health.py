"""The health of retrieval: whether different questions get different passages."""

import math
from typing import NamedTuple

import numpy as np

COLLAPSE = 0.1  # of log(questions), the most that a batch's mutual information can be when each has its own passage


class Health(NamedTuple):
    """distinct: different passages in a batch; information: of question and passage, nats; questions: in the batch.

    The mutual information is the entropy of the batch's mean prior less the questions' mean entropy. Near zero, every
    question gets the same passages: the retrieval collapse that Lewis et al. 2020 report (appendix).
    """

    distinct: int
    information: float
    questions: int

    @classmethod
    def of(cls, ids_BK: np.ndarray, score_BK: np.ndarray) -> "Health":
        """From the found rows (-1: none) and their scores, the logits of p(z|x): on the host, the devices are busy."""
        there_BK = ids_BK >= 0
        score_BK = np.where(there_BK, score_BK, -np.inf).astype(np.float64)
        best_B1 = np.max(score_BK, axis=1, keepdims=True)
        weight_BK = np.exp(score_BK - np.where(np.isfinite(best_B1), best_B1, 0.0))
        probability_BK = weight_BK / np.maximum(weight_BK.sum(axis=1, keepdims=True), 1e-30)
        found, place = np.unique(ids_BK, return_inverse=True)
        mean_N = np.bincount(place.ravel(), probability_BK.ravel(), len(found)) / len(ids_BK)
        entropy = _entropy(probability_BK).sum() / len(ids_BK)
        return cls(int((found >= 0).sum()), float(_entropy(mean_N).sum() - entropy), len(ids_BK))

    @property
    def collapsed(self) -> bool:
        """Whether the questions' passages hardly differ."""
        return self.questions > 1 and self.information < COLLAPSE * math.log(self.questions)


def _entropy(probability: np.ndarray) -> np.ndarray:
    return -probability * np.log(np.maximum(probability, 1e-30))
