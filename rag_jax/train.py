"""Trains question encoder and generator through the documents: `python -m rag_jax.train --config --workdir`.

On several hosts that see the same folders: the same command on each, with --coordinator, --processes and --process.
[--profile_steps=FIRST:COUNT] writes what jax.profiler sees of so many steps into WORKDIR/profile.
Told to end by SIGTERM, it saves and exits with 85: the same command goes on.
"""

from absl import flags

from rag_jax import command
from rag_jax.errors import fail
from rag_jax.workdir import Workdir

command.define_flags()
command.define_team_flags()
flags.DEFINE_string("profile_steps", "", "FIRST:COUNT of the run's steps to profile, as 20:5.")


def main(_) -> None:
    """Checks the configuration, then trains."""
    options = flags.FLAGS
    place, steps = Workdir(options.workdir), profiled(options.profile_steps)
    settings = command.checked(options.config)
    from rag_jax.parallel import keep_programs
    from rag_jax.preemption import heeded
    from rag_jax.sole import sole_writer
    from rag_jax.team import team
    from rag_jax.training.logging import Profile
    from rag_jax.training.loop import train

    with (
        team(options.coordinator, options.processes, options.process, saves=True) as joined,
        heeded() as preemption,
        sole_writer(place.checkpoints, joined.first),
        Profile(place.folder / "profile", *steps) as profile,
    ):
        keep_programs(place.programs)
        train(settings, place, joined, preemption, profile)


def profiled(steps: str) -> tuple[int, int]:
    """First step and count of --profile_steps; UserError for anything else."""
    first, _, count = (steps or "0:0").partition(":")
    if not all(number.isdecimal() and len(number) < 10 for number in (first, count)):
        fail(f"--profile_steps: found {steps!r}, expected FIRST:COUNT, as 20:5")
    return int(first), int(count)


if __name__ == "__main__":
    command.run_main(main)
