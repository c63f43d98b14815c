"""A real run for two CPU cores: SQuAD's questions, asked of all 20,958 paragraphs of its articles.

    python -m rag_jax.build_index --config=squad_open --workdir=runs/squad_open
    python -m rag_jax.train       --config=squad_open --workdir=runs/squad_open
    python -m rag_jax.evaluate    --workdir=runs/squad_open

squad_open:token (the default) and squad_open:sequence; frozen, bm25, closedbook and runlocal as configs/paper.py says.
The question encoder and the passages' are all-MiniLM-L6-v2, a sentence encoder; without a network, give its
folder as --config.parts.question_encoder=FOLDER. No BART is small enough: data/squad_open/generator starts from the
encoder's layers and is made by python -m tests.benchmarks.warm_start.
Files, in data/squad_open: passages.tsv.gz (DPR's table), and train.jsonl, valid.jsonl and test.jsonl of
{"id", "question", "answer", "passage_id"}; no article of one is in another.

The generator learns to write what it reads by repairing passages; then to answer, from the best passage that holds the
answer; then both halves are trained together. python -m tests.benchmarks.squad_open runs it with three seeds beside
what it must beat.
"""

from rag_jax.config import default_config
from rag_jax.variants import Variant


def get_config(words: str = ""):
    """words: of configs/paper.py, with commas between."""
    variant, config = Variant.read("squad_open", words, kind="token"), default_config()
    config.kind = variant.kind
    config.data.update(
        passages="data/squad_open/passages.tsv.gz",
        train="data/squad_open/train.jsonl",
        valid="data/squad_open/valid.jsonl",
        test="data/squad_open/test.jsonl",
    )
    config.parts.update(
        question_encoder="sentence-transformers/all-MiniLM-L6-v2", generator="data/squad_open/generator"
    )
    config.encoder.title = "sentence"
    config.generator.dropout = 0.0  # less than one epoch
    config.length.update(question=32, passage=256, source=192, target=16)
    config.index.update(kind="exact", batch=16)
    config.retrieval.k = 5
    config.reader.update(steps=300, batch=16, k=1, depth=5, learning_rate=2e-4, warmup=30, train_question_encoder=False)
    config.joint.update(steps=48, batch=16, k=5, learning_rate=1e-4, warmup=5)
    config.decode.max_length = 16
    config.evaluate.update(batch=32, every=400, questions=160, recall=(1, 5, 20, 100))
    return variant.applied(config)
