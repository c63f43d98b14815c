"""Trains the bi-encoder that finds passages: `python -m rag_jax.train_retriever --config --workdir`.

On several hosts that see the same folders: the same command on each, with --coordinator, --processes and --process.
Told to end by SIGTERM, it saves and exits with 85: the same command goes on.
"""

from absl import flags

from rag_jax import command
from rag_jax.workdir import Workdir

command.define_flags()
command.define_team_flags()


def main(_) -> None:
    """Checks the configuration, then trains."""
    options = flags.FLAGS
    place, settings = Workdir(options.workdir), command.checked(options.config)
    from rag_jax.parallel import keep_programs
    from rag_jax.preemption import heeded
    from rag_jax.sole import sole_writer
    from rag_jax.team import team
    from rag_jax.training.retriever_loop import train_retriever

    with (
        team(options.coordinator, options.processes, options.process, saves=True) as joined,
        heeded() as preemption,
        sole_writer(place.retriever, joined.first),
    ):
        keep_programs(place.programs)
        train_retriever(settings, place, joined, preemption)


if __name__ == "__main__":
    command.run_main(main)
