"""The health of retrieval by hand: mutual information of question and passage, and the warning of a collapse."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from rag_jax.core.marginal import document_log_prior
from rag_jax.evaluation.measures import Headline
from rag_jax.training.health import Health
from rag_jax.training.logging import Pace, RunLog
from rag_jax.training.loop import Keeper, report


def health(ids_BK, probability_BK):
    with np.errstate(divide="ignore"):
        return Health.of(np.array(ids_BK), np.log(np.array(probability_BK, np.float32)))


@pytest.mark.parametrize("questions", [2, 3, 8])
def test_a_passage_of_its_own_for_every_question_is_log_of_the_questions(questions):
    found = health([[10 * row] for row in range(questions)], [[1.0]] * questions)
    assert found.information == pytest.approx(math.log(questions)) and not found.collapsed
    assert (found.distinct, found.questions) == (questions, questions)


@pytest.mark.parametrize("probability_K", [[1.0], [0.5, 0.5], [0.7, 0.2, 0.1]])
def test_the_same_passages_for_every_question_are_nothing(probability_K):
    K = len(probability_K)
    found = health([list(range(K))] * 4, [probability_K] * 4)
    assert found.information == pytest.approx(0, abs=1e-6) and found.collapsed and found.distinct == K


def test_a_mix_by_hand():
    # Two questions share passage 5. Mean prior: 1/2 * 3/4 for passage 1, 1/2 * 1/4 + 1/2 * 1/2 for 5, 1/4 for 9.
    found = health([[1, 5], [9, 5]], [[0.75, 0.25], [0.5, 0.5]])
    entropy = sum(-p * math.log(p) for p in (3 / 8, 3 / 8, 1 / 4))
    entropy_of_each = (sum(-p * math.log(p) for p in (3 / 4, 1 / 4)) + math.log(2)) / 2
    assert found.information == pytest.approx(entropy - entropy_of_each)
    assert (found.distinct, found.collapsed) == (3, False)


def test_the_same_passages_in_another_order_are_still_the_same():
    assert health([[1, 2], [2, 1]], [[0.6, 0.4], [0.4, 0.6]]).information == pytest.approx(0, abs=1e-6)


def test_missing_passages_count_for_nothing():
    found = health([[1, -1, -1], [2, 3, -1]], [[1, 0, 0], [0.5, 0.5, 0]])
    whole = health([[1, 7], [2, 3]], [[1, 0], [0.5, 0.5]])
    assert found.distinct == 3 and found.information == pytest.approx(whole.information)
    score_BK = np.array([[2.0, -np.inf], [1.0, 1.0]], np.float32)
    prior_BK = np.asarray(document_log_prior(score_BK))
    assert Health.of(np.array([[4, -1], [4, 5]]), prior_BK).distinct == 2


def test_one_question_cannot_collapse():
    assert not health([[3]], [[1.0]]).collapsed


@pytest.mark.parametrize("collapsed", [True, False])
def test_the_loop_warns_of_a_collapse(tmp_path, capsys, collapsed):
    found, source = health([[0 if collapsed else row] for row in range(16)], [[1.0]] * 16), SimpleNamespace(told=None)
    with RunLog(tmp_path) as log:
        report(
            log, Keeper(None, None, None, "joint", 100, {}, None), source, 4, {"loss": np.float32(1.5)}, found,
            pace=Pace(0, 10, 16), rates=1e-3 * np.arange(10), watched=Headline("EM", 0.25),
        )  # fmt: skip
    said = capsys.readouterr().out
    expected = (
        "warning: joint step 4: retrieval has collapsed: 1 distinct passages for 16 questions, "
        "mutual information 0.000 nats\n"
    )
    assert said == (expected if collapsed else "")
    (line,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert line["step"] == 104 and line["stage"] == "joint" and line["loss"] == 1.5
    assert line["learning_rate"] == pytest.approx(4e-3)
    assert line["distinct_passages"] == (1 if collapsed else 16)
    assert line["mutual_information"] == pytest.approx(0 if collapsed else math.log(16))
