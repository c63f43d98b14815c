import pytest

from rag_jax.metrics.patterns import compile_patterns, regex_match


@pytest.mark.parametrize(
    ("prediction", "pattern", "match", "search", "fullmatch"),
    [
        ("New York", r"New\s?York", 1, 1, 1),
        ("new york city", r"New\s?York", 1, 1, 0),  # case does not count
        ("in New York", r"New\s?York", 0, 1, 0),
        ("35 degrees", r"35|35 to 40 degre(es)?", 1, 1, 0),
        ("35 to 40 degrees", r"35|35 to 40 degre(es)?", 1, 1, 1),  # the whole text is tried on every alternative
        ("ÉCOLE", "école", 1, 1, 1),
        ("x\nyes", "^yes$", 0, 1, 0),  # several lines: ^ holds after a break, but match starts at the start
        ("", "x?", 1, 1, 1),
        ("", "x", 0, 0, 0),
    ],
)
def test_three_ways_to_match(prediction, pattern, match, search, fullmatch):
    patterns = compile_patterns([pattern])
    found = [regex_match(prediction, patterns, how) for how in ("match", "search", "fullmatch")]
    assert found == [match, search, fullmatch]
    assert regex_match(prediction, patterns) == match


def test_any_pattern_will_do():
    assert regex_match("Oslo", compile_patterns(["Rome", "O"])) == 1.0


@pytest.mark.parametrize(
    "broken", ["(", "*a", "[z-a]", r"\q", "x(?i)", "a{99999999999999999999}", "(" * 9999 + ")" * 9999]
)
def test_broken_patterns_are_set_apart_never_scored(broken):
    patterns = compile_patterns(["Oslo", broken])
    assert patterns.broken == (broken,)
    assert regex_match("Oslo", patterns) == 1.0
    with pytest.raises(ValueError, match="leave the question out"):
        regex_match("Oslo", compile_patterns([broken]))


def test_a_pattern_that_a_later_python_may_read_otherwise_still_compiles():
    assert regex_match("[", compile_patterns(["[[]"])) == 1.0


def test_mistakes_are_errors():
    with pytest.raises(ValueError, match="expected 'match'"):
        regex_match("x", compile_patterns(["x"]), "find")
    with pytest.raises(TypeError, match="several strings"):
        compile_patterns("x")
    with pytest.raises(ValueError, match="at least one"):
        compile_patterns([])
