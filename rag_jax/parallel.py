"""The only file that knows a mesh axis: how a step runs on many devices, and the collectives that it may use.

`Pmap` keeps the whole state on every device (jax.pmap, the default); `Sharded` splits parameters and optimizer state
over them (jax.jit over a mesh). Both run the same step. State and parameters are global and unstacked everywhere
outside, so that checkpoints, evaluation and tests never see a device axis. Several processes give their devices to one
step; each puts in its own share of the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import compilation_cache
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rag_jax.compiled import Programs
from rag_jax.errors import UserError

AXIS = "device"
SMALL = 1 << 14  # numbers of an array that is not worth splitting


@dataclass(frozen=True)
class Across:
    """What a step may know of its fellow devices.

    sum: adds a tree over all devices.  gather: concatenates arrays of all devices along the first axis.
    index: this device's number, for its own random numbers.
    each: each(function, *arrays) calls function(across, *arrays) where a device has rows of its own of every array,
    and an `across` that reaches the others; what it returns are rows too. Not for gradients.
    """

    sum: Callable[[Any], Any]
    gather: Callable[[Any], Any]
    index: Callable[[], Any]
    each: Callable[..., Any]


ALONE: Across = Across(
    sum=lambda tree: tree,
    gather=lambda tree: tree,
    index=lambda: 0,
    each=lambda function, *arrays: function(ALONE, *arrays),
)
MAPPED: Across = Across(
    sum=partial(jax.lax.psum, axis_name=AXIS),
    gather=partial(jax.lax.all_gather, axis_name=AXIS, tiled=True),
    index=partial(jax.lax.axis_index, AXIS),
    each=lambda function, *arrays: function(MAPPED, *arrays),
)


class _Devices:
    """The devices that share a step, of all processes, and those of this process among them."""

    def __init__(self, devices: list[jax.Device] | None = None):
        self.devices = list(jax.devices() if devices is None else devices)
        mine = set(jax.local_devices())
        # Devices of a machine that is not here, which programs are compiled for, count as one process's.
        self.local = [device for device in self.devices if device in mine] or self.devices
        self.processes = len(self.devices) // len(self.local)
        self._mesh = Mesh(np.array(self.devices), (AXIS,))

    def check_batch(self, key: str, batch: int, accumulation: int = 1) -> None:
        """Raises UserError for a batch of the configuration that does not divide over the devices."""
        if batch % (len(self.devices) * accumulation):
            parts = f" x {accumulation} {key.rpartition('.')[0]}.accumulation" if accumulation > 1 else ""
            raise UserError(f"config.{key}: found {batch}, expected a multiple of {len(self.devices)} devices{parts}")

    def share(self, batch: int) -> slice:
        """The rows of a batch of all processes that are this process's."""
        rows = batch // self.processes
        first = rows * (jax.process_index() if self.processes > 1 else 0)
        return slice(first, first + rows)

    def of_all(self, array: np.ndarray) -> np.ndarray:
        """The rows that every process has, one after the other; all must come here with as many."""
        if self.processes == 1:
            return array
        with jax.transfer_guard("allow"):  # what all sent is read from a device, unasked
            return np.asarray(multihost_utils.process_allgather(array, tiled=True))

    def abstract_parts(self, tree: Any) -> Any:
        """What one device has, as shapes, with the form and placement of `put_parts`."""

        def shape(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((len(self.devices), *leaf.shape), leaf.dtype, sharding=self._on(AXIS))

        return jax.tree.map(shape, tree)

    def _parts(self, part: Callable[[int], Any], among: list[jax.Device], split: NamedSharding) -> Any:
        def joined(*shards: jax.Array) -> jax.Array:
            shape = len(among), *shards[0].shape[1:]
            return jax.make_array_from_single_device_arrays(shape, split, list(shards))

        placed = []
        for number, device in enumerate(self.devices):
            if device in self.local:
                placed.append(jax.device_put(jax.tree.map(lambda leaf: leaf[None], part(number)), device))
        return jax.tree.map(joined, *placed)

    def _on(self, *axes: str | None) -> NamedSharding:
        return NamedSharding(self._mesh, PartitionSpec(*axes))


class Pmap(_Devices):
    """Runs functions of (replicated state, batch split over devices) on all given devices."""

    def __init__(self, devices: list[jax.Device] | None = None):
        super().__init__(devices)
        # pmap keeps a process's copies and rows on its own devices, whatever the others have.
        mesh = Mesh(np.array(self.local), (AXIS,))
        self._split, self._whole = NamedSharding(mesh, PartitionSpec(AXIS)), NamedSharding(mesh, PartitionSpec())

    def step(self, function: Callable, **static: Any) -> Callable:
        """function(state, batch, across=...) -> (state, metrics), both whole on every device; the state is donated."""
        mapped = partial(function, across=MAPPED, **static)
        return jax.pmap(mapped, AXIS, in_axes=(None, 0), out_axes=(None, None), donate_argnums=0, devices=self.devices)

    def batch(self, function: Callable) -> Callable:
        """function(params, batch) -> arrays with a leading batch axis; the result stays split over the devices.

        Of several processes each runs it alone, on its own devices.
        """
        return jax.pmap(function, AXIS, in_axes=(None, 0), out_axes=0, devices=self.local)

    def put_batch(self, batch: Any) -> Any:
        """This process's rows [B, ...] onto its devices as [devices, B/devices, ...]; B must divide over them."""
        count = len(self.local)

        def put(array: np.ndarray) -> jax.Array:
            check_rows(array, count)
            rows = len(array) // count  # -1 would not do: the query of BM25 has no width
            return jax.device_put(array.reshape(count, rows, *array.shape[1:]), self._split)

        return jax.tree.map(put, batch)

    def put_parts(self, part: Callable[[int], Any]) -> Any:
        """part(number) is what device `number` has, as numpy, made one after the other: arrays [devices, ...]."""
        return self._parts(part, self.local, self._split)

    def each(self, function: Callable) -> Callable:
        """Across.each as a program of its own: function(across, *arrays), each array split over the devices."""
        return jax.pmap(partial(function, MAPPED), AXIS, devices=self.devices)

    def put_state(self, tree: Any) -> Any:
        """A tree of arrays onto every device, whole."""
        return jax.device_put(tree, self._whole)

    def abstract_state(self, tree: Any) -> Any:
        """Shapes with the placement of `put_state`, for a restore straight onto the devices."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._whole), tree)

    def abstract_batch(self, tree: Any) -> Any:
        """Shapes [B, ...] with the form and placement of `put_batch`, to compile without a batch."""
        count = len(self.local)

        def shape(leaf: Any) -> jax.ShapeDtypeStruct:
            form = (count, leaf.shape[0] // count, *leaf.shape[1:])
            return jax.ShapeDtypeStruct(form, leaf.dtype, sharding=self._split)

        return jax.tree.map(shape, tree)

    def to_host(self, tree: Any) -> Any:
        """Arrays [devices, B/devices, ...] back to numpy [B, ...]."""
        return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), jax.device_get(tree))

    def to_global(self, state: Any) -> Any:
        """The state as arrays of all processes, which a checkpoint of several demands."""
        if self.processes == 1:
            return state
        whole = self._on()

        def joined(leaf: jax.Array) -> jax.Array:
            shards = [shard.data for shard in leaf.addressable_shards]
            return jax.make_array_from_single_device_arrays(leaf.shape, whole, shards)

        return jax.tree.map(joined, state)

    def read(self, state: Any) -> Any:
        """The state as numpy."""
        return jax.device_get(state)


class Sharded(_Devices):
    """The same, with every large array of the state split over the devices along its longest axis that they divide.

    Parameters are gathered where a layer needs them, gradients are summed into the parts that stay. Functions see the
    whole batch, and XLA splits the work; of several processes all must call the same ones in the same order.
    """

    def __init__(self, devices: list[jax.Device] | None = None):
        super().__init__(devices)
        self._split, self._whole = self._on(AXIS), self._on()
        self._across = Across(
            sum=lambda tree: jax.lax.with_sharding_constraint(tree, jax.tree.map(self._placed, tree)),
            gather=lambda tree: tree,
            index=lambda: 0,
            each=self._each,
        )

    def step(self, function: Callable, **static: Any) -> Callable:
        """function(state, batch, across=...) -> (state, metrics); the state comes back split, and is donated."""

        def whole(state: Any, batch: Any) -> tuple[Any, Any]:
            state, metrics = function(state, batch, across=self._across, **static)
            placed = jax.tree.map(self._placed, state)
            metrics = jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, self._whole), metrics)
            return jax.lax.with_sharding_constraint(state, placed), metrics

        return jax.jit(whole, donate_argnums=0)

    def batch(self, function: Callable) -> Callable:
        """function(params, batch) -> arrays with a leading batch axis; the result stays split over the devices."""
        return jax.jit(function, out_shardings=self._split)

    def put_batch(self, batch: Any) -> Any:
        """This process's rows [B, ...] as a part of the array of all processes' rows, split over the devices."""

        def put(array: np.ndarray) -> jax.Array:
            check_rows(array, len(self.local))
            if self.processes == 1:
                return jax.device_put(array, self._split)
            shards = list(map(jax.device_put, np.split(array, len(self.local)), self.local))
            shape = len(array) * self.processes, *array.shape[1:]
            return jax.make_array_from_single_device_arrays(shape, self._split, shards)

        return jax.tree.map(put, batch)

    def put_parts(self, part: Callable[[int], Any]) -> Any:
        """part(number) is what device `number` has, as numpy, made one after the other: arrays [devices, ...]."""
        return self._parts(part, self.devices, self._split)

    def each(self, function: Callable) -> Callable:
        """Across.each as a program of its own: function(across, *arrays), each array split over the devices."""
        return jax.jit(partial(self._each, function))

    def put_state(self, tree: Any) -> Any:
        """A tree of arrays, the same in all processes, onto the devices, the large ones split."""

        def put(leaf: Any) -> jax.Array:
            placed = self._placed(leaf)
            if self.processes == 1:
                return jax.device_put(leaf, placed)
            if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
                return leaf
            leaf = np.asarray(jax.device_get(leaf))
            return jax.make_array_from_callback(leaf.shape, placed, leaf.__getitem__)

        return jax.tree.map(put, tree)

    def abstract_state(self, tree: Any) -> Any:
        """Shapes with the placement of `put_state`, for a restore straight onto the devices."""

        def shape(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._placed(leaf))

        return jax.tree.map(shape, tree)

    def abstract_batch(self, tree: Any) -> Any:
        """Shapes [B, ...] with the placement of `put_batch`, to compile without a batch."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._split), tree)

    def to_host(self, tree: Any) -> Any:
        """This process's rows of arrays that are split over the devices, as numpy."""
        if self.processes == 1:
            return jax.device_get(tree)

        def rows(array: jax.Array) -> np.ndarray:
            shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
            return np.concatenate(jax.device_get([shard.data for shard in shards]))

        return jax.tree.map(rows, tree)

    def to_global(self, state: Any) -> Any:
        """The state as arrays of all processes, which it is."""
        return state

    def read(self, state: Any) -> Any:
        """The state as numpy, whole; every process must ask for it. No device holds more than one array whole."""
        whole = jax.jit(lambda leaf: leaf, out_shardings=self._whole)
        return jax.tree.map(lambda leaf: jax.device_get(whole(leaf)), state)

    def _placed(self, leaf: Any) -> NamedSharding:
        count = len(self.devices)
        sizes = [size if size % count == 0 else 0 for size in leaf.shape]
        if leaf.size < SMALL or not any(sizes):
            return self._whole
        return self._on(*[None] * int(np.argmax(sizes)), AXIS)

    def _each(self, function: Callable, *arrays: Any) -> Any:
        rows = PartitionSpec(AXIS)
        # Not for gradients, so there is nothing for the check of varying values to guard; a scan's start fails it.
        on_each = partial(function, MAPPED)
        return jax.shard_map(on_each, mesh=self._mesh, in_specs=rows, out_specs=rows, check_vma=False)(*arrays)


def keep_programs(folder: Path) -> None:
    """Compiled programs are kept in the folder and found there again; JAX_COMPILATION_CACHE_DIR goes first."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")  # XLA's own files have no checksums
        # jax has no other place to put a cache of one's own in.
        compilation_cache.get_file_cache = lambda path: (Programs(path), path)


Devices = Pmap | Sharded
MODES: dict[str, type[Pmap] | type[Sharded]] = {"pmap": Pmap, "sharded": Sharded}


def check_rows(array: Any, devices: int) -> None:
    """Raises UserError for rows that do not divide over so many devices."""
    if array.shape[0] % devices:
        raise UserError(
            f"batch: {array.shape[0]} questions do not divide over {devices} devices; use a multiple of {devices}"
        )
