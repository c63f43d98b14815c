"""Accelerators by name: their peaks, their hosts and their prices, and the topologies in which they are let.

TPUs: Google's "Cloud TPU documentation", pages v3, v4, v5e, v5p and v6e, and for hosts' memory "Plan TPUs in GKE". A
host is a VM there, which runs one process.
GPUs: NVIDIA's data sheets of A100 80GB SXM, H100 SXM and H200 SXM, without sparsity.
Prices: of one chip on demand, before taxes, in SkyPilot's catalog (skypilot-org/skypilot-catalog, catalogs/v8: gcp at
commit 006059e, lambda at commit 0f40703), as it was read on 27 November 2026.
"""

import math
import os
import re
from typing import NamedTuple

from rag_jax.errors import fail

GIB = 2**30
PRICES_OF = "SkyPilot's catalog, read on 27 November 2026"
SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8")
# fp32 at HIGHEST is six products of bf16 on a TPU (jax.lax.Precision), at its default precision one.
PASSES = 6


class Chip(NamedTuple):
    """A chip, or where jax counts several devices a chip, one of these; 0 where a figure is not known.

    half, single, exact: products a second, two operations each multiply-and-add, of 16-bit numbers, of fp32 at the
    default precision and at HIGHEST. bandwidth: of its memory, bytes a second. memory: bytes, as documented.
    on_host: chips of one host of several; host_memory: its bytes. dollars: of a chip for an hour; region: there.
    a_chip: devices of one chip.
    """

    half: float
    single: float
    exact: float
    bandwidth: float
    memory: float
    on_host: int
    host_memory: float
    dollars: float
    region: str
    topologies: tuple[str, ...] = ()
    a_chip: int = 1


def _tpu(teraflops, gigabytes, gib, on_host, host_gb, dollars, region, topologies, a_chip=1) -> Chip:
    bf16 = teraflops * 1e12 / a_chip
    peaks = bf16, bf16, bf16 / PASSES, gigabytes * 1e9 / a_chip, gib * GIB / a_chip
    return Chip(*peaks, on_host, host_gb * 1e9, dollars, region, topologies, a_chip)


def _gpu(half, single, exact, terabytes, gigabytes, host_gib, dollars, region) -> Chip:
    return Chip(
        half * 1e12, single * 1e12, exact * 1e12, terabytes * 1e12, gigabytes * 1e9, 8, host_gib * GIB, dollars, region
    )


TPUS = {
    "v3": _tpu(123, 900, 32, 4, 340, 2.00, "us-central1", ("2x2", "4x4", "4x8", "8x8", "8x16", "16x16"), a_chip=2),
    "v4": _tpu(275, 1200, 32, 4, 407, 3.22, "us-central2", CUBES),
    "v5e": _tpu(197, 819, 16, 4, 192, 1.20, "us-central1", SQUARES),
    "v5p": _tpu(459, 2765, 95, 4, 448, 4.20, "us-east5", CUBES),
    "v6e": _tpu(918, 1638, 32, 4, 720, 2.70, "us-east1", SQUARES),
}
ALONE = {"v5e": {1: 48, 8: 384}, "v6e": {1: 176, 8: 1440}}  # GB of hosts that are a slice by themselves, by chips
GPUS = {
    "a100": _gpu(312, 156, 19.5, 2.039, 80, 0, 0.0, ""),
    "h100": _gpu(989, 495, 67, 3.35, 80, 1800, 3.99, "Lambda"),
    "h200": _gpu(989, 495, 67, 4.8, 141, 0, 0.0, ""),
}


class Topology(NamedTuple):
    """So many chips as one machine. kind: 'tpu', 'gpu' or 'cpu'; family: of its chips; chips: how many."""

    name: str
    kind: str
    family: str
    chip: Chip
    chips: int

    @property
    def devices(self) -> int:
        """As jax counts them."""
        return self.chips * self.chip.a_chip

    @property
    def hosts(self) -> int:
        """Machines, each of which runs one process."""
        return -(-self.chips // self.chip.on_host)

    @property
    def on_host(self) -> int:
        """Devices of one process."""
        return self.devices // self.hosts

    @property
    def device(self) -> str:
        """What a device is, in a word."""
        return {"tpu": "core" if self.chip.a_chip > 1 else "chip", "gpu": "GPU", "cpu": "device"}[self.kind]


def known() -> str:
    """Every topology there is, for people."""
    compiled = [f"{family}:{'|'.join(chip.topologies)}" for family, chip in TPUS.items()]
    return f"{', '.join(compiled)}; and for an estimate gpu:{'|'.join(GPUS)}, as gpu:h100x8, or cpu:N"


def topology(name: str) -> Topology:
    """The topology 'v5e:2x4', 'gpu:h100x8' or 'cpu:8', whose devices share this machine's memory.

    Raises UserError that lists those there are.
    """
    family, _, layout = name.partition(":")
    if family in TPUS and layout in TPUS[family].topologies:
        chips, chip = math.prod(map(int, layout.split("x"))), TPUS[family]
        if gigabytes := ALONE.get(family, {}).get(chips):
            chip = chip._replace(on_host=chips, host_memory=gigabytes * 1e9)
        return Topology(name, "tpu", family, chip, chips)
    if family == "cpu" and re.fullmatch("[1-9][0-9]{0,5}", layout):
        devices, memory = int(layout), float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        return Topology(name, "cpu", "cpu", Chip(0, 0, 0, 0, memory / devices, devices, memory, 0, ""), devices)
    match = re.fullmatch(f"({'|'.join(GPUS)})x([1-9][0-9]{{0,5}})", layout) if family == "gpu" else None
    if match is None:
        fail(f"--topology: found {name!r}, which does not exist; expected one of {known()}")
    chip, chips = GPUS[match[1]], int(match[2])
    hosts, left = divmod(chips, chip.on_host)
    if hosts and left:
        fewer, more = (f"gpu:{match[1]}x{count * chip.on_host}" for count in (hosts, hosts + 1))
        fail(
            f"--topology: found {name!r}, but a host has {chip.on_host} GPUs; expected {fewer}, {more} or another "
            f"multiple of {chip.on_host}, or at most one host's"
        )
    return Topology(name, "gpu", match[1], chip, chips)
