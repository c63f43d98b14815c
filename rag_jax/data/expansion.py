"""Every string that a regular expression stands for, where they are few."""

import itertools
import warnings
from collections.abc import Iterable

# The parse tree of `re` has no public name; this one is as old as Python 3.11.
from re import _constants as kind  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]

from rag_jax.metrics.patterns import FLAGS, compile_patterns

MOST = 256


class _Infinite(Exception):
    """The strings are without end, too many, or not to be told from the pattern."""


def expand(pattern: str) -> tuple[str, ...] | None:
    """The strings that a pattern stands for, in order; None where they are more than MOST or have no end.

    What may be one of too many characters, or one of some repeated without end, becomes a space, and spaces are made
    single: the paper replaces the non-deterministic parts of a pattern by white space (Lewis et al. 2020, appendix D).
    A dot alone stays one, as its author nearly always meant. Strings that the pattern then does not match from
    beginning to end are left out: '19\\d\\d' has none.
    """
    (compiled, *_), _ = compile_patterns([pattern])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            strings = _sequence(parser.parse(pattern, int(FLAGS)))
    except _Infinite:
        return None
    plain = dict.fromkeys(" ".join(text.split()) for text in strings)
    return tuple(text for text in plain if text and compiled.fullmatch(text))


def _sequence(items: Iterable) -> list[str]:
    strings = [""]
    for item in items:
        strings = _bounded(left + right for left, right in itertools.product(strings, _item(*item)))
    return strings


def _item(operator, argument) -> list[str]:
    """The strings of one node of the tree."""
    if operator is kind.LITERAL:
        return [chr(argument)]
    if operator is kind.AT:  # the beginning, the end, a boundary
        return [""]
    if operator is kind.ANY:
        return ["."]
    if operator in (kind.CATEGORY, kind.NOT_LITERAL):
        return [" "]
    if operator is kind.RANGE:
        return _bounded(map(chr, range(argument[0], argument[1] + 1)))
    if operator is kind.IN:
        any_other = argument[0][0] is kind.NEGATE
        return [" "] if any_other else _bounded(text for item in argument for text in _item(*item))
    if operator is kind.BRANCH:
        return _bounded(text for branch in argument[1] for text in _sequence(branch))
    if operator is kind.SUBPATTERN:
        return _sequence(argument[3])
    if operator in (kind.MAX_REPEAT, kind.MIN_REPEAT):
        return _repeated(*argument)
    raise _Infinite  # back references, conditions, what is only looked at


def _repeated(least: int, most: int, items: Iterable) -> list[str]:
    once = _sequence(items)
    if (most is kind.MAXREPEAT and all(len(text) == 1 for text in once)) or (once == [" "] and most > 1):
        return [" "]
    if most is kind.MAXREPEAT or least > MOST:
        raise _Infinite
    counts = range(least, most + 1)
    return _bounded("".join(parts) for count in counts for parts in itertools.product(once, repeat=count))


def _bounded(strings: Iterable[str]) -> list[str]:
    """The strings, each once."""
    found: dict[str, None] = {}
    for number, text in enumerate(strings):
        found[text] = None
        if len(found) > MOST or number > 16 * MOST:  # the same string in very many ways
            raise _Infinite
    return list(found)
