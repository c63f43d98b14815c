"""The generator against transformers' BART; causality, padding and the cache against the model itself."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from rag_jax.hub import rules
from rag_jax.hub.convert import from_huggingface
from rag_jax.models.bart import Bart, BartConfig, apart, init_cache, sinusoidal_table

SOURCE_LENGTHS = (8, 3, 1)
R, S, T, M = 3, 8, 5, 3


def shapes_of(config):
    ids = jnp.zeros((1, 2), jnp.int32)
    return jax.eval_shape(Bart(config).init, jax.random.key(0), ids, ids > 0, ids)["params"]


def run(config, params, *args, method=None, **kwargs):
    return Bart(config).apply({"params": params}, *args, method=method, **kwargs)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "scaled"])
def pair(request, oracle):
    """(their model, our config, import of their names)."""
    theirs = oracle.randomise(
        transformers.BartForConditionalGeneration(oracle.bart_config(scale_embedding=request.param))
    )
    config = oracle.bart(scale_embedding=request.param)
    return theirs, config, partial(from_huggingface, rows=rules.bart(), shapes=shapes_of(config))


@pytest.fixture(scope="module")
def inputs(oracle):
    source = oracle.tokens((R, S), 44, SOURCE_LENGTHS, pad=1)
    return source, source != 1, oracle.tokens((R, T), 44, seed=1)


def test_logits_and_gradients_match(pair, inputs):
    theirs, config, take = pair
    source, mask, token = inputs
    expected = theirs(
        input_ids=torch.tensor(source).long(),
        attention_mask=torch.tensor(mask),
        decoder_input_ids=torch.tensor(token).long(),
    )
    weight = np.random.default_rng(1).normal(size=expected.logits.shape).astype(np.float32)

    def loss(params):
        memory = run(config, params, source, mask, method="encode")
        hidden = run(config, params, source, mask, token)
        logits = run(config, params, hidden, method="logits")
        return (logits * weight).mean(), (memory, logits)

    params = take({name: tensor.detach().numpy() for name, tensor in theirs.state_dict().items()})
    (_, (memory, logits)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    expected_memory = expected.encoder_last_hidden_state.detach().numpy()
    np.testing.assert_allclose(memory[mask], expected_memory[mask], atol=1e-5)
    np.testing.assert_allclose(logits, expected.logits.detach(), atol=1e-5)
    (expected.logits * torch.tensor(weight)).mean().backward()
    # There the bias of the logits is a buffer without a gradient; here it is the sum of the weights.
    assert "final_logits_bias" not in dict(theirs.named_parameters())
    np.testing.assert_allclose(grads.pop("final_logits_bias"), weight.sum((0, 1)) / weight.size, atol=1e-6)
    expected_grads = take({name: p.grad.numpy() for name, p in theirs.named_parameters()})
    expected_grads.pop("final_logits_bias")
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-4), grads, expected_grads)


@pytest.fixture(scope="module")
def model(oracle):
    """(config, random parameters) of our own."""
    config = oracle.bart()
    leaves, tree = jax.tree.flatten(shapes_of(config))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    values = [0.3 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return config, jax.tree.unflatten(tree, values)


def test_causal_and_padding_gradients_are_exactly_zero(model):
    config, params = model
    # All ids differ, so that a row of the token table is one position of source or target.
    source, mask, token = jnp.arange(5, 13)[None], jnp.arange(8)[None] < 6, jnp.arange(20, 25)[None]

    def state(params):
        return (run(config, params, source, mask, token)[0, 2] ** 2).sum()

    grads = jax.jit(jax.grad(state))(params)
    row_V = jnp.abs(grads["shared"]["embedding"]).sum(axis=1)
    assert (row_V[5:11] > 0).all() and (row_V[20:23] > 0).all()
    assert (row_V[11:13] == 0).all(), "padding of the source"
    assert (row_V[23:25] == 0).all(), "later target tokens"
    assert (grads["encoder"]["placement"]["position"][2 + 6 :] == 0).all()
    assert (grads["decoder"]["placement"]["position"][2 + 3 :] == 0).all()


@pytest.fixture(scope="module")
def decoded(model, inputs, oracle):
    """(crossing keys, tokens of M beams a row, the states of each beam decoded as a row of its own)."""
    config, params = model
    source, mask, _ = inputs
    whole = jax.jit(partial(run, config))
    token_RMT = oracle.tokens((R, M, T), 44, seed=2)
    hidden_RMTD = np.stack([whole(params, source, mask, token_RMT[:, m]) for m in range(M)], axis=1)
    encode = jax.jit(lambda params: run(config, params, source, mask, method="encode"))
    return run(config, params, encode(params), method="cross"), token_RMT, hidden_RMTD


def steps(config, params, cross, mask, token_RMT, ancestor):
    """States of beams decoded place by place: at place t, beam m goes on from what beam ancestor(t)[m] was before."""
    beams, length = token_RMT.shape[1:]

    @jax.jit
    def step(token_RM, cache, position, sees_MP):
        place = {"place_RT": jnp.full((1, beams), position), "sees_RTP": sees_MP[None], "slot": position * beams}
        return run(config, params, token_RM, layers, mask, cache=cache, method="step", **place)

    layers, cache, hidden = apart(config, params, cross), init_cache(config, R, beams * length), []
    for t in range(length):
        sees_MP = np.zeros((beams, beams * length), bool)
        for m in range(beams):
            sees_MP[m, ancestor(t)[m] + beams * np.arange(t)] = True
            sees_MP[m, t * beams + m] = True
        states, cache = step(token_RMT[:, :, t], cache, t, sees_MP)
        hidden.append(states)
    return np.stack(hidden, axis=2)


@pytest.mark.parametrize("beams", [1, M])
def test_cached_steps_equal_the_uncached_decode(model, inputs, decoded, beams):
    cross, token_RMT, hidden_RMTD = decoded
    hidden = steps(*model, cross, inputs[1], token_RMT[:, :beams], lambda t: np.arange(beams))
    np.testing.assert_allclose(hidden, hidden_RMTD[:, :beams], atol=1e-5)


def test_beams_change_places_while_the_cache_stays(model, inputs, decoded):
    """At the last place the beams swap: each goes on from what another one said."""
    cross, token_RMT, hidden_RMTD = decoded
    order = np.array([2, 0, 1])
    token_RMT = np.concatenate([token_RMT[:, :, :-1], token_RMT[:, order, -1:]], axis=2)
    hidden = steps(*model, cross, inputs[1], token_RMT, lambda t: order if t == T - 1 else np.arange(M))
    np.testing.assert_allclose(hidden[:, :, -1], hidden_RMTD[:, order, -1], atol=1e-5)


def test_a_tree_of_tokens_decodes_like_its_branches(model, inputs, decoded):
    """Two answers that share their first two tokens, side by side in one row."""
    config, params = model
    source, mask, _ = inputs
    cross, token_RMT, _ = decoded
    one = token_RMT[:, 0]
    other = np.concatenate([one[:, :2], token_RMT[:, 1, 2:]], axis=1)
    place = np.array([[0, 1, 2, 3, 4, 2, 3, 4]])
    sees = np.tril(np.ones((8, 8), bool))
    sees[5:, 2:5] = False
    tokens = np.concatenate([one, other[:, 2:]], axis=1)
    tree = {"place_RT": place, "sees_RTT": sees[None], "method": "decode"}
    hidden = jax.jit(partial(run, config, **tree))(params, tokens, cross, mask)
    whole = jax.jit(partial(run, config))
    np.testing.assert_allclose(hidden[:, :5], whole(params, source, mask, one), atol=1e-5)
    np.testing.assert_allclose(hidden[:, 5:], whole(params, source, mask, other)[:, 2:], atol=1e-5)


def arrays_within(jaxpr):
    """All arrays that a program makes, those of its inner programs included."""
    for equation in jaxpr.eqns:
        yield from (variable.aval for variable in equation.outvars)
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from arrays_within(getattr(inner, "jaxpr", inner))


def test_memory_is_never_copied_per_beam(oracle):
    config = oracle.bart(vocab_size=30, width=16, heads=2, ffn=16, positions=64)
    rows, beams, source, places = 2, 7, 64, 4
    shape = jax.ShapeDtypeStruct
    cross = jax.eval_shape(
        partial(run, config, method="cross"), shapes_of(config), shape((rows, source, 16), jnp.float32)
    )
    program = jax.make_jaxpr(
        lambda p, token, layers, mask, cache, place, sees: run(
            config, p, token, layers, mask, cache=cache, place_RT=place, sees_RTP=sees, slot=0, method="step"
        )
    )(
        shapes_of(config),
        shape((rows, beams), jnp.int32),
        jax.eval_shape(partial(apart, config), shapes_of(config), cross),
        shape((rows, source), bool),
        init_cache(config, rows, beams * places),
        shape((1, beams), jnp.int32),
        shape((rows, beams, beams * places), bool),
    )
    sizes = [aval.size for aval in arrays_within(program.jaxpr)]
    # The scores [R, H, M, S] are the largest; one copy of a layer's keys per beam would be [R, M, S, D].
    assert max(sizes) == rows * 2 * max(beams * source, source * 8)
    assert max(sizes) < rows * beams * source * 16
    # Crossing keys are given, so that no dense layer sees the memory again.
    assert (rows, source, 16) not in [aval.shape for aval in arrays_within(program.jaxpr)]


def test_bf16_is_near(model, inputs):
    config, params = model
    source, mask, token = inputs
    rough = Bart(BartConfig(**config.__dict__ | {"dtype": "bfloat16"}))
    exact = jax.jit(partial(run, config))(params, source, mask, token)
    hidden = jax.jit(rough.apply)({"params": params}, source, mask, token)
    assert hidden.dtype == jnp.bfloat16
    assert 1e-4 < jnp.abs(exact - hidden).mean() < 0.05
    logits = jax.eval_shape(partial(rough.apply, method="logits"), {"params": params}, hidden)
    assert logits.dtype == jnp.float32


def test_large_has_transformers_number_of_parameters():
    with torch.device("meta"):
        theirs = transformers.BartForConditionalGeneration(transformers.BartConfig())
    shapes = shapes_of(BartConfig())
    bias = shapes.pop("final_logits_bias")  # a buffer there
    count = sum(x.size for x in jax.tree.leaves(shapes))
    assert count == sum(p.numel() for p in theirs.parameters()) == 406_291_456
    assert bias.shape == (50265,)


def test_sinusoidal_start(oracle):
    table = sinusoidal_table(12, 16, 0.02)
    np.testing.assert_allclose(table[1, 0], 0.02 * 2**0.5 * np.sin(1.0), rtol=1e-6)
    np.testing.assert_allclose(table[0, 8:], 0.02 * 2**0.5, rtol=1e-6)
    np.testing.assert_allclose((table**2).mean() ** 0.5, 0.02, rtol=1e-6)
    config = oracle.bart(position_init="sinusoidal", init_std=0.02)
    ids = jnp.ones((1, 2), jnp.int32)
    params = jax.jit(Bart(config).init)(jax.random.key(0), ids, ids > 0, ids)["params"]
    for side in ("encoder", "decoder"):
        np.testing.assert_array_equal(params[side]["placement"]["position"], sinusoidal_table(14, 16, 0.02))
