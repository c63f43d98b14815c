"""What a program costs by its own equations: floating point operations, bytes moved, and the memory it holds at most.

A compiled program counts a scanned layer once; the jaxpr says how often the layer runs. Counted are the products, which
are nearly all of a transformer's work, as two operations for each multiply-and-add.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

# How fast numbers are multiplied: of 16 bits; fp32 at a device's default precision; fp32 at precision HIGHEST.
HALF, SINGLE, EXACT = "half", "single", "exact"
CONVERSIONS = frozenset("convert_element_type copy reshape transpose".split())
MOVERS = frozenset("gather scatter scatter-add dynamic_update_slice sort top_k approx_top_k".split())
# What compilers compute where it is read, so that it is never written out.
FUSED = frozenset(
    "abs add add_any and bitcast_convert_type broadcast_in_dim clamp convert_element_type copy div eq erf exp "
    "expand_dims floor ge gt integer_pow iota is_finite le log log1p lt max min mul ne neg not or pad pow random_bits "
    "rem reshape rsqrt select_n shift_left shift_right_logical sign slice sqrt square squeeze stop_gradient sub tanh "
    "transpose xor".split()
)


@dataclass(frozen=True)
class Work:
    """flops: operations by the kind of their numbers; moved: bytes that products and gathers read and write."""

    flops: Counter
    moved: float

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.moved + other.moved)

    def times(self, count: float) -> "Work":
        """So often."""
        return Work(Counter({kind: count * flops for kind, flops in self.flops.items()}), count * self.moved)

    @property
    def total(self) -> float:
        """Operations of all kinds."""
        return float(sum(self.flops.values()))


NOTHING = Work(Counter(), 0.0)


def count(closed: core.ClosedJaxpr, loops: Sequence[int] = ()) -> Work:
    """The work of a program. loops: how often each of its while loops runs, in their order, an outer one first.

    Each product is taken to read its operands and write its result once. Of several branches the dearest counts.
    """
    return _count(closed.jaxpr, iter(loops))


def _count(jaxpr: core.Jaxpr, loops: Iterator[int]) -> Work:
    work, maker = NOTHING, {}
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        maker.update(dict.fromkeys(eqn.outvars, eqn))
        if name == "dot_general":
            work += _product(eqn, maker)
        elif name in MOVERS:
            work += Work(Counter(), float(sum(map(_bytes, eqn.outvars))))
        elif name == "cond":
            branches = [_count(branch.jaxpr, loops) for branch in eqn.params["branches"]]
            work += max(branches, key=lambda branch: (branch.total, branch.moved))
        else:
            times = eqn.params["length"] if name == "scan" else next(loops, 1) if name == "while" else 1
            for inner in _inside(eqn):
                work += _count(inner, loops).times(times)
    return work


def _product(eqn: core.JaxprEqn, maker: dict) -> Work:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left: Any = eqn.invars[0].aval  # of arrays, as products have
    out: Any = eqn.outvars[0].aval
    flops = 2 * math.prod(out.shape) * math.prod(left.shape[axis] for axis in contracted)
    moved = _bytes(eqn.outvars[0]) + sum(_bytes(_source(var, maker)) for var in eqn.invars)
    return Work(Counter({_kind(eqn): flops}), float(moved))


def _kind(eqn: core.JaxprEqn) -> str:
    arrays: list[Any] = [var.aval for var in eqn.invars]
    if max(aval.dtype.itemsize for aval in arrays) <= 2:
        return HALF
    precision = eqn.params["precision"]
    highest = precision is not None and jax.lax.Precision.HIGHEST in tuple(precision)
    return EXACT if highest else SINGLE


def _source(var, maker: dict):
    """What is read for an operand: before a conversion, which happens on the way."""
    while (eqn := maker.get(var) if isinstance(var, core.Var) else None) and eqn.primitive.name in CONVERSIONS:
        var = eqn.invars[0]
    return var


def peak(closed: core.ClosedJaxpr) -> float:
    """Bytes held at the fullest moment beside arguments and results, if equations run as they stand.

    An estimate: compilers put equations together and in another order, and pad arrays.
    """
    return _peak(closed.jaxpr, {id(var) for var in closed.jaxpr.outvars})


def _peak(jaxpr: core.Jaxpr, free: frozenset | set = frozenset()) -> float:
    held_by = _fused(jaxpr)
    last, kept = {}, {id(root) for var in jaxpr.outvars for root in held_by(var)}
    for at, eqn in enumerate(jaxpr.eqns):
        last.update({id(root): at for var in eqn.invars for root in held_by(var)})
    ends: dict[int, list[int]] = {}
    live, most = 0.0, 0.0
    for at, eqn in enumerate(jaxpr.eqns):
        inner = max(map(_peak, _inside(eqn)), default=0.0)
        own = [var for var in eqn.outvars if [*map(id, held_by(var))] == [id(var)] and id(var) not in free]
        out = sum(map(_bytes, own))
        most = max(most, live + (inner + out if eqn.primitive.name in ("scan", "while") else max(inner, out)))
        live += out
        for var in own:
            if id(var) not in kept:
                ends.setdefault(max(last.get(id(var), at), at), []).append(_bytes(var))
        live -= sum(ends.pop(at, ()))
    return most


def _fused(jaxpr: core.Jaxpr):
    """var -> the arrays that must be there while it is needed: itself, or what it is computed from where it is read."""
    uses = Counter(id(var) for eqn in jaxpr.eqns for var in eqn.invars)
    uses.update(id(var) for var in jaxpr.outvars for _ in range(2))
    roots: dict[int, list] = {}

    def held_by(var) -> list:
        return [] if isinstance(var, core.Literal) else roots.get(id(var), [var])

    for eqn in jaxpr.eqns:
        for var in eqn.outvars:
            if eqn.primitive.name in FUSED and uses[id(var)] <= 1:
                found = {id(root): root for read in eqn.invars for root in held_by(read)}
                roots[id(var)] = list(found.values())
    return held_by


def _inside(eqn: core.JaxprEqn) -> list[core.Jaxpr]:
    """The jaxprs that an equation runs; of a while loop its body."""
    found = []
    for key, value in eqn.params.items():
        for item in value if isinstance(value, tuple | list) else (value,):
            inner = item.jaxpr if isinstance(item, core.ClosedJaxpr) else item
            if isinstance(inner, core.Jaxpr) and key != "cond_jaxpr":
                found.append(inner)
    return found


def _bytes(var) -> int:
    aval = var.aval
    if not hasattr(aval, "shape") or jnp.issubdtype(aval.dtype, jax.dtypes.extended):
        return 0
    return math.prod(aval.shape) * aval.dtype.itemsize
