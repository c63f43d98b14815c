"""Retrieval metrics on passage ids, and the interval of a proportion."""

import math
from collections.abc import Collection, Hashable, Iterable, Sequence

Ids = Iterable[Sequence[Hashable]]
Gold = Iterable[Collection[Hashable]]

Z_95 = 1.959963984540054


def hits_at(ids_BK: Ids, gold_B: Gold, k: int) -> list[bool]:
    """Whether any gold passage is among each question's first k (top-k of Karpukhin et al. 2020, section 5).

    Args:
        ids_BK: passage ids, best first; surplus places of -1 match nothing.
        gold_B: the ids that count for each question, at least one.
        k: how many places to look at; rows may be shorter.

    Raises:
        ValueError: k below 1, different numbers of questions, or a question without gold passages.
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1")
    hits = []
    for row, (ids_K, gold) in enumerate(zip(ids_BK, gold_B, strict=True)):
        if not len(gold):
            raise ValueError(f"question {row} has no gold passage: leave it out of the measure")
        found = set(ids_K[:k]) - {-1}
        hits.append(not found.isdisjoint(gold))
    return hits


def precision_at(pages_BK: Ids, gold_B: Gold, k: int) -> list[float]:
    """The share of k places that distinct gold pages take among each question's first k passages, in [0, 1].

    Hugging Face RAG's precision@k: the titles (or ids) of the passages' pages, best first. A page counts once however
    many of its passages are found, and a row shorter than k is still divided by k. Surplus places are -1. Lewis et
    al. (2020), section 4.4, ask of FEVER's pages the looser question that `hits_at` answers for k = 1 and 10.

    Raises:
        ValueError: as `hits_at`.
    """
    pages_BK, gold_B = list(pages_BK), list(gold_B)
    hits_at(pages_BK, gold_B, k)
    return [
        len((set(pages_K[:k]) - {-1}).intersection(gold)) / k for pages_K, gold in zip(pages_BK, gold_B, strict=True)
    ]


def interval(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95% interval (1927) of a proportion: (low, high) in [0, 1]; n = 0 knows nothing: (0, 1).

    Raises:
        ValueError: successes outside 0..n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes is {successes}, expected 0 to {n}")
    if n == 0:
        return 0.0, 1.0
    share, z2_n = successes / n, Z_95**2 / n
    centre = share + z2_n / 2
    reach = Z_95 * math.sqrt((share * (1 - share) + z2_n / 4) / n)
    # Rounding must not move the ends off 0 and 1 where they are exactly there.
    low = 0.0 if successes == 0 else (centre - reach) / (1 + z2_n)
    high = 1.0 if successes == n else (centre + reach) / (1 + z2_n)
    return low, high
