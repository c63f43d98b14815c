"""The two tokenizers of a run."""

from rag_jax.config import default_config
from rag_jax.data.tokenizer import PLAIN, Framing
from rag_jax.data.vocabulary import load_or_train


def test_the_encoders_tokenizer_knows_what_the_encoder_reads(wordpiece, bpe, tmp_path):
    config = default_config()
    config.tokenizer.update(encoder=str(wordpiece.folder), generator=str(bpe.folder))
    config.encoder.update(question_prefix="query: ", passage_prefix="passage: ", title="joined")
    encoder, generator = load_or_train(config, tmp_path)
    assert encoder.framing == Framing("query: ", "passage: ", "joined") and generator.framing == PLAIN
    assert encoder.question_ids(["who"], 12).tolist() == wordpiece.question_ids(["query: who"], 12).tolist()
    assert list(tmp_path.iterdir()) == []
