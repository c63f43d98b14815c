"""Encodes passages and builds their index: `python -m rag_jax.build_index --config --workdir [--index] [--add]`.

[--embeddings] takes their vectors from files instead, [--index_encoder] names another passage encoder. [--report]
prints what the index finds and costs. On several hosts that see the same folders: the same command on each, with
--coordinator, --processes and --process.
"""

from pathlib import Path

from absl import flags

from rag_jax import command
from rag_jax.errors import fail
from rag_jax.workdir import Workdir

command.define_flags()
command.define_team_flags()
flags.DEFINE_string("index", None, "Folder of the index; by default WORKDIR/index.")
flags.DEFINE_string("add", "", "Passages to add to that index: a file or a folder; the old ones are not encoded again.")
flags.DEFINE_string(
    "embeddings", "", "The passages' vectors, if they exist: Parquet, .npy, a flat faiss file, DPR's pickles, a folder."
)
flags.DEFINE_string(
    "index_encoder", "", "A folder or hub name: the encoder of this index, in place of config.parts.passage_encoder."
)
flags.DEFINE_bool("verify", False, "Build nothing: read every file of the index that is there, and say if it is whole.")
flags.DEFINE_bool(
    "report", False, "Print recall against exact search, speed and memory; alone it builds only where no index is."
)
flags.DEFINE_bool("skip_bad", False, "Leave out and count what is wrong in the corpus: config.data.skip_bad.")


def main(_) -> None:
    """Checks the configuration, then encodes and builds."""
    given = flags.FLAGS
    if given.verify and (given.add or given.embeddings or given.report):
        fail("--verify: found with --add, --embeddings or --report, expected alone; it builds nothing")
    if given.verify:
        verify(given.index or Workdir(given.workdir).index)
        return
    place = Workdir(given.workdir)
    settings = command.checked(given.config)
    settings.data.skip_bad |= given.skip_bad
    if settings.index.kind == "none":
        fail("config.index.kind: found 'none', a closed book: there is nothing to build; run `python -m rag_jax.train`")
    from rag_jax.files import MANIFEST
    from rag_jax.parallel import keep_programs
    from rag_jax.sole import sole_writer
    from rag_jax.storage import pull, twin
    from rag_jax.team import team
    from rag_jax.training.index_report import report_index
    from rag_jax.training.indexing import build

    folder = pull(twin(given.index)) if given.index else place.index
    sources = {"add": given.add, "embeddings": given.embeddings, "index_encoder": given.index_encoder}
    with (
        team(given.coordinator, given.processes, given.process) as joined,
        sole_writer(folder, joined.first),
    ):
        keep_programs(place.programs)
        if any(sources.values()) or not (given.report and (folder / MANIFEST).exists()):
            build(settings, place, folder, **sources, team=joined)
        if given.report and joined.first:
            report_index(settings, place, folder)


def verify(name: str | Path) -> None:
    """Says that the index of this name is whole, or fails naming the file that is not."""
    from rag_jax.index.base import verify_index
    from rag_jax.storage import local

    folder = local(name)
    print(f"{folder}: whole; {verify_index(folder)}")


if __name__ == "__main__":
    command.run_main(main)
