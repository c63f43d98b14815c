"""How the processes of one job find each other, wait for each other, and hear that one has failed."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
from jax._src import distributed

from rag_jax.errors import fail

CONNECT = 300  # seconds that the processes of a job have to find each other
SILENCE = 40  # seconds without a sign of life after which a process counts as dead, and ends the others
POLL = 0.2  # seconds
AUTO = "auto"
T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """The processes of one job, and this one's number among them; alone, it waits for nobody.

    client: of the service by which jax's processes find each other, in process 0; it keeps small texts by name.
    """

    process: int = 0
    processes: int = 1
    client: Any = None

    @property
    def first(self) -> bool:
        """Whether this is process 0, which does what is done once."""
        return self.process == 0

    def check(self) -> None:
        """Raises UserError where another process has failed."""
        for name, message in self._told("failed"):
            fail(f"process {name.rpartition('/')[2]} of {self.processes} failed: {message}")

    def wait(self, name: str, value: str = "") -> None:
        """Returns when all processes have come here; each name is used once.

        Raises UserError where another has failed or brings another value. One that is killed is noticed by jax after
        SILENCE seconds, which ends the others with a message of its own.
        """
        if self.processes == 1:
            return
        self.client.key_value_set(f"{name}/{self.process}", value)
        while len(values := dict(self._told(name))) < self.processes:
            self.check()
            time.sleep(POLL)
        if len(set(values.values())) > 1:
            fail(f"{name}: the {self.processes} processes differ; start all with the same command, files and weights")

    def agree(self, **values: Any) -> None:
        """Raises UserError that names the first value which another process has otherwise; each name is used once."""
        if self.processes == 1:
            return
        name = f"agreed/{next(iter(values))}"
        self.client.key_value_set(f"{name}/{self.process}", json.dumps(values, default=str))
        while len(told := dict(self._told(name))) < self.processes:
            self.check()
            time.sleep(POLL)
        ours = json.loads(json.dumps(values, default=str))
        for key, theirs in sorted(told.items()):
            number, theirs = key.rpartition("/")[2], json.loads(theirs)
            for value in ours:
                if ours[value] != theirs.get(value):
                    fail(
                        f"{value}: process {self.process} has {ours[value]!r}, process {number} has "
                        f"{theirs.get(value)!r}; start all with the same command and files"
                    )

    def first_alone(self, name: str, make: Callable[[], T]) -> T:
        """What make() returns: process 0 calls it first, the others once it is done and what it writes is there."""
        if self.first:
            made = make()
            self.wait(name)
            return made
        self.wait(name)
        return make()

    def tell(self, error: BaseException) -> None:
        """Ends the others' waiting: this process has failed."""
        if self.client is not None:
            self.client.key_value_set(f"failed/{self.process}", str(error) or type(error).__name__)

    def _told(self, name: str) -> list[tuple[str, str]]:
        return self.client.key_value_dir_get(f"{name}/") if self.client is not None else []


SINGLE = Team()


@contextmanager
def team(coordinator: str, processes: int, process: int) -> Iterator[Team]:
    """Joins the processes of a job, before jax is used; SINGLE without a coordinator.

    coordinator: HOST:PORT of process 0, the same for all; or 'auto' on a Cloud TPU or under SLURM, which know the
    processes themselves. A failure inside is told to the others.
    Raises UserError for arguments that describe no team; jax itself ends a process that waits CONNECT seconds in vain.
    """
    _check_team(coordinator, processes, process)
    if not coordinator:
        yield SINGLE
        return
    joined = _join(coordinator, processes, process)
    try:
        yield joined
    except BaseException as error:
        joined.tell(error)
        raise
    finally:
        jax.distributed.shutdown()  # waits for the others: process 0 is their service


def _join(coordinator: str, processes: int, process: int) -> Team:
    """Waits until all are there."""
    limits = {"initialization_timeout": CONNECT, "heartbeat_timeout_seconds": SILENCE}
    try:
        if coordinator == AUTO:
            jax.distributed.initialize(**limits)
        else:
            print(f"process {process} of {processes}: meets the others at {coordinator}, within {CONNECT} seconds")
            sys.stdout.flush()
            jax.distributed.initialize(coordinator, processes, process, **limits)
    except (RuntimeError, ValueError) as error:
        fail(f"--coordinator={coordinator}: process {process} of {processes} cannot join ({error}); check the address")
    # jax offers no other way to wait for processes alone, with neither devices nor a fixed time.
    state = distributed.global_state
    return Team(state.process_id, state.num_processes, state.client)


def _check_team(coordinator: str, processes: int, process: int) -> None:
    if coordinator == AUTO:
        return
    host, _, port = coordinator.rpartition(":")
    if not 0 <= process < processes:
        fail(f"--process: found {process}, expected a number from 0 to --processes - 1 = {processes - 1}")
    if processes > 1 and not coordinator:
        fail(f"--coordinator: missing, expected HOST:PORT of process 0 with --processes={processes}")
    if coordinator and not (host and port.isdecimal()):
        fail(f"--coordinator: found '{coordinator}', expected HOST:PORT of process 0, as 10.0.0.1:8476")
