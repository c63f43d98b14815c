"""Token for token what transformers 5.23 decodes, over random models, documents, beams and options."""

import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.core.marginal import document_log_prior
from rag_jax.decode.generate import generate

from .cases import Shape, cases, shapes
from .oracle import answers, models, traits
from .watch import TIE

CASES = {"token": 12, "sequence": 9}  # of every shape
SHORT = {("token", 3, 1), ("token", 2, 3), ("token", 5, 5), ("sequence", 3, 3)}  # kind, documents, beams
ALL = [shape for kind in CASES for shape in shapes(kind)]
TIER = {False: [shape for shape in ALL if (shape.kind, shape.K, shape.M) in SHORT], True: ALL}
TIERS = [False, pytest.param(True, marks=pytest.mark.long)]
SHAPES = [shape if shape in TIER[False] else pytest.param(shape, marks=pytest.mark.long) for shape in ALL]


def named(shape: Shape) -> str:
    return f"{shape.kind}-V{shape.V}-K{shape.K}-M{shape.M}"


@pytest.mark.parametrize(
    "shape",
    [shape if shape in TIER[False] else pytest.param(shape, marks=pytest.mark.long) for shape in ALL],
    ids=named,
)
def test_tokens(shape):
    wrong = []
    for case in cases(shape, CASES[shape.kind]):
        expected, ours = answers(case), models(case.world)
        source_BKS, score_BK = case.arrays()
        prior_BK = document_log_prior(jnp.asarray(score_BK))
        token_BNT = np.asarray(generate(ours.config, case.decode, ours.params, source_BKS, prior_BK).token_BNT)
        if not np.array_equal(token_BNT, expected.token_BNT) and expected.gap >= TIE:
            wrong.append(f"{case}\nfound\n{token_BNT}\nexpected\n{expected.token_BNT}\ngap {expected.gap}")
    assert not wrong, f"{len(wrong)} cases\n" + "\n".join(wrong)


@pytest.mark.parametrize("long", TIERS, ids=["short", "long"])
def test_ties_are_few(long):
    gaps = [answers(case).gap for shape in TIER[long] for case in cases(shape, CASES[shape.kind])]
    assert np.mean(np.array(gaps) < TIE) <= 0.02


@pytest.mark.parametrize("long", TIERS, ids=["short", "long"])
@pytest.mark.parametrize("kind", CASES)
def test_the_cases_are_worth_asking(kind, long):
    found = [traits(case) for shape in TIER[long] if shape.kind == kind for case in cases(shape, CASES[kind])]
    if long:
        assert len(found) >= {"token": 300, "sequence": 100}[kind]
    ends, disagree, searches = (np.concatenate(questions).mean() for questions in zip(*found, strict=True))
    assert ends >= 1 / 2
    assert disagree >= 1 / 2
    assert searches >= 1 / 3
