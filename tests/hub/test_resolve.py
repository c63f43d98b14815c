"""A configuration takes its sizes, tokenizers and question text from what it starts from, and argues with nothing."""

import json
import shutil
from dataclasses import replace

import pytest

from rag_jax.api import rag_config
from rag_jax.config import default_config
from rag_jax.data.tokenizer import Tokenizer, train_byte_bpe, train_wordpiece
from rag_jax.errors import UserError
from rag_jax.hub.configs import bart_json, bert_json
from rag_jax.hub.pretrained import open_pretrained
from rag_jax.hub.resolve import as_made, resolve
from rag_jax.models.bart import BartConfig
from rag_jax.models.bert import BertConfig

TEXT = ["the river of the town is old and the mayor lives there"] * 3
SIZES = {"width": 16, "heads": 2, "ffn": 24, "positions": 64}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Folders without weights, which a configuration does not need."""
    folder = tmp_path_factory.mktemp("hub")
    wordpiece, bpe = train_wordpiece(TEXT, 300, folder / "encoder"), train_byte_bpe(TEXT, 310, folder / "generator")
    bert = bert_json(BertConfig(vocab_size=wordpiece.vocab_size + 2, layers=1, projection=6, norm_eps=1e-6, **SIZES))
    bart = bart_json(
        BartConfig(
            vocab_size=bpe.vocab_size, encoder_layers=1, decoder_layers=2, start_id=bpe.eos_id, **special(bpe), **SIZES
        )
    )
    told = {
        "encoder": {"model_type": "dpr", "architectures": ["DPRQuestionEncoder"], **bert},
        "generator": {"model_type": "bart", "architectures": ["BartForConditionalGeneration"], **bart},
    }
    for name, config in told.items():
        (folder / name / "config.json").write_text(json.dumps(config))
    return folder


def special(bpe):
    return {name: getattr(bpe, name) for name in ("pad_id", "bos_id", "eos_id")}


@pytest.fixture
def config(hub):
    config = default_config()
    config.data.passages = "demo:2016"
    config.length.update(question=16, passage=32, source=48)
    config.parts.update(question_encoder=str(hub / "encoder"), generator=str(hub / "generator"))
    return config


def test_nothing_given_changes_nothing(config):
    config.parts.update(question_encoder="", generator="")
    assert resolve(config).to_dict() == config.to_dict()


def test_sizes_and_tokenizers_come_with_the_weights(config, hub):
    found = resolve(config)
    assert config.encoder.width == 768, "the given configuration is left alone"
    assert dict(found.encoder) | SIZES | {"layers": 1, "projection": 6, "norm_eps": 1e-6} == dict(found.encoder)
    assert dict(found.generator) | SIZES | {"encoder_layers": 1, "decoder_layers": 2} == dict(found.generator)
    assert dict(found.tokenizer) | {part: str(hub / part) for part in ("encoder", "generator")} == dict(found.tokenizer)
    assert found.encoder.vocab_size == Tokenizer.load(hub / "encoder").vocab_size + 2
    assert resolve(found).to_dict() == found.to_dict(), "what was resolved stays"
    model = rag_config(found, *(Tokenizer.load(hub / part) for part in ("encoder", "generator")))
    assert model.question_encoder.vocab_size == found.encoder.vocab_size and model.generator.start_id == 2


def test_how_a_title_stands_before_its_text_may_be_chosen(config):
    assert resolve(config).encoder.title == "pair", "as DPR has it"
    config.encoder.title = "sentence"
    assert resolve(config).encoder.title == "sentence"


def test_rates_are_a_matter_of_training(config):
    config.encoder.update(dropout=0.3, dtype="bfloat16")
    found = resolve(config)
    assert (found.encoder.dropout, found.encoder.dtype) == (0.3, "bfloat16")


@pytest.mark.parametrize(
    ("group", "key", "value", "message"),
    [
        (
            "encoder",
            "width",
            32,
            r"config\.encoder\.width: found 32, but parts\.question_encoder = .* has 16; leave it",
        ),
        (
            "generator",
            "decoder_layers",
            3,
            r"config\.generator\.decoder_layers: found 3, but parts\.generator = .* has 2",
        ),
        ("length", "source", 80, r"config\.length\.source: found 80, expected 4 to generator\.positions = 64"),
    ],
)
def test_what_disagrees_with_the_weights_is_named(config, group, key, value, message):
    config[group][key] = value
    with pytest.raises(UserError, match=message):
        resolve(config)


def test_a_tokenizer_of_other_special_ids_is_refused(config, hub, tmp_path):
    told = json.loads((hub / "generator" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(told | {"pad_token_id": 3}))
    config.parts.generator, config.tokenizer.generator = str(tmp_path), str(hub / "generator")
    with pytest.raises(UserError, match=r"config\.tokenizer\.generator: .* has pad_id 1, but .* has 3"):
        resolve(config)


def test_a_tokenizer_of_more_words_than_the_table_is_refused(config, hub):
    found = resolve(config).unlock()
    found.encoder.vocab_size = 60
    with pytest.raises(UserError, match=r"vocab_size"):
        rag_config(found, *(Tokenizer.load(hub / part) for part in ("encoder", "generator")))


def test_a_run_gives_its_sizes_and_tokenizers(config, tiny_run):
    config.parts.update(question_encoder="", generator="")
    config.init_from = str(tiny_run.workdir)
    config.length.update(question=16, passage=24, source=40, target=8)
    found = resolve(config)
    assert (found.encoder.width, found.generator.ffn, found.data.question_text) == (16, 32, "")
    assert found.tokenizer.encoder == str(tiny_run.workdir / "tokenizers" / "encoder")


@pytest.fixture
def opened(config):
    """A configuration that states no size, to open a model with."""
    config.parts.update(question_encoder="", generator="")
    config.length.update(question=16, passage=24, source=40, target=8)
    return config


def test_a_model_is_opened_with_the_sizes_that_it_was_trained_with(opened, tiny_run):
    """Also those that show in no shape."""
    made = open_pretrained(tiny_run.workdir)
    with made.config.unlocked():
        made.config.encoder.update(norm_eps=1e-5, pooling="mean", question_prefix="query: ")
        made.config.generator.scale_embedding = True
    found = as_made(opened, made, "run")
    assert found.encoder.to_dict() == opened.encoder.to_dict() | {
        key: made.config.encoder[key] for key in ("width", "layers", "heads", "ffn", "positions", "vocab_size")
    } | {"norm_eps": 1e-5, "pooling": "mean", "question_prefix": "query: "}
    assert found.generator.scale_embedding and found.generator.heads == made.config.generator.heads
    for group in ("encoder", "generator"):
        opened[group].heads = 8
        with pytest.raises(UserError, match=rf"config\.{group}\.heads: found 8, but run has 2; leave it out"):
            as_made(opened, made, "run")
        opened[group].heads = 2


def test_a_model_is_opened_with_the_scale_that_it_was_trained_with(opened, tiny_run, capsys):
    made = open_pretrained(tiny_run.workdir)
    with made.config.unlocked():
        made.config.retrieval.update(score_scale=3.0, learn_score_scale=False)
    assert as_made(opened, made, "run").retrieval.score_scale == 3 and not capsys.readouterr().err
    opened.retrieval.score_scale = 2.0
    assert as_made(opened, made, "run").retrieval.score_scale == 2
    assert capsys.readouterr().err == "note: config.retrieval.score_scale: found 2, but run was trained with 3\n"
    assert as_made(opened, replace(made, scaled=True), "export").retrieval.score_scale == 3
    assert not capsys.readouterr().err


def test_another_kind_than_that_of_init_from_is_noted(opened, tiny_run, capsys):
    opened.init_from = str(tiny_run.workdir)
    resolve(opened)
    assert not capsys.readouterr().err
    opened.kind = "sequence"
    resolve(opened)
    assert capsys.readouterr().err.endswith("has kind 'token'; config.kind = 'sequence' makes another model of it\n")


def test_two_encoders_that_disagree_are_named(config, hub, tmp_path):
    """Also where one of them has what is the default."""
    told = json.loads((hub / "encoder" / "config.json").read_text())
    passage = {"architectures": ["DPRContextEncoder"], "layer_norm_eps": 1e-6}
    for name, changes in (("question", {"layer_norm_eps": 1e-12}), ("passage", passage)):
        shutil.copytree(hub / "encoder", tmp_path / name)
        (tmp_path / name / "config.json").write_text(json.dumps(told | changes))
    config.parts.update(question_encoder=str(tmp_path / "question"), passage_encoder=str(tmp_path / "passage"))
    config.retriever.shared = False
    said = r"norm_eps: parts\.question_encoder = .* has 1e-12, but parts\.passage_encoder = .* has 1e-06; give models"
    with pytest.raises(UserError, match=rf"config\.encoder\.{said}"):
        resolve(config)


@pytest.mark.parametrize("flag", ["init_from", "parts.question_encoder", "parts.generator"])
def test_a_name_that_is_no_model_is_told_by_its_flag(config, tmp_path, flag):
    with config.unlocked():
        config.update_from_flattened_dict({flag: str(tmp_path / "nothing")})
    with pytest.raises(UserError, match=rf"config\.{flag}"):
        resolve(config)
