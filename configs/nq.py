"""Natural Questions, open (Lewis et al. 2020, table 1): short answers to questions that people typed.

    python -m rag_jax.build_index --config=nq --workdir=runs/nq
    python -m rag_jax.train       --config=nq --workdir=runs/nq
    python -m rag_jax.evaluate    --workdir=runs/nq

and on two CPU cores, in minutes, from nothing but this package:

    python -m rag_jax.train_retriever --config=nq:runlocal --workdir=runs/nq_local
    python -m rag_jax.build_index     --config=nq:runlocal --workdir=runs/nq_local
    python -m rag_jax.train           --config=nq:runlocal --workdir=runs/nq_local
    python -m rag_jax.evaluate        --workdir=runs/nq_local

nq:token and nq:sequence (the default); frozen, bm25, closedbook and runlocal as configs/paper.py says.
Files: DPR's, fetched as configs/paper.py says with --resource=data.retriever.qas.nq, all three.
The paper's: every answer of a question is an example of its own; 15 or 50 passages in the test; greedy. The rest stands
in configs/paper.py, with whose it is.

Hardware: the paper's is 8 GPUs of 32 GB, and about 100 GB of memory for the index (here 32 GB of vectors).
Score: the paper's test EM: RAG-Token 44.1, RAG-Sequence 44.5; dev 43.5 and 44.0, frozen 37.8 and 41.2, BM25 29.7 and
31.8. It was not run here.
"""

from rag_jax.command import find_config, load_config
from rag_jax.variants import Variant


def get_config(words: str = ""):
    """words: of configs/paper.py, with commas between."""
    variant = Variant.read("nq", words, kind="sequence")
    config = load_config(find_config(f"paper:{variant.kind}"))
    config.data.update(
        task="nq",
        train="downloads/data/retriever/qas/nq-train.csv",
        valid="downloads/data/retriever/qas/nq-dev.csv",
        test="downloads/data/retriever/qas/nq-test.csv",
    )
    return variant.applied(config)
