"""Token for token what transformers 5.23 decodes, over random models, documents, beams and options."""

import numpy as np
import pytest

from .cases import CASES, Shape, cases, shapes
from .oracle import answers, traits
from .ours import decoded, verdict
from .watch import TIE

SHORT = {("token", 3, 1), ("token", 2, 4), ("token", 5, 5), ("sequence", 3, 4)}  # kind, documents, beams
SHORT_CASES = 10  # of each: a tenth in all
ALL = [shape for kind in CASES for shape in shapes(kind)]


def tiered(shape: Shape):
    marks = pytest.mark.more if (shape.kind, shape.K, shape.M) in SHORT else pytest.mark.long
    return pytest.param(shape, marks=marks, id=f"{shape.kind}-V{shape.V}-K{shape.K}-M{shape.M}")


@pytest.mark.parametrize("shape", [tiered(shape) for shape in ALL])
def test_tokens(shape, request):
    asked = cases(shape) if request.config.getoption("--long") else cases(shape)[:SHORT_CASES]
    wrong = [case for case in asked if verdict(case) == "wrong"]
    shown = "".join(f"\n{case}\n{decoded(case).token_BNT}\nexpected\n{answers(case)}" for case in wrong[:3])
    assert not wrong, f"{len(wrong)} of {len(asked)} differ, of which{shown}"


@pytest.mark.long
def test_ties_are_few():
    gaps = np.array([answers(case).gap for shape in ALL for case in cases(shape)])
    assert np.mean(gaps < TIE) <= 0.02


@pytest.mark.long
@pytest.mark.parametrize(("kind", "least"), [("token", 300), ("sequence", 100)])
def test_the_cases_are_worth_asking(kind, least):
    found = [traits(case) for shape in shapes(kind) for case in cases(shape)]
    ends, disagree, searches = (np.concatenate(questions).mean() for questions in zip(*found, strict=True))
    assert len(found) >= least
    assert ends >= 1 / 2
    assert disagree >= 1 / 2
    assert searches >= 1 / 3
