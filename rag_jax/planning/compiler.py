"""The TPU compiler, libtpu, which needs no TPU: the devices of a topology, and what it says of a program."""

import importlib.util
import os
import re
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from rag_jax.errors import fail
from rag_jax.planning import chips
from rag_jax.planning.chips import GIB, Topology

# Of a machine without a TPU, and beside other processes: else libtpu asks the network who it is, locks and warns.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
UNITS = {"K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}
ABSURD = 2**44  # bytes that no device has
TOO_MUCH = r"\(?(\d+(?:\.\d+)?)([KMGT])\)? (?:exceeds available HBM|of) \(?(\d+(?:\.\d+)?)([KMGT])"


class Compiled(NamedTuple):
    """What the compiler says of a program: bytes on a device beside its arguments, and how long it took.

    temporaries: with the results that do not replace arguments. code: the program itself. flops: its own count, which
    has a scanned layer once. fits: False where it was refused: temporaries are then all that it needs, with arguments.
    """

    temporaries: float
    code: float
    flops: float
    seconds: float
    fits: bool = True


def devices(topology: Topology) -> list[Any]:
    """The devices of a TPU topology; UserError where there is no libtpu."""
    if importlib.util.find_spec("libtpu") is None:
        fail(
            f"--topology={topology.name}: libtpu, the TPU compiler, is not installed; "
            "`pip install 'rag_jax[plan]'` (Linux x86_64; it needs no TPU)"
        )
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # A v4 chip's two cores are one device there; by itself libtpu splits 2x4 over two hosts, and 1x1 is none's.
    options: dict[str, Any] = {"chip_config_name": "megacore"} if topology.family == "v4" else {}
    if topology.chips in chips.ALONE.get(topology.family, {}):
        options["chips_per_host_bounds"] = (*map(int, topology.name.partition(":")[2].split("x")), 1)
    try:
        found: list[Any] = list(topologies.get_topology_desc(topology.name, platform="tpu", **options).devices)
    except jax.errors.JaxRuntimeError as error:
        fail(f"--topology={topology.name}: libtpu refuses it ({str(error).splitlines()[0]}); try another version of it")
    if len(found) != topology.devices:
        fail(f"--topology={topology.name}: libtpu makes {len(found)} devices of it, expected {topology.devices}")
    hosts = len({device.process_index for device in found})
    if hosts != topology.hosts:
        fail(f"--topology={topology.name}: libtpu spreads it over {hosts} hosts, expected {topology.hosts}")
    return found


def limit(device: Any) -> float:
    """Bytes of a device's memory that programs may use, as the compiler says when one wants too much."""
    alone = jax.sharding.SingleDeviceSharding(device)
    much = jax.ShapeDtypeStruct((ABSURD,), jnp.int8, sharding=alone)
    try:
        jax.jit(jnp.negative).lower(much).compile()
    except jax.errors.JaxRuntimeError as error:
        return too_much(error)[1]
    raise RuntimeError(f"{device}: the compiler takes {ABSURD} bytes")


def compiled(lowered: jax.stages.Lowered) -> Compiled:
    """Compiles a program; of one that does not fit, what it would need."""
    began = time.monotonic()
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return Compiled(too_much(error)[0], 0.0, 0.0, time.monotonic() - began, fits=False)
    seconds, memory, cost = time.monotonic() - began, program.memory_analysis(), program.cost_analysis() or {}
    assert memory is not None  # which every compiler of ours tells
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Compiled(
        memory.temp_size_in_bytes + new, memory.generated_code_size_in_bytes, cost.get("flops", 0.0), seconds
    )


def too_much(error: jax.errors.JaxRuntimeError) -> tuple[float, float]:
    """Bytes that a program asks for and bytes that are there, by the error; any other is raised again."""
    match = re.search(TOO_MUCH, str(error))
    if match is None:
        raise error
    return float(match[1]) * UNITS[match[2]], float(match[3]) * UNITS[match[4]]
