"""The only file that knows a mesh axis: replicated data parallelism by jax.pmap, the collectives a step may use; and
how the processes of one job wait for each other.

State and parameters are global and unstacked everywhere outside: pmap broadcasts them in and hands one copy back
(`in_axes=None`, `out_axes=None`), so checkpoints, evaluation and tests never see a device axis.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax._src import distributed
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rag_jax.errors import UserError, fail

AXIS = "device"
CONNECT = 300  # seconds that the processes of a job have to find each other
SILENCE = 100  # seconds without a sign of life after which a process counts as dead, and ends the others
POLL = 0.2  # seconds


class Across(NamedTuple):
    """What a step may know of its fellow devices.

    sum: adds a tree over all devices.  gather: concatenates arrays of all devices along the first axis.
    index: this device's number, for its own random numbers.
    """

    sum: Callable[[Any], Any]
    gather: Callable[[Any], Any]
    index: Callable[[], Any]


ALONE = Across(sum=lambda tree: tree, gather=lambda tree: tree, index=lambda: 0)
MAPPED = Across(
    sum=partial(jax.lax.psum, axis_name=AXIS),
    gather=partial(jax.lax.all_gather, axis_name=AXIS, tiled=True),
    index=partial(jax.lax.axis_index, AXIS),
)


class Pmap:
    """Runs functions of (replicated state, batch split over devices) on all given devices."""

    def __init__(self, devices: list[jax.Device] | None = None):
        self.devices = list(devices or jax.devices())
        mesh = Mesh(np.array(self.devices), (AXIS,))
        self._split = NamedSharding(mesh, PartitionSpec(AXIS))
        self._whole = NamedSharding(mesh, PartitionSpec())

    def check_batch(self, key: str, batch: int, accumulation: int = 1) -> None:
        """Raises UserError for a batch of the configuration that does not divide over the devices."""
        if batch % (len(self.devices) * accumulation):
            parts = f" x {accumulation} {key.rpartition('.')[0]}.accumulation" if accumulation > 1 else ""
            raise UserError(f"config.{key}: found {batch}, expected a multiple of {len(self.devices)} devices{parts}")

    def step(self, function: Callable, **static: Any) -> Callable:
        """function(state, batch, across=...) -> (state, metrics), both whole on every device; the state is donated."""
        mapped = partial(function, across=MAPPED, **static)
        return jax.pmap(mapped, AXIS, in_axes=(None, 0), out_axes=(None, None), donate_argnums=0, devices=self.devices)

    def batch(self, function: Callable) -> Callable:
        """function(params, batch) -> arrays with a leading batch axis; the result stays split over the devices."""
        return jax.pmap(function, AXIS, in_axes=(None, 0), out_axes=0, devices=self.devices)

    def put_batch(self, batch: Any) -> Any:
        """Numpy arrays [B, ...] onto the devices as [devices, B/devices, ...]; B must divide over them."""
        count = len(self.devices)

        def put(array: np.ndarray) -> jax.Array:
            if array.shape[0] % count:
                raise UserError(
                    f"batch: {array.shape[0]} questions do not divide over {count} devices; use a multiple of {count}"
                )
            return jax.device_put(array.reshape(count, -1, *array.shape[1:]), self._split)

        return jax.tree.map(put, batch)

    def put_whole(self, tree: Any) -> Any:
        """A tree of arrays onto every device, whole."""
        return jax.device_put(tree, self._whole)

    def abstract_whole(self, tree: Any) -> Any:
        """Shapes with the placement of `put_whole`, for a restore straight onto the devices."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._whole), tree)

    def abstract_batch(self, tree: Any) -> Any:
        """Shapes [B, ...] with the form and the placement of `put_batch`."""
        count = len(self.devices)

        def placed(leaf: Any) -> jax.ShapeDtypeStruct:
            shape = count, leaf.shape[0] // count, *leaf.shape[1:]
            return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=self._split)

        return jax.tree.map(placed, tree)

    def to_host(self, tree: Any) -> Any:
        """Arrays [devices, B/devices, ...] back to numpy [B, ...]."""
        return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), jax.device_get(tree))


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

    coordinator: HOST:PORT of process 0, the same for all. A failure inside is told to the others.
    Raises UserError for arguments that describe no team; jax itself ends a process that waits CONNECT seconds in vain.
    """
    _check_team(coordinator, processes, process)
    if not coordinator:
        yield SINGLE
        return
    print(f"process {process} of {processes}: meets the others at {coordinator}, within {CONNECT} seconds", flush=True)
    try:
        jax.distributed.initialize(
            coordinator, processes, process, initialization_timeout=CONNECT, heartbeat_timeout_seconds=SILENCE
        )
    except (RuntimeError, ValueError) as error:
        fail(f"--coordinator={coordinator}: process {process} of {processes} cannot join ({error}); check the address")
    # jax offers no other way to wait for processes alone, with neither devices nor a fixed time.
    joined = Team(process, processes, distributed.global_state.client)
    try:
        yield joined
    except BaseException as error:
        joined.tell(error)
        raise
    finally:
        jax.distributed.shutdown()  # waits for the others: process 0 is their service


def _check_team(coordinator: str, processes: int, process: int) -> None:
    host, _, port = coordinator.rpartition(":")
    if not 0 <= process < processes:
        fail(f"--process: found {process}, expected a number from 0 to --processes - 1 = {processes - 1}")
    if processes > 1 and not coordinator:
        fail(f"--coordinator: missing, expected HOST:PORT of process 0 with --processes={processes}")
    if coordinator and not (host and port.isdecimal()):
        fail(f"--coordinator: found '{coordinator}', expected HOST:PORT of process 0, as 10.0.0.1:8476")
