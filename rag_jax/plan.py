"""Will it fit, how fast can it be, what does it cost? `python -m rag_jax.plan --config --topology [--fit]`.

Compiles what training and answering run for a TPU that is not there; for GPUs and CPUs it estimates.
"""

from absl import flags

from rag_jax import command
from rag_jax.errors import UserError
from rag_jax.workdir import Workdir

command.define_flags()
flags.DEFINE_string(
    "topology", None, "The machine: v5e:2x4 and other TPUs, compiled for; gpu:h100x8 or cpu:8, estimated."
)
flags.DEFINE_integer("passages", None, "Of the corpus; by default those of WORKDIR/index, else the paper's 21,015,324.")
flags.DEFINE_bool("fit", False, "Also find the largest batch of the last stage; compiles a few programs more.")


def main(_) -> None:
    """Checks the configuration, then plans."""
    given = flags.FLAGS
    from rag_jax.planning.chips import topology

    if given.topology is None:
        raise UserError("--topology: missing, expected a machine, as --topology=v5e:2x4")
    if given.passages is not None and given.passages < 1:
        raise UserError(f"--passages: found {given.passages}, expected 1 or more")
    machine, settings = topology(given.topology), command.checked(given.config)
    import jax

    jax.config.update("jax_platforms", "cpu")  # a device that is here is left alone
    jax.config.update("jax_enable_compilation_cache", False)  # a program for other devices is not kept
    from rag_jax.planning.planner import plan
    from rag_jax.planning.report import report

    place = Workdir(given.workdir) if given.workdir else None
    found = plan(settings, machine, place, given.passages, fits=given.fit, log=lambda line: print(line, flush=True))
    print("\n".join(report(found, place)))


if __name__ == "__main__":
    command.run_main(main)
