"""A page and an HTTP endpoint that answer from a trained model: `python -m rag_jax.serve --workdir=runs/demo`."""

from importlib.util import find_spec
from pathlib import Path

from absl import flags

from rag_jax import command
from rag_jax.errors import UserError, fail
from rag_jax.workdir import Workdir

command.define_flags()
flags.DEFINE_multi_string(
    "index",
    [],
    "NAME=FOLDER, or FOLDER, of an index made by the same encoder; give it once for each that can be chosen, "
    "the first is the default. Without it: WORKDIR/index.",
)
flags.DEFINE_string("host", "127.0.0.1", "Address to listen at; 0.0.0.0 lets other machines ask.")
flags.DEFINE_integer("port", 7860, "Port to listen at; 0 for any that is free.", lower_bound=0, upper_bound=65535)
PACKAGES = "gradio", "fastapi", "fastapi_offline", "uvicorn"  # of the extra


def main(_) -> None:
    """Serves until SIGTERM or Ctrl-C, and finishes what was asked."""
    options = flags.FLAGS
    for package in PACKAGES:
        if find_spec(package) is None:
            fail(f"found no package '{package}', expected it installed; run `pip install rag_jax[ui]`")
    place, given = Workdir(options.workdir), named(options.index)
    settings = command.checked(options.config) if options.config else None
    from rag_jax.api import Rag
    from rag_jax.parallel import keep_programs
    from rag_jax.serving import server
    from rag_jax.serving.views import Views

    with server.listen(options.host, options.port) as listening:
        if place.checkpoints.is_dir():  # a run, not an export
            keep_programs(place.programs)
        rag = Rag.load(place.folder, index=next(iter(given.values()), None), config=settings)
        own = rag.retriever.index
        indexes: dict[str, str | Path] = {**given} or ({own.folder.name: own.folder} if own else {})
        server.serve(Views(rag, indexes), listening, title=f"rag_jax: {place.folder.name}")


def named(given: list[str]) -> dict[str, str]:
    """Folders by name, of NAME=FOLDER or of FOLDER, which is named as its last part."""
    found: dict[str, str] = {}
    for word in given:
        name, equals, folder = word.partition("=")
        name, folder = (name, folder) if equals else (Path(word).name, word)
        if not name or not folder:
            raise UserError(f"--index: found {word!r}, expected NAME=FOLDER, as --index=2018=runs/demo/index_2018")
        if name in found:
            raise UserError(f"--index: found {name!r} for {found[name]} and {folder}, expected two names")
        found[name] = folder
    return found


if __name__ == "__main__":
    command.run_main(main)
