"""A checkpoint's tensors on disk: safetensors and old pytorch_model.bin, whole or in shards."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401, which teaches numpy bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rag_jax.errors import UserError, printable
from rag_jax.files import inside, read_object, write_atomically
from rag_jax.hub.torch_bin import read_bin

SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"
FLOATS = ("F64", "F32", "F16", "BF16")
FOREIGN = ("tf_model.h5", "flax_model.msgpack", "model.onnx")


@dataclass(frozen=True)
class Tensor:
    """A tensor that is still on disk: its shape, and how to read it; np.asarray reads it, each time anew."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.read()
        return array if dtype is None else array.astype(dtype, copy=False)


def open_tensors(folder: str | Path) -> Mapping[str, Tensor]:
    """{name: Tensor} of a checkpoint's folder; reads headers alone, where the format has any.

    Raises UserError naming a file that is missing, damaged, or not a table of tensors.
    """
    folder = Path(folder)
    for name, opened in ((SAFETENSORS, _open_safetensors), (BIN, _open_bin)):
        index = folder / f"{name}.index.json"
        if (folder / name).exists():
            return opened(folder / name)
        if index.exists():
            return _open_shards(index, opened)
    foreign = [name for name in FOREIGN if (folder / name).exists()]
    hint = f"found {foreign[0]}, which is not read here" if foreign else "found no weights"
    raise UserError(f"{folder}: {hint}; expected {SAFETENSORS} or {BIN}, whole or in shards with an index")


def write_tensors(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file that transformers reads; whole or not at all, without a second copy in memory."""
    whole = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    write_atomically(path, lambda temporary: save_file(whole, temporary, metadata={"format": "pt"}))


def _open_shards(index: Path, opened: Callable[[Path], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    placed = read_object(index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise UserError(f"{index}: found no weight_map with a tensor in it, expected the file of each; restore it")
    files = sorted({inside(index.parent, name, index) for name in placed.values()})
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: missing, though {index.name} lists it; restore it")
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= opened(file)
    if lost := sorted(placed.keys() - tensors.keys()):
        name = printable(lost[0])
        raise UserError(f"{index.parent / placed[lost[0]]}: lacks {name}, which {index.name} places there; restore it")
    return tensors


def _open_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "np") as file:
            headers = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
            kinds = {name: (tuple(header.get_shape()), header.get_dtype()) for name, header in headers.items()}
    except (SafetensorError, OSError) as error:
        said = " ".join(str(error).split())  # it quotes the header
        raise UserError(f"{path}: damaged ({said}); restore it or download it again") from error

    def reader(name: str, kind: str) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:
            if kind not in FLOATS:
                raise UserError(f"{path}: tensor {name} holds {kind} numbers, expected {', '.join(FLOATS)}")
            # Opened anew, so that the pages of the last tensor do not stay mapped into memory.
            with safe_open(path, "np") as file:
                return file.get_tensor(name)

        return read

    return {name: Tensor(shape, reader(name, kind)) for name, (shape, kind) in kinds.items()}


def _open_bin(path: Path) -> dict[str, Tensor]:
    return {name: Tensor(shape, read) for name, (shape, read) in read_bin(path).items()}
