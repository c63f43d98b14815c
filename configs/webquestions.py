"""WebQuestions (Lewis et al. 2020, table 1), from the model of Natural Questions: train --config=nq first.

    mkdir -p runs/webquestions && ln -s ../nq/index runs/webquestions/index
    python -m rag_jax.train       --config=webquestions --workdir=runs/webquestions
    python -m rag_jax.evaluate    --workdir=runs/webquestions

and on two CPU cores, in minutes, from nothing but this package:

    python -m rag_jax.train_retriever --config=webquestions:runlocal --workdir=runs/webquestions_local
    python -m rag_jax.build_index     --config=webquestions:runlocal --workdir=runs/webquestions_local
    python -m rag_jax.train           --config=webquestions:runlocal --workdir=runs/webquestions_local
    python -m rag_jax.evaluate        --workdir=runs/webquestions_local

webquestions:token and webquestions:sequence (the default), from runs/nq of that kind, else --config.init_from=RUN;
frozen, bm25 (build its index), closedbook (from the closed book of nq) and runlocal (which starts from nothing) as
configs/paper.py says.
Files: DPR's, fetched as configs/paper.py says with --resource=data.retriever.webq, train and dev, and
data.retriever.qas.webq-test. The first two lack the questions for which DPR found no passage: of the paper's 3,417 they
have 2,474 (Karpukhin et al. 2020, table 1), so a score on the second is not the paper's dev.
The paper's: the start; every answer is an example of its own; 15 or 50 passages in the test; greedy. Ours: 500 steps,
about ten epochs of the 3,417, and their warm-up. The rest stands in configs/paper.py, with whose it is.

Hardware: the paper's is 8 GPUs of 32 GB, and about 100 GB of memory for the index (here 32 GB of vectors).
Score: the paper's test EM: RAG-Token 45.5, RAG-Sequence 45.2; dev 46.5 and 44.9, frozen 37.1 and 41.8, BM25 32.1 and
36.6. It was not run here.
"""

from rag_jax.command import find_config, load_config
from rag_jax.variants import Variant


def get_config(words: str = ""):
    """words: of configs/paper.py, with commas between."""
    variant = Variant.read("webquestions", words, kind="sequence")
    config = load_config(find_config(f"paper:{variant.kind}"))
    config.data.update(
        task="webquestions",
        train="downloads/data/retriever/webq-train.json",
        valid="downloads/data/retriever/webq-dev.json",
        test="downloads/data/retriever/qas/webq-test.csv",
    )
    config.init_from = "./runs/nq"  # a folder, not a name of the hub; in place of DPR's question encoder and BART
    config.parts.update(question_encoder="", generator="")
    config.joint.update(steps=500, warmup=50)
    config.evaluate.every = 100
    return variant.applied(config)
