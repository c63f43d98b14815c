"""The only file that knows a mesh axis: replicated data parallelism by jax.pmap, and the collectives a step may use.

State and parameters are global and unstacked everywhere outside: pmap broadcasts them in and hands one copy back
(`in_axes=None`, `out_axes=None`), so checkpoints, evaluation and tests never see a device axis.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rag_jax.errors import UserError

AXIS = "device"


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

    def to_host(self, tree: Any) -> Any:
        """Arrays [devices, B/devices, ...] back to numpy [B, ...]."""
        return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), jax.device_get(tree))
