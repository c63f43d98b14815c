"""Every family of folders: our config of it, its values, gradients, losses and tokens, and the way back."""

from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from rag_jax.core.marginal import document_log_prior
from rag_jax.decode.generate import generate
from rag_jax.hub import rules
from rag_jax.hub.convert import from_huggingface, to_huggingface
from rag_jax.hub.huggingface import (
    RagSettings,
    encoder_config,
    encoder_length,
    encoder_rows,
    encoder_tokenizer,
    generator_config,
    generator_rows,
    generator_tokenizer,
    load_encoder,
    load_generator,
    load_rag,
    rag_settings,
)
from rag_jax.hub.tensors import write_tensors
from rag_jax.models.bart import Bart
from rag_jax.models.bert import BertEncoder
from rag_jax.models.rag import RagConfig

from ..decode.parity.cases import cases, shapes
from ..decode.parity.oracle import answers, models
from ..models.losses import forward, make_batch, our_loss, pull, their_loss
from ..models.oracle import Oracle
from .families import ONE_LAYER, bert_masked, sentence_cls, sentence_mean

LENGTHS = (7, 3, 1)
RAG = RagConfig(Oracle.bert(**ONE_LAYER["encoder"]), Oracle.bart(**ONE_LAYER["generator"]))
LAYOUTS = ("token", "sequence", "bare", "old")


def check_way_back(params, table, theirs):
    """Ours in their names are their bits; what is left out is a second name of a tied table, or dropped by a row."""
    back = to_huggingface(params, table)
    for name in set(back) & set(theirs):
        assert back[name].dtype == theirs[name].dtype and back[name].tobytes() == theirs[name].tobytes(), name
    aliases = {alias for row in table for alias in row.aliases}
    dropped = [row.theirs for row in table if row.ours is None]
    for name in set(theirs) - set(back):
        assert name in aliases or any(fnmatchcase(name, pattern) for pattern in dropped), name
    assert set(back) - set(theirs) <= {"final_logits_bias"}, "a BartModel has none"


def their_gradients(model, table, like):
    """Of the parameters that took part, in our layout; the bias of the logits is a buffer there."""
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    return from_huggingface(gradients, table, like)


@partial(jax.jit, static_argnums=0)
def embed(config, params, ids):
    return BertEncoder(config).apply({"params": params}, ids, ids != 0)


def test_encoder(encoder):
    config = encoder_config(encoder.folder, encoder.part)
    assert config == encoder.config
    params = load_encoder(encoder.folder, encoder.part, config)
    state = Oracle.state(encoder.model)
    check_way_back(params, encoder_rows(state, encoder.part, ""), state)
    ids = Oracle.tokens((3, 7), 40, LENGTHS)
    with torch.no_grad():
        expected = encoder.embed(torch.tensor(ids).long(), torch.tensor(ids != 0))
    plain = replace(config, question_prefix="", passage_prefix="", title="pair")  # fewer programs
    np.testing.assert_allclose(embed(plain, params, ids), expected, atol=1e-5)


def test_the_length_and_the_tokenizer_of_a_sentence_encoder(tmp_path):
    mean, cls, masked = (family(tmp_path / family.__name__) for family in (sentence_mean, sentence_cls, bert_masked))
    assert [encoder_length(family.folder, family.config) for family in (mean, cls, masked)] == [10, 12, 12]
    folders = [encoder_tokenizer(family.folder) for family in (mean, cls, masked)]
    assert folders == [mean.folder, cls.folder / "0_Transformer", masked.folder]


@jax.jit
def logits(params, source, token):
    """Of the oracle's sizes."""
    bart = partial(Bart(Oracle.bart()).apply, {"params": params})
    return bart(bart(source, source != 1, token), method="logits")


def test_generator(generator):
    config = generator_config(generator.folder)
    assert config == generator.config == Oracle.bart()
    params, state = load_generator(generator.folder, config), Oracle.state(generator.model)
    check_way_back(params, generator_rows(state), state)
    source, token = Oracle.tokens((3, 8), 44, (8, 3, 1), pad=1), Oracle.tokens((3, 5), 44, seed=1)
    with torch.no_grad():
        expected = generator.logits(*map(torch.tensor, (source, source != 1, token)))
    np.testing.assert_allclose(logits(params, source, token), expected, atol=1e-5)


@pytest.fixture(scope="module")
def rag_params(rag_folder):
    """(config, parameters) of every layout."""
    loaded = {}
    for layout in LAYOUTS:
        folder = rag_folder / layout
        config = RagConfig(encoder_config(folder, "question_encoder"), generator_config(folder))
        loaded[layout] = config, load_rag(folder, config)
    return loaded


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rag_layouts_hold_the_same_model(layout, rag_params, rag_models, rag_folder):
    config, params = rag_params[layout]
    assert config == RAG
    check_way_back(params, rules.rag(), Oracle.state(rag_models["token"]))
    folder = rag_folder / layout
    halves = {
        "question_encoder": load_encoder(folder, "question_encoder", config.question_encoder),
        "generator": load_generator(folder, config.generator),
    }
    jax.tree.map(np.testing.assert_array_equal, halves, params)


@pytest.mark.parametrize("kind", ["token", "sequence"])
def test_rag_losses_and_gradients(kind, rag_params, rag_models):
    config, params = rag_params[kind]
    model, batch = rag_models[kind], make_batch(3)
    outputs = forward(config, params, *batch)
    model.zero_grad()
    expected = their_loss(model, batch, 0.0, False)
    np.testing.assert_allclose(our_loss(*outputs, batch[2], kind, 0.0, False), expected.detach(), atol=1e-5)
    expected.mean().backward()
    by_outputs = jax.jit(jax.grad(lambda x: our_loss(*x, batch[2], kind, 0.0, False).mean()))(outputs)
    trees = pull(config, params, batch, *by_outputs), their_gradients(model, rules.rag(), params)
    for tree in trees:
        tree["generator"].pop("final_logits_bias")
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-4), *trees)


def test_transformers_reads_back_what_it_wrote(rag_params, rag_models, rag_folder, tmp_path):
    """theirs -> ours -> theirs, through files on both ways."""
    config = (rag_folder / "token" / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    write_tensors(tmp_path / "model.safetensors", to_huggingface(rag_params["old"][1], rules.rag()))
    again, told = transformers.RagTokenForGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values()), told
    theirs = Oracle.state(rag_models["token"])
    assert {name: array.tobytes() for name, array in Oracle.state(again).items()} == {
        name: array.tobytes() for name, array in theirs.items()
    }


SHAPES = [shape for kind in ("token", "sequence") for shape in shapes(kind)]
ASKED = {  # the smallest of each kind
    f"{kind}-{name}": min(
        (s for s in SHAPES if s.kind == kind and (s.M > 1) == wide and s.K > 1), key=lambda s: s.K * s.T * s.M
    )
    for kind in ("token", "sequence")
    for name, wide in (("greedy", False), ("beam", True))
}


SHORT = ("token-beam", "sequence-greedy")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in SHORT else pytest.mark.long) for n in ASKED])
def test_tokens(name, tmp_path):
    """Of models that say varied things, imported from the folders that transformers writes."""
    found = []
    for case in cases(ASKED[name])[:2]:
        folder = tmp_path / str(case.number)
        models(case.world).plain[case.shape.kind].save_pretrained(folder)
        config = RagConfig(encoder_config(folder, "question_encoder"), generator_config(folder))
        assert config.generator == case.world.sizes
        params, (source_BKS, score_BK) = load_rag(folder, config), case.arrays()
        said = generate(config, case.decode, params, source_BKS, document_log_prior(jnp.asarray(score_BK)))
        np.testing.assert_array_equal(said.token_BNT, answers(case).token_BNT)
        found.append(answers(case).token_BNT)
    assert len(np.unique(np.concatenate(found), axis=0)) > 2, "they do say varied things"


def test_settings_of_an_old_folder(rag_folder):
    generation = {
        "bad_words_ids": [[0, 0]], "decoder_start_token_id": 2, "early_stopping": False, "eos_token_id": 2,
        "forced_eos_token_id": 2, "max_length": 50, "min_length": 1, "no_repeat_ngram_size": 3, "num_beams": 4,
    }  # fmt: skip
    settings = rag_settings(rag_folder / "old")
    assert settings == RagSettings("token", "wiki_dpr", 5, 300, generation, clean_up=True)
    assert encoder_tokenizer(rag_folder / "old") == rag_folder / "old" / "question_encoder_tokenizer"
    assert generator_tokenizer(rag_folder / "old") == rag_folder / "old" / "generator_tokenizer"


def test_settings_of_a_new_folder(rag_models, tmp_path):
    model = rag_models["token"]
    model.generation_config.num_beams, model.generation_config.max_length = 3, 17
    model.save_pretrained(tmp_path)
    tokenizer = tmp_path / "question_encoder_tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer_config.json").write_text('{"clean_up_tokenization_spaces": false}')
    settings = rag_settings(tmp_path)
    assert (settings.kind, settings.n_docs, settings.clean_up) == ("token", 5, False)
    assert settings.generation["num_beams"] == 3 and settings.generation["max_length"] == 17


@pytest.mark.parametrize(("layout", "kind"), [("sequence", "sequence"), ("bare", None)])
def test_kind_of_a_folder(layout, kind, rag_folder):
    assert rag_settings(rag_folder / layout).kind == kind
