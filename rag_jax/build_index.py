"""Encodes passages and builds their index: `python -m rag_jax.build_index --config --workdir [--index] [--add]`."""

from absl import flags

from rag_jax import command
from rag_jax.workdir import Workdir

command.define_flags()
flags.DEFINE_string("index", None, "Folder of the index; by default WORKDIR/index.")
flags.DEFINE_string("add", "", "Passages to add to that index: a file or a folder; the old ones are not encoded again.")
flags.DEFINE_bool("skip_bad", False, "Leave out and count what is wrong in the corpus: config.data.skip_bad.")


def main(_) -> None:
    """Checks the configuration, then encodes and builds."""
    place = Workdir(flags.FLAGS.workdir)
    settings = command.checked(flags.FLAGS.config)
    settings.data.skip_bad |= flags.FLAGS.skip_bad
    from rag_jax.training.indexing import build

    build(settings, place, flags.FLAGS.index or place.index, add=flags.FLAGS.add)


if __name__ == "__main__":
    command.run_main(main)
