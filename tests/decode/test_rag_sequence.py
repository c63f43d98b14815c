from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rag_jax.core.marginal import document_log_prior, rag_sequence_log_likelihood
from rag_jax.decode import rag_sequence, rag_token, rescoring
from rag_jax.decode.generate import DecodeConfig, generate

LENGTH = 8


@pytest.fixture(scope="module")
def thorough(tiny):
    config, _ = tiny

    def one(*arrays):
        return best(generate(config, DecodeConfig("sequence", max_length=LENGTH), *arrays))

    return one


def best(generated):
    """The first answer of every question."""
    return SimpleNamespace(
        token_BT=generated.token_BNT[:, 0],
        log_prob_B=generated.log_prob_BN[:, 0],
        posterior_BK=np.log(
            generated.posterior_BNK[:, 0],
            where=np.asarray(generated.posterior_BNK[:, 0]) > 0,
            out=np.full(generated.posterior_BNK[:, 0].shape, -np.inf, np.float32),
        ),
    )


def same(left, right, row=slice(None)):
    """Whether two results agree bit for bit, in one row or all."""
    for name, array in vars(left).items():
        assert_array_equal(array[row], getattr(right, name)[row])


def naive_thorough(naive, params, source_KS, prior_K):
    """The best, and all, (token_T, log p(y|x), log p(z|x,y)) of the documents' own greedy answers."""
    judged = []
    for k in np.flatnonzero(prior_K > -np.inf):
        token_T = naive.greedy(params, source_KS[k : k + 1], np.zeros(1))[0]
        joint_K = naive.joint_K(params, source_KS, prior_K, token_T)
        log_prob = np.logaddexp.reduce(joint_K)
        judged.append((token_T, log_prob, joint_K - log_prob))
    return max(judged, key=lambda answer: answer[1]), judged


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_exhaustive_best_of_the_candidates(tiny, thorough, make_params, make_inputs, seed):
    _, naive = tiny
    params, (source_BKS, prior_BK) = make_params(seed, eos_bias=-0.5), make_inputs(seed, 2, 3)
    generated = thorough(params, source_BKS, prior_BK)
    assert generated.token_BT.dtype == np.int32
    for b in range(2):
        (token_T, log_prob, posterior_K), _ = naive_thorough(naive, params, source_BKS[b], prior_BK[b])
        assert_array_equal(generated.token_BT[b], token_T)
        assert_allclose(generated.log_prob_B[b], log_prob, rtol=1e-5)
        assert_allclose(generated.posterior_BK[b], posterior_K, rtol=1e-4, atol=1e-5)


def test_the_cases_are_varied(tiny, make_params, make_inputs):
    _, naive = tiny
    candidates, overruled = set(), 0
    for seed in range(12):
        params, (source_BKS, prior_BK) = make_params(seed, eos_bias=-0.5), make_inputs(seed, 2, 3)
        best, judged = naive_thorough(naive, params, source_BKS[0], prior_BK[0])
        candidates.add(len({tuple(token_T) for token_T, *_ in judged}))
        overruled += int((best[0] != judged[prior_BK[0].argmax()][0]).any())
    assert candidates >= {2, 3}
    assert overruled >= 2  # the likeliest document's answer does not always win


def test_distinct_by_hand():
    a, b, c = [5, 2], [6, 2], [7, 2]
    candidate_BCT = jnp.array([[a, b, a, c], [b, b, b, b], [a, a, b, c], [c, b, a, a]])
    found_BC = jnp.array([[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], bool)
    order_BC, there_BC, same_BCC = rag_sequence.distinct(candidate_BCT, found_BC)
    assert_array_equal(there_BC, [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    assert_array_equal(order_BC[0, :3], [0, 1, 3])
    assert_array_equal(order_BC[2, :2], [1, 3])
    assert_array_equal(same_BCC[0, :3], [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    assert_array_equal(same_BCC[2, :2], [[0, 1, 0, 0], [0, 0, 0, 1]])


def test_beginnings_by_hand():
    token_RGT = jnp.array([[[5, 6, 7, 2], [5, 6, 2, 1], [5, 9, 7, 2], [5, 6, 7, 8]]])
    paid_RGT = jnp.array([[[0, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]]], bool)
    home_RGT, node_RGT = rescoring.beginnings(token_RGT, paid_RGT)
    assert_array_equal(home_RGT[0, 1:], [[1, 1, 1, 0], [1, 1, 2, 2], [1, 1, 1, 3]])
    # Read: nothing, 5, 56 (and 562 never: it has ended); 59, 597; 567.
    assert_array_equal(node_RGT[0], [[0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def candidates():
    """[2, 6, LENGTH]: answers that share beginnings, one with another, of several lengths."""
    rng = np.random.default_rng(0)
    token_BCT = rng.integers(3, 20, (2, 6, LENGTH)).astype(np.int32)
    token_BCT[:, 1:4, :3], token_BCT[:, 4, :6] = token_BCT[:, :1, :3], token_BCT[:, 1, :6]
    for c, length in ((1, 5), (3, 4), (5, 1)):
        token_BCT[:, c, length - 1], token_BCT[:, c, length:] = 2, 1
    token_BCT[1, 2, 0] = 0
    return token_BCT


@pytest.mark.parametrize("limit", [8192, 96, 1])
def test_judging_equals_the_whole_model(tiny, make_params, make_inputs, candidates, monkeypatch, limit):
    """Whatever is missing, all at once, two candidates at a time or one."""
    config, naive = tiny
    params, (source_BKS, _) = make_params(0), make_inputs(0, 2, 3)
    missing_BKC = np.random.default_rng(1).random((2, 3, 6)) < 0.6
    missing_BKC[0, 0], missing_BKC[1, 2] = False, True
    paid_BCT = rag_token.counted(config.generator, candidates)
    monkeypatch.setattr(rescoring, "_TOKENS", limit)

    @jax.jit
    def judge(missing_BKC):
        memory = rag_token.read(config, params, source_BKS)
        return rescoring.judge(config, params, memory, jnp.array(candidates), missing_BKC, paid_BCT, 6)

    logp_BKC = judge(missing_BKC)
    for b in range(2):
        for c in range(6):
            joint_K = naive.joint_K(params, source_BKS[b], np.zeros(3), candidates[b, c].tolist())
            assert_allclose(logp_BKC[b, :, c], np.where(missing_BKC[b, :, c], joint_K, 0), rtol=1e-5)


def test_trees_of_every_size_agree(tiny, make_params, make_inputs, candidates, monkeypatch):
    """The program holds a tree of each size, and takes one in which all beginnings have room."""
    config, _ = tiny
    params, (source_BKS, _) = make_params(0), make_inputs(0, 2, 3)
    paid_BCT = rag_token.counted(config.generator, candidates)

    def judge(missing_BKC):
        memory = rag_token.read(config, params, source_BKS)
        return rescoring.judge(config, params, memory, jnp.array(candidates), missing_BKC, paid_BCT, 6)

    masks = [jnp.arange(6)[None, None] < jnp.full((2, 3, 1), count) for count in (1, 2, 3, 6)]
    plain = jax.jit(judge)
    expected = [plain(mask) for mask in masks]
    monkeypatch.setattr(rescoring, "_LITTLE", 0)
    sized = jax.jit(lambda missing_BKC: judge(missing_BKC))
    for mask, logp_BKC in zip(masks, expected, strict=True):
        assert_allclose(sized(mask), logp_BKC, rtol=1e-5)


@pytest.fixture(scope="module")
def several(tiny):
    """Nine answers of three beams a document."""
    config, _ = tiny

    def decode(mode, *arrays, **settings):
        settings = {"beams": 3, "num_return_sequences": 9, "max_length": LENGTH} | settings
        return generate(config, DecodeConfig("sequence", mode, **settings), *arrays)

    return decode


def alone(config, params, source_BKS, prior_BK):
    """[B][K] {tokens: log p(y|x,z)}: every document's own three beams, from a RAG-Token search over it alone."""
    found = []
    for k in range(3):
        arrays = params, source_BKS[:, k : k + 1], np.zeros_like(prior_BK[:, :1])
        one = generate(config, DecodeConfig(beams=3, num_return_sequences=3, max_length=LENGTH), *arrays)
        found.append(
            [
                dict(zip(map(tuple, token_NT), log_prob_N, strict=True))
                for token_NT, log_prob_N in zip(one.token_BNT.tolist(), one.log_prob_BN.tolist(), strict=True)
            ]
        )
    return list(zip(*found, strict=True))


@pytest.mark.parametrize("mode", ["thorough", "fast"])
@pytest.mark.parametrize("seed", range(4))
def test_several_beams_of_every_document(tiny, several, make_params, make_inputs, seed, mode):
    """All different answers, by the sum over the documents: of all, or of those in whose beams they are."""
    config, naive = tiny
    params, (source_BKS, prior_BK) = make_params(seed, eos_bias=0.5), make_inputs(seed, 2, 3)
    found = several(mode, params, source_BKS, prior_BK)
    for b, beams_K in enumerate(alone(config, params, source_BKS, prior_BK)):
        expected = {}
        for said in {said for beams in beams_K for said in beams}:
            joint_K = naive.joint_K(params, source_BKS[b], prior_BK[b], said)
            if mode == "fast":
                joint_K = np.where([said in beams for beams in beams_K], joint_K, -np.inf)
            expected[said] = (np.logaddexp.reduce(joint_K), joint_K)
        ranked = sorted(expected, key=lambda said: -expected[said][0])
        there = np.asarray(found.log_prob_BN[b]) > -np.inf
        assert there.sum() == len(expected)
        assert [tuple(said) for said in found.token_BNT[b][there].tolist()] == ranked
        for n, said in enumerate(ranked):
            log_prob, joint_K = expected[said]
            assert_allclose(found.log_prob_BN[b, n], log_prob, rtol=1e-5)
            assert_allclose(found.posterior_BNK[b, n], np.exp(joint_K - log_prob), rtol=1e-4, atol=1e-5)
        assert (found.token_BNT[b][~there] == 1).all()
        assert_allclose(found.posterior_BNK[b][~there], np.broadcast_to(np.exp(prior_BK[b]), ((~there).sum(), 3)))


def test_fast_is_a_lower_bound_and_equal_with_one_document(several, make_params, make_inputs):
    below = 0
    for seed in range(6):
        params, (source_BKS, prior_BK) = make_params(seed), make_inputs(seed, 2, 3)
        slow, quick = (several(mode, params, source_BKS, prior_BK) for mode in ("thorough", "fast"))
        scores = [
            {tuple(said): p for said, p in zip(f.token_BNT[0].tolist(), f.log_prob_BN[0].tolist(), strict=True)}
            for f in (slow, quick)
        ]
        assert scores[0].keys() == scores[1].keys()
        assert all(quick <= scores[0][said] + 1e-5 for said, quick in scores[1].items())
        below += sum(quick < scores[0][said] - 1e-3 for said, quick in scores[1].items() if quick > -np.inf)
    assert below > 6
    single = [
        several(mode, params, source_BKS[:, :1], prior_BK[:, :1] * 0, num_return_sequences=3)
        for mode in ("thorough", "fast")
    ]
    jax.tree.map(assert_array_equal, *single)


def test_equals_rag_token_where_one_position_is_scored(tiny, make_params, make_inputs):
    config, _ = tiny
    for seed in range(3):
        params, (source_BKS, prior_BK) = make_params(seed), make_inputs(seed, 2, 3)
        settings = {"beams": 5, "num_return_sequences": 5, "max_length": 1}
        token = generate(config, DecodeConfig(**settings), params, source_BKS, prior_BK)
        sequence = generate(config, DecodeConfig("sequence", "thorough", **settings), params, source_BKS, prior_BK)
        known = dict(zip(map(tuple, sequence.token_BNT[0].tolist()), sequence.log_prob_BN[0].tolist(), strict=True))
        shared = 0
        for said, log_prob in zip(token.token_BNT[0].tolist(), token.log_prob_BN[0].tolist(), strict=True):
            if tuple(said) in known:
                shared += 1
                assert log_prob == pytest.approx(known[tuple(said)], rel=1e-5)
        assert shared >= 3


@pytest.mark.parametrize("seed", range(4))
def test_log_prob_is_the_training_likelihood(
    tiny, thorough, taught, make_params, make_inputs, beginning_with_bos, seed
):
    config, _ = tiny
    source_BKS, prior_BK = make_inputs(seed, 2, 3)
    params, source_BKS = beginning_with_bos(make_params(seed, eos_bias=-0.5), source_BKS)
    generated = thorough(params, source_BKS, prior_BK)
    logp_BKT = taught(params, source_BKS, prior_BK, generated.token_BT)
    mask_BT = rag_token.counted(config.generator, generated.token_BT)
    assert_allclose(generated.log_prob_B, rag_sequence_log_likelihood(logp_BKT, prior_BK, mask_BT), rtol=1e-5)


def test_one_token_answers_have_the_same_probability_in_both_models(tiny, thorough, make_params, make_inputs):
    config, _ = tiny
    params, (source_BKS, prior_BK) = make_params(3, eos_bias=4.0), make_inputs(3, 2, 3)
    sequence = thorough(params, source_BKS, prior_BK)
    token = generate(config, DecodeConfig(max_length=LENGTH), params, source_BKS, prior_BK)
    assert_array_equal(sequence.token_BT, [[2] + [1] * 7] * 2)
    assert_array_equal(token.token_BNT[:, 0], sequence.token_BT)
    assert_allclose(token.log_prob_BN[:, 0], sequence.log_prob_B, rtol=1e-5)
    assert_allclose(token.posterior_BNKT[:, 0, :, 0], sequence.posterior_BK, rtol=1e-5, atol=1e-5)


def test_copies_of_a_document_say_what_it_says_alone(tiny, thorough, make_params, make_inputs):
    _, naive = tiny
    params, (source_BKS, prior_BK) = make_params(5, eos_bias=-0.5), make_inputs(5, 2, 3)
    source_BKS = np.repeat(source_BKS[:, :1], 3, axis=1)
    generated = thorough(params, source_BKS, prior_BK)
    token_T, log_prob, _ = naive.greedy(params, source_BKS[0, :1], np.zeros(1))
    assert_array_equal(generated.token_BT[0], token_T)
    assert_allclose(generated.log_prob_B[0], log_prob, rtol=1e-5)
    assert_allclose(generated.posterior_BK[0], prior_BK[0], atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_missing_document_neither_proposes_nor_judges(tiny, thorough, make_params, make_inputs, seed):
    _, naive = tiny
    params, (source_BKS, prior_BK) = make_params(seed, eos_bias=-0.5), make_inputs(seed, 2, 3)
    prior_BK = np.array(document_log_prior(jnp.where(jnp.arange(3)[None] == 1, -jnp.inf, prior_BK)))
    expected = thorough(params, source_BKS, prior_BK)
    for other_BS in (make_inputs(seed + 100, 2, 3)[0][:, 1], np.full_like(source_BKS[:, 1], 1)):
        changed_BKS = source_BKS.copy()
        changed_BKS[:, 1] = other_BS
        same(thorough(params, changed_BKS, prior_BK), expected)
    for b in range(2):
        (token_T, log_prob, _), _ = naive_thorough(naive, params, source_BKS[b], prior_BK[b])
        assert_array_equal(expected.token_BT[b], token_T)
        assert_allclose(expected.log_prob_B[b], log_prob, rtol=1e-5)
    assert_array_equal(np.isneginf(expected.posterior_BK), [[False, True, False]] * 2)


def test_a_question_without_documents_is_silent(thorough, make_params, make_inputs):
    params, (source_BKS, prior_BK) = make_params(1, eos_bias=-0.5), make_inputs(1, 2, 3)
    expected = thorough(params, source_BKS, prior_BK)
    prior_BK = prior_BK.copy()
    prior_BK[1] = -np.inf
    generated = thorough(params, source_BKS, prior_BK)
    assert_array_equal(generated.token_BT[1], np.full(LENGTH, 1))
    assert generated.log_prob_B[1] == -np.inf
    assert_array_equal(generated.posterior_BK[1], np.full(3, -np.inf))
    same(generated, expected, row=0)


@pytest.mark.parametrize("seed", range(3))
def test_an_answer_does_not_depend_on_its_neighbours(thorough, make_params, make_inputs, seed):
    params, (source_BKS, prior_BK) = make_params(seed, eos_bias=-0.5), make_inputs(seed, 2, 3)
    expected = thorough(params, source_BKS, prior_BK)
    other_BKS, other_BK = make_inputs(seed + 50, 2, 3)
    source_BKS[1], prior_BK = other_BKS[1], np.stack([prior_BK[0], other_BK[1]])
    among_others = thorough(params, source_BKS, prior_BK)
    same(among_others, expected, row=0)
    alone = thorough(params, source_BKS[:1], prior_BK[:1])
    assert_array_equal(alone.token_BT[0], expected.token_BT[0])
    assert_allclose(alone.log_prob_B[0], expected.log_prob_B[0], rtol=1e-5)
