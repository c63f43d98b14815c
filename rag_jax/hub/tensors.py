"""Tensors on disk; owns the package safetensors."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def write_tensors(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes contiguous arrays by name to a .safetensors file that transformers opens."""
    save_file(dict(tensors), path, metadata={"format": "pt"})
