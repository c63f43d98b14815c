"""MS-MARCO NLG 2.1 (Lewis et al. 2020, table 2): answers in whole sentences, the supplied passages not read.

    python -m rag_jax.build_index --config=msmarco --workdir=runs/msmarco
    python -m rag_jax.train       --config=msmarco --workdir=runs/msmarco
    python -m rag_jax.evaluate    --workdir=runs/msmarco --split=valid

and on two CPU cores, in minutes, from nothing but this package:

    python -m rag_jax.train_retriever --config=msmarco:runlocal --workdir=runs/msmarco_local
    python -m rag_jax.build_index     --config=msmarco:runlocal --workdir=runs/msmarco_local
    python -m rag_jax.train           --config=msmarco:runlocal --workdir=runs/msmarco_local
    python -m rag_jax.evaluate        --workdir=runs/msmarco_local

msmarco:token and msmarco:sequence (the default); frozen, bm25, closedbook and runlocal as configs/paper.py says.
Files: train_v2.1.json.gz, dev_v2.1.json.gz and eval_v2.1_public.json.gz of MS-MARCO's question answering, in
data/msmarco. The test's answers are hidden: evaluate writes submission.jsonl; --split=valid measures.
The paper's: rows with a well-formed answer; ten passages, four beams, RAG-Sequence decoded 'fast'. Ours: 64 tokens an
answer. The rest stands in configs/paper.py, with whose it is.

Hardware: the paper's is 8 GPUs of 32 GB, and about 100 GB of memory for the index (here 32 GB of vectors).
Score: the paper's dev ROUGE-L and BLEU-1: RAG-Token 56.2 and 49.4, RAG-Sequence 57.2 and 47.5; test 40.1 and 41.5, 40.8
and 44.2: never compare across. It was not run here.
"""

from rag_jax.command import find_config, load_config
from rag_jax.variants import Variant


def get_config(words: str = ""):
    """words: of configs/paper.py, with commas between."""
    variant = Variant.read("msmarco", words, kind="sequence")
    config = load_config(find_config(f"paper:{variant.kind}"))
    config.data.update(
        task="msmarco",
        train="data/msmarco/train_v2.1.json.gz",
        valid="data/msmarco/dev_v2.1.json.gz",
        test="data/msmarco/eval_v2.1_public.json.gz",
    )
    config.retrieval.k = 10
    config.length.target = 64
    config.decode.update(mode="fast" if variant.kind == "sequence" else "search", beams=4, max_length=64)
    return variant.applied(config)
