"""Which of many small p-values to believe."""

import numpy as np
from jaxtyping import Float64, Num
from scipy.stats import binom

from fusionscope.errors import InputError

Array = np.ndarray


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


def sign_test(worse: Num[Array, "*cells"], donors: Num[Array, "*cells"] | int) -> Float64[Array, "*cells"]:
    """Test whether a real value is worse than a random other one: ``p = P(Binomial(donors, 1/2) ≥ worse)``.

    The hypothesis is that another sample's value does better at most half of the time; one-sided and exact. It is
    about this sample, with other values drawn at random: where a model reacts to a modality that tells nothing, about
    half of the samples have a real value that is worse than most others.

    Args:
        worse: how many of the other values did better than the real one.
        donors: how many other values were tried; NaN without any.

    Raises:
        InputError: more values did better than were tried.

    >>> sign_test(np.array([5, 4, 0]), 5).round(3).tolist()
    [0.031, 0.188, 1.0]
    """
    count, tries = np.broadcast_arrays(np.asarray(worse, dtype=np.float64), np.asarray(donors, dtype=np.float64))
    if (count > tries).any() or (count < 0).any():
        raise InputError("expected between 0 and `donors` values that did better, got counts outside")
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(tries > 0, binom.sf(count - 1, np.maximum(tries, 1), 0.5), np.nan))
