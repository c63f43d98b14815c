"""CuratedTREC (Lewis et al. 2020, table 1), from the model of Natural Questions: train --config=nq first.

    mkdir -p runs/curatedtrec && ln -s ../nq/index runs/curatedtrec/index
    python -m rag_jax.train       --config=curatedtrec --workdir=runs/curatedtrec
    python -m rag_jax.evaluate    --workdir=runs/curatedtrec

and on two CPU cores, in minutes, from nothing but this package:

    python -m rag_jax.train_retriever --config=curatedtrec:runlocal --workdir=runs/curatedtrec_local
    python -m rag_jax.build_index     --config=curatedtrec:runlocal --workdir=runs/curatedtrec_local
    python -m rag_jax.train           --config=curatedtrec:runlocal --workdir=runs/curatedtrec_local
    python -m rag_jax.evaluate        --workdir=runs/curatedtrec_local

curatedtrec:token and curatedtrec:sequence (the default), from runs/nq of that kind, else --config.init_from=RUN;
frozen, bm25 (build its index), closedbook (from the closed book of nq) and runlocal (which starts from nothing) as
configs/paper.py says.
Files: DPR's, fetched as configs/paper.py says with --resource=data.retriever.curatedtrec, train and dev, and
data.retriever.qas.curatedtrec-test. The first two lack the questions for which DPR found no passage: of the paper's
1,353 they have 1,125 (Karpukhin et al. 2020, table 1), so a score on the second is not the paper's dev.
The paper's: the start; the pattern's most frequent match in the 1,000 best passages is learned; 15 or 50 passages in
the test; greedy. Ours: 200 steps, about ten epochs of the 1,353, and their warm-up. The rest stands in
configs/paper.py, with whose it is.

Hardware: the paper's is 8 GPUs of 32 GB, and about 100 GB of memory for the index (here 32 GB of vectors).
Score: the paper's test score, answers that match the pattern: RAG-Token 50.0, RAG-Sequence 52.2; dev 51.9 and 53.4,
frozen 51.1 and 52.6, BM25 33.1 and 33.8. It was not run here.
"""

from rag_jax.command import find_config, load_config
from rag_jax.variants import Variant


def get_config(words: str = ""):
    """words: of configs/paper.py, with commas between."""
    variant = Variant.read("curatedtrec", words, kind="sequence")
    config = load_config(find_config(f"paper:{variant.kind}"))
    config.data.update(
        task="curatedtrec",
        train="downloads/data/retriever/curatedtrec-train.json",
        valid="downloads/data/retriever/curatedtrec-dev.json",
        test="downloads/data/retriever/qas/curatedtrec-test.csv",
    )
    config.init_from = "./runs/nq"  # a folder, not a name of the hub; in place of DPR's question encoder and BART
    config.parts.update(question_encoder="", generator="")
    config.joint.update(steps=200, warmup=20)
    config.evaluate.every = 50
    return variant.applied(config)
