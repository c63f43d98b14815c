"""The command line that all entry points share: --config by path or name, --workdir, mistakes as one line."""

import importlib.util
import io
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from rag_jax.errors import UserError, explained
from rag_jax.validation import unknown_keys, validate

HELP = {"--help", "-h"}


def define_flags() -> None:
    """--config (a path, or the name of a shipped configuration) and --workdir."""
    config_flags.DEFINE_config_file(
        "config", None, "Path or name of a configuration, as configs/demo.py or demo; --config.joint.k=8 changes a key."
    )
    flags.DEFINE_string("workdir", None, "Folder that holds everything this run makes; also gs://bucket/runs/demo.")


def define_team_flags() -> None:
    """--coordinator, --processes and --process, of a command that several processes may do together."""
    flags.DEFINE_string(
        "coordinator", "", "HOST:PORT of process 0, if several processes work together; or auto (TPU, SLURM)."
    )
    flags.DEFINE_integer("processes", 1, "How many processes work together.")
    flags.DEFINE_integer("process", 0, "The number of this one, from 0.")


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Reads the command line: a configuration's name becomes its path, a mistake becomes a UserError."""
    argv = re.sub(r"(^|\0)(--?config)\0(?!-)", r"\1\2=", "\0".join(argv)).split("\0")  # --config demo
    argv = [re.sub(r"(?s)^(--?config=)(.*)$", lambda match: match[1] + find_config(match[2]), word) for word in argv]
    for word in argv:
        if match := re.match(r"(?s)--?config=(.*)$", word):
            load_config(match[1])
    unknown = unknown_keys(match[1] for word in argv if (match := re.match(r"--?(?:no)?config\.([\w.]+)", word)))
    if unknown:
        raise UserError("\n       ".join(f"--config.{problem}" for problem in unknown))
    try:
        rest = flags.FLAGS(argv)
        if flags.FLAGS.config is not None:
            flags.FLAGS.config.items()  # one that could not be loaded says so only when it is looked at
        return rest
    except Exception as error:  # whatever a parser of flags may say about a word
        raise UserError(f"command line: {' '.join(str(error).split())}") from error


def load_config(place: str) -> ConfigDict:
    """What get_config of 'path' or 'path:argument' returns; UserError naming the line where it fails."""
    path, _, argument = place.partition(":")
    spec = importlib.util.spec_from_file_location("configuration", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--config: {path} is no file of Python, expected one, as configs/demo.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(*filter(None, [argument]))
    except Exception as error:  # whatever Python may say about a file of Python
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == spec.origin]
        line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else lines[-1] if lines else 1
        raise UserError(f"{path}:{line or 1}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"{path}: get_config returns {type(config).__name__}, expected what rag_jax.config.default_config() returns"
        )
    return config


def find_config(name: str) -> str:
    """The file of a configuration given by path or by name, with its ':argument' if it has one."""
    stem, _, argument = name.partition(":")
    suffix = f":{argument}" if argument else ""
    shipped = [folder / f"{stem}.py" for folder in _config_folders()]
    for path in (Path(stem), *shipped):
        if os.path.isfile(path):  # False for a name that no file can have
            return f"{path}{suffix}"
    known = sorted(path.stem for folder in _config_folders() for path in folder.glob("[a-z]*.py"))
    raise UserError(
        f"--config: found neither a file {stem!r} nor a configuration of that name; there are {', '.join(known)}"
    )


def _config_folders() -> Iterator[Path]:
    spec = importlib.util.find_spec("rag_jax")
    for package in map(Path, (spec and spec.submodule_search_locations) or ()):
        yield package / "configs"
        yield package.parent / "configs"


def checked(config: ConfigDict | None) -> ConfigDict:
    """The configuration of the command line, locked, once nothing is wrong with it."""
    if config is None:
        raise UserError("--config: missing, expected a file or the name of a configuration, as --config=demo")
    validate(config)
    return config.lock()


def usage() -> str:
    """The docstring of the program and the flags of its own, not those of the libraries below it."""
    own = [*flags.FLAGS.get_flags_for_module(__name__), *flags.FLAGS.get_flags_for_module(sys.argv[0])]
    told = [f"--{flag.name}" + (f"={flag.default}" if flag.default else "") for flag in own]
    width = max(map(len, told), default=0) + 4
    lines = [
        textwrap.fill(
            " ".join(flag.help.split()), 120, initial_indent=f"  {name}".ljust(width), subsequent_indent=" " * width
        )
        for name, flag in zip(told, own, strict=True)
    ]
    doc = sys.modules["__main__"].__doc__ or sys.argv[0]
    return "\n".join([doc.rstrip(), "", *lines])


def run_main(main: Callable[[Sequence[str]], None], *, arguments: bool = False) -> None:
    """Runs an entry point: a UserError becomes its message on standard error and its exit code, no traceback.

    arguments: whether the command takes words beside its flags.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        if HELP & set(argv):
            print(usage())
            sys.exit(0)
        rest = parse_flags(argv)
        if rest[1:] and not arguments:
            raise UserError(f"command line: found {rest[1]!r}, expected flags alone, as --config=demo")
        return rest

    def guarded(argv: Sequence[str]) -> None:
        with_message(lambda: main(argv))

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # in a log file too a line is there when it is said
    logging.set_verbosity(logging.FATAL)  # orbax tells the story of every file; what fails there is raised here too
    app.run(guarded, flags_parser=lambda argv: with_message(lambda: parse(argv)))


def with_message(action: Callable):
    """Runs the action; a UserError, or a disk that refuses, ends the process with its message and exit code."""
    try:
        return action()
    except (UserError, OSError) as error:
        if (found := explained(error)) is None:
            raise
        said, code = found
    print(f"error: {said}", file=sys.stderr)
    sys.exit(code)
