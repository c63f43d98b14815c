"""What the words after --config=nq: change in a configuration of the paper: the model, an ablation, the size."""

from collections.abc import Iterable
from dataclasses import dataclass

from ml_collections import ConfigDict

from rag_jax.command import find_config, load_config
from rag_jax.config import STAGES, closed_book, default_config
from rag_jax.errors import fail

KINDS, ABLATIONS, RUNLOCAL = ("token", "sequence"), ("frozen", "bm25", "closedbook"), "runlocal"
WAYS = {"label": "token", "head": "head"}  # of telling FEVER's labels: the word, and its data.classify


@dataclass(frozen=True)
class Variant:
    """A choice among the variants of a configuration of the paper."""

    kind: str
    ablation: str = ""
    runlocal: bool = False
    way: str = ""

    @classmethod
    def read(cls, name: str, words: str, kind: str, ways: Iterable[str] = ()) -> "Variant":
        """The variant that --config=NAME:WORDS asks for, words with commas between; `kind`, and the first of

        `ways`, where none is named.

        UserError for an unknown word and for two of one group.
        """
        found, groups = [word for word in words.split(",") if word], (KINDS, tuple(ways), ABLATIONS)
        known = [word for group in (*groups, (RUNLOCAL,)) for word in group]
        for word in found:
            if word not in known:
                expected = ", ".join(known)
                fail(f"--config={name}:{words}: found {word!r}, expected words of {expected}, with commas between")
        kinds, chosen, ablations = named = [[word for word in found if word in group] for group in groups]
        for several in named:
            if len(several) > 1:
                fail(f"--config={name}:{words}: found {' and '.join(several)}, expected one of them")
        return cls((kinds or [kind])[0], "".join(ablations), RUNLOCAL in found, [*chosen, *ways, ""][0])

    def applied(self, config: ConfigDict) -> ConfigDict:
        """The configuration, changed in place: frozen or by words (Lewis et al. 2020, table 6), without passages (the

        BART of its table 2), of the demo's size.
        """
        for stage in STAGES if self.ablation else ():
            config[stage].train_question_encoder = False
        if self.ablation == "bm25":
            config.index.kind = "bm25"
        if self.ablation == "closedbook":
            config.index.kind = "none"
            config.parts.update(question_encoder="", passage_encoder="")
            for stage in STAGES:  # no passage is there to be chosen or renamed
                config[stage].update(depth=0, substitution=0.0)
            config.denoise.steps = 0  # nor repaired
        if self.runlocal:
            shrink(config)
        return config


def ablation(config: ConfigDict) -> str:
    """Which ablation of the paper's table 6 a configuration is: 'bm25', 'frozen' or none, ''."""
    if config.index.kind == "bm25":
        return "bm25"
    if closed_book(config):
        return ""
    trained = [config[stage].train_question_encoder for stage in ("reader", "joint") if config[stage].steps]
    return "" if any(trained) or not trained else "frozen"


def shrink(config: ConfigDict) -> None:
    """The demo's models from scratch, its passages, and questions made of its facts in the form of the task's files.

    The task, the loss and the way of decoding stay. It shows that everything runs; it is far too short for a score.
    """
    demo, default = load_config(find_config("demo")), default_config()
    for group in ("length", "tokenizer", "encoder", "generator", "retriever"):
        config[group] = demo[group]
    config.init_from, config.parts = "", default.parts
    questions = {split: f"demo:{config.data.task}/{split}" for split in ("train", "valid", "test")}
    config.data.update(passages=demo.data.passages, **questions)
    config.length.target = config.decode.max_length = 40
    # Few forms of questions name their passages: spans ask for them.
    config.retriever.update(steps=150, batch=32, warmup=15, inverse_cloze=1.0, hard_negatives=0)
    config.index.dtype = default.index.dtype
    config.retrieval.update(k=min(config.retrieval.k, 10), score_scale=demo.retrieval.score_scale)
    for before in (config.denoise, config.reader):
        before.steps = min(before.steps, 100)
    config.joint.update(steps=100, batch=16, learning_rate=3e-4, warmup=10, clip=1.0)
    config.evaluate.update(batch=16, every=100, questions=16)
