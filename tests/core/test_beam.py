"""Beam search on chains of probabilities: solved by hand, against every sequence there is, and against plain Python."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rag_jax.core import beam
from rag_jax.core.constraints import Rules

END, START = 0, 1
MODES = {False: 0, True: beam.WHEN_FULL, "never": beam.NEVER}


def rules(max_length, length_penalty=1.0, early_stopping=False):
    free = dict.fromkeys(Rules._fields, np.int32(0))
    numbers = {
        "max_length": np.int32(max_length),
        "length_penalty": np.float32(length_penalty),
        "early_stopping": np.int32(MODES[early_stopping]),
    }
    return Rules(**free | numbers)


@partial(jax.jit, static_argnames=("length", "beams"))
def search(table_BTVV, rules, *, length, beams):
    """Answers in a world where log p(next) = table[question, place, last token, next]."""
    B = table_BTVV.shape[0]
    start = beam.start(jnp.full((B, beams, length), -1), jnp.ones(B, bool), beams)

    def step(state):
        position, said = state.position, state.running.said
        last_BM = jnp.where(position == 0, START, said[:, :, position - 1])
        logp_BMV = table_BTVV[jnp.arange(B)[:, None], position, last_BM]
        score_BC, parent_BC, token_BC = beam.best(logp_BMV + state.running.score_BM[:, :, None], 2 * beams)
        said_BC = jnp.take_along_axis(said, parent_BC[:, :, None], axis=1).at[:, :, position].set(token_BC)
        ends_BC = (token_BC == END) | (position + 1 >= rules.max_length)
        return beam.step(rules, state, beam.Candidates(score_BC, said_BC, ends_BC))[0]

    state = jax.lax.while_loop(lambda state: jnp.any(state.open_B), step, start)
    return beam.finish(state, beams)


def random_table(seed, B, T, V, end=0.0):
    logits = np.random.default_rng(seed).normal(size=(B, T, V, V)) * 1.5
    logits[..., END] += end
    return np.asarray(jax.nn.log_softmax(logits), np.float32)


def answers(found, row=0):
    """[(tokens, score)] of one question."""
    pairs = zip(found.said[row].tolist(), found.score_BM[row].tolist(), strict=True)
    return [(tuple(token for token in said if token >= 0), score) for said, score in pairs if score > -math.inf]


def test_best_is_a_sort_with_ties_in_order():
    score = np.random.default_rng(0).integers(0, 9, (3, 2, 700)).astype(np.float32)
    for count in (1, 4, 300):
        found, m, v = jax.jit(partial(beam.best, count=count))(score)
        for b in range(3):
            order = np.argsort(-score[b].ravel(), kind="stable")[:count]
            assert_array_equal(m[b] * 700 + v[b], order)
            assert_array_equal(found[b], score[b].ravel()[order])


def test_best_of_fewer_than_asked_for():
    found, m, v = beam.best(jnp.array([[[1.0, -jnp.inf, 2.0]]]), 4)
    assert_array_equal(found[0, :2], [2.0, 1.0])
    assert (m[0] == 0).all() and (v[0] < 3).all()


def by_hand(early_stopping=False, length_penalty=0.0, max_length=3):
    """Two beams; tokens: 0 ends, 1 is the start, 2 and 3 are words.

    place 0: after the start, 2 has 0.6, 3 has 0.3, the end 0.1
    place 1: after 2, 2 has 0.5, the end 0.3, 3 has 0.2; after 3, the end 0.9, 2 has 0.1
    place 2: after 2, 3 has 0.9, the end 0.1; after 3, the end has 1
    """
    p = np.full((1, 3, 4, 4), 1e-9, np.float32)
    p[0, 0, 1, [2, 3, 0]] = 0.6, 0.3, 0.1
    p[0, 1, 2, [2, 0, 3]] = 0.5, 0.3, 0.2
    p[0, 1, 3, [0, 2]] = 0.9, 0.1
    p[0, 2, 2, [3, 0]] = 0.9, 0.1
    p[0, 2, 3, 0] = 1.0
    return search(np.log(p), rules(max_length, length_penalty, early_stopping), length=3, beams=2)


def test_by_hand():
    """Place 1 ranks 22 (.30), 30 (.27), 20 (.18), 23 (.12): 30 ends among the first two, 20 comes too late.

    Beams 22 and 23 go on; place 2 ranks 223 (.27), 230 (.12), 220 (.03): cut at three tokens, all of them end.
    """
    found = answers(by_hand())
    assert [said for said, _ in found] == [(3, 0), (2, 2, 3)]
    assert_allclose(np.exp([score for _, score in found]), [0.27, 0.27], rtol=1e-5)


def test_by_hand_with_a_length_penalty():
    """Per token, .27 over three tokens is more than .27 over two."""
    found = answers(by_hand(length_penalty=1.0))
    assert [said for said, _ in found] == [(2, 2, 3), (3, 0)]
    assert_allclose([score for _, score in found], [np.log(0.27) / 3, np.log(0.27) / 2], rtol=1e-5)


def test_by_hand_cut_short():
    assert [said for said, _ in answers(by_hand(max_length=1))] == [(2,), (3,)]
    assert [said for said, _ in answers(by_hand(max_length=2))] == [(2, 2), (3, 0)]


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.7, 1.0, 2.0])
def test_with_room_for_all_it_is_exhaustive(penalty):
    """Three tokens, up to four places: 31 answers, and 32 beams to find them."""
    T, V, M = 4, 3, 32
    table = random_table(1, 1, T, V)
    everything = {}
    for said in itertools.product(range(V), repeat=T):
        said = said[: said.index(END) + 1] if END in said else said
        steps = zip((START, *said), said, strict=False)
        score = sum(float(table[0, t, last, token]) for t, (last, token) in enumerate(steps))
        everything[said] = score / len(said) ** penalty
    found = answers(search(table, rules(T, penalty), length=T, beams=M))
    assert len(found) == len(everything) == 31
    assert [said for said, _ in found] == sorted(everything, key=lambda said: -everything[said])
    assert_allclose([score for _, score in found], sorted(everything.values(), reverse=True), rtol=1e-5)


def plain(table_TVV, beams, max_length, penalty, early_stopping):
    """The rules of core.beam in lists: [(score, tokens)] of the finished, best first; and the places visited."""
    running, finished = [(0.0, ())], []
    for t in range(max_length):
        grown = [
            (score + float(logp), (*said, token))
            for score, said in running
            for token, logp in enumerate(table_TVV[t, said[-1] if said else START])
        ]
        grown.sort(key=lambda pair: -pair[0])
        grown, length = grown[: 2 * beams], t + 1
        ends = [said[-1] == END or length == max_length for _, said in grown]
        best = [pair for pair, end in zip(grown[:beams], ends, strict=False) if end]
        finished = sorted(finished + [(score / length**penalty, said) for score, said in best], key=lambda p: -p[0])
        finished = finished[:beams]
        running = [pair for pair, end in zip(grown, ends, strict=True) if not end][:beams]
        if len(finished) == beams and running:
            at = max_length if early_stopping == "never" and penalty > 0 else length
            if early_stopping is True or running[0][0] / at**penalty <= finished[-1][0]:
                break
    return finished, t + 1


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("penalty", [-0.5, 0.0, 1.0, 1.8])
def test_equals_plain_python(early_stopping, penalty):
    """Four questions in a batch, each as if it were alone, though they close at different places."""
    closed = set()
    for seed in range(6):
        table = random_table(seed, 4, 6, 9, end=1.0)
        for beams in (2, 4):
            found = search(table, rules(6, penalty, early_stopping), length=6, beams=beams)
            for row in range(4):
                expected, places = plain(table[row], beams, 6, penalty, early_stopping)
                closed.add(places)
                got = answers(found, row)
                assert [said for said, _ in got] == [said for _, said in expected]
                assert_allclose([score for _, score in got], [score for score, _ in expected], rtol=1e-4)
    if early_stopping != "never" or penalty <= 0:  # else few searches end before the last place
        assert len(closed) >= 3


def test_a_closed_question_stays_as_it_is():
    state = beam.start(jnp.full((2, 2, 3), -1), jnp.array([True, False]), 2)
    said = jnp.array([[[2, -1, -1], [3, -1, -1], [0, -1, -1], [1, -1, -1]]] * 2)
    candidates = beam.Candidates(jnp.log(jnp.array([[0.4, 0.3, 0.2, 0.1]] * 2)), said, said[:, :, 0] == 3)
    after, _ = beam.step(rules(3), state, candidates)
    jax.tree.map(lambda new, old: assert_array_equal(new[1], old[1]), after[1:], state[1:])
    assert_array_equal(after.full_BM, [[True, False], [False, False]])
    assert_array_equal(after.running.said[0, :, 0], [2, 0])
    assert_array_equal(beam.finish(after, 2).score_BM > -jnp.inf, [[True, False], [False, False]])
