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
_SHAPES = {"same": lambda shape: shape, "transpose": lambda shape: shape[::-1], "row": lambda shape: (1, *shape)}


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
    tensors: Mapping[str, Any],
    rows: Sequence[Rule],
    shapes: Mapping[str, Any],
    source: str = "checkpoint",
) -> dict[str, Any]:
    """Returns parameters shaped and typed as `shapes` (arrays or ShapeDtypeStructs, nested like parameters).

    tensors: arrays, or what has a shape and becomes one by np.asarray (hub.tensors.Tensor); none is read before all
    names and shapes agree, and then one at a time. source: what messages call the tensors' origin. Raises UserError
    naming a tensor that no row explains, a parameter that no tensor gives, a tensor of another shape, or tied
    tensors that differ.
    """
    flat: dict[str, Any] = flatten_dict(shapes, sep="/")
    left = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    plan = {row.ours: (row, _find(row, left, flat[row.ours].shape, source)) for row in rows if row.ours in flat}
    if missing := flat.keys() - plan.keys():
        raise UserError(
            f"import: parameter {_listed(missing)} has no row in the table of names, expected one for each; "
            "import with the table of this model"
        )
    dropped = [row.theirs for row in rows if row.ours is None]
    if surplus := [name for name in left if not any(fnmatchcase(name, pattern) for pattern in dropped)]:
        raise UserError(
            f"{source}: tensor {_listed(surplus)} has no place in this model, expected only the model's own; "
            "check the model's kind, its number of layers and its projection"
        )
    params = {ours: _read(row, found, tensors, flat[ours], source) for ours, (row, found) in plan.items()}
    return unflatten_dict(params, sep="/")


def _find(row: Rule, left: dict[str, tuple[int, ...]], shape: tuple[int, ...], source: str) -> list[list[str]]:
    """Takes a row's tensors out of `left`; returns the names that give each layer, several where they are tied."""
    stacked = "{i}" in row.theirs
    expected = _SHAPES[row.transform](shape[1:] if stacked else shape)
    found = []
    for i in range(shape[0] if stacked else 1):
        names = [name.replace("{i}", str(i)) for name in (row.theirs, *row.aliases)]
        found.append([name for name in names if name in left])
        if not found[-1] and not row.absent_is_zero:
            raise UserError(
                f"{source}: tensor {names[0]} is missing, expected it for parameter {row.ours}; "
                "check the model's kind and its number of layers"
            )
        for name in found[-1]:
            if (given := left.pop(name)) != expected:
                raise UserError(
                    f"{source}: tensor {name} has shape {given}, expected {expected}; check the model's sizes"
                )
    return found


def _read(row: Rule, found: list[list[str]], tensors: Mapping[str, Any], shape: Any, source: str) -> np.ndarray:
    """One row's tensors as our array."""
    out = np.zeros(shape.shape, shape.dtype)
    for names, target in zip(found, out if "{i}" in row.theirs else [out], strict=True):
        for name in names[:1]:
            target[...] = _TO_OURS[row.transform](np.asarray(tensors[name]))
        for name in names[1:]:
            if not np.array_equal(target, _TO_OURS[row.transform](np.asarray(tensors[name]))):
                raise UserError(
                    f"{source}: tensors {names[0]} and {name} differ, expected one shared table; "
                    "models with untied embeddings are not supported"
                )
    return out


def _names(theirs: str, length: int) -> list[str]:
    return [theirs.replace("{i}", str(i)) for i in range(length)] if "{i}" in theirs else [theirs]


def _layers(row: Rule, array: np.ndarray) -> Iterable[np.ndarray]:
    return array if "{i}" in row.theirs else [array]


def _listed(names: Iterable[str]) -> str:
    """The first name in order, and how many more there are."""
    first, *rest = sorted(names)
    return f"{first} (and {len(rest)} more)" if rest else first
