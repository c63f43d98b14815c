"""Strict settings shared by every test: 8 virtual CPU devices, no rank promotion, no network."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also run the tests marked long (30 minutes on 2 cores)")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--long"):
        deselected = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if not item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=deselected)


@pytest.fixture(scope="session")
def rng():
    return jax.random.key(0)
