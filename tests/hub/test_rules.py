"""One test per row of the table, then the table as a whole: complete, and strict both ways."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from rag_jax.errors import UserError
from rag_jax.hub import rules
from rag_jax.hub.convert import from_huggingface, to_huggingface
from rag_jax.models.bart import BartConfig
from rag_jax.models.bert import BertConfig
from rag_jax.models.rag import RagConfig, init_params

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CONFIG = RagConfig(
    BertConfig(vocab_size=11, width=8, layers=2, heads=2, ffn=12, positions=9, projection=6),
    BartConfig(vocab_size=13, width=4, encoder_layers=2, decoder_layers=3, heads=2, ffn=6, positions=7),
)
SHAPES = jax.eval_shape(partial(init_params, CONFIG), jax.random.key(0))
FLAT = flatten_dict(SHAPES, sep="/")
ROWS = rules.rag()


def their_model():
    question = transformers.DPRConfig(
        vocab_size=11,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=9,
        projection_dim=6,
    )
    generator = transformers.BartConfig(
        vocab_size=13,
        d_model=4,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=6,
        decoder_ffn_dim=6,
        max_position_embeddings=7,
    )
    config = transformers.RagConfig.from_question_encoder_generator_configs(question, generator)
    return transformers.RagTokenForGeneration(config)


@pytest.fixture(scope="module")
def theirs():
    """Their tensors, the tied ones under all their names."""
    return {name: tensor.detach().numpy() for name, tensor in their_model().state_dict().items()}


@pytest.fixture(scope="module")
def params():
    """Our parameters, all different numbers."""
    rng = np.random.default_rng(0)
    return unflatten_dict({k: rng.normal(size=s.shape).astype(s.dtype) for k, s in FLAT.items()}, sep="/")


@pytest.fixture(scope="module")
def exported(params):
    return to_huggingface(params, ROWS)


@pytest.mark.parametrize("row", [row for row in ROWS if row.ours], ids=lambda row: row.ours)
def test_row(row, theirs, params, exported):
    array = flatten_dict(params, sep="/")[row.ours]
    names = [row.theirs.replace("{i}", str(i)) for i in range(len(array) if "{i}" in row.theirs else 1)]
    for name, part in zip(names, array if "{i}" in row.theirs else [array], strict=True):
        assert exported[name].shape == theirs[name].shape, "their own shape"
        undo = {"same": lambda x: x, "transpose": np.transpose, "row": lambda x: x[0]}[row.transform]
        np.testing.assert_array_equal(undo(exported[name]), part)
    only = {name: exported[name] for name in names}
    shape = unflatten_dict({row.ours: FLAT[row.ours]}, sep="/")
    back = flatten_dict(from_huggingface(only, ROWS, shape), sep="/")
    np.testing.assert_array_equal(back[row.ours], array)


def test_table_is_complete(theirs, exported):
    """Every parameter of ours has one row; the export is their state but for second names of tied tensors."""
    ours = [row.ours for row in ROWS if row.ours]
    assert len(ours) == len(set(ours)) and set(ours) == set(FLAT)
    ties = {alias for row in ROWS for alias in row.aliases}
    assert set(exported) == set(theirs) - ties


def test_their_model_loads_the_export(exported):
    missing, unexpected = their_model().load_state_dict(
        {name: torch.tensor(x) for name, x in exported.items()}, strict=False
    )
    assert unexpected == [] and all(re.search(r"embed_tokens|lm_head", name) for name in missing)


def test_round_trip_is_bit_equal(theirs):
    params = from_huggingface(theirs, ROWS, SHAPES)
    assert jax.tree.structure(params) == jax.tree.structure(SHAPES)
    back = to_huggingface(params, ROWS)
    assert all(np.array_equal(back[name], theirs[name]) for name in back)


@pytest.mark.parametrize(
    "kept", ["model.shared", "model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head"]
)
def test_any_of_the_tied_names_will_do(theirs, kept):
    ties = {f"rag.generator.{n}.weight" for n in ("model.shared", "lm_head")}
    ties |= {f"rag.generator.model.{side}.embed_tokens.weight" for side in ("encoder", "decoder")}
    tensors = {n: x for n, x in theirs.items() if n not in ties or n == f"rag.generator.{kept}.weight"}
    params = from_huggingface(tensors, ROWS, SHAPES)
    np.testing.assert_array_equal(
        params["generator"]["shared"]["embedding"], theirs["rag.generator.model.shared.weight"]
    )


def test_untied_tables_are_refused(theirs):
    changed = theirs | {"rag.generator.lm_head.weight": theirs["rag.generator.lm_head.weight"] + 1}
    with pytest.raises(UserError, match=r"shared\.weight and rag\.generator\.lm_head\.weight differ"):
        from_huggingface(changed, ROWS, SHAPES)


def test_missing_bias_of_the_logits_is_zero(theirs):
    tensors = {n: x for n, x in theirs.items() if not n.endswith("final_logits_bias")}
    assert (from_huggingface(tensors, ROWS, SHAPES)["generator"]["final_logits_bias"] == 0).all()


@pytest.mark.parametrize(
    "name",
    [
        "rag.question_encoder.question_encoder.bert_model.embeddings.position_ids",
        "rag.question_encoder.question_encoder.bert_model.pooler.dense.weight",
        "rag.ctx_encoder.ctx_encoder.bert_model.embeddings.LayerNorm.weight",
        "rag.generator.model.encoder.version",
    ],
)
def test_known_extras_are_dropped(theirs, name):
    from_huggingface(theirs | {name: np.zeros(3)}, ROWS, SHAPES)


@pytest.mark.parametrize(
    "name",
    [
        "rag.generator.model.encoder.layers.2.fc1.bias",
        "rag.generator.model.decoder.layers.0.fc3.bias",
        "pooler.bias",
    ],
)
def test_unexplained_tensor_is_named(theirs, name):
    with pytest.raises(UserError, match=f"model.bin: tensor {re.escape(name)} has no place"):
        from_huggingface(theirs | {name: np.zeros(3)}, ROWS, SHAPES, source="model.bin")


def test_missing_tensor_is_named(theirs):
    name = "rag.generator.model.decoder.layers.2.fc1.bias"
    tensors = {n: x for n, x in theirs.items() if n != name}
    with pytest.raises(UserError, match=f"tensor {re.escape(name)} is missing, .*decoder/layers/feed_forward/up"):
        from_huggingface(tensors, ROWS, SHAPES)


def test_other_shape_is_named(theirs):
    name = "rag.generator.final_logits_bias"
    with pytest.raises(UserError, match=rf"{re.escape(name)} has shape \(1, 12\), expected \(1, 13\)"):
        from_huggingface(theirs | {name: np.zeros((1, 12))}, ROWS, SHAPES)


def test_parameter_without_a_row_is_named(params):
    with pytest.raises(UserError, match="export: parameter novel/kernel has no row"):
        to_huggingface(params | {"novel": {"kernel": np.zeros((2, 2))}}, ROWS)
    shapes = SHAPES | {"novel": {"kernel": jax.ShapeDtypeStruct((2, 2), jnp.float32)}}
    with pytest.raises(UserError, match="import: parameter novel/kernel has no row"):
        from_huggingface(to_huggingface(params, ROWS), ROWS, shapes)


def test_half_precision_becomes_fp32(theirs):
    half = {name: x.astype(np.float16) for name, x in theirs.items()}
    assert {x.dtype for x in jax.tree.leaves(from_huggingface(half, ROWS, SHAPES))} == {np.dtype("float32")}


def test_bare_bert_and_its_old_names(params):
    encoder = {k: v for k, v in params["question_encoder"].items() if k != "projection"}
    rows = rules.bert("bert.", drop=("cls.*",))
    tensors = to_huggingface(encoder, rows)
    assert "bert.encoder.layer.1.output.LayerNorm.weight" in tensors
    old = {n.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): x for n, x in tensors.items()}
    back = from_huggingface(old | {"cls.predictions.bias": np.zeros(3)}, rows, encoder)
    jax.tree.map(np.testing.assert_array_equal, back, encoder)


def test_bare_bart_model(params):
    """BartModel, as facebook/bart-base is saved: no 'model.' and no bias of the logits."""
    tensors = to_huggingface(params["generator"], rules.bart(body=""))
    assert "shared.weight" in tensors and "encoder.layers.0.fc1.weight" in tensors
    del tensors["final_logits_bias"]
    back = from_huggingface(tensors, rules.bart(body=""), params["generator"])
    np.testing.assert_array_equal(back["shared"]["embedding"], params["generator"]["shared"]["embedding"])
