"""The largest batch that fits: few are compiled, as a program's memory grows nearly evenly with its batch."""

from collections.abc import Callable

MOST_TRIES = 8  # each may compile for minutes
FURTHER = 16  # times the largest that fits, at most, is tried next: two small batches say little of large ones
PRECISION = 32  # a gap of a 32nd of what fits is not narrowed


def tries(need: Callable[[int], float], limit: float, start: int, multiple: int = 1) -> dict[int, float]:
    """The batches tried, in order, with the bytes that each needs; the largest that fits is among them, or near.

    need: the bytes of a batch, a multiple of `multiple`. It ends at two neighbours, of which one fits, or at batches
    that differ by a PRECISION-th, or after MOST_TRIES; if any batch fits, one that does is among them.
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
    if not above:
        return _up(tried, limit)
    if not below:
        return _down(tried, limit)
    if above - below <= _step(below):
        return 0
    least, most = below + _step(below), above - _step(above)
    return min(max(_between(tried, limit, below, above), least), most) if least <= most else (below + above) // 2


def _step(batch: int) -> int:
    return max(batch // PRECISION, 1)


def _up(tried: dict[int, float], limit: float) -> int:
    """All fit."""
    below = max(tried)
    guess = 2 * below if len(tried) == 1 else _on_line(tried, limit, *sorted(tried)[-2:])
    return min(max(guess or 4 * below, below + _step(below)), FURTHER * below)


def _down(tried: dict[int, float], limit: float) -> int:
    """None fits: half of the least, or less where the line through the least two says so."""
    above = min(tried)
    if above == 1:
        return 0
    if len(tried) == MOST_TRIES - 1:
        return 1
    guess = None if len(tried) == 1 else _on_line(tried, limit, *sorted(tried)[:2])
    return max(above // 2 if guess is None else min(guess, above // 2), 1)


def _on_line(tried: dict[int, float], limit: float, one: int, other: int) -> int | None:
    """Where the line through two batches meets the limit; None where it does not grow."""
    slope = (tried[other] - tried[one]) / (other - one)
    return int(one + (limit - tried[one]) / slope) if slope > 0 else None


def _between(tried: dict[int, float], limit: float, below: int, above: int) -> int:
    """Where the line between them meets the limit; an end that stayed while the other moved twice counts half, and so

    on (the Illinois method): else a bent curve would be followed in ever smaller steps from one side.
    """
    room, excess = limit - tried[below], tried[above] - limit
    *before, last = [total <= limit for total in tried.values()]
    for fits in reversed(before):
        if fits != last:
            break
        room, excess = (room, excess / 2) if last else (room / 2, excess)
    return below + int(room / (room + excess) * (above - below))
