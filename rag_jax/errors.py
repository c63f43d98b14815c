"""What a user's mistake looks like: one line that names the place, what was found, what was expected, the fix."""

from typing import NoReturn


class UserError(Exception):
    """A mistake that the user can mend: its message is the whole report, several problems on several lines."""


def fail(message: str) -> NoReturn:
    """Raises UserError(message)."""
    raise UserError(message)
