import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rag_jax.core.likelihood import TokenLikelihood, token_log_likelihood
from rag_jax.core.loss import rag_loss
from rag_jax.core.marginal import document_log_prior

PAD, BOS, EOS, V, T = 1, 0, 2, 60, 6
# Labels as transformers takes them: both layouts, padding, an empty answer whose second target is padding.
WITH_BOS = np.array([[EOS, BOS, 7, 9, 11, EOS], [EOS, BOS, 5, EOS, PAD, PAD], [EOS, BOS, PAD, PAD, PAD, PAD]])
MIXED = np.array([[EOS, BOS, 7, 9, EOS, PAD], [BOS, 8, 8, 30, 4, EOS], [BOS, EOS, PAD, PAD, PAD, PAD]])
# kind, label smoothing, exclude_bos
CASES = tuple(itertools.product(("sequence", "token"), (0.0, 0.1), (False, True)))


def shifted(labels):
    return np.concatenate([labels[:, 1:], np.full_like(labels[:, :1], PAD)], axis=1)


@functools.partial(jax.jit, static_argnames="compat")
def losses(logit_BKTV, score_BK, target_BT, compat="huggingface"):
    """[case, B] losses of decoder states that already are logits."""
    prior, mask = document_log_prior(score_BK), target_BT != PAD
    identity, zero = jnp.eye(V, dtype=logit_BKTV.dtype), jnp.zeros(V, logit_BKTV.dtype)
    likelihood = token_log_likelihood(logit_BKTV, identity, zero, target_BT, prior, smoothing=True)
    return jnp.stack(
        [
            rag_loss(
                kind, likelihood, prior, target_BT, mask,
                label_smoothing=eps, exclude_bos=exclude, bos_id=BOS, compat=compat,
            )
            for kind, eps, exclude in CASES
        ]
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames="compat")
def loss_and_gradients(logit, score, target, case, compat="huggingface"):
    """[B] of one case, and its sum's gradients by logits and by scores; one program for all cases."""

    def value(logit, score):
        loss_B = losses(logit, score, target, compat)[case]
        return loss_B.sum(), loss_B

    gradients, loss_B = jax.grad(value, argnums=(0, 1), has_aux=True)(logit, score)
    return loss_B, *gradients


def random_inputs(K, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(3, K, T, V)).astype(dtype), (60 + rng.normal(size=(3, K))).astype(dtype)


@pytest.fixture(scope="module")
def oracle():
    """Tiny random RagSequenceForGeneration and RagTokenForGeneration over the same parts."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    tiny = {"vocab_size": V, "max_position_embeddings": 16}
    question_encoder = transformers.DPRConfig(
        **tiny, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    generator = transformers.BartConfig(
        **tiny, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8, init_std=1.0,
    )  # fmt: skip
    config = transformers.RagConfig.from_question_encoder_generator_configs(
        question_encoder, generator, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS
    )
    classes = {
        "sequence": transformers.RagSequenceForGeneration,
        "token": transformers.RagTokenForGeneration,
    }
    return {kind: made(config).eval() for kind, made in classes.items()}


def forward(model, labels, score, case, dtype):
    """Their forward pass on random contexts: losses, logits, the gradients by logits and by scores."""
    import torch

    kind, eps, exclude = case
    model = model.to(dtype)
    model.config.label_smoothing = eps
    B, K = score.shape
    context = torch.randint(4, V, (B * K, 5), generator=torch.Generator().manual_seed(K))
    score = torch.tensor(score, dtype=dtype, requires_grad=True)
    extra = {"exclude_bos_score": exclude} if kind == "sequence" else {}
    out = model(
        context_input_ids=context, context_attention_mask=torch.ones_like(context), doc_scores=score,
        labels=torch.tensor(labels), n_docs=K, reduce_loss=False, **extra,
    )  # fmt: skip
    by_logit, by_score = torch.autograd.grad(out.loss.sum(), (out.logits, score), allow_unused=True)
    logit = out.logits.detach().numpy().reshape(B, K, T, V)
    return out.loss.detach().numpy(), logit, by_logit.numpy().reshape(logit.shape), by_score.numpy()


@pytest.mark.parametrize("labels", [WITH_BOS, MIXED], ids=["bos", "mixed"])
@pytest.mark.parametrize(
    ("precision", "K"), [("float64", 1), ("float64", 2), ("float64", 3), ("float64", 4), ("float32", 3)]
)
def test_compat_is_transformers_loss_and_gradient(oracle, labels, K, precision):
    import torch

    score = random_inputs(K, np.float64)[1]
    tolerance = {"rtol": 1e-9, "atol": 1e-11} if precision == "float64" else {"rtol": 1e-5, "atol": 1e-5}
    with jax.enable_x64(precision == "float64"):
        for row, case in enumerate(CASES):
            kind, eps, _ = case
            if eps and precision == "float32":
                continue  # their smoothing term is a logsumexp over thousands
            loss, logit, *gradients = forward(oracle[kind], labels, score, case, getattr(torch, precision))
            ours = loss_and_gradients(logit, score.astype(precision), shifted(labels), row)
            assert all(x.dtype == precision for x in ours)
            for got, expected in zip(ours, (loss, *gradients), strict=True):
                np.testing.assert_allclose(got, expected, **tolerance)


def test_compat_keeps_their_empty_answer_fault_and_the_default_does_not():
    logit, score = random_inputs(3)
    one = jnp.asarray(logit[:, :, :1]), jnp.asarray(score), jnp.full((3, 1), PAD)
    np.testing.assert_allclose(losses(*one)[0], -np.log(3), rtol=1e-6)  # a negative loss
    np.testing.assert_allclose(losses(*one, None), 0.0, atol=3e-7)
    target = jnp.asarray(shifted(MIXED))

    def by_score(compat):
        return loss_and_gradients(logit, score, target, CASES.index(("sequence", 0.0, False)), compat)[2][2]

    assert not by_score("huggingface").any()
    assert by_score(None).all()


def test_default_equals_compat_without_smoothing_where_the_second_target_is_text():
    logit, score = random_inputs(3)
    target = shifted(MIXED)
    rows = [row for row, case in enumerate(CASES) if not case[1] and not case[2]]
    ours, theirs = losses(logit, score, target, None), losses(logit, score, target)
    np.testing.assert_allclose(ours[jnp.array(rows), :2], theirs[jnp.array(rows), :2], rtol=1e-5)


def test_default_smoothing_against_numpy():
    logit, score = random_inputs(3)
    for labels in (WITH_BOS, MIXED):
        target, got = shifted(labels), losses(logit, score, shifted(labels), None)
        logp = logit.astype(np.float64) - np.log(np.exp(logit.astype(np.float64)).sum(-1, keepdims=True))
        prior = np.exp(score.astype(np.float64)) / np.exp(score.astype(np.float64)).sum(1, keepdims=True)
        for row, (kind, eps, exclude) in enumerate(CASES):
            for b in range(3):
                at = [t for t in range(T) if target[b, t] != PAD]
                if exclude and target[b, 0] == BOS:
                    at = at[1:]
                smoothed = np.full(V, eps / V)
                text = [np.exp(logp[b, :, t] @ (smoothed + (1 - eps) * np.eye(V)[target[b, t]])) for t in at]
                text = np.array(text).reshape(-1, 3)  # [scored t, K]
                if kind == "sequence":
                    expected = -np.log((prior[b] * text.prod(0)).sum())
                else:
                    expected = -np.log(text @ prior[b]).sum()
                np.testing.assert_allclose(got[row, b], expected, rtol=1e-5, atol=1e-6)


def test_with_one_document_all_forms_are_one():
    logit, score = random_inputs(1)
    target = shifted(WITH_BOS)
    ours, theirs = losses(logit, score, target, None), losses(logit, score, target)
    np.testing.assert_allclose(ours[:4], ours[4:], rtol=1e-5, atol=1e-6)  # sequence, token
    rows = jnp.array([row for row, case in enumerate(CASES) if not case[2]])
    np.testing.assert_allclose(ours[rows], theirs[rows], rtol=1e-5, atol=1e-6)


def test_default_smoothing_is_stable_in_float32_at_a_large_vocabulary():
    rng = np.random.default_rng(0)
    hidden, embedding = rng.normal(size=(1, 3, 4, 8)), rng.normal(size=(20000, 8))
    score, target, mask = rng.normal(size=(1, 3)), rng.integers(0, 20000, (1, 4)), np.ones((1, 4), bool)

    @jax.jit
    def values(hidden, embedding, score):
        prior, zero = document_log_prior(score), jnp.zeros(len(embedding), hidden.dtype)
        found = token_log_likelihood(hidden, embedding, zero, jnp.asarray(target), prior, smoothing=True)
        return [rag_loss(kind, found, prior, target, mask, label_smoothing=0.1) for kind in ("sequence", "token")]

    low = values(*(x.astype(np.float32) for x in (hidden, embedding, score)))
    with jax.enable_x64(True):
        high = values(hidden, embedding, score)
        assert high[0].dtype == np.float64
    np.testing.assert_allclose(low, high, rtol=2e-6)


def test_exclude_bos_depends_on_the_row_alone():
    logit, score = random_inputs(3)
    target = shifted(MIXED)  # the first row has BOS, its neighbours have none
    every = losses(logit, score, target, None)
    alone = losses(logit[:1], score[:1], target[:1], None)
    np.testing.assert_allclose(every[:, :1], alone, rtol=1e-6)
    kept, together = every[::2], every[1::2]  # exclude_bos is the last letter of a case
    np.testing.assert_array_equal(together[:, 1:], kept[:, 1:])
    assert (together[:, 0] < kept[:, 0]).all()
    theirs = losses(logit, score, target)
    np.testing.assert_array_equal(theirs[0], theirs[1])


@pytest.mark.parametrize("compat", [None, "huggingface"])
def test_isolation_by_gradient(compat):
    logit, score = random_inputs(3)
    score[[0, 2], 1] = -np.inf
    target = shifted(WITH_BOS)

    rows = [loss_and_gradients(logit, score, target, case, compat)[1:] for case in range(len(CASES))]
    by_logit, by_score = map(np.stack, zip(*rows, strict=True))
    assert np.isfinite(by_logit).all() and np.isfinite(by_score).all()
    touched = np.any(by_logit != 0, axis=-1)
    for row, (kind, eps, exclude) in enumerate(CASES):
        expected = np.broadcast_to((target != PAD)[:, None], touched.shape[1:]).copy()
        expected[[0, 2], 1] = False  # missing documents
        if exclude and (compat is None or (kind == "sequence" and not eps)):
            expected[:, :, 0] = False
        np.testing.assert_array_equal(touched[row], expected)
        assert not by_score[row, 0, 1].any() and by_score[row, 0, [0, 2]].all()


@pytest.mark.parametrize("compat", [None, "huggingface"])
def test_questions_without_documents_and_answers_without_tokens_have_finite_gradients(compat):
    """A document or all of them missing, an answer of padding alone, and both together."""
    logit, score = random_inputs(4)
    score[0], score[2, 1:] = -np.inf, -np.inf
    target = shifted(WITH_BOS)
    target[1:] = PAD
    for case in range(len(CASES)):
        _, by_logit, by_score = loss_and_gradients(logit, score, target, case, compat)
        assert np.isfinite(by_logit).all() and np.isfinite(by_score).all()
        assert not by_logit[1:].any() and not by_score[0].any()
    score[1:] = -np.inf
    for case in range(len(CASES)):
        _, *gradients = loss_and_gradients(logit, score, target, case, compat)
        assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_mistakes_are_named():
    likelihood, prior = TokenLikelihood(jnp.zeros((1, 1, 1)), None, None, V), jnp.zeros((1, 1))
    inputs = likelihood, prior, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)
    with pytest.raises(ValueError, match="kind is 'turn'"):
        rag_loss("turn", *inputs)
    with pytest.raises(ValueError, match="compat is 'parlai'"):
        rag_loss("token", *inputs, compat="parlai")
    with pytest.raises(ValueError, match="smoothing=True"):
        rag_loss("token", *inputs, label_smoothing=0.1)
    with pytest.raises(ValueError, match="needs bos_id"):
        rag_loss("token", *inputs, exclude_bos=True)
