"""How the processes of one job find each other, wait for each other, and end when one of them has ended."""

import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jax
from jax._src import distributed

from rag_jax.errors import LOST, MISTAKE, PassingError, UserError, explained, fail

AUTO = "auto"
CONNECT = 300  # seconds that the processes of a job have to find each other
BEAT, SILENCE = 2, 30  # seconds between signs of life; after so long without one, a process is asked for at its door
BUSY = 600  # seconds: ScaNN holds Python's lock while it reads or writes a searcher, 50 seconds for 40 GB
POLL, GRACE, KNOCK = 0.2, 6, 3  # seconds
CRASHED = 1  # Python's exit code
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
        """Raises UserError where another process has failed, PassingError where it may not fail again."""
        for number, (message, code) in self.failures().items():
            said = f"process {number} of {self.processes} failed: {message}"
            raise (UserError if code == MISTAKE else PassingError)(said)

    def wait(self, name: str, value: str = "") -> None:
        """Returns when all processes have come here; each name is used once.

        Raises UserError where another has failed or brings another value.
        """
        if len(set(self._all(name, value).values())) > 1:
            fail(f"{name}: the {self.processes} processes differ; start all with the same command, files and weights")

    def share(self, folder: Path, name: str, value: str = "") -> None:
        """As `wait`, with a folder that process 0 makes; UserError where this process does not see it."""
        if self.first:
            folder.mkdir(parents=True, exist_ok=True)
        self.wait(name, value)
        if not folder.is_dir():
            fail(f"{folder}: not here, though process 0 has made it; all processes must see the same folders")

    def agree(self, **values: Any) -> None:
        """Raises UserError that names the first value which another process has otherwise; each name is used once."""
        told = self._all(f"agreed/{next(iter(values))}", json.dumps(values, default=str))
        known = {number: json.loads(text) for number, text in told.items()}
        for name, value in known[self.process].items():
            for number, others in sorted(known.items()):
                if others[name] != value:
                    fail(
                        f"{name}: process {self.process} has {value!r}, process {number} has {others[name]!r}; "
                        "start all with the same command and files"
                    )

    def first_alone(self, name: str, make: Callable[[], T]) -> T:
        """What make() returns: process 0 calls it first, the others once it is done and what it writes is there."""
        if self.first:
            made = make()
            self.wait(name)
            return made
        self.wait(name)
        return make()

    def say(self, name: str, value: str) -> None:
        """Keeps a text of this process under a name, for all to see."""
        if self.client is not None:
            self.client.key_value_set(f"{name}/{self.process}", value, allow_overwrite=True)

    def told(self, name: str) -> dict[int, str]:
        """What the processes have said under a name, by their numbers."""
        said = self.client.key_value_dir_get(f"{name}/") if self.client is not None else []
        return {int(key.rpartition("/")[2]): value for key, value in said}

    def failures(self) -> dict[int, tuple[str, int]]:
        """Message and exit code of each process that has failed."""
        return {
            number: (said, code)
            for name, code in (("crashed", LOST), ("failed", MISTAKE))
            for number, said in self.told(name).items()
        }

    def _all(self, name: str, value: str) -> dict[int, str]:
        """What every process says under a name, once all have."""
        if self.processes == 1:
            return {self.process: value}
        self.say(name, value)
        while len(told := self.told(name)) < self.processes:
            self.check()
            time.sleep(POLL)
        return told


SINGLE = Team()


@contextmanager
def team(coordinator: str, processes: int, process: int, *, saves: bool = False) -> Iterator[Team]:
    """Joins the processes of a job, before jax is used; SINGLE without a coordinator.

    coordinator: HOST:PORT of process 0, the same for all; or 'auto' on a Cloud TPU or under SLURM, which know the
    processes themselves. A failure inside is told to the others and ends this process, and one that is killed is missed
    after SILENCE seconds: either ends them all. saves: where one is told to end by SIGTERM, all are to save
    (preemption.py); else it ends at once. At the end all wait until each has come there, for as long as that takes.

    Raises UserError for arguments that describe no team and for a port that process 0 cannot have. Where the others are
    not met within CONNECT seconds, the process ends with code LOST: they may only be late, as a machine that is made
    anew after a preemption, and then the same command goes on.
    """
    _check_team(coordinator, processes, process)
    if not coordinator:
        yield SINGLE
        return
    jax.config.update("jax_enable_preemption_service", saves)
    joined = _join(coordinator, processes, process)
    watch, told_to_end = Watch(joined), None
    try:
        try:
            yield joined
        except SystemExit as all_end:
            told_to_end = all_end
        joined.wait("the end")  # jax's own wait ends all of them after 300 seconds, though process 0 may still upload
    except BaseException as error:
        watch.give_up(error)
    watch.leave()
    if told_to_end:
        raise told_to_end


class Watch:
    """A thread that gives signs of life and ends this process, which may hang in a sum over all, when others are gone.

    jax would end it too, later and without a word that a person understands.
    """

    def __init__(self, joined: Team):
        self._joined, self._leaving = joined, threading.Event()
        self._clock, self._last = 0.0, time.monotonic()
        self._seen: dict[int, tuple[str | None, float]] = {}  # what each said last, and since when
        self._asked: dict[int, float] = {}  # when one that says nothing was last found to live
        self._door = _door(joined, distributed.global_state.coordinator_address or "")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Waits until all leave: process 0 is the others' service."""
        jax.distributed.shutdown()
        self._leaving.set()
        self._thread.join(2 * BEAT)
        self._door.close()

    def give_up(self, error: BaseException) -> NoReturn:
        """Tells the others what this process fails of and ends it, as at the exit jax would wait for them in vain."""
        self._leaving.set()
        if found := explained(error):
            said, code = found
            print(f"error: {said}", file=sys.stderr)
        else:
            said, code = str(error) or type(error).__name__, CRASHED
            traceback.print_exception(error)
        with suppress(Exception):  # the service is gone, and so are the others
            self._joined.say("failed" if code == MISTAKE else "crashed", said)
        self._exit(code)

    def _run(self) -> None:
        joined, beat = self._joined, 0
        while not self._leaving.wait(BEAT):
            beat += 1
            with suppress(OSError):  # nobody waits
                while True:
                    self._door.accept()[0].close()
            try:
                joined.say("alive", str(beat))
                alive, failed = joined.told("alive"), joined.failures()
                gone = self._gone(alive)
            except Exception:  # the service is gone: with process 0, or because all have left
                if not self._leaving.wait(GRACE):
                    self._end(0, "cannot be reached", LOST)
                return
            if gone:
                self._end(*gone, LOST)
            if others := {number: said for number, said in failed.items() if number != joined.process}:
                if self._leaving.wait(GRACE):  # it may wait for the others and see for itself
                    return
                number, (said, code) = next(iter(others.items()))
                self._end(number, f"failed: {said}", code)

    def _gone(self, alive: dict[int, str]) -> tuple[int, str] | None:
        """The number of a process that is gone, and how that is known, from what each says now."""
        now = time.monotonic()
        self._clock += min(now - self._last, 3 * BEAT)  # where this process stood still, the others are not to blame
        self._last = now
        for number in range(self._joined.processes):
            said, since = self._seen.setdefault(number, (None, self._clock))
            if said != alive.get(number):
                self._seen[number] = alive.get(number), self._clock
            elif self._clock - max(since, self._asked.get(number, 0)) > SILENCE:
                if not self._lives(number):
                    return number, f"has given no sign of life for {SILENCE} seconds"
                if self._clock - since > BUSY:
                    return number, f"is there, but has given no sign of life for {BUSY} seconds"
                self._asked[number] = self._clock
        return None

    def _lives(self, number: int) -> bool:
        """Whether there is a process behind this one's door; one whose host refuses connections counts as gone."""
        host, _, port = self._joined.told("door").get(number, "").rpartition(":")
        try:
            socket.create_connection((host, int(port)), KNOCK).close()
        except (OSError, ValueError):
            return False
        return True

    def _end(self, number: int, what: str, code: int) -> None:
        joined = self._joined
        print(
            f"error: process {number} of {joined.processes} {what}; its own output says why; what was saved is intact: "
            "give all processes their command again to go on",
            file=sys.stderr,
        )
        self._exit(code)

    def _exit(self, code: int) -> NoReturn:
        """Ends this process; process 0, through which the others hear of its end, once they have, or had the time."""
        sys.stdout.flush()
        sys.stderr.flush()
        joined, last = self._joined, time.monotonic() + GRACE + 3 * BEAT
        try:
            joined.say("left", "")
            while joined.first and len(joined.told("left")) < joined.processes and time.monotonic() < last:
                time.sleep(POLL)
        finally:  # whatever a service that is gone raises
            os._exit(code)


def _door(joined: Team, coordinator: str) -> socket.socket:
    """A socket that connections come to while this process exists, whatever it does; tells the others where it is.

    The kernel takes them. The address is the one from which the coordinator is reached.
    """
    door = _listening(0)
    door.setblocking(False)
    os.register_at_fork(after_in_child=door.close)  # a child may outlive this process
    host, _, port = coordinator.rpartition(":")
    host = host.strip("[]")
    with suppress(OSError):  # a host that jax alone can resolve: the others do without
        kind, *_, place = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(kind, socket.SOCK_DGRAM) as route:
            route.connect(place)  # sends nothing
            own = route.getsockname()[0]
        # On the coordinator's own host, where its name may mean 127.0.1.1, the others come by that name.
        joined.say("door", f"{host if ip_address(own).is_loopback else own}:{door.getsockname()[1]}")
    return door


def _listening(port: int) -> socket.socket:
    """A socket that listens at all of the host's addresses, as jax does."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(("", port), family=family, backlog=4096, dualstack_ipv6=both)


def _join(coordinator: str, processes: int, process: int) -> Team:
    """Waits until all are there."""
    limits: dict[str, Any] = {"initialization_timeout": 2 * CONNECT, "heartbeat_timeout_seconds": 4 * SILENCE}
    who = "this process" if coordinator == AUTO else f"process {process} of {processes}"
    patience = threading.Timer(CONNECT, _alone, (f"--coordinator={coordinator}: {who} has met",))
    patience.daemon = True
    patience.start()
    try:
        if coordinator == AUTO:
            jax.distributed.initialize(**limits)
        else:
            if process == 0:
                _check_port(coordinator)
            print(f"{who}: meets the others at {coordinator}, within {CONNECT} seconds", flush=True)
            jax.distributed.initialize(coordinator, processes, process, **limits)
    except (RuntimeError, ValueError) as error:
        fail(f"--coordinator={coordinator}: {who} cannot join ({error}); check the address")
    finally:
        patience.cancel()
    # jax offers no other way to wait for processes alone, with neither devices nor a fixed time.
    state = distributed.global_state
    return Team(state.process_id, state.num_processes, state.client)


def _check_port(coordinator: str) -> None:
    """Raises UserError where process 0 cannot listen there: jax would crash."""
    port = int(coordinator.rpartition(":")[2])
    try:
        _listening(port).close()
    except OSError as error:
        fail(
            f"--coordinator={coordinator}: process 0 cannot listen at port {port}: {os.strerror(error.errno or 0)}; "
            "give all processes another one, or end the program that has it"
        )


def _alone(who: str) -> None:
    """Ends this process, which jax would end in a minute of its own, without the address."""
    print(
        f"error: {who} not all others within {CONNECT} seconds; start all processes; check address, port and firewall",
        file=sys.stderr,
        flush=True,
    )
    os._exit(LOST)


def _check_team(coordinator: str, processes: int, process: int) -> None:
    if coordinator == AUTO:
        return
    host, _, port = coordinator.rpartition(":")
    if not 0 <= process < processes:
        fail(f"--process: found {process}, expected a number from 0 to --processes - 1 = {processes - 1}")
    if processes > 1 and not coordinator:
        fail(f"--coordinator: missing, expected HOST:PORT of process 0 with --processes={processes}")
    if coordinator and not (host and port.isdecimal() and len(port) < 6 and 0 < int(port) < 65536):
        fail(f"--coordinator: found {coordinator!r}, expected HOST:PORT of process 0, as 10.0.0.1:8476")
