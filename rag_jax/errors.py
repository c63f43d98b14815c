"""What a user's mistake looks like: one line that names the place, what was found, what was expected, the fix."""

import errno
from typing import NoReturn

# What a disk may refuse, and what to do about it.
REFUSALS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR), "name a folder that you may write to"),
    errno.EIO: "look after the disk",
}


class UserError(Exception):
    """A mistake that the user can mend: its message is the whole report, several problems on several lines."""


def fail(message: str) -> NoReturn:
    """Raises UserError(message)."""
    raise UserError(message)
