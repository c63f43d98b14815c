"""Trains the bi-encoder that finds passages: `python -m rag_jax.train_retriever --config --workdir`."""

from absl import flags

from rag_jax import command
from rag_jax.workdir import Workdir

command.define_flags()


def main(_) -> None:
    """Checks the configuration, then trains."""
    place = Workdir(flags.FLAGS.workdir)
    settings = command.checked(flags.FLAGS.config)
    from rag_jax.training.retriever_loop import train_retriever

    train_retriever(settings, place)


if __name__ == "__main__":
    command.run_main(main)
