"""The largest batch that fits: few are compiled, as a program's memory grows nearly evenly with its batch."""

from collections.abc import Callable

MOST_TRIES = 6


def tries(need: Callable[[int], float], limit: float, start: int, multiple: int = 1) -> dict[int, float]:
    """The batches tried, in order, with the bytes that each needs; the largest that fits is among them, if any does.

    need: the bytes of a batch, a multiple of `multiple`. The next batch is where the line through the two nearest to
    the limit meets it; it ends at two neighbours, or after MOST_TRIES.
    """
    tried: dict[int, float] = {}
    batch = max(start // multiple, 1)
    while batch and len(tried) < MOST_TRIES:
        tried[batch] = need(batch * multiple)
        batch = _next(tried, limit)
    return {batch * multiple: total for batch, total in tried.items()}


def largest(tried: dict[int, float], limit: float) -> int:
    """The largest batch that fits; 0 where none does."""
    return max((batch for batch, total in tried.items() if total <= limit), default=0)


def _next(tried: dict[int, float], limit: float) -> int:
    """The batch to try next; 0 where nothing is left to learn."""
    below = largest(tried, limit)
    above = min((batch for batch, total in tried.items() if total > limit), default=0)
    if above and above - below == 1:
        return 0
    if len(tried) == 1:
        guess = 2 * below if below else above // 2
    else:
        (one, low), (other, high) = sorted(tried.items(), key=lambda pair: abs(pair[1] - limit))[:2]
        slope = (high - low) / (other - one)
        guess = int(one + (limit - low) / slope) if slope > 0 else 2 * max(tried)
    guess = max(guess, below + 1)
    return min(guess, above - 1) if above else guess
