from itertools import pairwise
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from numpy.testing import assert_allclose, assert_array_equal

from rag_jax.core.marginal import document_posterior, rag_token_log_likelihood
from rag_jax.decode import rag_token
from rag_jax.decode.generate import DecodeConfig, generate, operands

LENGTH = 8


@pytest.fixture(scope="module")
def greedy(tiny):
    config, _ = tiny

    def one(*arrays):
        return best(generate(config, DecodeConfig(max_length=LENGTH), *arrays))

    return one


def best(generated):
    """The first answer of every question."""
    return SimpleNamespace(
        token_BT=generated.token_BNT[:, 0],
        log_prob_B=generated.log_prob_BN[:, 0],
        posterior_BKT=generated.posterior_BNKT[:, 0],
    )


def same(left, right, row=slice(None)):
    """Whether two results agree bit for bit, in one row or all."""
    for name, array in vars(left).items():
        assert_array_equal(array[row], getattr(right, name)[row])


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_search_without_cache_or_batch(tiny, greedy, make_params, make_inputs, seed):
    _, naive = tiny
    params, (source_BKS, prior_BK) = make_params(seed), make_inputs(seed, 2, 3)
    generated = greedy(params, source_BKS, prior_BK)
    assert generated.token_BT.dtype == np.int32
    for b in range(2):
        token_T, log_prob, posterior_KT = naive.greedy(params, source_BKS[b], prior_BK[b])
        assert_array_equal(generated.token_BT[b], token_T)
        assert_allclose(generated.log_prob_B[b], log_prob, rtol=1e-5)
        said = posterior_KT.shape[1]
        assert_allclose(generated.posterior_BKT[b, :, :said], posterior_KT, rtol=1e-4, atol=1e-5)
        unsaid_KT = np.broadcast_to(prior_BK[b][:, None], (3, LENGTH - said))
        assert_array_equal(generated.posterior_BKT[b, :, said:], unsaid_KT)


def test_the_cases_are_varied(greedy, make_params, make_inputs):
    answers = np.concatenate([greedy(make_params(seed), *make_inputs(seed, 2, 3)).token_BT for seed in range(12)])
    assert len({tuple(token_T) for token_T in answers.tolist()}) >= 15
    assert len({(token_T == 2).argmax() for token_T in answers}) >= 4  # they end at several lengths


@pytest.mark.parametrize("seed", range(4))
def test_log_prob_is_the_training_likelihood(tiny, greedy, taught, make_params, make_inputs, beginning_with_bos, seed):
    config, _ = tiny
    source_BKS, prior_BK = make_inputs(seed, 2, 3)
    params, source_BKS = beginning_with_bos(make_params(seed, eos_bias=-0.5), source_BKS)
    generated = greedy(params, source_BKS, prior_BK)
    logp_BKT = taught(params, source_BKS, prior_BK, generated.token_BT)
    mask_BT = rag_token.counted(config.generator, generated.token_BT)
    assert_allclose(generated.log_prob_B, rag_token_log_likelihood(logp_BKT, prior_BK, mask_BT), rtol=1e-5)
    posterior_BKT = document_posterior(logp_BKT, prior_BK, mask_BT, kind="token")
    ours, theirs = (np.where(mask_BT[:, None], x, 0) for x in (generated.posterior_BKT, posterior_BKT))
    assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_leading_bos_is_free(tiny, greedy, make_params, make_inputs, beginning_with_bos):
    _, naive = tiny
    begun = 0
    for seed in range(8):
        source_BKS, prior_BK = make_inputs(seed, 2, 3)
        params, source_BKS = beginning_with_bos(make_params(seed, eos_bias=-0.5), source_BKS)
        generated = greedy(params, source_BKS, prior_BK)
        for b in range(2):
            begun += int(generated.token_BT[b, 0] == 0)
            assert_allclose(generated.log_prob_B[b], naive.greedy(params, source_BKS[b], prior_BK[b])[1], rtol=1e-5)
    assert begun >= 4


def test_counted_by_hand(tiny):
    config, _ = tiny
    token_BT = np.array([[0, 5, 2, 1, 1], [5, 0, 1, 2, 1], [2, 1, 1, 1, 1], [0, 0, 3, 4, 5]], np.int32)
    expected = [[0, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [0, 1, 1, 1, 1]]
    assert_array_equal(rag_token.counted(config.generator, token_BT), np.array(expected, bool))


@pytest.mark.parametrize("seed", range(3))
def test_a_missing_document_has_no_influence(tiny, greedy, make_params, make_inputs, seed):
    _, naive = tiny
    params, (source_BKS, prior_BK) = make_params(seed), make_inputs(seed, 2, 3)
    prior_BK = prior_BK.copy()
    prior_BK[:, 1] = -np.inf
    expected = greedy(params, source_BKS, prior_BK)
    for other_BS in (make_inputs(seed + 100, 2, 3)[0][:, 1], np.full_like(source_BKS[:, 1], 1)):
        changed_BKS = source_BKS.copy()
        changed_BKS[:, 1] = other_BS
        same(greedy(params, changed_BKS, prior_BK), expected)
    token_T, log_prob, _ = naive.greedy(params, source_BKS[0, ::2], prior_BK[0, ::2])
    assert_array_equal(expected.token_BT[0], token_T)
    assert_allclose(expected.log_prob_B[0], log_prob, rtol=1e-5)
    assert not np.isnan(expected.posterior_BKT).any()


def test_a_question_without_documents_is_silent(greedy, make_params, make_inputs):
    params, (source_BKS, prior_BK) = make_params(1), make_inputs(1, 2, 3)
    expected = greedy(params, source_BKS, prior_BK)
    prior_BK = prior_BK.copy()
    prior_BK[1] = -np.inf
    generated = greedy(params, source_BKS, prior_BK)
    assert_array_equal(generated.token_BT[1], np.full(LENGTH, 1))
    assert generated.log_prob_B[1] == -np.inf
    assert_array_equal(generated.posterior_BKT[1], np.full((3, LENGTH), -np.inf))
    same(generated, expected, row=0)


@pytest.mark.parametrize("seed", range(3))
def test_an_answer_does_not_depend_on_its_neighbours(greedy, make_params, make_inputs, seed):
    params, (source_BKS, prior_BK) = make_params(seed), make_inputs(seed, 2, 3)
    expected = greedy(params, source_BKS, prior_BK)
    other_BKS, other_BK = make_inputs(seed + 50, 2, 3)
    source_BKS[1], prior_BK = other_BKS[1], np.stack([prior_BK[0], other_BK[1]])
    among_others = greedy(params, source_BKS, prior_BK)
    same(among_others, expected, row=0)
    alone = greedy(params, source_BKS[:1], prior_BK[:1])
    assert_array_equal(alone.token_BT[0], expected.token_BT[0])
    assert_allclose(alone.log_prob_B[0], expected.log_prob_B[0], rtol=1e-5)


def test_a_step_holds_one_position_of_the_vocabulary(tiny, make_params, make_inputs):
    config, _ = tiny
    arrays = make_params(0), *make_inputs(0, 2, 3), operands(config, DecodeConfig(max_length=LENGTH))

    def search(params, source_BKS, prior_BK, rules):
        memory = rag_token.read(config, params, source_BKS)
        return rag_token.search(config, params, memory, prior_BK, rules, length=LENGTH, beams=4)

    equations = list(_equations(jax.make_jaxpr(search)(*arrays).jaxpr))
    shapes = {variable.aval.shape for equation in equations for variable in equation.outvars}
    assert (2, 3, 4, 20) in shapes
    assert not [shape for shape in shapes if 20 in shape and LENGTH in shape]
    # Beams change places, but neither the cache nor the memory is ever gathered: their arrays have the most axes.
    gathered = [e.invars[0].aval.ndim for e in equations if e.primitive.name == "gather"]
    assert gathered and max(gathered) == 4 and max(map(len, shapes)) == 5


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from _equations(inner)


@pytest.fixture(scope="module")
def beams(tiny):
    config, _ = tiny

    def several(*arrays, **settings):
        return generate(config, DecodeConfig(max_length=LENGTH, beams=4, num_return_sequences=4, **settings), *arrays)

    return several


def naive_beams(naive, params, source_KS, prior_K, penalty, count=4):
    """[(score, tokens)]: beam search in lists over the mixture, whole prefixes through the whole model, to the end."""
    eos, running, finished = naive.config.generator.eos_id, [(0.0, ())], []
    for length in range(1, LENGTH + 1):
        grown = []
        for score, said in running:
            joint_KV = prior_K[:, None] + naive.logp_KTV(params, source_KS, said)[:, length - 1]
            marginal_V = np.logaddexp.reduce(joint_KV, axis=0)
            grown += [(score + logp, (*said, token)) for token, logp in enumerate(marginal_V)]
        grown = sorted(grown, reverse=True)[: 2 * count]
        ends = [said[-1] == eos or length == LENGTH for _, said in grown]
        done = [pair for pair, end in zip(grown[:count], ends, strict=False) if end]
        finished = sorted([*finished, *((score / length**penalty, said) for score, said in done)], reverse=True)[:count]
        running = [pair for pair, end in zip(grown, ends, strict=True) if not end][:count]
    return finished


@pytest.mark.parametrize("seed", range(6))
def test_beams_equal_the_search_without_cache_or_batch(tiny, beams, make_params, make_inputs, seed):
    _, naive = tiny
    params, (source_BKS, prior_BK) = make_params(seed), make_inputs(seed, 2, 3)
    found = beams(params, source_BKS, prior_BK, early_stopping="never", length_penalty=0.0)
    for b in range(2):
        expected = naive_beams(naive, params, source_BKS[b], prior_BK[b], 0.0)
        assert_array_equal(found.token_BNT[b], [naive.padded(said) for _, said in expected])
        assert_allclose(found.score_BN[b], [score for score, _ in expected], rtol=1e-5)


def test_beams_find_likelier_answers(beams, greedy, make_params, make_inputs):
    better = 0
    for seed in range(12):
        arrays = make_params(seed), *make_inputs(seed, 2, 3)
        found, one = beams(*arrays, length_penalty=0.0), greedy(*arrays)
        assert (np.diff(found.score_BN) <= 0).all()
        assert len({tuple(said) for said in found.token_BNT[0].tolist()}) == 4
        better += int((np.array(found.log_prob_BN[:, 0]) > np.array(one.log_prob_B) + 1e-3).sum())
    assert better >= 4


def test_every_answer_has_its_own_probability_and_posterior(tiny, beams, taught, make_params, make_inputs):
    """Whatever beams it changed places with."""
    config, _ = tiny
    params, (source_BKS, prior_BK) = make_params(2), make_inputs(2, 2, 3)
    found = beams(params, source_BKS, prior_BK)
    for n in range(4):
        token_BT = found.token_BNT[:, n]
        logp_BKT = taught(params, source_BKS, prior_BK, token_BT)
        mask_BT = rag_token.counted(config.generator, token_BT)
        assert_allclose(found.log_prob_BN[:, n], rag_token_log_likelihood(logp_BKT, prior_BK, mask_BT), rtol=1e-5)
        expected_BKT = document_posterior(logp_BKT, prior_BK, mask_BT, kind="token")
        ours, theirs = (np.where(mask_BT[:, None], x, 0) for x in (found.posterior_BNKT[:, n], expected_BKT))
        assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        length_B = (np.cumsum(np.asarray(token_BT) == 2, axis=1) == 0).sum(axis=1) + 1
        assert_allclose(found.score_BN[:, n] * np.minimum(length_B, LENGTH), found.log_prob_BN[:, n], rtol=1e-5)


def test_beams_do_not_depend_on_neighbours(beams, make_params, make_inputs):
    for seed in range(4):
        params, (source_BKS, prior_BK) = make_params(seed), make_inputs(seed, 2, 3)
        expected = beams(params, source_BKS, prior_BK)
        other_BKS, other_BK = make_inputs(seed + 50, 2, 3)
        source_BKS[1], prior_BK = other_BKS[1], np.stack([prior_BK[0], other_BK[1]])
        jax.tree.map(lambda x, y: assert_array_equal(x[0], y[0]), beams(params, source_BKS, prior_BK), expected)


def test_a_sample_follows_the_mixture(tiny, make_params, make_inputs):
    """First tokens of many draws, against the warped marginal; another seed draws others, the same seed the same."""
    config, naive = tiny
    params, (source_BKS, prior_BK) = make_params(0), make_inputs(0, 2, 3)
    settings = {"mode": "sample", "max_length": 1, "num_return_sequences": 512, "temperature": 0.8, "top_k": 6}
    draws = {
        seed: np.asarray(generate(config, DecodeConfig(seed=seed, **settings), params, source_BKS, prior_BK).token_BNT)
        for seed in (0, 1)
    }
    again = generate(config, DecodeConfig(seed=1, **settings), params, source_BKS[:1], prior_BK[:1])
    assert_array_equal(again.token_BNT[0], draws[1][0])
    part = generate(config, DecodeConfig(seed=1, **settings), params, source_BKS[1:], prior_BK[1:], np.array([1]))
    assert_array_equal(part.token_BNT[0], draws[1][1])
    assert (draws[0] != draws[1]).any()
    for b in range(2):
        joint_KV = prior_BK[b][:, None] + naive.logp_KTV(params, source_BKS[b], [])[:, 0]
        p_V = np.exp(np.logaddexp.reduce(joint_KV, axis=0) / 0.8)
        p_V[np.argsort(p_V)[:-6]] = 0
        p_V /= p_V.sum()
        drawn_V = np.bincount(np.concatenate([draw[b, :, 0] for draw in draws.values()]), minlength=20) / 1024
        assert (drawn_V[p_V == 0] == 0).all()
        assert np.abs(drawn_V - p_V).max() < 4 * np.sqrt(0.25 / 1024)


def test_a_draw_is_an_answer_with_its_probability(tiny, taught, make_params, make_inputs):
    config, _ = tiny
    params, (source_BKS, prior_BK) = make_params(1), make_inputs(1, 2, 3)
    decode = DecodeConfig(mode="sample", max_length=LENGTH, num_return_sequences=3, top_p=0.9)
    drawn = generate(config, decode, params, source_BKS, prior_BK)
    assert len({tuple(said) for said in drawn.token_BNT.reshape(6, LENGTH).tolist()}) > 3
    for n in range(3):
        logp_BKT = taught(params, source_BKS, prior_BK, drawn.token_BNT[:, n])
        mask_BT = rag_token.counted(config.generator, drawn.token_BNT[:, n])
        assert_allclose(drawn.log_prob_BN[:, n], rag_token_log_likelihood(logp_BKT, prior_BK, mask_BT), rtol=1e-5)


def test_rules_hold_in_every_answer(tiny, beams, make_params, make_inputs):
    """Beginnings, least length, forbidden words and repetitions, in all beams."""
    params, (source_BKS, prior_BK) = make_params(4), make_inputs(4, 2, 3)
    free = np.asarray(beams(params, source_BKS, prior_BK).token_BNT)
    word = int(np.bincount(free[free > 2]).argmax())
    settings = {"forced_bos_id": 0, "min_length": 5, "bad_words": ((word,),), "no_repeat_ngram_size": 2}
    said = np.asarray(beams(params, source_BKS, prior_BK, forced_eos_id=2, **settings).token_BNT)
    assert (said[:, :, 0] == 0).all() and (said != word).all() and (said[:, :, 1:5] != 2).all()
    assert (said == 2).any(axis=2).all()
    for answer in said.reshape(-1, LENGTH).tolist():
        answer = answer[: answer.index(2) + 1]
        pairs = list(pairwise(answer))
        assert len(set(pairs)) == len(pairs)
