"""What a name stands for: a run, or a model of transformers, which then answers as transformers would; or nothing."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers

from rag_jax import Rag
from rag_jax.data.tokenizer import Tokenizer
from rag_jax.errors import UserError
from rag_jax.hub.configs import bart_json, bert_json
from rag_jax.hub.huggingface import encoder_config, load_encoder
from rag_jax.hub.pretrained import open_pretrained
from rag_jax.index.base import read_index_manifest
from rag_jax.models.bart import BartConfig
from rag_jax.models.bert import BertConfig
from rag_jax.models.fingerprint import encoder_fingerprint
from rag_jax.workdir import Workdir

from ..models.oracle import randomise

SIZES = {"width": 16, "heads": 2, "ffn": 32, "positions": 64}
K, SOURCE, BEAMS, LONGEST = 3, 56, 3, 10
QUESTIONS = [
    "Who's the mayor of Cladow?",
    "Jarrow: which YEAR, don't you know?",
    "what is the river of Hexwold?",
    "Gritsea",
]
GENERATION = {
    "num_beams": BEAMS,
    "max_length": LONGEST,
    "min_length": 3,
    "bad_words_ids": [[0, 0]],
    "length_penalty": 0.7,
}
SPECIAL = {"decoder_start_token_id": 2, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
CONFIG = """
from rag_jax.config import default_config


def get_config():
    config = default_config()
    config.init_from = {rag!r}
    config.data.update(passages="passages_before.jsonl", train="train.jsonl", valid="valid.jsonl", test="test.jsonl")
    config.length.update(question=16, passage=24, source=40, target=8)
    config.retriever.update(steps=2, batch=8)
    config.index.update(batch=16, kind="exact")
    config.retrieval.k = 3
    config.joint.update(steps=2, batch=8, k=3)
    config.decode.max_length = 8
    config.evaluate.update(batch=8, every=2, questions=6, recall=(1, 3))
    return config
"""


@pytest.fixture(scope="module")
def foreign(tiny_run, tmp_path_factory):
    """A RAG model and a passage encoder that transformers wrote; tokenizers of the tiny run's words."""
    folder = tmp_path_factory.mktemp("foreign")
    encoder, generator = (tiny_run.workdir / "tokenizers" / part for part in ("encoder", "generator"))
    vocabulary = [Tokenizer.load(place).vocab_size for place in (encoder, generator)]
    bert = transformers.DPRConfig(**bert_json(BertConfig(vocab_size=vocabulary[0], layers=1, **SIZES)))
    bart = transformers.BartConfig(
        **bart_json(BartConfig(vocab_size=vocabulary[1], encoder_layers=1, decoder_layers=1, pad_id=1, **SIZES))
    )
    config = transformers.RagConfig.from_question_encoder_generator_configs(
        bert, bart, n_docs=K, max_combined_length=SOURCE
    )
    model = transformers.RagTokenForGeneration(config)
    randomise(model)
    model.rag.generator.final_logits_bias[:, 2] += 1.0  # some answers end
    model.save_pretrained(folder / "rag")
    (folder / "rag" / "generation_config.json").write_text(json.dumps(GENERATION | SPECIAL))
    passage = randomise(transformers.DPRContextEncoder(bert), seed=1)
    passage.save_pretrained(folder / "passage")
    shutil.copytree(encoder, folder / "passage", dirs_exist_ok=True)
    for part, place in (("question_encoder", encoder), ("generator", generator)):
        shutil.copytree(place, folder / "rag" / f"{part}_tokenizer")
    return folder


@pytest.fixture(scope="module")
def trained(foreign, tiny_run):
    """An index by a passage encoder that the model does not name, and two steps of training, by the commands."""
    (tiny_run.folder / "foreign.py").write_text(CONFIG.format(rag=str(foreign / "rag")))
    common = "--config=foreign.py", f"--workdir={foreign / 'run'}"
    tiny_run.command("build_index", *common, f"--index_encoder={foreign / 'passage'}")
    said = tiny_run.command("train", *common).stdout
    assert "trained against a passage encoder that it does not name" in said
    return foreign / "run"


def their_answers(folder, rag, clean):
    """transformers' own walk for one question at a time: encode, score, write the sources, generate."""
    model = transformers.RagTokenForGeneration.from_pretrained(folder).eval()
    tokenizer = transformers.RagTokenizer.from_pretrained(folder)
    vectors = torch.tensor(rag.retriever.index.vectors.read(0, 30))
    passages = rag.retriever.index.passages
    said = []
    for question in QUESTIONS:
        inputs = tokenizer.question_encoder(question, return_tensors="pt")
        scores = model.question_encoder(**inputs)[0] @ vectors.T
        best = scores.topk(K)
        written = tokenizer.question_encoder.decode(
            inputs.input_ids[0], skip_special_tokens=True, clean_up_tokenization_spaces=clean
        )
        sources = [f"{passages[row].title} / {passages[row].text} // {written}" for row in best.indices[0].tolist()]
        read = tokenizer.generator(
            sources, max_length=SOURCE, padding="max_length", truncation=True, return_tensors="pt"
        )
        ids = model.generate(
            context_input_ids=read.input_ids, context_attention_mask=read.attention_mask, doc_scores=best.values
        )
        said.append(tokenizer.generator.decode(ids[0], skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return [text.strip() for text in said]


@pytest.mark.parametrize("clean", [True, False])
def test_a_model_of_transformers_answers_as_it_does_there(foreign, trained, tmp_path, clean):
    """With its question text, its generation settings and its lengths; the index is ours."""
    folder = tmp_path / "rag"
    shutil.copytree(foreign / "rag", folder)
    told = folder / "question_encoder_tokenizer" / "tokenizer_config.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"clean_up_tokenization_spaces": clean}))
    (told.parent / "manifest.json").unlink()  # it is edited on purpose
    rag = Rag.load(folder, index=trained / "index")
    answers = rag.answer(QUESTIONS)
    assert [answer.text for answer in answers] == their_answers(folder, rag, clean)
    assert len({answer.text for answer in answers}) > 1


def test_its_passage_encoder_made_the_index(foreign, trained, tiny_run):
    model = transformers.DPRContextEncoder.from_pretrained(foreign / "passage").eval()
    tokenizer = transformers.BertTokenizer.from_pretrained(foreign / "passage")
    records = tiny_run.records("passages_before.jsonl")
    rag = Rag.load(trained)
    for row, record in enumerate(records[:5]):
        inputs = tokenizer(record["title"], record["text"], max_length=24, truncation=True, return_tensors="pt")
        vector = model(inputs.input_ids, attention_mask=inputs.attention_mask)[0].detach().numpy()
        np.testing.assert_allclose(rag.retriever.index.vectors.read(row, row + 1), vector, atol=1e-5)


def test_training_started_from_it(foreign, trained):
    """Two steps of 3e-5 leave the weights near where they were, and the run is whole without the model's folder."""
    theirs = transformers.RagTokenForGeneration.from_pretrained(foreign / "rag")
    rag = Rag.load(trained)
    table = theirs.rag.generator.model.shared.weight.detach().numpy()
    assert 0 < np.abs(np.asarray(rag.params["generator"]["shared"]["embedding"]) - table).max() < 1e-3
    config = Workdir(trained).load_config()
    assert config.data.question_text.startswith("round_trip") and config.encoder.width == 16
    assert (trained / "tokenizers" / "generator" / "tokenizer.json").is_file()


def test_the_run_remembers_the_encoder_of_its_index(foreign, trained):
    """From then on another index is refused, which the model itself cannot do."""
    fingerprint = read_index_manifest(trained / "index").encoder_fingerprint
    model = encoder_config(foreign / "passage", "passage_encoder")
    params = load_encoder(foreign / "passage", "passage_encoder", model)
    assert fingerprint == encoder_fingerprint(model, params)
    assert open_pretrained(trained).passage_encoder == fingerprint
    assert open_pretrained(foreign / "rag").passage_encoder is None


def test_a_run_is_measured_when_what_it_started_from_is_gone(trained, tiny_run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    config = json.loads((workdir / "config.json").read_text())
    config |= {"init_from": "/gone", "parts": config["parts"] | {"passage_encoder": "/gone"}}
    config["retriever"]["shared"] = False
    config["tokenizer"] |= {"encoder": "/gone", "generator": "/gone"}
    del config["seal"]  # it is edited on purpose
    (workdir / "config.json").write_text(json.dumps(config))
    said = tiny_run.command("evaluate", f"--workdir={workdir}").stdout
    assert "recall@1" in said and (workdir / "metrics.json").is_file()


def test_a_model_without_an_index_asks_for_one(foreign):
    with pytest.raises(UserError, match="comes without an index; build one with `python"):
        Rag.load(foreign / "rag")


def test_what_is_not_applied_is_noted(foreign, tmp_path, capsys):
    shutil.copytree(foreign / "rag", tmp_path / "rag")
    open_pretrained(tmp_path / "rag", decodes=True)
    assert capsys.readouterr().err == ""
    told = GENERATION | {"repetition_penalty": 1.2, "eos_token_id": [2, 5]}
    (tmp_path / "rag" / "generation_config.json").write_text(json.dumps(told))
    open_pretrained(tmp_path / "rag", decodes=True)
    assert "rag: repetition_penalty = 1.2, eos_token_id = [2, 5] not applied" in capsys.readouterr().err


def test_decoding_that_is_not_asked_for_is_not_read(foreign, tmp_path, capsys):
    """By whoever trains from the folder, or decodes otherwise."""
    shutil.copytree(foreign / "rag", tmp_path / "rag")
    odd = {"forced_eos_token_id": [2], "repetition_penalty": 1.2}
    (tmp_path / "rag" / "generation_config.json").write_text(json.dumps(GENERATION | odd))
    open_pretrained(tmp_path / "rag")
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match=r"generation_config\.json: forced_eos_token_id is \[2\], expected a number"):
        open_pretrained(tmp_path / "rag", decodes=True)


def test_an_export_of_another_version_is_refused(foreign, tmp_path):
    shutil.copytree(foreign / "rag", tmp_path / "rag")
    (tmp_path / "rag" / "rag_jax.json").write_text('{"version": 2, "config": {}}')
    with pytest.raises(UserError, match=r"rag_jax\.json: version 2, expected 1"):
        Rag.load(tmp_path / "rag")


@pytest.mark.parametrize("name", ["nowhere", "nobody/nothing", "passage"])
def test_what_is_no_rag_model_is_named(foreign, name):
    name = foreign / name if name == "passage" else name
    with pytest.raises(UserError, match=f"{name}"):
        open_pretrained(name)
