"""Parameters to transformers' tensors and back, by a table of rules; nothing is left out silently."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from rag_jax.errors import UserError
from rag_jax.hub.rules import Rule

_TO_THEIRS = {"same": lambda x: x, "transpose": lambda x: x.T, "row": lambda x: x[None]}
_TO_OURS = {"same": lambda x: x, "transpose": lambda x: x.T, "row": lambda x: x[0]}


def to_huggingface(params: Mapping[str, Any], rows: Sequence[Rule]) -> dict[str, np.ndarray]:
    """Returns {their name: array} for all of our parameters, each tied tensor once.

    Raises UserError naming a parameter that no row explains.
    """
    ours = flatten_dict(params, sep="/")
    tensors = {}
    for row in rows:
        if row.ours not in ours:
            continue
        array = np.asarray(ours.pop(row.ours))
        for name, part in zip(_names(row.theirs, len(array)), _layers(row, array), strict=True):
            tensors[name] = np.ascontiguousarray(_TO_THEIRS[row.transform](part))
    if ours:
        raise UserError(
            f"export: parameter {_listed(ours)} has no row in the table of names, expected one for each; "
            "export with the table of the model that was trained"
        )
    return tensors


def from_huggingface(
    tensors: Mapping[str, np.ndarray],
    rows: Sequence[Rule],
    shapes: Mapping[str, Any],
    source: str = "checkpoint",
) -> dict[str, Any]:
    """Returns parameters shaped and typed as `shapes` (arrays or ShapeDtypeStructs, nested like parameters).

    source: what messages call the tensors' origin. Raises UserError naming a tensor that no row explains, a
    parameter that no tensor gives, a tensor of another shape, or tied tensors that differ.
    """
    shapes = flatten_dict(shapes, sep="/")
    left, params = dict(tensors), {}
    dropped = [row.theirs for row in rows if row.ours is None]
    for row in rows:
        if row.ours in shapes:
            params[row.ours] = _take(row, left, shapes[row.ours], source)
    if missing := shapes.keys() - params.keys():
        raise UserError(
            f"import: parameter {_listed(missing)} has no row in the table of names, expected one for each; "
            "import with the table of this model"
        )
    if surplus := [name for name in left if not any(fnmatchcase(name, pattern) for pattern in dropped)]:
        raise UserError(
            f"{source}: tensor {_listed(surplus)} has no place in this model, expected only the model's own; "
            "check the model's kind, its number of layers and its projection"
        )
    return unflatten_dict(params, sep="/")


def _take(row: Rule, left: dict[str, np.ndarray], shape: Any, source: str) -> np.ndarray:
    """Takes one row's tensors out of `left`, as our array."""
    stacked = "{i}" in row.theirs
    out = np.zeros(shape.shape, shape.dtype)
    for i, target in enumerate(out if stacked else [out]):
        names = [name.replace("{i}", str(i)) for name in (row.theirs, *row.aliases)]
        found = {name: left.pop(name) for name in names if name in left}
        if not found:
            if row.absent_is_zero:
                continue
            raise UserError(
                f"{source}: tensor {names[0]} is missing, expected it for parameter {row.ours}; "
                "check the model's kind and its number of layers"
            )
        (name, tensor), *others = found.items()
        expected = _TO_THEIRS[row.transform](target).shape
        if tensor.shape != expected:
            raise UserError(
                f"{source}: tensor {name} has shape {tensor.shape}, expected {expected}; check the model's sizes"
            )
        for other, copy in others:
            if not np.array_equal(tensor, copy):
                raise UserError(
                    f"{source}: tensors {name} and {other} differ, expected one shared table; "
                    "models with untied embeddings are not supported"
                )
        target[...] = _TO_OURS[row.transform](tensor)
    return out


def _names(theirs: str, length: int) -> list[str]:
    return [theirs.replace("{i}", str(i)) for i in range(length)] if "{i}" in theirs else [theirs]


def _layers(row: Rule, array: np.ndarray) -> Iterable[np.ndarray]:
    return array if "{i}" in row.theirs else [array]


def _listed(names: Iterable[str]) -> str:
    """The first name in order, and how many more there are."""
    first, *rest = sorted(names)
    return f"{first} (and {len(rest)} more)" if rest else first
