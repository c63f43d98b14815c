"""The training step: its loss by hand, exact isolation by gradients, one device against eight."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rag_jax.models import null_document, rag
from rag_jax.training.step import Objective, TrainState, loss_sums, train_step

KINDS = ("token", "sequence")
LONG = pytest.mark.long
OBJECTIVE = Objective(train_question_encoder=True, label_smoothing=0.0, accumulation=1, seed=0)


@pytest.fixture(scope="module")
def gradient_of(tiny):
    """kind -> compiled function(params, batch) -> (sums, gradient of parameters, of document vectors)."""

    @cache
    def program(kind):
        def loss(params, document_BKE, batch):
            batch = batch._replace(document_BKE=document_BKE)
            return loss_sums(params, batch, None, config=tiny.config(kind), objective=OBJECTIVE)

        compiled = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))

        def run(params, batch):
            (of_params, of_documents), sums = jax.device_get(compiled(params, batch.document_BKE, batch))
            return sums, of_params, of_documents

        return run

    return program


@pytest.fixture(scope="module")
def computed(tiny, params):
    """The sums of every (kind, smoothing); and what they are made of, from the model alone, in float64."""

    @jax.jit
    def compute(params, batch):
        sums = {
            (kind, smoothing): loss_sums(
                params, batch, None, config=tiny.config(kind), objective=OBJECTIVE._replace(label_smoothing=smoothing)
            )[1]
            for kind in KINDS
            for smoothing in (0.0, 0.1)
        }
        config = tiny.config()
        query_BE = rag.encode_questions(config, params, batch.question_BQ)
        score_BK = rag.document_scores(query_BE, batch.document_BKE)
        said = rag.token_likelihood(
            config, params, batch.source_BKS, batch.token_BT, batch.target_BT, jnp.zeros_like(score_BK), smoothing=True
        )
        return sums, (score_BK, said.logp_BKT, said.mean_logp_BKT)

    sums, pieces = jax.device_get(compute(params, tiny.batch()))
    return sums, [piece.astype(np.float64) for piece in pieces]


def by_hand(kind, score_BK, logp_BKT, batch, scored_BT):
    """log p(y|x) of every question with a document, in float64, one question at a time."""
    found_B = []
    for score_K, there_K, logp_KT, scored_T in zip(score_BK, batch.mask_BK, logp_BKT, scored_BT, strict=True):
        if not there_K.any():
            found_B.append(0.0)
            continue
        probability_K = np.exp(score_K[there_K]) / np.exp(score_K[there_K]).sum()
        logp_KT = logp_KT[there_K][:, scored_T]
        if kind == "token":
            found_B.append(np.log((probability_K[:, None] * np.exp(logp_KT)).sum(axis=0)).sum())
        else:
            found_B.append(np.log((probability_K * np.exp(logp_KT.sum(axis=1))).sum()))
    return np.array(found_B)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_the_summed_loss_is_the_marginal_computed_by_hand(tiny, computed, kind, smoothing):
    batch, (sums, (score_BK, logp_BKT, mean_BKT)) = tiny.batch(), computed
    scored_BT = batch.target_BT != tiny.bart.pad_id
    smoothed_BKT = (1 - smoothing) * logp_BKT + smoothing * mean_BKT
    loss_B = -by_hand(kind, score_BK, smoothed_BKT, batch, scored_BT)
    np.testing.assert_allclose(sums[kind, smoothing].loss, (loss_B * batch.weight_B).sum(), rtol=2e-6)
    assert sums[kind, smoothing].tokens == scored_BT[: tiny.padding].sum()


@pytest.mark.parametrize("kind", KINDS)
def test_a_learned_scale_has_the_gradient_of_the_scores(tiny, params, gradient_of, kind):
    batch = tiny.batch()
    learned = params | {"log_score_scale": np.log(np.float32(tiny.config().score_scale))}
    _, of_params, of_documents = gradient_of(kind)(learned, batch)
    _, without, _ = gradient_of(kind)(params, batch)
    # d loss / d log s = sum of score * d loss / d score = sum of document * d loss / d document.
    assert of_params["log_score_scale"] == pytest.approx((of_documents * batch.document_BKE).sum(), rel=1e-4)
    assert abs(of_params.pop("log_score_scale")) > 1e-4
    tiny.assert_close(of_params, without)


@pytest.mark.parametrize("kind", KINDS)
def test_log_likelihood_counts_neither_bos_nor_smoothing(tiny, computed, kind):
    batch, (sums, (score_BK, logp_BKT, _)) = tiny.batch(), computed
    text_BT = (batch.target_BT != tiny.bart.pad_id) & (batch.target_BT != tiny.bart.bos_id)
    expected = (by_hand(kind, score_BK, logp_BKT, batch, text_BT) * batch.weight_B).sum()
    lengths_B = [row % (tiny.T - 2) + 2 for row in range(tiny.B) if row != tiny.padding]  # words and </s>
    for smoothing in (0.0, 0.1):
        np.testing.assert_allclose(sums[kind, smoothing].log_likelihood, expected, rtol=2e-6)
        assert sums[kind, smoothing].text_tokens == sum(lengths_B)


def test_the_question_encoder_learns_through_the_prior_unless_it_is_frozen(tiny, params, gradient_of):
    batch, objective = tiny.batch(), OBJECTIVE._replace(train_question_encoder=False)

    @jax.jit
    @jax.grad
    def frozen(encoder, params, batch):
        whole = {**params, "question_encoder": encoder}
        return loss_sums(whole, batch, None, config=tiny.config(), objective=objective)[0]

    _, gradient, _ = gradient_of("token")(params, batch)
    assert all(np.abs(leaf).max() > 1e-4 for leaf in kernels(gradient))
    assert len(kernels(gradient["question_encoder"])) == 6
    assert not any(leaf.any() for leaf in jax.tree.leaves(frozen(params["question_encoder"], params, batch)))


def test_scores_that_a_retriever_brings_are_used_as_they_are(tiny, params, gradient_of):
    """The loss is that of the same scores from vectors; the question encoder gets exactly nothing, nor is it needed."""
    batch = tiny.batch()
    query_BE = jax.jit(rag.encode_questions, static_argnums=0)(tiny.config(), params, batch.question_BQ)
    score_BK = np.asarray(rag.document_scores(query_BE, batch.document_BKE))
    given = batch._replace(question_BQ=None, document_BKE=None, score_BK=score_BK)
    learned = params | {"log_score_scale": np.float32(1)}

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def run(params):
        return loss_sums(params, given, None, config=tiny.config(), objective=OBJECTIVE)

    gradient, sums = jax.device_get(run(learned))
    expected_sums, expected, _ = gradient_of("token")(params, batch)
    np.testing.assert_allclose(sums.loss, expected_sums.loss, rtol=1e-6)
    tiny.assert_close({"generator": gradient["generator"]}, {"generator": expected["generator"]})
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient["question_encoder"]))
    assert gradient["log_score_scale"] == 0


def kernels(tree):
    return [leaf for path, leaf in jax.tree.leaves_with_path(tree) if path[-1].key == "kernel"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_the_slope_of_the_loss(tiny, params, gradient_of, kind):
    run, batch = gradient_of(kind), tiny.batch()
    _, gradient, _ = run(params, batch)
    for half in ("question_encoder", "generator"):
        norm = float(optax.tree.norm(gradient[half]))
        step = jax.tree.map(lambda g, norm=norm: 0.02 / norm**2 * g, gradient[half])
        up, down = (
            float(run({**params, half: jax.tree.map(move, params[half], step)}, batch)[0].loss)
            for move in (np.add, np.subtract)
        )
        assert (up - down) / 0.04 == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_documents_have_no_influence(tiny, params, gradient_of, kind):
    run, batch = gradient_of(kind), tiny.batch()
    sums, gradient, of_documents = run(params, batch)
    other, missing_BK = tiny.batch(seed=1), ~batch.mask_BK
    changed = batch._replace(
        document_BKE=np.where(missing_BK[..., None], other.document_BKE, batch.document_BKE),
        source_BKS=np.where(missing_BK[..., None], other.source_BKS, batch.source_BKS),
    )
    assert tiny.bits(run(params, changed)[:2]) == tiny.bits((sums, gradient))
    assert (of_documents[missing_BK] == 0).all()
    alone_BK = batch.mask_BK.sum(axis=1, keepdims=True) == 1  # a prior of one document is 1, whatever its score
    assert (np.abs(of_documents[batch.mask_BK & ~alone_BK]).max(axis=1) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_questions_have_no_influence(tiny, params, gradient_of, kind):
    run, batch = gradient_of(kind), tiny.batch()
    expected = tiny.bits(run(params, batch)[:2])
    other = tiny.batch(seed=1)
    other.mask_BK[:], other.weight_B[tiny.padding] = True, 0
    for source in (other, jax.tree.map(np.zeros_like, other)):
        changed = jax.tree.map(np.copy, batch)
        for old, new in zip(jax.tree.leaves(changed), jax.tree.leaves(source), strict=True):
            old[batch.weight_B == 0] = new[batch.weight_B == 0]
        sums, gradient, of_documents = run(params, changed)
        assert tiny.bits((sums, gradient)) == expected
        assert (of_documents[tiny.padding] == 0).all()
    sums, gradient, of_documents = run(params, batch._replace(weight_B=np.zeros_like(batch.weight_B)))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves((sums, gradient, of_documents)))


@pytest.fixture(scope="module")
def stepped(tiny, params, devices):
    """(kind, devices, accumulation) -> (first state, state, metrics) after one step of SGD on the batch."""

    @cache
    def run(kind, count, accumulation):
        parallel = devices[count]
        function = parallel.step(
            train_step,
            config=tiny.config(kind),
            optimizer=tiny.sgd(),
            objective=OBJECTIVE._replace(accumulation=accumulation),
        )
        before = parallel.put_state(TrainState(jnp.int32(4), params, tiny.sgd().init(params)))
        after, metrics = function(before, parallel.put_batch(tiny.batch()))
        return before, after, metrics

    return run


def gradient_in(state):
    return jax.device_get(state.opt_state[0].trace)


ON = [("token", 1, 2), ("sequence", 8, 1), ("sequence", "sharded", 2), ("token", 8, 1), ("token", "sharded", 1)]


@pytest.mark.parametrize("kind, mode, parts", [*ON[:3], *(pytest.param(*case, marks=LONG) for case in ON[3:])])
def test_a_step_follows_the_mean_loss_per_token(tiny, params, devices, kind, mode, parts):
    """On one device, on eight in both modes, and over parts of the batch alike: in float64, where only a mistake shows.

    Two fp32 gradients of this size differ by 1e-6 of their norm, by the order in which a processor adds.
    """
    with jax.enable_x64(True):
        config, parallel = tiny.config(kind, "float64"), devices[mode]
        params, batch = tiny.cast(params, np.float64), tiny.cast(tiny.batch(), np.float64)
        loss = partial(loss_sums, config=config, objective=OBJECTIVE)
        gradient, sums = jax.device_get(jax.jit(jax.grad(loss, has_aux=True), static_argnums=2)(params, batch, None))
        objective = OBJECTIVE._replace(accumulation=parts)
        step = parallel.step(train_step, config=config, optimizer=tiny.sgd(), objective=objective)
        before = parallel.put_state(TrainState(jnp.int32(4), params, tiny.sgd().init(params)))
        state, metrics = jax.device_get(step(before, parallel.put_batch(batch)))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before)), "donated"
        mean = jax.tree.map(lambda g: g / sums.tokens, gradient)
        np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(mean), rtol=1e-13)
    tiny.assert_close(gradient_in(state), mean, 1e-13)
    tiny.assert_close(state.params, jax.tree.map(lambda p, g: p - 0.1 * g, params, mean), 1e-14)
    assert int(state.step) == 5
    np.testing.assert_allclose(metrics["loss"], -sums.log_likelihood / sums.text_tokens, rtol=1e-14)


@pytest.mark.parametrize("count, parts", [(1, 2), (8, 1)])
def test_the_state_is_global_and_donated(tiny, params, devices, stepped, count, parts):
    before, after, _ = stepped("token", count, parts)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    expected = jax.eval_shape(lambda: TrainState(jnp.int32(0), params, tiny.sgd().init(params)))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), expected)
    for leaf in jax.tree.leaves(after):
        assert leaf.is_fully_replicated and leaf.sharding.device_set == set(devices[count].devices)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))


def test_dropout_differs_from_step_to_step_and_repeats_itself(tiny, params):
    config = rag.RagConfig(
        tiny.config().question_encoder, type(tiny.bart)(**{**vars(tiny.bart), "dropout": 0.5}), kind="token"
    )
    loss = jax.jit(partial(loss_sums, config=config, objective=OBJECTIVE))
    keys = jax.random.split(jax.random.key(0), 2)
    first, again, other = (float(loss(params, tiny.batch(), key)[0]) for key in (keys[0], keys[0], keys[1]))
    assert first == again != other


CLASSES, CLAIM_LENGTHS = 3, (5, 3, 4, 5, 3, 4, 5, 3)


@pytest.fixture(scope="module")
def labels(tiny, params):
    """(batch, run): of a head, with claims of several lengths, `</s> <s>` counted, all shorter than the array.

    run(batch) -> (sums, gradients of parameters and document vectors, scores and log-probabilities), smoothed by 0.1.
    """
    config = replace(tiny.config(), classes=CLASSES)
    shapes = jax.eval_shape(lambda: rag.init_params(config, jax.random.key(0)))["classifier"]
    rng, batch = np.random.default_rng(11), tiny.batch()
    params = params | {"classifier": jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype("f") * 0.4, shapes)}
    token_BT = rng.integers(5, tiny.bart.vocab_size, (tiny.B, max(CLAIM_LENGTHS) + 2)).astype(np.int32)
    token_BT[:, 0], token_BT[:, 1] = tiny.bart.eos_id, tiny.bart.bos_id
    token_BT[np.arange(token_BT.shape[1]) >= np.array(CLAIM_LENGTHS)[:, None]] = tiny.bart.pad_id
    batch = batch._replace(token_BT=token_BT, target_BT=None, label_B=np.arange(tiny.B, dtype=np.int32) % CLASSES)

    @jax.jit
    @partial(jax.grad, argnums=(0, 1), has_aux=True)
    def run(params, document_BKE, batch):
        batch = batch._replace(document_BKE=document_BKE)
        objective = OBJECTIVE._replace(label_smoothing=0.1)
        loss, sums = loss_sums(params, batch, None, config=config, objective=objective)
        score_BK = rag.document_scores(rag.encode_questions(config, params, batch.question_BQ), document_BKE)
        logp_BKC = rag.label_log_probs(config, params, batch.source_BKS, batch.token_BT)
        return loss, (sums, (score_BK, logp_BKC))

    def run_on(batch):
        gradients, (sums, pieces) = jax.device_get(run(params, batch.document_BKE, batch))
        return sums, gradients, pieces

    return batch, run_on


def test_a_head_s_loss_is_the_marginal_of_the_label_by_hand(tiny, labels):
    batch, run = labels
    sums, _, (score_BK, logp_BKC) = run(batch)
    logp_BKC, rows = logp_BKC.astype(np.float64), np.arange(tiny.B)
    logp_BK1 = logp_BKC[rows, :, batch.label_B][..., None]
    smooth_BK1 = 0.9 * logp_BK1 + 0.1 * logp_BKC.mean(axis=2, keepdims=True)
    one = np.ones((tiny.B, 1), bool)
    for kind in KINDS:  # one token: they are one
        exact_B, smooth_B = (by_hand(kind, score_BK, logp, batch, one) for logp in (logp_BK1, smooth_BK1))
        np.testing.assert_allclose(sums.log_likelihood, (exact_B * batch.weight_B).sum(), rtol=2e-6)
        np.testing.assert_allclose(sums.loss, -(smooth_B * batch.weight_B).sum(), rtol=2e-6)
    assert sums.tokens == sums.text_tokens == tiny.B - 1


def test_a_head_s_gradient_reaches_all_three_parts_and_no_padding(tiny, labels):
    batch, run = labels
    _, (gradient, of_documents), _ = run(batch)
    assert set(gradient) == {"question_encoder", "generator", "classifier"}
    for part, count in (("question_encoder", 6), ("classifier", 2)):
        assert len(kernels(gradient[part])) == count
    assert all(np.abs(leaf).max() > 1e-5 for leaf in kernels(gradient))
    assert not gradient["generator"]["final_logits_bias"].any(), "no word is said"
    place_PD = gradient["generator"]["decoder"]["placement"]["position"]
    longest = 2 + max(CLAIM_LENGTHS)
    assert (np.abs(place_PD[2:longest]).max(axis=1) > 0).all() and not place_PD[longest:].any()
    assert (of_documents[~batch.mask_BK] == 0).all()
    alone_BK = batch.mask_BK.sum(axis=1, keepdims=True) == 1
    assert (np.abs(of_documents[batch.mask_BK & ~alone_BK]).max(axis=1) > 0).all()


def test_padding_and_missing_documents_have_no_influence_on_a_head(tiny, labels):
    batch, run = labels
    expected_sums, expected, _ = run(batch)
    other = tiny.batch(seed=1)
    source_BKS = np.where(batch.mask_BK[..., None], batch.source_BKS, other.source_BKS)
    document_BKE = np.where(batch.mask_BK[..., None], batch.document_BKE, other.document_BKE)
    changed = jax.tree.map(np.copy, batch._replace(source_BKS=source_BKS, document_BKE=document_BKE))
    for name in ("question_BQ", "source_BKS", "document_BKE"):
        getattr(changed, name)[tiny.padding] = getattr(other, name)[tiny.padding]
    changed.label_B[tiny.padding], changed.token_BT[tiny.padding, 2] = 0, 7
    sums, gradients, _ = run(changed)
    assert tiny.bits((sums, gradients[0])) == tiny.bits((expected_sums, expected[0]))
    np.testing.assert_array_equal(gradients[1], expected[1])  # zeros may change their sign


@pytest.fixture(scope="module")
def null_of(tiny):
    """(kind, null document) -> compiled function(params, batch) -> (sums, gradient, query_BE, logp_BKT)."""

    @cache
    def program(kind, null, frozen=False):
        config = replace(tiny.config(kind), null_document=null)
        objective = OBJECTIVE._replace(train_question_encoder=not frozen)
        gradient_of = jax.grad(partial(loss_sums, config=config, objective=objective), has_aux=True)

        @jax.jit
        def run(params, batch):
            gradient, sums = gradient_of(params, batch, None)
            query_BE = None
            if batch.question_BQ is not None:
                query_BE = rag.encode_questions(config, params, batch.question_BQ)
            prior_BK = jnp.zeros(batch.source_BKS.shape[:2])
            said = rag.token_likelihood(config, params, batch.source_BKS, batch.token_BT, batch.target_BT, prior_BK)
            return sums, gradient, query_BE, said.logp_BKT

        return lambda *arguments: jax.device_get(run(*arguments))

    return program


def with_null(tiny, params, null):
    """Parameters with a null document's, nowhere 0, and a batch with a question alone behind the documents."""
    rng, batch = np.random.default_rng(9), tiny.batch()
    shapes = jax.eval_shape(lambda: null_document.init(null, tiny.bert.width, jax.random.key(0)))
    drawn = jax.tree.map(lambda leaf: (0.1 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)
    alone_B1S = rng.integers(5, tiny.bart.vocab_size, (tiny.B, 1, tiny.S)).astype(np.int32)
    source_BKS = np.concatenate([batch.source_BKS, alone_B1S], axis=1)
    return params | {"null_document": drawn}, batch._replace(source_BKS=source_BKS)


NULLS = [
    pytest.param(kind, null, marks=[] if (kind, null) == ("token", "network") else LONG)
    for kind in KINDS
    for null in ("embedding", "bias", "network")
]


@pytest.mark.parametrize(("kind", "null"), NULLS)
def test_a_null_document_is_one_more_summand_with_its_logit_by_hand(tiny, params, null_of, kind, null):
    params, batch = with_null(tiny, params, null)
    sums, _, query_BE, logp_BKT = null_of(kind, null)(params, batch)
    score_BK = np.einsum("BE,BKE->BK", query_BE, batch.document_BKE, dtype=np.float64)
    learned_B = np.broadcast_to(null_document.learned(null, params["null_document"], query_BE), tiny.B)
    means = [
        score_K[there_K].mean() if there_K.any() else 0
        for score_K, there_K in zip(score_BK, batch.mask_BK, strict=True)
    ]
    score_BK = np.concatenate([score_BK, (means + learned_B)[:, None]], axis=1)
    both = batch._replace(mask_BK=np.pad(batch.mask_BK, [(0, 0), (0, 1)], constant_values=True))
    loss_B = -by_hand(kind, score_BK, logp_BKT.astype(np.float64), both, batch.target_BT != tiny.bart.pad_id)
    np.testing.assert_allclose(sums.loss, (loss_B * batch.weight_B).sum(), rtol=2e-6)


@pytest.mark.parametrize(("kind", "null"), NULLS)
def test_the_gradient_of_a_null_document_is_the_slope_of_the_loss(tiny, params, null_of, kind, null):
    params, batch = with_null(tiny, params, null)
    run = null_of(kind, null)
    _, gradient, *_ = run(params, batch)
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(gradient["null_document"]))
    assert all(np.abs(leaf).max() > 1e-5 for leaf in kernels(gradient))
    for half, size in (("null_document", 0.005), ("question_encoder", 0.02)):
        scale = size / float(optax.tree.norm(gradient[half])) ** 2
        step = jax.tree.map(lambda g, scale=scale: scale * g, gradient[half])
        up, down = (
            float(run({**params, half: jax.tree.map(move, params[half], step)}, batch)[0].loss)
            for move in (np.add, np.subtract)
        )
        assert (up - down) / (2 * size) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize(("kind", "null"), NULLS)
def test_beside_a_null_document_neither_missing_ones_nor_padding_have_influence(tiny, params, null_of, kind, null):
    params, batch = with_null(tiny, params, null)
    expected, other = null_of(kind, null)(params, batch)[:2], tiny.batch(seed=1)
    gone_BK = np.pad(~batch.mask_BK, [(0, 0), (0, 1)])
    gone_BK[tiny.padding] = True
    source_BKS = np.concatenate([other.source_BKS, other.source_BKS[:, :1]], axis=1)
    changed = batch._replace(
        document_BKE=np.where(gone_BK[:, :3, None], other.document_BKE, batch.document_BKE),
        source_BKS=np.where(gone_BK[..., None], source_BKS, batch.source_BKS),
    )
    assert tiny.bits(null_of(kind, null)(params, changed)[:2]) == tiny.bits(expected)


@LONG
@pytest.mark.parametrize("null", ["embedding", "bias", "network"])
def test_a_stage_that_keeps_the_question_encoder_keeps_the_null_document(tiny, params, null_of, null):
    _, gradient, *_ = null_of("token", null, frozen=True)(*with_null(tiny, params, null))
    assert not any(
        leaf.any() for half in ("null_document", "question_encoder") for leaf in jax.tree.leaves(gradient[half])
    )
    assert all(np.abs(leaf).max() > 1e-4 for leaf in kernels(gradient["generator"]))


@LONG
def test_beside_scores_of_words_the_null_document_s_bias_is_learned_all_the_same(tiny, params, null_of):
    params, batch = with_null(tiny, params, "bias")
    score_BK = np.random.default_rng(3).uniform(5, 30, (tiny.B, tiny.K)).astype(np.float32)
    given = batch._replace(question_BQ=None, document_BKE=None, score_BK=score_BK)
    _, gradient, *_ = null_of("token", "bias", frozen=True)(params, given)
    assert abs(gradient["null_document"]["bias"]) > 1e-4
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient["question_encoder"]))


@LONG
def test_a_batch_without_one_leaves_the_null_document_alone(tiny, params, null_of, gradient_of):
    """As the denoising stage's."""
    learned, _ = with_null(tiny, params, "network")
    sums, gradient, *_ = null_of("token", "network")(learned, tiny.batch())
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient.pop("null_document")))
    expected_sums, expected, _ = gradient_of("token")(params, tiny.batch())
    np.testing.assert_allclose(sums.loss, expected_sums.loss, rtol=1e-6)
    tiny.assert_close(gradient, expected)


@LONG
@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_book_s_loss_is_the_generator_s_own(tiny, params, kind):
    """RAG-Token and RAG-Sequence are one, and nothing but the generator is there to be trained."""
    config, batch = replace(tiny.config(kind), question_encoder=None), tiny.batch()
    closed = batch._replace(
        question_BQ=None, document_BKE=None, score_BK=np.zeros((tiny.B, 1), np.float32),
        mask_BK=np.ones((tiny.B, 1), bool), source_BKS=batch.source_BKS[:, :1],
    )  # fmt: skip
    own = {"generator": params["generator"]}
    shapes = jax.eval_shape(lambda: rag.init_params(config, jax.random.key(0)))
    assert jax.tree.structure(shapes) == jax.tree.structure(own)

    @jax.jit
    def run(params):
        loss = partial(loss_sums, config=config, objective=OBJECTIVE._replace(train_question_encoder=False))
        gradient, sums = jax.grad(loss, has_aux=True)(params, closed, None)
        said = rag.token_likelihood(
            config, params, closed.source_BKS, closed.token_BT, closed.target_BT, jnp.zeros((tiny.B, 1))
        )
        return sums, gradient, said.logp_BKT

    sums, gradient, logp_BKT = jax.device_get(run(own))
    scored_BT = (batch.target_BT != tiny.bart.pad_id) & (batch.weight_B > 0)[:, None]
    np.testing.assert_allclose(sums.loss, -logp_BKT[:, 0][scored_BT].sum(dtype=np.float64), rtol=2e-6)
    assert all(np.abs(leaf).max() > 1e-4 for leaf in kernels(gradient))
