"""Answers questions from the command line or standard input: `python -m rag_jax.answer --workdir "question" ...`.

Prints a table on a terminal, and one JSON object a line into a file or another program.
"""

import dataclasses
import json
import math
import os
import shutil
import sys
import textwrap

from absl import flags

from rag_jax import command
from rag_jax.errors import UserError
from rag_jax.workdir import Workdir

command.define_flags()
flags.DEFINE_string("index", None, "Folder of another index made by the same encoder; by default WORKDIR/index.")
flags.DEFINE_bool(
    "json", None, "JSON lines, --nojson a table, wherever it goes; by default a table on a terminal, JSON elsewhere."
)
flags.DEFINE_bool("tokens", False, "Also which passages every token came from (RAG-Token).")
flags.DEFINE_string("plot", None, "PNG file to draw that into, of one question; needs `pip install rag_jax[plot]`.")
flags.DEFINE_integer("k", None, "Passages to read; by default what the run was trained with.")


def main(argv) -> None:
    """Prints each answer with the passages it came from."""
    options, questions = flags.FLAGS, argv[1:]
    place = Workdir(options.workdir)
    if options.k is not None and options.k < 1:
        raise UserError(f"--k: found {options.k}, expected 1 or more")
    if not questions:
        try:
            questions = [line.rstrip("\n") for line in sys.stdin]
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise UserError(f"standard input: not UTF-8 (byte 0x{byte:02x}); convert it") from error
    if not questions:
        raise UserError(
            'no question: expected one or more as arguments or lines of standard input, as "who wrote Dracula?"'
        )
    if options.plot and len(questions) != 1:
        raise UserError(f"--plot: found {len(questions)} questions, expected one to draw")
    from rag_jax.api import Rag
    from rag_jax.evaluation import plots
    from rag_jax.parallel import keep_programs
    from rag_jax.progress import counted
    from rag_jax.storage import publish, twin

    if place.checkpoints.is_dir():  # a run, not an export
        keep_programs(place.programs)
    if options.plot:
        plots.check_installed("--plot")
    settings = command.checked(options.config) if options.config else None
    rag = Rag.load(place.folder, index=options.index, config=settings)
    terminal = sys.stdout.isatty()
    as_json = options.json if options.json is not None else not terminal
    width = shutil.get_terminal_size().columns if terminal else None
    answers = rag.answer_batch(questions, k=options.k, token_posterior=options.tokens or bool(options.plot))
    if not terminal:  # there the answers themselves show how far it is
        answers = counted(answers, len(questions), "answer", "questions answered", size=len)
    for batch in answers:
        for answer in batch:
            line = json.dumps(dataclasses.asdict(answer), ensure_ascii=False) if as_json else table(answer, width)
            if not printed(line):
                return
            if options.plot:
                plots.token_posterior(twin(options.plot), answer)
                publish(twin(options.plot))


def printed(line) -> bool:
    """Whether somebody has read the line: behind `| head` nobody does in the end, and there is nothing more to do."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python writes when it ends
        return False
    return True


def table(answer, width=None) -> str:
    """An answer for people, with the others if there are: probabilities, then a row per document: posterior, prior.

    width: of the terminal, to wrap long passages beside their numbers; None for a line each.
    """
    bound = "at least " if answer.lower_bound else ""
    rows = [answer.question]
    rows += [
        f"  {other.text}   (probability {bound}{math.exp(other.log_prob):.3f})" for other in (answer, *answer.others)
    ]
    rows += ["  posterior  prior"] if answer.documents else []
    for found in answer.documents:
        row, margin = f"     {found.posterior:6.3f} {found.prior:6.3f}  {named(found)}", " " * 20
        rows.append(row if width is None else textwrap.fill(row, max(width, 60), subsequent_indent=margin))
    rows += [f"  {' '.join(f'{share:.2f}' for share in token.posterior)}  {token.text}" for token in answer.tokens]
    return "\n".join(rows) + "\n"


def named(document) -> str:
    """A passage's title and text; the null document has none."""
    return f"{document.title}: {document.text}" if document.id else "no document"


if __name__ == "__main__":
    command.run_main(main, arguments=True)
