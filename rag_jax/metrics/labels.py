"""FEVER's labels (Thorne et al. 2018) and the three accuracies that must not be mixed up."""

SUPPORTS, REFUTES, NOT_ENOUGH_INFO = "SUPPORTS", "REFUTES", "NOT ENOUGH INFO"
THREE_WAY = (SUPPORTS, REFUTES, NOT_ENOUGH_INFO)
TWO_WAY = (SUPPORTS, REFUTES)


def label_accuracy(prediction: str, gold: str, labels: tuple[str, ...]) -> float:
    """1.0 if the prediction is the gold label to the letter, else 0.0, among `THREE_WAY` or `TWO_WAY` labels.

    A prediction that is no label, the empty one too, is wrong. ValueError for a gold label outside `labels`: the
    row belongs to another task.
    """
    if gold not in labels:
        raise ValueError(f"the gold label is {gold!r}, expected {', '.join(labels)}")
    return float(prediction == gold)


def three_way_on_two_way_rows(prediction: str, gold: str) -> float | None:
    """A 3-way system's accuracy on a row that FEVER-2 keeps, else None: the row is not of this measure.

    Not FEVER-2's accuracy (Lewis et al. 2020, table 2), which is of systems that know two labels: a 3-way system may
    still say NOT ENOUGH INFO, and is wrong then.
    """
    right = label_accuracy(prediction, gold, THREE_WAY)
    return right if gold in TWO_WAY else None
