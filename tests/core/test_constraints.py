"""Rules of what may be said next, by hand and against loops; the distribution that sampling draws from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rag_jax.core.constraints import Rules, constrain, warp

B, M, T, V, END = 2, 3, 8, 6, 2
FREE = Rules(
    max_length=np.int32(T),
    min_length=np.int32(0),
    length_penalty=np.float32(1),
    early_stopping=np.int32(0),
    forced_bos_id=np.int32(-1),
    forced_eos_id=np.int32(-1),
    no_repeat=np.int32(0),
    bad_word_NL=np.zeros((0, 0), np.int32),
    before=np.int32(-1),
    temperature=np.float32(1),
    top_k=np.int32(0),
    top_p=np.float32(1),
    seed=np.int32(0),
)
run = jax.jit(lambda rules, logp, token, position: constrain(rules, END, logp, token, position))
reshape = jax.jit(warp)


@pytest.fixture(scope="module")
def logp():
    return jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (B, M, V)))


@pytest.fixture(scope="module")
def token():
    return jax.random.randint(jax.random.key(1), (B, M, T), 0, 4)


def test_without_rules_nothing_changes(logp, token):
    for position in (0, 3, T - 1):
        assert_array_equal(run(FREE, logp, token, position), logp)


def test_no_end_before_the_least_length(logp, token):
    for position in range(4):
        got = run(FREE._replace(min_length=np.int32(2)), logp, token, position)
        assert_array_equal(np.isneginf(got).all(axis=(0, 1)), [v == END and position < 2 for v in range(V)])


def test_forced_tokens_stand_first_and_last(logp, token):
    """Whatever else is forbidden."""
    words = np.array([[4], [5]], np.int32)
    forced = FREE._replace(forced_bos_id=np.int32(4), forced_eos_id=np.int32(5), bad_word_NL=words)
    for position, expected in ((0, 4), (T - 1, 5)):
        got = run(forced, logp, token, position)
        assert_array_equal(got, np.broadcast_to(np.where(np.arange(V) == expected, 0, -np.inf), got.shape))
    assert_array_equal(np.isneginf(run(forced, logp, token, 3)).all(axis=(0, 1)), [0, 0, 0, 0, 1, 1])


@pytest.mark.parametrize("before", [-1, 3])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_repeated_ngrams(logp, token, size, before):
    rules = FREE._replace(no_repeat=np.int32(size), before=np.int32(before))
    banned = 0
    for position in range(T):
        got = np.isneginf(run(rules, logp, token, position))
        for b in range(B):
            for m in range(M):
                history = [before] * (before >= 0) + token[b, m, :position].tolist()
                seen = {tuple(history[i : i + size]) for i in range(len(history) - size + 1)}
                suffix = history[len(history) - size + 1 :]
                fits = len(suffix) == size - 1
                expected = [fits and (*suffix, v) in seen for v in range(V)]
                assert_array_equal(got[b, m], expected)
                banned += sum(expected)
    assert banned > 5


@pytest.mark.parametrize("before", [-1, 3])
def test_forbidden_words(logp, token, before):
    words = [(5,), (3, 1), (1, 2, 0), (0, 0)]
    padded = np.array([[-1, -1, 5], [-1, 3, 1], [1, 2, 0], [-1, 0, 0], [-1, -1, -1]], np.int32)
    rules = FREE._replace(bad_word_NL=padded, before=np.int32(before))
    banned = 0
    for position in range(T):
        got = np.isneginf(run(rules, logp, token, position))
        for b in range(B):
            for m in range(M):
                history = [before] * (before >= 0) + token[b, m, :position].tolist()
                ends = [word[-1] for word in words if (*history, word[-1])[-len(word) :] == word]
                assert_array_equal(got[b, m], [v in ends for v in range(V)])
                banned += len(ends) > 1
    assert banned > 5


def test_warp_by_hand():
    p = jnp.array([[[0.1, 0.4, 0.3, 0.2]]])
    cases = [
        ({}, [0.1, 0.4, 0.3, 0.2]),
        ({"temperature": 0.5}, [0.01, 0.16, 0.09, 0.04]),
        ({"top_k": 2}, [0, 0.4, 0.3, 0]),
        ({"top_k": 9}, [0.1, 0.4, 0.3, 0.2]),
        ({"top_p": 0.65}, [0, 0.4, 0.3, 0]),
        ({"top_p": 0.75}, [0, 0.4, 0.3, 0.2]),
        ({"top_p": 0.01}, [0, 0.4, 0, 0]),
        ({"top_k": 3, "top_p": 0.7}, [0, 0.4, 0.3, 0]),  # of what top_k left, .4 and .3 are 7/9
        ({"top_k": 2, "temperature": 0.5, "top_p": 0.6}, [0, 0.16, 0, 0]),  # .16 of .25
    ]
    for settings, expected in cases:
        rules = FREE._replace(
            **{name: np.asarray(value, getattr(FREE, name).dtype) for name, value in settings.items()}
        )
        expected = np.array(expected) / sum(expected)
        assert_allclose(jax.nn.softmax(reshape(rules, jnp.log(p)))[0, 0], expected, atol=1e-6)


def test_warp_keeps_what_is_forbidden_forbidden():
    score = jnp.log(jnp.array([[[0.5, 0.0, 0.3, 0.2]]]))
    assert_array_equal(np.isneginf(reshape(FREE._replace(top_p=np.float32(0.99)), score))[0, 0], [0, 1, 0, 0])
