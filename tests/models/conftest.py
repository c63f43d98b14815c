"""transformers to compare with; without it, and torch, no test of this folder runs."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from .oracle import Oracle


@pytest.fixture(scope="session")
def oracle():
    return Oracle
