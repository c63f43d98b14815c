"""The strings that a pattern stands for, by hand, and what has too many."""

import re

import pytest

from rag_jax.data.expansion import MOST, expand
from rag_jax.metrics.patterns import FLAGS


@pytest.mark.parametrize(
    ("pattern", "strings"),
    [
        ("Paris", ["Paris"]),
        (r"Octo?(ber)?|Jan(uary)?", ["Oct", "Octber", "Octo", "October", "Jan", "January"]),
        (r"San\s?Remo", ["SanRemo", "San Remo"]),
        (r"Ode\s+to\s*the.*Skylark", ["Ode to the Skylark"]),
        (r"^\s*near\s+Lima\s*\.?$", ["near Lima", "near Lima ."]),
        (r"(4,?40[04]|cold)\b", ["4400", "4404", "4,400", "4,404", "cold"]),
        (r"[1-3]\sft", ["1 ft", "2 ft", "3 ft"]),
        (r"a{2}(?:b|c){1,2}", ["aab", "aac", "aabb", "aabc", "aacb", "aacc"]),
        ("Mt. Ida", ["Mt. Ida"]),
        (r"Ra'*\s*s", ["Ra s"]),
        (r"a|\ba|(a)", ["a"]),
        (r"x[^a]y|z", ["x y", "z"]),
        (r"19\d\d", []),  # a space for a digit matches nothing
        ("(|){40}(a?){9}", ["a" * count for count in range(1, 10)]),
        (r"\s*", []),
        ("", []),
    ],
)
def test_strings(pattern, strings):
    assert list(expand(pattern)) == list(dict.fromkeys(strings))
    assert all(re.fullmatch(pattern, text, FLAGS) for text in strings)


@pytest.mark.parametrize(
    "pattern",
    [
        "(ab)+", "(ab|c)*", r"(a)\1", "(?=a)a", "[a-z]{2}", "a{300}", "(a|b){9}", "(a|aa){30}",
        f"a{{0,{MOST}}}", "((a|){4000}){4000}",
    ],
)  # fmt: skip
def test_too_many(pattern):
    assert expand(pattern) is None


def test_as_many_as_are_allowed():
    assert len(expand("(a|b){8}")) == MOST == 2**8
    assert len(expand(f"a{{1,{MOST}}}")) == MOST
