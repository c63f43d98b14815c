"""Folders that are not what was asked for: one line that names the place, what was found, and the fix."""

import json
import shutil

import pytest

from rag_jax.data.tokenizer import train_byte_bpe, train_wordpiece
from rag_jax.errors import UserError
from rag_jax.files import MANIFEST
from rag_jax.hub.huggingface import (
    check_vocabulary,
    encoder_config,
    generator_config,
    load_encoder,
    load_rag,
    rag_settings,
)
from rag_jax.models.rag import RagConfig

from ..models.oracle import Oracle
from .families import (
    OLD_BART,
    OLD_DPR,
    OLD_RAG,
    bert_like,
    dpr_passage,
    dpr_question,
    sentence_mean,
    write_bin,
    write_json,
)


@pytest.fixture(scope="module")
def sentence(tmp_path_factory):
    return sentence_mean(tmp_path_factory.mktemp("sentence")).folder


@pytest.fixture
def copied(sentence, tmp_path):
    return shutil.copytree(sentence, tmp_path / "copy")


@pytest.mark.parametrize("kind", ["roberta", "mpnet", "new", "nomic_bert", "bart", None])
def test_an_encoder_of_another_architecture(kind, tmp_path):
    write_json(tmp_path / "config.json", {"model_type": kind})
    with pytest.raises(UserError, match=rf"config\.json: model_type is {kind!r}, expected 'bert' or 'dpr'"):
        encoder_config(tmp_path, "question_encoder")


@pytest.mark.parametrize("kind", ["t5", "mbart", "dpr"])
def test_a_generator_of_another_architecture(kind, tmp_path):
    write_json(tmp_path / "config.json", {"model_type": kind})
    with pytest.raises(UserError, match=rf"config\.json: model_type is {kind!r}, expected 'bart'"):
        generator_config(tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "rag", "generator": {"model_type": kind}})
    with pytest.raises(UserError, match=rf"config\.json: generator: model_type is {kind!r}, expected 'bart'"):
        generator_config(tmp_path)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (OLD_DPR | {"model_type": "bert", "hidden_act": "gelu_new"}, "hidden_act is 'gelu_new', expected 'gelu'"),
        (OLD_DPR | {"model_type": "bert", "position_embedding_type": "alibi"}, "position_embedding_type is 'alibi'"),
        (OLD_DPR | {"is_decoder": True}, "is_decoder is True, expected False"),
    ],
)
def test_an_encoder_of_another_make(config, said, tmp_path):
    write_json(tmp_path / "config.json", config)
    with pytest.raises(UserError, match=said):
        encoder_config(tmp_path, "question_encoder")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (OLD_BART | {"normalize_before": True}, "normalize_before is True, expected False"),
        (OLD_BART | {"decoder_ffn_dim": 48}, "encoder_ffn_dim = 24, decoder_ffn_dim = 48, expected them equal"),
    ],
)
def test_a_generator_of_another_make(config, said, tmp_path):
    write_json(tmp_path / "config.json", config)
    with pytest.raises(UserError, match=said):
        generator_config(tmp_path)


@pytest.mark.parametrize(
    "read", [generator_config, rag_settings, lambda folder: encoder_config(folder, "question_encoder")]
)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "config.json: cannot be read (No such file or directory); expected a JSON file"),
        ('{"model_type": ', "config.json:1: not JSON"),
        ("[1]", "config.json: found list, expected a JSON object"),
    ],
)
def test_a_config_that_is_none(read, text, said, tmp_path):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError) as error:
        read(tmp_path)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_other_half_of_a_pair_is_told_by_its_config(tmp_path):
    passage, question = dpr_passage(tmp_path / "p").folder, dpr_question(tmp_path / "q").folder
    with pytest.raises(
        UserError, match="found DPRContextEncoder, expected a question encoder; give a DPRQuestionEncoder"
    ):
        encoder_config(passage, "question_encoder")
    with pytest.raises(
        UserError, match=r"expected a passage encoder; give a DPRContextEncoder, as facebook/dpr-ctx_enc"
    ):
        encoder_config(question, "passage_encoder")
    write_json(tmp_path / "config.json", OLD_DPR | {"architectures": ["DPRReader"]})
    with pytest.raises(UserError, match="found DPRReader, expected a question encoder"):
        encoder_config(tmp_path, "question_encoder")


@pytest.mark.parametrize(
    ("prefix", "part"),
    [
        ("ctx_encoder.bert_model.", "question_encoder"),
        ("question_encoder.bert_model.", "passage_encoder"),
        ("span_predictor.encoder.bert_model.", "question_encoder"),
        ("rag.question_encoder.question_encoder.bert_model.", "passage_encoder"),
    ],
)
def test_and_by_its_tensors(prefix, part, tmp_path):
    """Where config.json does not say."""
    tensors = {prefix + name: tensor for name, tensor in bert_like("BertModel").state_dict().items()}
    write_bin(tmp_path, {**OLD_DPR, "architectures": None}, tensors)
    name = part.replace("_", " ")
    with pytest.raises(UserError, match=rf"found tensors {prefix}\*, expected a {name}; give a DPR"):
        load_encoder(tmp_path, part, encoder_config(tmp_path, part))


def test_a_rag_model_has_no_passage_encoder(rag_folder):
    with pytest.raises(UserError, match="found a RAG model, which has no passage encoder, expected a passage encoder"):
        encoder_config(rag_folder / "token", "passage_encoder")


def test_tensors_and_sizes_must_agree(rag_folder):
    config = RagConfig(Oracle.bert(layers=1), Oracle.bart(encoder_layers=1, decoder_layers=0))
    with pytest.raises(
        UserError, match=r"token: tensor rag\.generator\.model\.decoder\.layers\.0\.\S+ \(and 25 more\) has"
    ):
        load_rag(rag_folder / "token", config)
    with pytest.raises(UserError, match=r"shared\.weight has shape \(44, 16\), expected \(45, 16\)"):
        load_rag(rag_folder / "token", RagConfig(Oracle.bert(layers=1), Oracle.bart(vocab_size=45)))
    with pytest.raises(UserError, match=r"tensor \S+encode_proj\.weight is missing"):
        load_rag(rag_folder / "old", RagConfig(Oracle.bert(layers=1, projection=4), Oracle.bart()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"title_sep": " | "}, "title_sep is ' | ', expected ' / '"),
        ({"doc_sep": " /// "}, "doc_sep is ' /// ', expected ' // '"),
        ({"generator": {"prefix": " "}}, "generator.prefix is ' ', expected ''"),
        ({"model_type": "bart"}, "model_type is 'bart', expected 'rag'"),
    ],
)
def test_inputs_put_together_in_another_way(changes, said, tmp_path):
    write_json(tmp_path / "config.json", OLD_RAG | changes)
    with pytest.raises(UserError, match=f"config.json: {said}".replace("|", r"\|")):
        rag_settings(tmp_path)


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (
            ("Transformer", "Pooling", "Dense"),
            r"module 2 is Dense \(2_Dense\), expected Transformer, Pooling, Normalize",
        ),
        (("Transformer", "Pooling", "Normalize", "Dense"), "module 3 is Dense"),
        (("Transformer", "Normalize"), r"module 1 is Normalize \(1_Normalize\)"),
        (("CLIPModel",), "module 0 is CLIPModel"),
        (("Transformer",), "found no Pooling after the Transformer"),
    ],
)
def test_a_sentence_encoder_of_other_modules(kinds, said, copied):
    from .families import write_modules

    write_modules(copied, "", *kinds)
    with pytest.raises(UserError, match=f"modules.json: {said}"):
        encoder_config(copied, "question_encoder")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (
            "1_Pooling/config.json",
            {"pooling_mode_max_tokens": True},
            "pooling is pooling_mode_max_tokens, expected cls or",
        ),
        ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "pooling is lasttoken, expected cls or mean"),
        (
            "1_Pooling/config.json",
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            "pooling is cls and mean, expected cls or mean",
        ),
        ("1_Pooling/config.json", {}, "pooling is none, expected cls or mean"),
        (
            "1_Pooling/config.json",
            {"pooling_mode": "mean", "include_prompt": False},
            "include_prompt is false, expected",
        ),
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case is true beside a tokenizer that keeps"),
        ("modules.json", {}, "found no list of modules"),
    ],
)
def test_a_sentence_encoder_of_another_make(file, content, said, copied):
    write_json(copied / "tokenizer_config.json", {"do_lower_case": False})
    write_json(copied / file, content)
    with pytest.raises(UserError, match=f"{file}: {said}"):
        encoder_config(copied, "question_encoder")


def test_the_vocabulary_fits_the_table(tmp_path):
    texts = ["some words of a small corpus, again and again"] * 3
    wordpiece = train_wordpiece(texts, 300, tmp_path / "encoder")
    bpe = train_byte_bpe(texts, 300, tmp_path / "generator")
    for tokenizer in (wordpiece, bpe):
        check_vocabulary(tokenizer, tokenizer.vocab_size, "m")
        check_vocabulary(tokenizer, tokenizer.vocab_size + 7, "m")
        last = tokenizer.tokens()[-1]
        with pytest.raises(UserError) as error:
            check_vocabulary(tokenizer, tokenizer.vocab_size - 2, "m")
        size = tokenizer.vocab_size
        assert f"m: the table of embeddings has {size - 2} rows, too few for 2 tokens of" in str(error.value)
        assert f"= {size - 2};" in str(error.value) and last != "<mask>"


def test_the_mask_alone_may_lack_its_row(tmp_path):
    """As in facebook/bart-large-cnn, where <mask> is the last token and the table ends before it."""
    bpe = train_byte_bpe(["some words"], 300, tmp_path / "generator")
    content = json.loads((bpe.folder / "tokenizer.json").read_text())
    vocabulary, last = content["model"]["vocab"], bpe.vocab_size - 1
    other = bpe.tokens()[-1]
    vocabulary["<mask>"], vocabulary[other] = last, bpe.mask_id
    for token in content["added_tokens"]:
        token["id"] = vocabulary[token["content"]]
    (bpe.folder / "tokenizer.json").write_text(json.dumps(content))
    (bpe.folder / MANIFEST).unlink()  # edited on purpose
    moved = type(bpe).load(bpe.folder)
    assert moved.mask_id == last
    check_vocabulary(moved, last, "m")
    with pytest.raises(UserError, match="too few for 1 tokens"):
        check_vocabulary(moved, last - 1, "m")
