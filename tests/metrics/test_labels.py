import pytest

from rag_jax.metrics.labels import THREE_WAY, TWO_WAY, label_accuracy, three_way_on_two_way_rows


def test_a_label_is_right_to_the_letter():
    for gold in THREE_WAY:
        assert [label_accuracy(prediction, gold, THREE_WAY) for prediction in THREE_WAY] == [
            float(prediction == gold) for prediction in THREE_WAY
        ]
    for prediction in ("supports", "SUPPORTS ", "", "SUPPORTSSUPPORTS", "ＳＵＰＰＯＲＴＳ"):
        assert label_accuracy(prediction, "SUPPORTS", TWO_WAY) == 0.0


def test_rows_of_another_task_are_errors():
    assert label_accuracy("NOT ENOUGH INFO", "REFUTES", TWO_WAY) == 0.0  # the prediction may be anything
    for gold, labels in [("NOT ENOUGH INFO", TWO_WAY), ("", THREE_WAY), ("supports", THREE_WAY)]:
        with pytest.raises(ValueError, match="expected SUPPORTS, REFUTES"):
            label_accuracy("SUPPORTS", gold, labels)


def test_a_three_way_system_on_two_way_rows():
    assert three_way_on_two_way_rows("REFUTES", "REFUTES") == 1.0
    assert three_way_on_two_way_rows("NOT ENOUGH INFO", "REFUTES") == 0.0
    assert three_way_on_two_way_rows("NOT ENOUGH INFO", "NOT ENOUGH INFO") is None
    with pytest.raises(ValueError):
        three_way_on_two_way_rows("REFUTES", "MAYBE")
