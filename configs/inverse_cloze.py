"""The retriever learns from answers alone: the demo without ever naming the passage that holds an answer.

The question encoder starts from inverse cloze (ORQA): spans of passages ask for their passage. The reader is warmed up
on retrieved passages that hold the answer. Then the joint stage, the paper's, must teach the question encoder:

    python -m rag_jax.train_retriever --config=inverse_cloze --workdir=runs/cloze
    python -m rag_jax.build_index     --config=inverse_cloze --workdir=runs/cloze
    python -m rag_jax.train           --config=inverse_cloze --workdir=runs/cloze --config.joint.steps=0
    python -m rag_jax.evaluate        --workdir=runs/cloze                     # recall of the frozen question encoder
    cp -r runs/cloze runs/control
    python -m rag_jax.train           --config=inverse_cloze --workdir=runs/cloze
    python -m rag_jax.evaluate        --workdir=runs/cloze                     # recall after joint training

and the control, in which no gradient passes through the document prior:

    python -m rag_jax.train           --config=inverse_cloze:control --workdir=runs/control
    python -m rag_jax.evaluate        --workdir=runs/control

Time: 47 minutes on two CPU cores that did other work as well.
Score (seed 0): recall@1 37.6 frozen, 81.0 after joint training, 37.6 for the control.
"""

from rag_jax.command import find_config, load_config
from rag_jax.errors import UserError


def get_config(prior: str = "trained"):
    """prior: 'trained' or 'control', as in --config=inverse_cloze:control."""
    if prior not in ("trained", "control"):
        raise UserError(f"--config=inverse_cloze:{prior}: found {prior!r}, expected 'trained' or 'control'")
    config = load_config(find_config("demo"))
    config.retriever.update(steps=900, inverse_cloze=1.0)
    config.reader.update(steps=1000, warmup=100, depth=20)
    config.joint.update(steps=200, batch=32, k=8, learning_rate=5e-4, warmup=20)
    config.joint.train_question_encoder = prior == "trained"
    return config
