"""BART's text infilling (Lewis et al. 2019, BART, section 2.2): spans of tokens give way to one mask each."""

import numpy as np


def mask_spans(
    ids: np.ndarray, rng: np.random.Generator, mask_id: int, rate: float = 0.3, mean_span: float = 3.0
) -> np.ndarray:
    """Token ids with a share of `rate` hidden, one `mask_id` for each span of Poisson(`mean_span`) tokens.

    A span of no tokens inserts a mask. Two masks never stand side by side, since that would hide where one
    span ends.
    """
    hidden = min(len(ids), round(rate * len(ids)))
    if hidden == 0:
        return ids.copy()
    spans = _span_lengths(hidden, rng, mean_span)[: len(ids) - hidden + 1]
    spans[-1] += hidden - spans.sum()
    kept = len(ids) - hidden
    # Span j stands before kept token gap_j; distinct gaps keep the masks apart.
    gaps = np.sort(rng.choice(kept + 1, size=len(spans), replace=False))
    skipped = np.zeros(kept + 1, np.int64)
    skipped[gaps] = spans
    return np.insert(ids[np.arange(kept) + np.cumsum(skipped)[:kept]], gaps, mask_id)


def _span_lengths(hidden: int, rng: np.random.Generator, mean_span: float) -> np.ndarray:
    """Poisson lengths until they sum to `hidden`, the last one cut."""
    draws = rng.poisson(mean_span, size=hidden + 8)
    while draws.sum() < hidden:
        draws = np.concatenate([draws, rng.poisson(mean_span, size=hidden + 8)])
    total = np.cumsum(draws)
    count = int(np.searchsorted(total, hidden)) + 1
    spans = draws[:count].copy()
    spans[-1] -= total[count - 1] - hidden
    return spans
