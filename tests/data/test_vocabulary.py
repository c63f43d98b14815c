"""A run's tokenizers: trained on its corpus, or a copy of given ones that stays when their source is gone."""

import shutil

import pytest

from rag_jax.config import default_config
from rag_jax.data.labels import label_tokens
from rag_jax.data.tokenizer import PLAIN, Framing, Tokenizer, train_wordpiece
from rag_jax.data.vocabulary import load_or_train
from rag_jax.errors import UserError
from rag_jax.metrics.labels import THREE_WAY


@pytest.fixture
def config(wordpiece, bpe, tmp_path):
    """Both given; beside the generator's lies what does not belong to a tokenizer."""
    config = default_config()
    shutil.copytree(bpe.folder, tmp_path / "given")
    (tmp_path / "given" / "model.safetensors").write_bytes(b"large")
    config.tokenizer.update(encoder=str(wordpiece.folder), generator=str(tmp_path / "given"))
    return config


def test_given_tokenizers_are_copied(config, wordpiece, bpe, tmp_path):
    folder = tmp_path / "tokenizers"
    encoder, generator = load_or_train(config, folder)
    assert (encoder.fingerprint, generator.fingerprint) == (wordpiece.fingerprint, bpe.fingerprint)
    assert (folder / "generator" / "tokenizer.json").is_file() and not (
        folder / "generator" / "model.safetensors"
    ).exists()
    shutil.rmtree(tmp_path / "given")
    assert load_or_train(config, folder)[1].fingerprint == bpe.fingerprint


def test_another_vocabulary_than_the_copy_is_refused(config, corpus, tmp_path):
    load_or_train(config, tmp_path / "tokenizers")
    config.tokenizer.encoder = str(train_wordpiece(corpus, 500, tmp_path / "other").folder)
    with pytest.raises(UserError, match=r"config\.tokenizer\.encoder: .*other holds another vocabulary than"):
        load_or_train(config, tmp_path / "tokenizers")


def test_without_a_tokenizer_nothing_is_written(config, tmp_path):
    config.tokenizer.encoder = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="nowhere: no tokenizer"):
        load_or_train(config, tmp_path / "tokenizers")
    assert not (tmp_path / "tokenizers").exists()


def test_a_missing_one_is_trained_on_the_corpus(config, bpe, tmp_path):
    (tmp_path / "passages.jsonl").write_text('{"title": "Lima", "text": "Lima is the capital of Peru."}\n')
    config.data.passages, config.tokenizer.encoder = str(tmp_path / "passages.jsonl"), ""
    config.tokenizer.encoder_vocab = 300
    encoder, generator = load_or_train(config, tmp_path / "tokenizers")
    assert generator.fingerprint == bpe.fingerprint
    assert encoder.fingerprint == Tokenizer.load(tmp_path / "tokenizers" / "encoder").fingerprint
    assert encoder.tokens().index("[UNK]") not in encoder.encode("lima peru")


def test_a_trained_one_has_the_words_for_labels_that_are_told_in_one(config, tmp_path):
    (tmp_path / "passages.jsonl").write_text('{"title": "Lima", "text": "Lima is the capital of Peru."}\n')
    config.data.passages, config.tokenizer.generator = str(tmp_path / "passages.jsonl"), ""
    config.tokenizer.generator_vocab = 300
    config.data.update(task="fever2", classify="token")
    _, generator = load_or_train(config, tmp_path / "tokenizers")
    assert len(label_tokens(THREE_WAY, generator)) == 3


def test_the_encoders_tokenizer_knows_what_the_encoder_reads(config, wordpiece, tmp_path):
    config.encoder.update(question_prefix="query: ", passage_prefix="passage: ", title="joined")
    encoder, generator = load_or_train(config, tmp_path / "tokenizers")
    assert encoder.framing == Framing("query: ", "passage: ", "joined") and generator.framing == PLAIN
    assert encoder.question_ids(["who"], 12).tolist() == wordpiece.question_ids(["query: who"], 12).tolist()


def test_a_closed_book_has_no_encoder_and_needs_no_passages(config, bpe, tmp_path):
    config.index.kind, config.tokenizer.encoder = "none", str(tmp_path / "nowhere")
    encoder, generator = load_or_train(config, tmp_path / "tokenizers")
    assert encoder is None and generator.fingerprint == bpe.fingerprint
    assert [path.name for path in (tmp_path / "tokenizers").iterdir()] == ["generator"]
