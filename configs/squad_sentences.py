"""The reader of squad_open, first with single sentences: a third of the tokens, so three times as many questions.

    python -m rag_jax.build_index --config=squad_sentences --workdir=runs/squad_sentences
    python -m rag_jax.train       --config=squad_sentences --workdir=runs/squad_sentences

The generator learns to write what it reads by repairing sentences, then to answer, from the best of 20 that BM25 finds
and that hold the answer. No BART is small enough: data/squad_open/generator starts from all-MiniLM-L6-v2's layers and
is made by python -m tests.benchmarks.warm_start; without a network, give the encoder's folder as
--config.parts.question_encoder=FOLDER.
Files, in data/squad_open: sentences.jsonl, train_sentences.jsonl and valid_sentences.jsonl, which python -m
tests.benchmarks.squad_open makes.

Time: 73 minutes on two CPU cores.
Score: EM 36.9 of 160 validation questions, from 5 sentences each.
"""

from rag_jax.command import find_config, load_config


def get_config():
    """As squad_open:bm25, but for what is read and where it starts."""
    config = load_config(find_config("squad_open:bm25"))
    config.init_from, encoder = "", config.parts.passage_encoder
    config.parts.update(question_encoder=encoder, passage_encoder="", generator="data/squad_open/generator")
    config.retriever.shared = True
    config.data.update(
        passages="data/squad_open/sentences.jsonl",
        train="data/squad_open/train_sentences.jsonl",
        valid="data/squad_open/valid_sentences.jsonl",
    )
    config.length.update(source=64, target=10)
    config.denoise.update(steps=200, batch=32, learning_rate=5e-4, warmup=40)
    config.reader.update(steps=1600, batch=32, depth=20, learning_rate=3e-4, warmup=100)
    config.joint.steps = 0
    config.evaluate.every = 400
    return config
