"""Topologies by name, and the tables of chips."""

import pytest

from rag_jax.errors import UserError
from rag_jax.planning import chips
from rag_jax.planning.chips import GIB, topology


@pytest.mark.parametrize(
    ("name", "chips", "devices", "hosts", "memory"),
    [
        ("v5e:2x4", 8, 8, 1, 16 * GIB),
        ("v5e:4x4", 16, 16, 4, 16 * GIB),
        ("v5e:4x8", 32, 32, 8, 16 * GIB),
        ("v6e:16x16", 256, 256, 64, 32 * GIB),
        ("v4:2x2x4", 16, 16, 4, 32 * GIB),
        ("v3:2x2", 4, 8, 1, 16 * GIB),  # two cores a chip, each a device
        ("gpu:h100x4", 4, 4, 1, 80e9),
        ("gpu:h100x16", 16, 16, 2, 80e9),
    ],
)
def test_a_topology_has_chips_devices_and_hosts(name, chips, devices, hosts, memory):
    found = topology(name)
    assert (found.chips, found.devices, found.hosts, found.chip.memory) == (chips, devices, hosts, memory)
    assert found.on_host * hosts == devices


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [
        ("v5e:1x1", 48), ("v5e:2x2", 192), ("v5e:2x4", 384), ("v5e:4x4", 192), ("v5e:4x8", 192),
        ("v6e:1x1", 176), ("v6e:2x2", 720), ("v6e:2x4", 1440), ("v6e:8x8", 720), ("v4:2x2x2", 407),
    ],
)  # fmt: skip
def test_a_host_by_itself_has_more_chips_and_memory_than_one_of_several(name, gigabytes):
    assert topology(name).chip.host_memory == gigabytes * 1e9


@pytest.mark.parametrize(("number", "expected"), [(9, "gpu:h100x8, gpu:h100x16"), (20, "gpu:h100x16, gpu:h100x24")])
def test_gpus_of_several_hosts_are_whole_hosts(number, expected):
    with pytest.raises(UserError, match=f"found 'gpu:h100x{number}', but a host has 8 GPUs; expected {expected} or"):
        topology(f"gpu:h100x{number}")


def test_devices_of_a_cpu_share_its_memory():
    one, eight = topology("cpu:1"), topology("cpu:8")
    assert eight.devices == 8 and eight.hosts == 1
    assert 8 * eight.chip.memory == one.chip.memory == one.chip.host_memory > 0


@pytest.mark.parametrize(
    "name", ["v5e:3x3", "v5e", "v9:2x2", "v4:2x2", "gpu:8", "gpu:v100x8", "gpu:h100x0", "cpu:0", ""]
)
def test_one_that_does_not_exist_is_told_which_do(name):
    with pytest.raises(
        UserError, match=r"--topology: found .*expected one of .*v5e:1x1\|2x2\|2x4.*gpu:a100\|h100"
    ) as error:
        topology(name)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize("chip", [*chips.TPUS.values(), *chips.GPUS.values()])
def test_peaks_are_in_order(chip):
    assert chip.half >= chip.single > chip.exact > chip.bandwidth > chip.memory > 0
    assert chip.dollars == 0 or chip.region
