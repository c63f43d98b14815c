"""Measures a model: `python -m rag_jax.evaluate --workdir [--split] [--limit] [--parts] [--sweep] [--kilt_out]`.

| --parts | what it measures |
|---|---|
| answers, the default | answers the split's questions; the task's measures; predictions.jsonl |
| retrieval | what is retrieved, as deep as evaluate.recall looks; nothing is generated |
| reading | answers without passages, with another question's, and with answers renamed in the passages |
| hot_swap | two indexes (--swap_index) against two editions of the answers (hot_swap.questions) |

A run that was stopped goes on when its command is given again. On several hosts that see the same folders: the same
command on each, with --coordinator, --processes and --process; each answers its share of the questions.
"""

from absl import flags

from rag_jax import command
from rag_jax.errors import UserError
from rag_jax.workdir import Workdir

command.define_flags()
command.define_team_flags()
flags.DEFINE_string("index", None, "Folder of another index made by the same encoder; by default WORKDIR/index.")
flags.DEFINE_string("swap_index", None, "Folder of the second index of the hot-swap square.")
flags.DEFINE_list("parts", None, "What to measure: answers, retrieval, reading, hot_swap; see above.")
flags.DEFINE_enum("split", "test", ["train", "valid", "test"], "Which questions: data.test, for instance.")
flags.DEFINE_integer("limit", None, "Only the first so many questions.")
flags.DEFINE_string("sweep", None, "Instead: measures against the passages read, from one search, as n_docs=1,5,10.")
flags.DEFINE_list("beside", [], "With --sweep: folders of other runs, whose sweeps are drawn in one picture with it.")
flags.DEFINE_string("kilt_out", None, "File for the answers with their pages in KILT's form.")
flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "Which checkpoint.")


def main(_) -> None:
    """Loads the run and measures what was asked for; --config overrides what the run was trained with."""
    options = flags.FLAGS
    place, n_docs = Workdir(options.workdir), swept(options.sweep) if options.sweep is not None else ()
    settings = command.checked(options.config) if options.config else None
    from rag_jax.api import Rag
    from rag_jax.config import closed_book
    from rag_jax.data.tasks import TASKS
    from rag_jax.evaluation.report import Asked, evaluate, own_numbers
    from rag_jax.parallel import keep_programs
    from rag_jax.sole import sole_writer
    from rag_jax.team import team
    from rag_jax.variants import ablation

    with team(options.coordinator, options.processes, options.process) as joined:
        if place.checkpoints.is_dir():  # a run, not an export
            keep_programs(place.programs)
        rag = Rag.load(place.folder, index=options.index, checkpoint=options.checkpoint, config=settings)
        task = TASKS[rag.config.data.task]
        published = task.comparable(options.split, rag.config.data[options.split])
        kind = "closed book" if closed_book(rag.config) else rag.config.kind
        asked = Asked(
            parts=tuple(options.parts if options.parts is not None else () if n_docs else ("answers",)),
            split=options.split,
            limit=options.limit,
            swap_index=options.swap_index,
            n_docs=n_docs,
            beside=tuple(options.beside),
            kilt_out=options.kilt_out,
            names=task.metrics,
            paper=own_numbers(published, kind, options.split, ablation(rag.config)),
            submission=task.submission,
        )
        with sole_writer(place.folder / "metrics.json", joined.first):
            evaluate(rag, rag.config, place.folder, asked, joined)


def swept(sweep: str) -> tuple[int, ...]:
    """The numbers of --sweep=n_docs=1,5,10; UserError for anything else."""
    name, _, numbers = sweep.partition("=")
    words = numbers.split(",")
    if name != "n_docs" or not all(word.isdecimal() and len(word) < 10 and int(word) > 0 for word in words):
        raise UserError(f"--sweep: found {sweep!r}, expected numbers of passages, as n_docs=1,5,10")
    return tuple(map(int, words))


if __name__ == "__main__":
    command.run_main(main)
