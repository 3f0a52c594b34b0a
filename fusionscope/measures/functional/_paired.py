"""Differences between two treatments over few paired runs: intervals, tests, and a correction for many of them."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float64, Int, Num
from scipy.special import ndtri, stdtr, stdtrit

from fusionscope.errors import InputError, did_you_mean

from ._arrays import as_tensor

Array = np.ndarray
METHODS = ("scaled", "percentile", "studentised")
EXACT_FLIPS = 16
FLIPS = 99_999
SAME = 1e-9  # differences that agree to this share of the values' size are the same: their spread is rounding


@dataclass(frozen=True)
class PairedDifference:
    """What ``n`` pairs say about the mean of ``a - b``, in the unit of the values.

    Attributes:
        mean: of the differences. sd: their standard deviation (divisor ``n - 1``). n: pairs that have both values.
        low, high: bootstrap interval at ``1 - alpha``. t_low, t_high: Student's interval.
        p: two-sided p-value of the paired t test. p_sign_flip: of the exact sign-flip test, never below ``2^(1-n)``.
        reason: why there is no interval or no ``p``; "" where there are both.
    """

    mean: float
    sd: float
    n: int
    low: float
    high: float
    t_low: float
    t_high: float
    p: float
    p_sign_flip: float
    reason: str


def paired_difference(
    a: Any, b: Any, *, alpha: float = 0.05, method: str = "scaled", resamples: int = 9999, seed: int = 0
) -> PairedDifference:
    """Compare two treatments measured on the same ``n`` seeds, by the mean of ``d_i = a_i - b_i``.

    The test is the paired t test, ``t = mean(d) / (sd(d) / √n)`` on ``n - 1`` degrees of freedom; beside it stands the
    exact sign-flip test (:func:`sign_flip_test`), which with 5 pairs cannot give less than 0.0625. The bootstrap
    interval is that of :func:`mean_interval`.

    Args:
        a: values ``[n]``, one per seed. b: those of the other treatment, in the same order. Pairs with a NaN are left
            out.
        alpha: 1 - confidence of the intervals.
        method: of the bootstrap interval.
        resamples: bootstrap samples; where ``n^n`` is no more (up to 5 pairs), all of them are taken.
        seed: of the bootstrap.

    Raises:
        InputError: values that are no two vectors of one length, an unknown method, an ``alpha`` outside 0 to 1.

    >>> found = paired_difference([0.71, 0.74, 0.73, 0.75, 0.72], [0.68, 0.69, 0.71, 0.70, 0.69])
    >>> round(found.mean, 3), round(found.p, 4), found.p_sign_flip, found.n
    (0.036, 0.0039, 0.0625, 5)
    """
    x, y = (as_tensor(np.asarray(v) if isinstance(v, list | tuple) else v).detach().cpu().numpy() for v in (a, b))
    if x.ndim != 1 or x.shape != y.shape:
        raise InputError(
            f"expected two vectors of the same runs, got shapes {tuple(x.shape)} and {tuple(y.shape)}; give one value "
            "per run, NaN where there is none"
        )
    x, y = x.astype(np.float64), y.astype(np.float64)
    whole = np.isfinite(x) & np.isfinite(y)
    x, y = x[whole], y[whole]
    d = x - y
    n = len(d)
    low, high = mean_interval(d, alpha=alpha, method=method, resamples=resamples, seed=seed)
    mean = float(d.mean()) if n else math.nan
    if n < 2:
        words = "no pair has both values" if n == 0 else "one pair says nothing about the spread"
        return PairedDifference(mean, math.nan, n, low, high, math.nan, math.nan, math.nan, sign_flip_test(d), words)
    sd = float(d.std(ddof=1))
    if sd <= SAME * max(np.abs(x).max(), np.abs(y).max()):
        alike = abs(mean) <= SAME * max(np.abs(x).max(), np.abs(y).max())
        words = f"all {n} differences are {0.0 if alike else mean:.4g}: there is no spread to test against"
        flips = 1.0 if alike else 2.0 ** (1 - n)
        return PairedDifference(mean, 0.0, n, *[math.nan] * 4, 1.0 if alike else math.nan, flips, words)
    error = sd / math.sqrt(n)
    reach = float(stdtrit(n - 1, 1 - alpha / 2)) * error
    p = float(2 * stdtr(n - 1, -abs(mean) / error))
    words = "" if math.isfinite(low) and math.isfinite(high) else f"too few pairs for a {method} bootstrap interval"
    return PairedDifference(mean, sd, n, low, high, mean - reach, mean + reach, p, sign_flip_test(d), words)


def mean_interval(
    values: Num[Array, "n"], *, alpha: float = 0.05, method: str = "scaled", resamples: int = 9999, seed: int = 0
) -> tuple[float, float]:
    """Return a bootstrap interval of the mean of few independent values.

    With ``m`` the mean and ``q`` the quantiles ``alpha/2`` and ``1 - alpha/2`` of the means of resamples,

    - "percentile" is ``q``. For 5 values it is far too narrow: it covers 85 % where 95 % is said, since the resamples'
      spread is that of the values over ``√n`` with the divisor ``n``, and the spread itself is only estimated.
    - "scaled" is ``m + (q - m) · √(n/(n-1)) · t/z``, with ``t`` and ``z`` the quantiles ``1 - alpha/2`` of Student's
      distribution on ``n - 1`` degrees of freedom and of the normal one: both faults mended, the skewness kept.
    - "studentised" is ``(m - s u_hi, m - s u_lo)`` with ``s`` the standard error and ``u`` the quantiles of the
      resamples' own t statistics (bootstrap-t). It covers skewed values best, at 1.3 times the width with 5 values, and
      is unbounded with 3: then NaN.

    Coverage at 95 % by simulation (``benchmarks/paired_intervals.py``), normal values / exponential ones:

    ============ ============ ============ ============ ============
    values       percentile   scaled       studentised  Student's t
    ============ ============ ============ ============ ============
    2            .50 / .46    .93 / .87    none         .95 / .91
    3            .75 / .69    .94 / .88    none         .94 / .88
    5            .85 / .78    .95 / .88    .95 / .92    .95 / .87
    10           .90 / .86    .95 / .90    .95 / .94    .95 / .90
    20           .93 / .90    .95 / .92    .95 / .94    .95 / .92
    ============ ============ ============ ============ ============

    Sources: Hesterberg 2015, doi:10.1080/00031305.2015.1089789 (why small samples need a factor; his own remedy widens
    ``alpha`` instead and cannot reach past the largest value); Efron and Tibshirani 1993, chapter 12 (bootstrap-t).

    Returns:
        ``(low, high)``; NaN with fewer than 2 values.

    Raises:
        InputError: as :func:`paired_difference`.

    >>> low, high = mean_interval(np.array([0.03, 0.05, 0.02, 0.05, 0.03]))
    >>> round(low, 3), round(high, 3)
    (0.02, 0.052)
    """
    if method not in METHODS:
        raise InputError(
            f"expected a method of {', '.join(METHODS)}, got {method!r}.{did_you_mean(str(method), METHODS)}"
        )
    if not 0 < alpha < 1 or resamples < 1:
        raise InputError(f"expected 0 < alpha < 1 and resamples of 1 or more, got {alpha} and {resamples}")
    x = np.asarray(values, dtype=np.float64)
    n = len(x)
    if n < 2:
        return math.nan, math.nan
    drawn = x[_resamples(n, resamples, seed)]
    mean, means = x.mean(), drawn.mean(1)
    levels = [alpha / 2, 1 - alpha / 2]
    if method == "studentised":
        spread = drawn.std(1, ddof=1) / math.sqrt(n)
        flat = np.ptp(drawn, axis=1) == 0
        with np.errstate(divide="ignore", invalid="ignore"):
            u = np.where(flat, np.copysign(np.inf, means - mean), (means - mean) / spread)
        ends = np.quantile(u[~np.isnan(u)], levels, method="inverted_cdf")
        error = x.std(ddof=1) / math.sqrt(n)
        low, high = (mean - error * end if math.isfinite(end) else math.nan for end in ends[::-1])
        return (float(low), float(high)) if math.isfinite(low) and math.isfinite(high) else (math.nan, math.nan)
    low, high = np.quantile(means, levels, method="inverted_cdf")
    factor = 1.0
    if method == "scaled":
        factor = math.sqrt(n / (n - 1)) * float(stdtrit(n - 1, 1 - alpha / 2) / ndtri(1 - alpha / 2))
    return float(mean + (low - mean) * factor), float(mean + (high - mean) * factor)


def sign_flip_test(differences: Num[Array, "n"], seed: int = 0) -> float:
    """Return the two-sided p-value of ``|Σ d_i|`` when each difference may as well have had the other sign.

    The share of the ``2^n`` choices of signs whose sum is at least as far from 0, all of them up to 16 differences,
    else of 99,999 random ones and the observed. Exact for any distribution symmetric about 0, and never below
    ``2^(1-n)``: 0.25 with 3 pairs, 0.0625 with 5, 0.002 with 10. NaN without differences. Source: Fisher 1935, The
    Design of Experiments, section 21.

    >>> sign_flip_test(np.array([0.03, 0.05, 0.02, 0.05, 0.03]))
    0.0625
    """
    d = np.asarray(differences, dtype=np.float64)
    if not len(d):
        return math.nan
    if len(d) <= EXACT_FLIPS:
        sums = np.zeros(1)
        for one in d:
            sums = np.concatenate([sums + one, sums - one])
    else:
        signs = np.random.default_rng(seed).integers(0, 2, (FLIPS, len(d)), dtype=np.int8) * 2 - 1
        sums = np.append(signs @ d, d.sum())
    return float((np.abs(sums) >= abs(d.sum()) - 1e-12 * np.abs(d).sum()).mean())


def holm(p: Num[Array, "*cells"]) -> Float64[Array, "*cells"]:
    """Return p-values corrected for all tests made, so that any one false rejection has probability ``alpha`` at most.

    ``p~_(k) = max_{j ≤ k} min(1, (n - j + 1) p_(j))`` over the ``n`` p-values that are not NaN, whatever the shape and
    however they depend on one another; NaN stays NaN. Source: Holm 1979, Scandinavian Journal of Statistics 6, 65-70.

    Raises:
        InputError: a value outside 0 to 1.

    >>> holm(np.array([0.01, 0.04, np.nan, 0.03])).round(3).tolist()
    [0.03, 0.06, nan, 0.06]
    """
    flat = np.asarray(p, dtype=np.float64).ravel()
    known = np.flatnonzero(~np.isnan(flat))
    if len(known) and not ((flat[known] >= 0) & (flat[known] <= 1)).all():
        raise InputError(f"expected p-values between 0 and 1, got {flat[known].min()} to {flat[known].max()}")
    corrected = np.full(len(flat), np.nan)
    order = known[np.argsort(flat[known], kind="stable")]
    scaled = np.minimum(flat[order] * np.arange(len(order), 0, -1), 1.0)
    corrected[order] = np.maximum.accumulate(scaled)
    return corrected.reshape(np.shape(p))


@lru_cache(maxsize=16)
def _resamples(n: int, count: int, seed: int) -> Int[Array, "R n"]:
    """Return indices of bootstrap samples: all ``n^n`` where these are no more than ``count``."""
    if n**n <= count:
        return np.stack(np.meshgrid(*[np.arange(n)] * n, indexing="ij"), -1).reshape(-1, n)
    return np.random.default_rng(seed).integers(0, n, (count, n))
