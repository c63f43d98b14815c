"""Work and memory counted from equations: by hand, and against the compiler's own figures."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from rag_jax.models import rag
from rag_jax.models.bart import BartConfig
from rag_jax.models.bert import BertConfig, BertEncoder
from rag_jax.parallel import ALONE
from rag_jax.planning import cost
from rag_jax.planning.cost import EXACT, HALF, SINGLE
from rag_jax.training.optim import optimizer
from rag_jax.training.step import Batch, Objective, TrainState, loss_sums, train_step

Shape = jax.ShapeDtypeStruct


def floats(*shape, dtype="float32"):
    return Shape(shape, jnp.dtype(dtype))


def counted(function, *arguments, loops=()):
    return cost.count(jax.make_jaxpr(function)(*arguments), loops)


def test_a_product_is_two_operations_for_each_multiply_and_add():
    work = counted(lambda a, b: a @ b, floats(3, 5), floats(5, 7))
    assert work.flops == {SINGLE: 2 * 3 * 5 * 7}
    assert work.moved == 4 * (3 * 5 + 5 * 7 + 3 * 7)


@pytest.mark.parametrize(
    ("dtype", "precision", "kind"),
    [("bfloat16", None, HALF), ("float32", None, SINGLE), ("float32", "highest", EXACT), ("bfloat16", "highest", HALF)],
)
def test_products_are_told_apart_by_how_fast_their_numbers_multiply(dtype, precision, kind):
    product = partial(jnp.matmul, precision=precision)
    assert set(counted(product, floats(2, 2, dtype=dtype), floats(2, 2, dtype=dtype)).flops) == {kind}


def test_an_operand_is_read_as_it_lies_in_memory():
    work = counted(lambda a, b: a.astype("float32") @ b.T, floats(3, 5, dtype="bfloat16"), floats(7, 5))
    assert work.moved == 2 * 3 * 5 + 4 * (7 * 5 + 3 * 7)


def test_a_layer_counts_as_often_as_it_runs():
    def scanned(x, w):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=6)[0]

    def looped(x, w):
        return jax.lax.while_loop(lambda s: s[0] < 9, lambda s: (s[0] + 1, scanned(s[1], w)), (0, x))[1]

    x, w = floats(2, 4), floats(4, 4)
    assert counted(scanned, x, w).total == 6 * 2 * 2 * 4 * 4
    assert counted(looped, x, w, loops=(9,)).total == 9 * counted(scanned, x, w).total
    assert counted(jax.jit(jax.remat(scanned)), x, w) == counted(scanned, x, w)


def test_of_branches_the_dearest_counts():
    def either(x, flag):
        return jax.lax.cond(flag, lambda x: x, lambda x: x @ x @ x, x)

    assert counted(either, floats(4, 4), Shape((), bool)).total == 2 * 2 * 4**3


B, K, Q, S, T = 4, 3, 8, 16, 6
BERT = BertConfig(vocab_size=50, width=64, layers=1, heads=2, ffn=96, positions=32)
BART = BartConfig(
    vocab_size=60, width=48, encoder_layers=1, decoder_layers=1, heads=2, ffn=80, positions=32, attention_dropout=0.1
)


def model(layers=1, **settings):
    bert = dataclasses.replace(BERT, layers=layers, **settings)
    bart = dataclasses.replace(BART, encoder_layers=layers, decoder_layers=layers, **settings)
    return rag.RagConfig(bert, bart, kind="token")


def asked(bert=BERT):
    ints = {name: Shape(shape, jnp.int32) for name, shape in {"q": (B, Q), "s": (B, K, S), "t": (B, T)}.items()}
    return Batch(ints["q"], floats(B, K, bert.width), Shape((B, K), bool), ints["s"], ints["t"], ints["t"], floats(B))


def step_of(config, stage):
    tx = optimizer(stage, ("question_encoder", "generator"))
    params = jax.eval_shape(partial(rag.init_params, config), jax.random.key(0))
    state = TrainState(Shape((), jnp.int32), params, jax.eval_shape(tx.init, params))
    objective = Objective(True, 0.0, 1, 0)
    return partial(train_step, across=ALONE, config=config, optimizer=tx, objective=objective), state


@pytest.fixture(scope="module")
def stage():
    from rag_jax.config import default_config

    return default_config().joint


def forward(config):
    """Multiply-and-adds of the two encoders and the decoder, layer by layer, as anybody would count them."""
    bert, bart = config.question_encoder, config.generator
    D, F, rows = bart.width, bart.ffn, B * K
    question = B * Q * (4 * bert.width**2 + 2 * bert.width * bert.ffn + 2 * Q * bert.width) * bert.layers
    encoder = rows * S * (4 * D**2 + 2 * D * F + 2 * S * D) * bart.encoder_layers
    crossing = 2 * rows * S * D**2 + rows * T * (2 * D**2 + 2 * S * D)
    decoder = (rows * T * (4 * D**2 + 2 * D * F + 2 * T * D) + crossing) * bart.decoder_layers
    return question + encoder + decoder


@pytest.mark.parametrize("layers", [1, 3])
def test_a_training_step_by_hand(layers, stage):
    config = model(layers)
    function, state = step_of(config, stage)
    work = counted(function, state, asked())
    # Backwards, each product has two of its size; the logits are computed again; a passage's vector has no gradient.
    logits, scores = B * K * T * BART.width * BART.vocab_size, B * K * BERT.width
    assert work.total == 2 * (3 * forward(config) + 4 * logits + 2 * scores)
    assert work.flops[EXACT] == 2 * (4 * logits + 2 * scores)


def test_what_is_recomputed_counts_again():
    def loss(params, ids, remat):
        return BertEncoder(dataclasses.replace(BERT, layers=3, remat=remat)).apply(params, ids, ids > 0).sum()

    ids = Shape((B, Q), jnp.int32)
    params = jax.eval_shape(partial(BertEncoder(dataclasses.replace(BERT, layers=3)).init, jax.random.key(0)), ids, ids)
    none, full = (counted(jax.grad(partial(loss, remat=remat)), params, ids).total for remat in ("none", "full"))
    assert full == none + none / 3  # a whole forward pass: the layer norm behind the last product needs its result


def test_the_compiler_counts_the_same_where_nothing_is_scanned(compiled_in_haste):
    wide = {"width": 512, "ffn": 2048}  # so that products are nearly all of the work
    config = rag.RagConfig(dataclasses.replace(BERT, **wide), dataclasses.replace(BART, **wide), kind="token")
    params = jax.eval_shape(partial(rag.init_params, config), jax.random.key(0))
    loss = partial(loss_sums, key=None, config=config, objective=Objective(True, 0.0, 1, 0))
    arguments = params, asked(config.question_encoder)
    theirs = jax.jit(jax.grad(loss, has_aux=True)).lower(*arguments).compile().cost_analysis()["flops"]
    assert counted(jax.grad(loss, has_aux=True), *arguments).total == pytest.approx(theirs, rel=0.03)


def held(function, *arguments):
    return cost.peak(jax.make_jaxpr(function)(*arguments))


def test_the_fullest_moment_by_hand():
    x = floats(4, 4)  # 64 bytes

    def chain(x):
        a = x @ x
        b = a @ a  # a and b are there
        return b @ a  # and the result, which is not counted

    assert held(chain, x) == 2 * 64
    assert held(lambda x: ((x @ x) @ x) @ x, x) == 2 * 64  # the first is gone when the third is made
    assert held(lambda x: jnp.tanh(x @ x + 1) @ x, x) == 64  # tanh and sum are computed where they are read


def test_what_a_layer_keeps_is_held_for_all_layers():
    def layers(x):
        return jax.lax.scan(lambda x, _: (x @ x, x), x, None, length=6)

    def backwards(x):
        x, kept = layers(x)
        return jax.lax.scan(lambda x, y: (x @ y, None), x, kept)[0]

    assert 6 * 64 <= held(backwards, floats(4, 4)) <= 9 * 64


def test_recomputing_holds_less():
    def loss(x, remat):
        layer = jax.checkpoint(lambda x: jnp.tanh(jnp.tanh(x @ x) @ x)) if remat else lambda x: jnp.tanh(x @ x) @ x
        return jax.lax.scan(lambda x, _: (layer(x), None), x, None, length=8)[0].sum()

    none, full = (held(jax.grad(partial(loss, remat=remat)), floats(16, 16)) for remat in (False, True))
    assert full < 0.7 * none
