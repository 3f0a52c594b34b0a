"""Intervals and family-wise bounds from resampled values."""

import math

import numpy as np
from jaxtyping import Float64

from fusionscope.errors import InputError

Array = np.ndarray


def bound_rank(permutations: int, alpha: float) -> int:
    """Return the rank (1 = smallest) of the permutation value that serves as the ``1 - alpha`` bound.

    ``ceil((1-alpha)(P+1))``: an observed value above it has a permutation p-value of at most ``alpha``.

    Raises:
        InputError: too few permutations for ``alpha``.

    >>> bound_rank(19, 0.05), bound_rank(100, 0.05)
    (19, 96)
    """
    rank = math.ceil((1 - alpha) * (permutations + 1) - 1e-9)
    if not 0 < alpha < 1 or rank > permutations:
        least = math.ceil(1 / alpha - 1e-9) - 1 if 0 < alpha < 1 else "any"
        raise InputError(
            f"expected 0 < alpha < 1 and enough permutations for it, got alpha={alpha} with {permutations} "
            f"permutations; use permutations>={least}, or permutations=0 for no null"
        )
    return rank


def family_bound(
    null: Float64[Array, "P cells"], alpha: float = 0.05
) -> tuple[float, Float64[Array, "cells"], Float64[Array, "cells"]]:
    """One bound for many cells: what the largest exceeds with probability ``alpha`` when nothing is there.

    Every permutation is standardised with the mean and sd of the *other* permutations of its cell (as an observed value
    is), the largest is taken over cells, and the ``ceil((1-alpha)(P+1))``-th smallest of these ``P`` maxima is
    ``z``. The     bound of a cell is ``mean + z·sd``. Source: max-statistic of Westfall and Young 1993.

    Args:
        null: the statistic of ``P`` permutations for each cell, the same permutations in all cells; a cell with a value
            that is not finite is left out (mean, sd NaN).

    Returns:
        ``(z, mean, sd)``; no unit, the unit of ``null``, the unit of ``null``.

    >>> import numpy as np
    >>> z, mean, sd = family_bound(np.random.default_rng(0).normal(size=(999, 11)))
    >>> round(z, 1)  # one normal cell alone would give 1.6, eleven give 2.6
    2.6
    """
    P = len(null)
    rank = bound_rank(P, alpha)
    good = np.isfinite(null).all(0)
    mean, sd = np.full(null.shape[1], np.nan), np.full(null.shape[1], np.nan)
    if P < 3 or not good.any():
        return float("nan"), mean, sd
    x = null[:, good]
    mean[good], sd[good] = x.mean(0), x.std(0, ddof=1)
    centred = x - mean[good]
    others = -centred / (P - 1)
    squares = (centred**2).sum(0) - centred**2 - (P - 1) * others**2
    spread = np.sqrt(np.maximum(squares, 0) / (P - 2))
    gap = centred - others
    # A cell whose other permutations all agree cannot be standardised: no gap is no news, any gap beats every bound.
    flat = spread <= 1e-12 * np.abs(x).max(0)
    scores = np.where(flat, np.where(np.abs(gap) <= 1e-12 * np.abs(x).max(0), 0.0, np.copysign(np.inf, gap)), 0.0)
    np.divide(gap, spread, out=scores, where=~flat)
    return float(np.sort(scores.max(1))[rank - 1]), mean, sd


def grouped_jackknife(
    value: Float64[Array, "*cells"], without: Float64[Array, "F *cells"], sizes: Float64[Array, "F"]
) -> Float64[Array, "*cells"]:
    """Standard error from leaving out one fold at a time, for folds of unequal size.

    ``se² = (1/F) Σ_f (θ̃_f - mean_J)² / (h_f - 1)``, ``h_f = n/n_f``, ``θ̃_f = h_f θ - (h_f - 1) θ_(f)``,
    ``mean_J = Σ_f θ̃_f / h_f``. Source: Busing, Meijer and van der Leeden 1999, doi:10.1023/A:1008800423698.
    NaN with fewer than two folds.

    Args:
        value: the estimate from everything.
        without: the estimates without fold ``f``.
        sizes: samples ``n_f`` of the folds.

    >>> import numpy as np
    >>> x = np.array([1.0, 2.0, 3.0, 5.0, 11.0])
    >>> se = grouped_jackknife(np.array(x.mean()), (x.sum() - x) / 4, np.ones(5))
    >>> bool(np.isclose(se, x.std(ddof=1) / np.sqrt(5)))
    True
    """
    F = len(sizes)
    if F < 2:
        return np.full(value.shape, np.nan)
    h = (sizes.sum() / sizes).reshape(F, *[1] * value.ndim)
    pseudo = h * value - (h - 1) * without
    mean = (pseudo / h).sum(0)
    return np.asarray(np.sqrt(((pseudo - mean) ** 2 / (h - 1)).mean(0)))


def percentile_interval(
    draws: Float64[Array, "R *cells"], alpha: float = 0.05
) -> tuple[Float64[Array, "*cells"], Float64[Array, "*cells"]]:
    """Return the ``alpha/2`` and ``1 - alpha/2`` quantiles of bootstrap draws; draws that are NaN are left out.

    NaN where no draw is left.

    >>> import numpy as np
    >>> low, high = percentile_interval(np.array([1.0, 2.0, np.nan, 3.0, 4.0, 5.0]), 0.5)
    >>> float(low), float(high)
    (2.0, 4.0)
    """
    flat = draws.reshape(len(draws), math.prod(draws.shape[1:]))
    ends = np.full((2, flat.shape[1]), np.nan)
    levels = [alpha / 2, 1 - alpha / 2]
    gaps = np.isnan(flat)
    whole = ~gaps.any(0)
    with np.errstate(invalid="ignore"):
        if len(flat) and whole.any():
            ends[:, whole] = np.quantile(flat[:, whole], levels, axis=0)
        for i in np.flatnonzero(~whole & ~gaps.all(0)):
            ends[:, i] = np.quantile(flat[~gaps[:, i], i], levels)
    low, high = ends.reshape(2, *draws.shape[1:])
    return np.asarray(low), np.asarray(high)
