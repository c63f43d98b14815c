"""Measures a trained model on its test questions: `python -m rag_jax.evaluate --workdir [--parts] [--swap_index]`."""

from absl import flags

from rag_jax import command
from rag_jax.workdir import Workdir

command.define_flags()
flags.DEFINE_string("index", None, "Folder of another index made by the same encoder; by default WORKDIR/index.")
flags.DEFINE_string("swap_index", None, "Folder of the second index of the hot-swap square.")
flags.DEFINE_list("parts", ["test"], "What to measure: test, reading, hot_swap.")
flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "Which checkpoint.")


def main(_) -> None:
    """Loads the run and measures what was asked for; --config overrides what the run was trained with."""
    options = flags.FLAGS
    place = Workdir(options.workdir)
    settings = command.checked(options.config) if options.config else None
    from rag_jax.api import Rag
    from rag_jax.evaluation.report import evaluate

    rag = Rag.load(place.folder, index=options.index, checkpoint=options.checkpoint, config=settings)
    evaluate(rag, rag.config, place.folder, parts=options.parts, swap_index=options.swap_index)


if __name__ == "__main__":
    command.run_main(main)
