"""What a command says while it works: how much is done and how long the rest will take, or what it waits for."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 10.0  # between two lines, and before the first
MINUTE = 60.0  # between two lines about what tells nothing itself


def tell(line: str) -> None:
    """For whoever has no log: standard output may be what was asked for."""
    print(line, file=sys.stderr, flush=True)


class Progress:
    """Says now and then how much has been done, how fast, and how long the rest will take.

    share: of the work that is done.  what: happened to those counted, behind their number.
    """

    def __init__(
        self, where: str | Path, share: Callable[[], float], log: Callable[[str], None] = tell, what: str = ""
    ) -> None:
        self._where, self._share, self._log, self._what = where, share, log, what
        self._began = self._last = time.monotonic()

    def show(self, count: int, *, last: bool = False) -> None:
        """Logs a line where the one before is SECONDS old, and the last one."""
        now = time.monotonic()
        if now - self._last < SECONDS and not last:
            return
        self._last, spent, share = now, max(now - self._began, 1e-9), min(self._share(), 1.0)
        rate = count / spent
        left = f", {duration(spent * (1 - share) / share)} left" if share and not last else ""
        self._log(f"{self._where}: {count:,} {self._what}, {rate:,.{0 if rate >= 1 else 2}f} a second{left}")


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:,.0f} minutes" if seconds < 7200 else f"{seconds / 3600:,.1f} hours"


def counted(
    items: Iterable[Any],
    total: int,
    where: str | Path,
    what: str,
    *,
    size: Callable[[Any], int] = lambda item: 1,
    log: Callable[[str], None] = tell,
) -> Iterator[Any]:
    """The items one by one; says now and then how many of them, each counting for its size, are done with.

    Of the last it says nothing: what follows does.
    """
    done = 0
    progress = Progress(where, lambda: done / max(total, 1), log, f"of {total:,} {what}")
    for item in items:
        yield item
        done += size(item)
        if done < total:
            progress.show(done)


def blocks(total: int, size: int, where: str | Path, what: str) -> Iterator[int]:
    """The beginnings of blocks of so many, told of as `counted` does."""
    return counted(range(0, total, size), total, where, what, size=lambda start: size)


def metered(
    items: Iterable[Any], share: Callable[[], float], where: str | Path, what: str, log: Callable[[str], None] = tell
) -> Iterator[Any]:
    """The same for items of which nobody knows how many there are; share: how much of them is done, from 0 to 1."""
    progress = Progress(where, share, log, what)
    for done, item in enumerate(items, 1):
        yield item
        progress.show(done)


@contextmanager
def waiting(what: str, log: Callable[[str], None] = tell) -> Iterator[None]:
    """Says what is done in here, a compiler's or a library's work, where it takes long, and for how long already."""
    over, began = threading.Event(), time.monotonic()

    def watch() -> None:
        pause = SECONDS
        while not over.wait(pause):
            pause = MINUTE
            log(f"{what}, {duration(time.monotonic() - began)} so far")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def slow_at_first(function: Callable[..., Any], what: str, log: Callable[[str], None] = tell) -> Callable[..., Any]:
    """A jitted function whose first call, which compiles it, says so where it takes long."""
    called = False

    def call(*arguments: Any) -> Any:
        nonlocal called
        if called:
            return function(*arguments)
        with waiting(what, log):
            called = True
            return function(*arguments)

    return call
