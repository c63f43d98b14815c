"""The whole main job on the embedded demo: 3,176 facts, two CPU cores, no downloads.

bash launch/demo.sh runs it from an empty folder; its commands are

    python -m rag_jax.train_retriever --config=demo --workdir=runs/demo
    python -m rag_jax.build_index     --config=demo --workdir=runs/demo
    python -m rag_jax.train           --config=demo --workdir=runs/demo
    python -m rag_jax.evaluate        --config=demo --workdir=runs/demo
    python -m rag_jax.answer          --workdir=runs/demo "what is the capital of Peru?"

Time: 15 to 25 minutes on two CPU cores, installation included. Score: test EM 88, recall@1 96, recall@5 98.3 (seed 0).
--config=demo:quick, for launch/colab/quickstart.ipynb, is a try: 15 minutes of CPU time, EM 49, recall@1 80.
"""

from rag_jax.config import default_config
from rag_jax.errors import UserError

KINDS, QUICK = ("token", "sequence"), "quick"
WIDTH_STD = 0.08  # about 1 / sqrt(width): BERT's and BART's 0.02 is meant for 768 and starts a narrow model asleep


def get_config(words: str = "token"):
    """words: 'token' or 'sequence', 'quick', with commas between, as in --config=demo:sequence,quick."""
    chosen = words.split(",")
    kinds = [word for word in chosen if word in KINDS]
    if not {*chosen} <= {*KINDS, QUICK} or len(kinds) > 1:
        expected = f"one of {', '.join(KINDS)}, and {QUICK} if it is to be"
        raise UserError(f"--config=demo:{words}: found {words!r}, expected {expected}")
    config = default_config()
    config.kind = (kinds or KINDS)[0]
    config.data.update(passages="demo:2016", train="demo:train", valid="demo:valid", test="demo:test")
    config.length.update(question=20, passage=40, source=80, target=22)
    config.tokenizer.update(encoder_vocab=4000, generator_vocab=2000)
    config.encoder.update(
        width=128,
        layers=2,
        heads=4,
        ffn=512,
        positions=64,
        dropout=0.0,
        attention_dropout=0.0,
        init_std=WIDTH_STD,
        remat="none",
    )
    config.generator.update(
        width=128, encoder_layers=2, decoder_layers=2, heads=4, ffn=512, positions=128, dropout=0.0,
        init_std=WIDTH_STD, position_init="sinusoidal", remat="none",
    )  # fmt: skip
    config.retriever.update(steps=600, batch=96, learning_rate=2e-3, warmup=60, inverse_cloze=0.5, hard_negatives=1)
    config.retrieval.update(k=5, score_scale=0.1)
    config.reader.update(
        steps=1900,
        batch=64,
        k=1,
        learning_rate=2e-3,
        warmup=190,
        substitution=0.7,
        train_question_encoder=False,
    )
    config.joint.update(steps=100, batch=32, k=5, learning_rate=1e-4, warmup=10)
    config.decode.max_length = 22
    config.evaluate.update(batch=64, every=500, questions=200)
    config.hot_swap.questions = ("demo:offices_2016", "demo:offices_2018")
    if QUICK in chosen:
        config.retriever.update(steps=180, batch=64, warmup=18)
        config.reader.update(steps=1600, batch=32, warmup=160)
        config.joint.update(steps=15, batch=16, warmup=2)
        config.evaluate.update(every=400, questions=100)
    return config
