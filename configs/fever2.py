"""FEVER with two labels (Lewis et al. 2020, table 2): is a claim supported or refuted?

    python -m rag_jax.build_index --config=fever2 --workdir=runs/fever2
    python -m rag_jax.train       --config=fever2 --workdir=runs/fever2
    python -m rag_jax.evaluate    --workdir=runs/fever2

and on two CPU cores, in minutes, from nothing but this package:

    python -m rag_jax.train_retriever --config=fever2:runlocal --workdir=runs/fever2_local
    python -m rag_jax.build_index     --config=fever2:runlocal --workdir=runs/fever2_local
    python -m rag_jax.train           --config=fever2:runlocal --workdir=runs/fever2_local
    python -m rag_jax.evaluate        --workdir=runs/fever2_local

It is configs/fever3.py, where all else is told, without the claims of which not enough is known: they are neither
learned nor asked. fever2:label (the default) and fever2:head tell the label in a word or by a classifier; fever2:token
(the default), fever2:sequence, frozen, bm25, closedbook and runlocal. A model of three labels on these claims is
another measure, which evaluating fever3 shows.

Hardware: the paper's is 8 GPUs of 32 GB, and about 100 GB of memory for the index (here 32 GB of vectors).
Score: the paper's test accuracy: 89.5, of both kinds; dev 90.6, frozen 89.4, BM25 91.6. It was not run here.
"""

from rag_jax.command import find_config, load_config
from rag_jax.variants import WAYS, Variant

TARGET = {"label": 4, "head": 64}  # tokens: `<s> true </s>`; the claim


def get_config(words: str = ""):
    """words: of configs/paper.py, or label or head, with commas between."""
    variant = Variant.read("fever2", words, kind="token", ways=WAYS)
    config = load_config(find_config(f"paper:{variant.kind}"))
    config.data.update(
        task="fever2",
        train="data/fever/train.jsonl",
        valid="data/fever/paper_dev.jsonl",
        test="data/fever/paper_test.jsonl",
        classify=WAYS[variant.way],
    )
    config.length.target = TARGET[variant.way]
    config.retrieval.k = 5
    return variant.applied(config)
