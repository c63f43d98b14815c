"""Encodes passages and builds their index: `python -m rag_jax.build_index --config --workdir [--index]`."""

from absl import flags

from rag_jax import command
from rag_jax.workdir import Workdir

command.define_flags()
flags.DEFINE_string("index", None, "Folder of the index; by default WORKDIR/index.")


def main(_) -> None:
    """Checks the configuration, then encodes and builds."""
    place = Workdir(flags.FLAGS.workdir)
    settings = command.checked(flags.FLAGS.config)
    from rag_jax.training.indexing import build

    build(settings, place, flags.FLAGS.index or place.index)


if __name__ == "__main__":
    command.run_main(main)
