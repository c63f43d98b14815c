"""How passages lie: over how many hosts training searches them, and how many are one device's."""

from ml_collections import ConfigDict

from rag_jax.config import STAGES
from rag_jax.index import exact
from rag_jax.training import on_devices


def inside(config: ConfigDict) -> bool:
    """Whether the devices of all hosts search as one, because a stage searches inside its step."""
    return any(config[name].steps and on_devices.possible(config, config[name]) for name in STAGES)


def parts(config: ConfigDict, hosts: int) -> int:
    """Over so many hosts training splits the passages, see training.searchers; answering never does, see api.Rag."""
    return hosts if config.index.split and not inside(config) else 1


def share(passages: int, parts: int) -> int:
    """The passages of the largest of so many parts."""
    return -(-passages // parts)


def of_device(passages: int, devices: int) -> int:
    """The passages of one of a host's devices, see index.exact.ExactSearcher."""
    return max(share(passages, devices), min(exact.BLOCK, passages))
