"""Dense and BM25 ranks fused: which passages a question gets when an index is asked by meaning and by words.

The fusion chooses the k documents and their order; p(z|x) over them is the paper's, proportional to
exp(scale * <q(x), d(z)>) (Lewis et al. 2020, section 2.2). So the question encoder is trained through the prior as
without BM25, and a passage that BM25 alone has found weighs what its vector says.
"""

from collections.abc import Sequence

import numpy as np

CONSTANT = 60  # Cormack et al. 2009
DEPTH = 100  # passages of each ranking that are fused, at least


def fuse(rankings: Sequence[np.ndarray], k: int) -> np.ndarray:
    """The k ids of each question with the largest sum over rankings of 1 / (60 + rank), id_BK int64.

    Reciprocal rank fusion (Cormack et al. 2009, equation 1), ranks from 1, ties by lower id. rankings: ids [B, D], best
    first, -1 for none; -1 also stands where fewer than k were found.
    """
    id_BR = np.concatenate(rankings, axis=1)
    weight_R = np.concatenate([1 / (CONSTANT + 1 + np.arange(ranking.shape[1])) for ranking in rankings])
    id_BK = np.full((len(id_BR), k), -1, np.int64)
    for row, id_R in enumerate(id_BR):
        ids, place_R = np.unique(id_R, return_inverse=True)
        sum_ = np.bincount(place_R, weight_R)
        best = [place for place in np.argsort(-sum_, kind="stable") if ids[place] >= 0][:k]
        id_BK[row, : len(best)] = ids[best]
    return id_BK
