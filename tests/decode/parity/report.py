"""Prints the table of parity with transformers, shape by shape: `python -m tests.decode.parity.report`, some minutes.

Ties are cases in which transformers' own choice hung on less than 1e-5; ends, disagree and searches are the shares of
questions with an answer that ends early, with documents that would start differently, with beams that find what
greedy search does not.
"""

import numpy as np
import transformers

from .cases import Shape, cases, shapes
from .oracle import answers, traits
from .ours import verdict
from .watch import TIE


def row(name: str, of_shapes: list[Shape]) -> str:
    """One line over all cases of some shapes."""
    asked = [case for shape in of_shapes for case in cases(shape)]
    verdicts, ties = [verdict(case) for case in asked], sum(answers(case).gap < TIE for case in asked)
    shares = [np.concatenate(questions).mean() for questions in zip(*map(traits, asked), strict=True)]
    cells = [name, len(asked), verdicts.count("equal"), verdicts.count("wrong"), ties, *(f"{x:.2f}" for x in shares)]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Prints rows as they come."""
    transformers.logging.set_verbosity_error()
    print("| kind, vocabulary, documents, beams | cases | equal | wrong | ties | ends | disagree | searches |")
    print("|---|---|---|---|---|---|---|---|")
    for kind in ("token", "sequence"):
        for shape in shapes(kind):
            print(row(f"{kind}, {shape.V}, {shape.K}, {shape.M}", [shape]), flush=True)
    for kind in ("token", "sequence"):
        print(row(f"all of {kind}", shapes(kind)))


if __name__ == "__main__":
    main()
