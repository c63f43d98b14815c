"""Folders of transformers whose settings are nearly right: they are read, or one line names the file that is not."""

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_jax.config import default_config
from rag_jax.errors import UserError
from rag_jax.hub.configs import bart_json, bert_json
from rag_jax.hub.pretrained import open_pretrained
from rag_jax.hub.resolve import resolve
from rag_jax.models.bart import BartConfig
from rag_jax.models.bert import BertConfig
from rag_jax.validation import validate

from .inputs import as_bytes, as_json, nearly, told

pytestmark = pytest.mark.more
SIZES = {"width": 16, "heads": 2, "ffn": 32, "positions": 64}
BERT = bert_json(BertConfig(vocab_size=40, layers=1, **SIZES)) | {"architectures": ["DPRQuestionEncoder"]}
BART = bart_json(BartConfig(vocab_size=44, encoder_layers=1, decoder_layers=1, **SIZES)) | {"prefix": None}
GENERATION = {
    "num_beams": 2, "max_length": 20, "min_length": 1, "length_penalty": 0.7, "early_stopping": False,
    "bad_words_ids": [[0, 0]], "forced_eos_token_id": 2, "no_repeat_ngram_size": 3, "eos_token_id": 2,
}  # fmt: skip
DRAWN = {"do_sample": True, "temperature": 1, "top_k": 5, "top_p": 0.9, "max_new_tokens": 9, "repetition_penalty": 1.0}
RAG = {
    "model_type": "rag", "architectures": ["RagTokenForGeneration"], "dataset": "wiki_dpr", "n_docs": 5,
    "max_combined_length": 60, "title_sep": " / ", "question_encoder": BERT | {"model_type": "dpr"}, "generator": BART,
}  # fmt: skip
TOKENIZER = {"clean_up_tokenization_spaces": False, "do_lower_case": True}
OLD = RAG | GENERATION | {"generator": BART | DRAWN | {"do_sample": False}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("foreign")


def opened(folder, config, generation=None, tokenizer=None):
    """The configuration of a RAG folder that says so, None where a line names the file that is wrong."""
    box = folder / "rag"
    shutil.rmtree(box, ignore_errors=True)
    (box / "question_encoder_tokenizer").mkdir(parents=True)
    files = {"config": config}
    others = {"generation_config": generation, "question_encoder_tokenizer/tokenizer_config": tokenizer}
    files |= {name: value for name, value in others.items() if value is not None}
    for name, value in files.items():
        (box / f"{name}.json").write_bytes(as_bytes(as_json(value)))
    found = told(lambda: open_pretrained(box, decodes=True), *(box / f"{name}.json" for name in files))
    return found and found.config


@given(nearly((RAG, OLD)), st.none() | nearly((GENERATION, DRAWN)), st.none() | nearly((TOKENIZER,)))
def test_settings_of_a_rag_folder(folder, config, generation, tokenizer):
    found = opened(folder, config, generation, tokenizer)
    if found is not None:
        validate(found)


@pytest.mark.parametrize("files", [(RAG,), (OLD,), (RAG, GENERATION, TOKENIZER), (OLD, DRAWN)])
def test_whole_folders_are_read(folder, files):
    assert opened(folder, *files) is not None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_docs": "5"}, "n_docs is '5', expected a whole number"),
        ({"n_docs": 0}, "config.retrieval.k: found 0, expected 1 or more"),
        ({"max_combined_length": 3}, "config.length.source: found 3, expected 4 to generator.positions = 64"),
        ({"dataset": 7}, "dataset is 7, expected a string"),
        ({"architectures": 5}, "architectures is 5, expected a list"),
        ({"architectures": [[1]]}, r"architectures is \[\[1\]\], expected a list"),
        ({"question_encoder": [1]}, r"question_encoder is \[1\], expected a JSON object"),
        ({"generator": "x"}, "generator is 'x', expected a JSON object"),
        ({"generator": BART | {"d_model": [16]}}, r"generator: d_model is \[16\], expected a whole number"),
        ({"generator": BART | {"d_model": 15}}, "config.generator.width: found 15, expected a multiple"),
        ({"question_encoder": BERT | {"layer_norm_eps": 10**400}}, "question_encoder: layer_norm_eps is 1000"),
        ({"length_penalty": "a"}, "length_penalty is 'a', expected a number"),
        ({"bad_words_ids": [5]}, r"bad_words_ids is \[5\], expected lists of token ids"),
        ({"num_beams": -1}, "config.decode.beams: found -1, expected 1 or more"),
    ],
)
def test_what_is_said_of_it(tmp_path, changes, said):
    (tmp_path / "config.json").write_text(json.dumps(RAG | changes))
    with pytest.raises(UserError, match=rf"config\.json: {said}"):
        open_pretrained(tmp_path, decodes=True)


def test_null_is_what_transformers_takes_it_for(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(RAG | {"n_docs": None, "max_combined_length": None}))
    config = open_pretrained(tmp_path).config
    assert (config.retrieval.k, config.length.source) == (5, 64)


def test_the_file_that_says_it_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(RAG))
    (tmp_path / "generation_config.json").write_text('{"max_length": 3}')
    with pytest.raises(UserError, match=r"generation_config\.json: config\.decode\.max_length: found 2, expected 4 to"):
        open_pretrained(tmp_path, decodes=True)
    open_pretrained(tmp_path)  # to train from it, or to decode otherwise
    (tmp_path / "config.json").write_text("5")
    with pytest.raises(UserError, match=r"config\.json: found int, expected a JSON object"):
        open_pretrained(tmp_path, decodes=True)


@given(nearly((BERT | {"model_type": "dpr"},)), nearly((BART | {"model_type": "bart"},)))
def test_settings_of_parts(folder, encoder, generator):
    """Of an encoder's and of a generator's own folder; without a tokenizer none is taken."""
    for part, value in (("question_encoder", encoder), ("generator", generator)):
        (folder / part).mkdir(exist_ok=True)
        (folder / part / "config.json").write_bytes(as_bytes(as_json(value)))
        config = default_config()
        config.parts[part] = str(folder / part)
        assert told(lambda config=config: resolve(config), folder / part) is None
