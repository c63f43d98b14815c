"""What a user's mistake looks like: one line that names the place, what was found, what was expected, the fix."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

# What a disk may refuse, and what to do about it.
REFUSALS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR), "name a folder that you may write to"),
    **dict.fromkeys((errno.EEXIST, errno.EISDIR), "give another place"),
    errno.EIO: "look after the disk",
}


MISTAKE, LOST = 2, 75  # exit codes: a mistake that the same command would repeat; the same command again goes on


class UserError(Exception):
    """A mistake that the user can mend: its message is the whole report, several problems on several lines."""

    code = MISTAKE


class PassingError(UserError):
    """What the same command may not meet again: a store that keeps failing, a process of the job that is gone."""

    code = LOST


def fail(message: str) -> NoReturn:
    """Raises UserError(message)."""
    raise UserError(message)


@contextmanager
def said_by(path: Path) -> Iterator[None]:
    """A UserError from in here names the file."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def printable(name: str) -> str:
    """A name from a file or a flag as a line may hold it."""
    return name if name.isprintable() else repr(name)


def explained(error: BaseException) -> tuple[str, int] | None:
    """What a person is told of a UserError or a disk that refuses, and the exit code; None of any other error."""
    if isinstance(error, UserError):
        return str(error), error.code
    if isinstance(error, OSError) and error.errno in REFUSALS:
        where = error.filename or "the disk"
        return f"{where}: {error.strerror}; {REFUSALS[error.errno]}; what was whole before still is", MISTAKE
    return None
