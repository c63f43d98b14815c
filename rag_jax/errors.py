"""What a user's mistake looks like: one line that names the place, what was found, what was expected, the fix."""

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn


class UserError(Exception):
    """A mistake that the user can mend: its message is the whole report, several problems on several lines."""


def fail(message: str) -> NoReturn:
    """Raises UserError(message)."""
    raise UserError(message)


def run_main(main: Callable[[Sequence[str]], None]) -> None:
    """Runs an entry point: a UserError becomes its message on standard error and exit code 2, no traceback."""
    from absl import app, flags

    def guarded(argv: Sequence[str]) -> None:
        try:
            main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    try:
        app.run(guarded, flags_parser=lambda argv: flags.FLAGS(argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
