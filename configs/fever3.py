"""FEVER with three labels (Lewis et al. 2020, table 2): is a claim supported, refuted, or is there not enough info?

    python -m rag_jax.build_index --config=fever3 --workdir=runs/fever3
    python -m rag_jax.train       --config=fever3 --workdir=runs/fever3
    python -m rag_jax.evaluate    --workdir=runs/fever3

and on two CPU cores, in minutes, from nothing but this package:

    python -m rag_jax.train_retriever --config=fever3:runlocal --workdir=runs/fever3_local
    python -m rag_jax.build_index     --config=fever3:runlocal --workdir=runs/fever3_local
    python -m rag_jax.train           --config=fever3:runlocal --workdir=runs/fever3_local
    python -m rag_jax.evaluate        --workdir=runs/fever3_local

fever3:label (the default) and fever3:head, the two ways in which the paper describes it: a label is one word of one
token, and the likeliest of the three is told (section 3.4); or the decoder reads the claim again, a classifier on its
last state tells the label under each passage, and the probabilities are summed over passages (appendix E). The paper
does not say of which of the two its numbers are. fever3:token (the default) and fever3:sequence are one for a label,
but for the `<s>` and `</s>` around a word that is learned; frozen, bm25, closedbook and runlocal as configs/paper.py
says.
Files: FEVER's train.jsonl, paper_dev.jsonl and paper_test.jsonl in data/fever.
The paper's: no evidence is used in training; among the pages of the first ten passages it looks for gold ones, which
evaluate --parts=retrieval does. Ours: the words true, false and unknown; five passages in the test, of which the paper
says nothing; claims of 62 tokens for the decoder. The rest stands in configs/paper.py, with whose it is.

Hardware: the paper's is 8 GPUs of 32 GB, and about 100 GB of memory for the index (here 32 GB of vectors).
Score: the paper's test accuracy: 72.5, of both kinds; dev 74.5, frozen 72.9, BM25 75.1; a gold page is first for 71% of
the claims, among ten for 90%. It was not run here.
"""

from rag_jax.command import find_config, load_config
from rag_jax.variants import WAYS, Variant

TARGET = {"label": 4, "head": 64}  # tokens: `<s> true </s>`; the claim


def get_config(words: str = ""):
    """words: of configs/paper.py, or label or head, with commas between."""
    variant = Variant.read("fever3", words, kind="token", ways=WAYS)
    config = load_config(find_config(f"paper:{variant.kind}"))
    config.data.update(
        task="fever3",
        train="data/fever/train.jsonl",
        valid="data/fever/paper_dev.jsonl",
        test="data/fever/paper_test.jsonl",
        classify=WAYS[variant.way],
    )
    config.length.target = TARGET[variant.way]
    config.retrieval.k = 5
    return variant.applied(config)
