"""A real run for two CPU cores: SQuAD's questions, asked of all 20,958 paragraphs of its articles.

    python -m rag_jax.build_index --config=squad_sentences --workdir=runs/squad_sentences
    python -m rag_jax.train       --config=squad_sentences --workdir=runs/squad_sentences
    python -m rag_jax.build_index --config=squad_open      --workdir=runs/squad_open
    python -m rag_jax.train       --config=squad_open      --workdir=runs/squad_open
    python -m rag_jax.evaluate    --workdir=runs/squad_open

squad_open:token (the default) and squad_open:sequence; frozen, bm25, closedbook (which starts from the generator alone)
and runlocal as configs/paper.py says. The question encoder and the passages' are all-MiniLM-L6-v2, a sentence encoder;
without a network, give its folder as --config.parts.passage_encoder=FOLDER, and see squad_sentences.
Files, in data/squad_open: passages.tsv.gz (DPR's table), and train.jsonl, valid.jsonl and test.jsonl of
{"id", "question", "answer", "passage_id"}; no article of one is in another.

The reader of single sentences learns to read whole passages, the best that holds the answer; then both halves are
trained together. python -m tests.benchmarks.squad_open makes the question files and the generator in --folder from
passages.tsv.gz and questions_*.jsonl.gz in --data, and runs it all, with three seeds beside what it must beat: about
five hours. Of the test's questions gold@1 59.6, of every eighth EM 18.9 (docs/tasks.md).
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
    config.encoder.title = "sentence"
    config.generator.dropout = 0.0  # less than one epoch
    config.length.update(question=32, passage=256, source=192, target=16)
    config.index.update(kind="exact", batch=16)
    config.retrieval.k = 5
    config.reader.update(steps=300, batch=16, k=1, depth=5, learning_rate=2e-4, warmup=30, train_question_encoder=False)
    # Parts of 20 passages: two cores compute them in two thirds of the time of 80 at once.
    config.joint.update(steps=96, batch=16, accumulation=4, k=5, learning_rate=2e-5, warmup=10)
    config.decode.max_length = 16
    config.evaluate.update(batch=32, every=48, questions=160, recall=(1, 5, 20, 100))
    if variant.ablation == "closedbook":
        config.parts.generator = "data/squad_open/generator"
        config.length.source = 40
        config.reader.update(steps=600, batch=32, learning_rate=3e-4)
    else:
        config.init_from = "./runs/squad_sentences"
        config.parts.passage_encoder = "sentence-transformers/all-MiniLM-L6-v2"  # BM25 found the sentences
        config.retriever.shared = False
    return variant.applied(config)
