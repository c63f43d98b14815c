import pytest

from rag_jax.metrics.msmarco import compared


def test_rows_without_an_answer_are_left_out():
    assert compared("x", ["No Answer Present."]) is None
    assert compared("x", ["y", "No Answer Present."]) is None
    assert compared("x", []) is None
    assert compared("x", ["no answer present"]) == ("x", ("no answer present",))  # other words are words


def test_declining_a_question_that_has_an_answer_says_nothing():
    assert compared("No Answer Present.", ["y", "z"]) == ("", ("y", "z"))
    assert compared("", ["y"]) == ("", ("y",))
    with pytest.raises(TypeError, match="several strings"):
        compared("x", "No Answer Present.")
