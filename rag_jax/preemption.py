"""A run that is told to end by SIGTERM, as SLURM and TPUs that are taken back do, saves and says so by its code."""

import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import jax
from jax.experimental.multihost_utils import reached_preemption_sync_point

PREEMPTED = 85  # exit code: saved; the same command goes on
TOLD = "; told to end (SIGTERM): the same command goes on"


class PreemptedError(SystemExit):
    """Ends a process that was told to."""

    def __init__(self):
        super().__init__(PREEMPTED)


class Preemption:
    """Whether the run was told to end.

    Of several processes one is enough to be told; all must ask equally often, and learn it at the same question.
    """

    def __init__(self):
        self._asked, self._told, self._waits = 0, False, False

    def told(self) -> bool:
        """Asked between two steps; once true, always so."""
        self._asked += 1
        if jax.process_count() > 1 and not self._told:
            self._told = reached_preemption_sync_point(self._asked)
        return self._told

    def until_told(self, values: Iterable[Any]) -> Iterator[Any]:
        """The values, as far as there is time; it asks before the first is made, which may take long."""
        if not self.told():
            yield from takewhile(lambda _: not self.told(), values)

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Here the signal waits until it is asked for; elsewhere there is nothing to save and it ends the process."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def signalled(self, *_: Any) -> None:
        """What SIGTERM does."""
        self._told = True
        if not self._waits:
            print(f"nothing new to save{TOLD}", file=sys.stderr)
            raise PreemptedError


@contextmanager
def heeded() -> Iterator[Preemption]:
    """Until the end of the block, SIGTERM does not kill. Of several processes jax listens, since they were started."""
    preemption = Preemption()
    if jax.process_count() > 1:
        yield preemption
        return
    before = signal.signal(signal.SIGTERM, preemption.signalled)
    try:
        yield preemption
    finally:
        signal.signal(signal.SIGTERM, before)
