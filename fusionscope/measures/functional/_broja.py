"""Partial information decomposition of discrete tables (BROJA)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from fusionscope.errors import InputError

from ._arrays import ArrayLike, as_tensor
from ._broja_solver import TOLERANCE, Optimum, divergence, minimise, neg_entropy
from ._cka import check_word

Array = np.ndarray
UNITS = {"nats": 1.0, "bits": float(np.log(2))}
# Values are withheld where the certified gap is wider than this, in the unit asked for.
WIDEST = 1e-5


@dataclass(frozen=True, eq=False)
class BrojaResult:
    """What two sources say about a target: arrays of the table's leading axes, numbers where it has none.

    ``redundancy`` is what both say, ``unique1`` and ``unique2`` what one alone says, ``synergy`` what only both
    together say; ``information1``, ``information2`` and ``information12`` are I(X1; Y), I(X2; Y) and I(X1, X2; Y) of
    the table. ``gap`` bounds the error of each part. ``reason`` says why the parts are NaN and is "" otherwise.
    ``unit`` is that of every number.
    """

    redundancy: Any
    unique1: Any
    unique2: Any
    synergy: Any
    information1: Any
    information2: Any
    information12: Any
    gap: Any
    reason: Any
    unit: str


def broja(p: ArrayLike, unit: str = "bits", workers: int = 1) -> BrojaResult:
    """Decompose ``I(X1, X2; Y)`` of tables ``p[..., X1, X2, Y]`` into redundancy, two unique parts and synergy.

    Among all tables Q with the marginals ``P(X1, Y)`` and ``P(X2, Y)``, Q* has the least ``I_Q(X1, X2; Y)``. Then::

        redundancy = I_Q*(X1; Y) + I_Q*(X2; Y) - I_Q*(X1, X2; Y)      unique1 = I_Q*(X1; Y | X2)
        synergy    = I_P(X1, X2; Y) - I_Q*(X1, X2; Y)                 unique2 = I_Q*(X2; Y | X1)

    so that ``redundancy + unique_m = I(X_m; Y)`` and the four add up to ``I(X1, X2; Y)``. Bertschinger, Rauh, Olbrich,
    Jost and Ay 2014, doi:10.3390/e16042161; the conic form is Makkeh, Theis and Vicente 2018, doi:10.3390/e20040271.

    clarabel solves the programme. ``gap`` does not rely on its word: it is the value of a table that has the marginals,
    less the value of a point that the dual admits; no part is further from its true value.

    Args:
        p: counts or probabilities; normalised here.
        unit: "bits" or "nats".
        workers: threads that share the tables of the leading axes.

    Raises:
        InputError: fewer than three axes, negative or not finite entries, a table without mass, an unknown unit, or no
            workers.

    >>> xor = np.zeros((2, 2, 2))
    >>> xor[[0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0]] = 1
    >>> parts = broja(xor)
    >>> float(parts.synergy.round(6)), float(parts.gap.round(6))
    (1.0, 0.0)
    """
    check_word("unit", unit, tuple(UNITS))
    if workers < 1:
        raise InputError(f"expected at least one worker, got {workers}; give workers=1")
    table = as_tensor(p).detach().cpu().double().numpy()
    if table.ndim < 3 or not table.size:
        raise InputError(
            f"expected tables [..., X1, X2, Y] with entries, got shape {table.shape}; put both sources and the target "
            "on the last three axes"
        )
    if not np.isfinite(table).all() or (table < 0).any():
        raise InputError(
            "expected counts or probabilities, got entries that are negative or not finite; give counts >= 0"
        )
    mass = table.sum((-3, -2, -1), keepdims=True)
    if not mass.all():
        raise InputError("expected tables with mass, got one whose entries are all 0; leave it out")
    found = decompose_tables((table / mass).reshape(-1, *table.shape[-3:]), workers)
    leading, gap = table.shape[:-3], found.gap / UNITS[unit]
    good = gap <= WIDEST
    parts = np.where(good, found.parts[:4], np.nan)
    values = np.concatenate([parts, found.parts[4:]]) / UNITS[unit]
    reason = np.array(["" if g else why for g, why in zip(good, found.reason, strict=True)])
    shaped = [value.reshape(leading)[()] for value in (*values, gap)]
    return BrojaResult(*shaped, reason.reshape(leading) if leading else str(reason[0]), unit)


class Tables(NamedTuple):
    """Redundancy, unique parts, synergy and the three informations ``[7, n]``, and gaps ``[n]``, in nats."""

    parts: Float64[Array, "seven n"]
    gap: Float64[Array, "n"]
    reason: list[str]
    best: Optimum


def decompose_tables(p: Float64[Array, "n X1 X2 Y"], workers: int = 1, tolerance: float = TOLERANCE) -> Tables:
    """Decompose normalised tables; ``reason`` is what there is to say should the gap be too wide."""
    best = minimise(p, workers, tolerance)
    q = best.q
    gap = neg_entropy(q) - best.bound
    least, both = information(q, (0, 1)), information(p, (0, 1))
    redundancy = information(q, (0,)) + information(q, (1,)) - least
    parts = [redundancy, conditional(q), conditional(q.swapaxes(1, 2)), both - least]
    parts += [information(p, (0,)), information(p, (1,)), both]
    reason = [
        f"clarabel says {s}, and the certified gap is {g:.1g} nats" for g, s in zip(gap, best.status, strict=True)
    ]
    return Tables(np.array(parts), gap, reason, best)


def information(p: Float64[Array, "n X1 X2 Y"], sources: tuple[int, ...]) -> Float64[Array, "n"]:
    """``I(sources; Y)`` in nats."""
    p = p.sum(tuple(axis + 1 for axis in (0, 1) if axis not in sources), keepdims=True)
    return divergence(p, p.sum(3, keepdims=True) * p.sum((1, 2), keepdims=True))


def conditional(p: Float64[Array, "n X1 X2 Y"]) -> Float64[Array, "n"]:
    """``I(X1; Y | X2)`` in nats, as one sum."""
    pair, mine = p.sum(3, keepdims=True), p.sum(1, keepdims=True)
    there = p.sum((1, 3), keepdims=True)
    given = np.divide(pair * mine, there, out=np.zeros(p.shape), where=there > 0)
    return divergence(p, given)
