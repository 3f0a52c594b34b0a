"""Which of many small p-values to believe."""

import numpy as np
from jaxtyping import Float64, Num

from fusionscope.errors import InputError

Array = np.ndarray
BETS = np.array([0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 0.95])


def benjamini_hochberg(p: Num[Array, "*cells"]) -> Float64[Array, "*cells"]:
    """Return the smallest false discovery rate at which each hypothesis is rejected.

    ``q_(k) = min_{j ≥ k} n p_(j)/j`` over the ``n`` p-values that are not NaN, whatever the shape; NaN stays NaN.
    Rejecting ``q ≤ α`` keeps the expected share of false discoveries at ``α`` or below, for p-values that are
    independent or positively dependent. Source: Benjamini and Hochberg 1995, doi:10.1111/j.2517-6161.1995.tb02031.x.

    Raises:
        InputError: a value outside 0 to 1.

    >>> benjamini_hochberg(np.array([0.01, 0.04, np.nan, 0.5])).round(3).tolist()
    [0.03, 0.06, nan, 0.5]
    """
    flat = np.asarray(p, dtype=np.float64).ravel()
    known = np.flatnonzero(~np.isnan(flat))
    if len(known) and not ((flat[known] >= 0) & (flat[known] <= 1)).all():
        raise InputError(f"expected p-values between 0 and 1, got {flat[known].min()} to {flat[known].max()}")
    q = np.full(len(flat), np.nan)
    order = known[np.argsort(flat[known])]
    scaled = flat[order] * len(order) / np.arange(1, len(order) + 1)
    q[order] = np.minimum.accumulate(scaled[::-1])[::-1]
    return q.reshape(np.shape(p))


def mean_test(values: Num[Array, "*cells n"], bound: Num[Array, "*cells"]) -> Float64[Array, "*cells"]:
    """Test whether the mean of non-negative draws exceeds a bound: ``p = 1/E``, at most 1.

    ``E`` is the mean over the bets ``c`` of ``Π_i (1 + c (x_i/bound - 1))``: what a gambler who stakes the share ``c``
    on every draw makes of 1. If the draws' mean is at most ``bound``, E is 1 or less on average, so ``P(p ≤ α) ≤ α``
    for any distribution and any number of draws. Since ``1/p`` is an e-value, ``benjamini_hochberg`` of such p controls
    false discoveries under any dependence of the tests. Sources: Waudby-Smith and Ramdas 2023, arXiv 2010.09686; Wang
    and Ramdas 2022, arXiv 2009.02824.

    Args:
        values: draws ``x_i >= 0`` along the last axis.
        bound: what their mean may be, above 0.

    Raises:
        InputError: a negative value or bound. NaN stays NaN.

    >>> draws = np.array([[0.9, 0.8, 0.9, 0.7, 0.9], [0.2, 0.1, 0.0, 0.1, 0.0]])
    >>> mean_test(draws, np.array([0.1, 0.1])).round(4).tolist()
    [0.0001, 1.0]
    """
    x, m = np.asarray(values, dtype=np.float64), np.asarray(bound, dtype=np.float64)[..., None]
    if (x < 0).any() or (m < 0).any():
        raise InputError("expected draws and bounds of 0 or more, got negative ones; give probabilities, or errors")
    with np.errstate(divide="ignore", over="ignore"):
        ratio = x / np.maximum(m, np.finfo(np.float64).tiny)
        wealth = np.log1p(np.multiply.outer(BETS, np.minimum(ratio, np.finfo(np.float64).max) - 1)).sum(-1)
        e = np.exp(wealth - np.log(len(BETS)))
        return np.asarray(np.where(np.isnan(ratio).any(-1), np.nan, 1 / np.maximum(e.sum(0), 1.0)))
