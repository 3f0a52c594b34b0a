"""The convex programme behind ``broja``: solved by clarabel, certified by sums of our own. NumPy only, in nats."""

import importlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
# Tables are given to clarabel with this mass: its absolute tolerances then mean two more digits.
MASS = 100.0
# At clarabel's own 1e-8 the certificate would be too coarse; past 1e-10 it runs out of digits and stops early.
TOLERANCE = 1e-10
# A solve that stopped early is good enough if clarabel's own gap, in nats, is below this.
GOOD = 1e-7


class Optimum(NamedTuple):
    """Feasible tables, and multipliers that bound ``Σ q log q/q(x1, x2)`` from below: by -inf if none are known."""

    q: Array
    lambda1: Array
    lambda2: Array
    bound: Array
    status: list[str]


class Programme:
    """The programme of all tables with one support: ``max Σ r`` over ``(r, q, w)`` in exponential cones, ``w = Σ_y q``.

    Only cells ``(x1, x2, y)`` with ``p(x1, y) > 0`` and ``p(x2, y) > 0`` are variables, so that an inner point exists
    and the dual's best value is attained. Where one label is left to ``(x1, x2)`` the term is 0: no cone.
    """

    def __init__(self, support1: Array, support2: Array, tolerance: float) -> None:
        from scipy import sparse

        clarabel: Any = importlib.import_module("clarabel")  # its names have no types
        (n1, Y), n2 = support1.shape, len(support2)
        self.shape = n1, n2, Y
        i, j, y = np.nonzero(support1[:, None] & support2)
        pair, labels = np.unique(i * n2 + j, return_inverse=True, return_counts=True)[1:]
        order = np.argsort(labels[pair] > 1, kind="stable")  # variables without a cone first
        i, j, y, pair = (part[order] for part in (i, j, y, pair))
        self.cells = i, j, y
        self.keep1 = np.flatnonzero(support1.ravel())
        self.keep2 = np.flatnonzero((support2 & (support2.cumsum(0) > 1)).ravel())  # one row per label is redundant
        row1, row2 = (np.full(n * Y, -1) for n in (n1, n2))
        row1[self.keep1] = np.arange(len(self.keep1))
        row2[self.keep2] = len(self.keep1) + np.arange(len(self.keep2))
        # Columns: q, then r and w of what has cones. Rows: marginals, w = sum, q >= 0 without a cone, cones.
        free = int((labels == 1)[pair].sum())
        with_cone, wide = np.arange(free, len(i)), np.flatnonzero(labels > 1)
        N, K = len(with_cone), len(wide)
        place = np.zeros(len(labels), dtype=int)
        place[wide] = np.arange(K)
        q, r, w = np.arange(len(i)), len(i) + np.arange(N), len(i) + N + np.arange(K)
        own = place[pair[with_cone]]
        sums = len(self.keep1) + len(self.keep2)
        start = sums + K + free
        second = row2[j * Y + y] >= 0
        cone = start + 3 * np.arange(N)
        parts = [
            (row1[i * Y + y], q, 1.0),
            (row2[j * Y + y][second], q[second], 1.0),
            (sums + own, with_cone, 1.0),
            (sums + np.arange(K), w, -1.0),
            (sums + K + np.arange(free), q[:free], -1.0),
            (cone, r, -1.0),
            (cone + 1, with_cone, -1.0),
            (cone + 2, w[own], -1.0),
        ]
        rows, columns = (np.concatenate([part[axis] for part in parts]) for axis in (0, 1))
        values = np.concatenate([np.full(len(part[0]), part[2]) for part in parts])
        size = len(i) + N + K
        self.rest = start + 3 * N - sums
        self.A = sparse.csc_matrix((values, (rows, columns)), (start + 3 * N, size))
        self.P = sparse.csc_matrix((size, size))
        self.c = np.zeros(size)
        self.c[r] = -1
        self.cones = [clarabel.ZeroConeT(sums + K)]
        self.cones += [clarabel.NonnegativeConeT(free)] if free else []
        self.cones += [clarabel.ExponentialConeT()] * N
        self.settings = clarabel.DefaultSettings()
        self.settings.verbose, self.settings.max_threads = False, 1
        self.settings.direct_solve_method = "qdldl"  # what "auto" picks takes twice as long here
        for name in ("tol_gap_abs", "tol_gap_rel", "tol_feas"):
            setattr(self.settings, name, tolerance)
        self.solver = clarabel.DefaultSolver

    def solve(self, p1: Array, p2: Array) -> tuple[Array, Array, Array, str]:
        """Return ``q``, the multipliers of both marginals (not yet feasible), and what clarabel says."""
        tries: list[tuple[float, float, Any]] = []
        status = ""
        for mass in (MASS, 1.0):  # where one scale stalls the other does not
            right = np.concatenate([mass * p1.ravel()[self.keep1], mass * p2.ravel()[self.keep2], np.zeros(self.rest)])
            try:
                found = self.solver(self.P, self.c, self.A, right, self.cones, self.settings).solve()
            except Exception as error:
                status = str(error)
                continue
            status = str(found.status)
            gap = abs(found.obj_val - found.obj_val_dual) / mass
            tries.append((gap if np.isfinite(gap) else np.inf, mass, found))
            if status == "Solved" or gap < GOOD:
                break
        q, l1, l2 = np.zeros(self.shape), np.zeros(p1.size), np.zeros(p2.size)
        if tries:  # else the certificate of q = 0, repaired, speaks for itself
            _, mass, found = min(tries, key=lambda one: one[0])
            q[self.cells] = np.asarray(found.x)[: len(self.cells[0])] / mass
            z = -np.asarray(found.z)[: len(self.keep1) + len(self.keep2)]
            l1[self.keep1], l2[self.keep2] = np.split(z, [len(self.keep1)])
            status = str(found.status)
        return q, l1.reshape(p1.shape), l2.reshape(p2.shape), status


def share_out(work: Callable[[Any], Any], tasks: Sequence[Any], workers: int) -> list[Any]:
    """Do all tasks, on threads where ``workers`` > 1; an interrupt drops what has not begun."""
    if workers == 1 or len(tasks) < 2:
        return [work(task) for task in tasks]
    pool = ThreadPoolExecutor(workers)
    try:
        return list(pool.map(work, tasks))
    finally:
        pool.shutdown(cancel_futures=True)


def minimise(p: Array, workers: int = 1, tolerance: float = TOLERANCE) -> Optimum:
    """Minimise ``I_q(Y; X1, X2)`` over tables with the marginals ``(X1, Y)`` and ``(X2, Y)`` of ``p[n, X1, X2, Y]``.

    clarabel frees Python's lock while it solves, so threads suffice.
    """
    p1, p2 = p.sum(2), p.sum(1)
    supports = [(a.tobytes(), b.tobytes()) for a, b in zip(p1 > 0, p2 > 0, strict=True)]
    first = dict(zip(supports, range(len(p)), strict=True))
    programmes = {key: Programme(p1[i] > 0, p2[i] > 0, tolerance) for key, i in first.items()}

    def work(i: int) -> tuple[Array, Array, Array, str]:
        return programmes[supports[i]].solve(p1[i], p2[i])

    found = share_out(work, range(len(p)), workers)
    q, l1, l2 = (np.array([f[part] for f in found]).reshape(like.shape) for part, like in enumerate((p, p1, p2)))
    q = repair(q, p1, p2)
    better = neg_entropy(p) < neg_entropy(q)
    q[better] = p[better]
    return Optimum(q, *lower_bound(l1, l2, p1, p2), [f[3] for f in found])


def ratio(a: Array, b: Array) -> Array:
    """``a / b``, and 0 where ``b`` is 0."""
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape)), where=b > 0)


def repair(q: Array, p1: Array, p2: Array) -> Array:
    """Give ``q`` its marginals to rounding: scale down to them, then add the missing mass as a product per label.

    Altschuler, Weed and Rigollet 2017, arXiv:1705.09634, algorithm 2, after some rounds of proportional fitting.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        q = np.where(np.isfinite(q), q, 0.0).clip(0)
        for _ in range(4):
            q = q * ratio(p1, q.sum(2))[:, :, None]
            q = q * ratio(p2, q.sum(1))[:, None]
        q = q * ratio(p1, q.sum(2))[:, :, None].clip(max=1)
        q = q * ratio(p2, q.sum(1))[:, None].clip(max=1)
    lack1, lack2 = (p1 - q.sum(2)).clip(0), (p2 - q.sum(1)).clip(0)
    return q + ratio(lack1[:, :, None] * lack2[:, None], lack1.sum(1)[:, None, None])


def neg_entropy(q: Array) -> Array:
    """``-H(Y | X1, X2) = Σ q log q/q(x1, x2)`` of tables ``[n, X1, X2, Y]``."""
    return divergence(q, np.broadcast_to(q.sum(3, keepdims=True), q.shape))


def divergence(q: Array, other: Array) -> Array:
    """``Σ q log q/other`` over all axes but the first."""
    some = q > 0
    quotient = np.divide(q, other, out=np.ones(q.shape), where=some)
    return (q * np.log(quotient)).reshape(len(q), -1).sum(1)


def lower_bound(l1: Array, l2: Array, p1: Array, p2: Array) -> tuple[Array, Array, Array]:
    """Make multipliers ``[n, X1, Y]`` and ``[n, X2, Y]`` fit the dual; return them and the bound that they give.

    ``Σ p1·l1 + Σ p2·l2`` is a bound if ``log Σ_y exp(l1 + l2) <= 0`` for all ``(x1, x2)``, sums over labels that both
    have; ``l1`` is lowered by what is missing.
    """
    support = (p1 > 0)[:, :, None] & (p2 > 0)[:, None]
    with np.errstate(all="ignore"):
        both = np.where(support, l1[:, :, None] + l2[:, None], -np.inf)
        top = both.max(3, keepdims=True)
        excess = np.log(np.exp(both - np.where(np.isinf(top), 0, top)).sum(3)) + top[..., 0]
        lift = excess.max(2, initial=-np.inf)
        l1 = l1 - np.where(lift > -np.inf, lift, 0)[..., None]
        bound = (p1 * l1).sum((1, 2)) + (p2 * l2).sum((1, 2))
    return l1, l2, np.where(np.isfinite(bound), bound, -np.inf)
