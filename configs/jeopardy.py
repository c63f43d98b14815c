"""Jeopardy question generation (Lewis et al. 2020, table 2): the answer is given, its clue is written.

    python -m rag_jax.build_index --config=jeopardy --workdir=runs/jeopardy
    python -m rag_jax.train       --config=jeopardy --workdir=runs/jeopardy
    python -m rag_jax.evaluate    --workdir=runs/jeopardy

and on two CPU cores, in minutes, from nothing but this package:

    python -m rag_jax.train_retriever --config=jeopardy:runlocal --workdir=runs/jeopardy_local
    python -m rag_jax.build_index     --config=jeopardy:runlocal --workdir=runs/jeopardy_local
    python -m rag_jax.train           --config=jeopardy:runlocal --workdir=runs/jeopardy_local
    python -m rag_jax.evaluate        --workdir=runs/jeopardy_local

jeopardy:token (the default) and jeopardy:sequence; frozen, bm25, closedbook and runlocal as configs/paper.py says.
Files: the raw JSON of SearchQA, a file a clue, its splits in the folders data/jeopardy/train, val and test.
The paper's: SearchQA's splits; ten passages, four beams, RAG-Sequence decoded 'fast'. Ours: 64 tokens a clue. The rest
stands in configs/paper.py, with whose it is.

Hardware: the paper's is 8 GPUs of 32 GB, and about 100 GB of memory for the index (here 32 GB of vectors).
Score: the paper's test Q-BLEU-1 and BLEU-1: RAG-Token 22.2 and 17.3, RAG-Sequence 21.4 and 14.7; dev 22.6 and 17.9,
21.5 and 15.3. It was not run here.
"""

from rag_jax.command import find_config, load_config
from rag_jax.variants import Variant


def get_config(words: str = ""):
    """words: of configs/paper.py, with commas between."""
    variant = Variant.read("jeopardy", words, kind="token")
    config = load_config(find_config(f"paper:{variant.kind}"))
    config.data.update(
        task="jeopardy", train="data/jeopardy/train", valid="data/jeopardy/val", test="data/jeopardy/test"
    )
    config.retrieval.k = 10
    config.length.target = 64
    config.decode.update(mode="fast" if variant.kind == "sequence" else "search", beams=4, max_length=64)
    return variant.applied(config)
