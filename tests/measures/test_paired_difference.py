"""Paired differences over few runs: slow references, scipy, coverage, degenerate values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from fusionscope.errors import InputError
from fusionscope.measures.functional import holm, mean_interval, paired_difference, sign_flip_test

FEW = settings(max_examples=25, deadline=None)


def values(n, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(0.7 + shift, 0.01, n)


@pytest.mark.parametrize("n", [2, 3, 7, 11])
def test_the_tests_are_scipys(n):
    a, b = values(n, 1, 0.01), values(n, 2)
    found = paired_difference(a, b)
    whole = stats.ttest_rel(a, b)
    assert found.p == pytest.approx(whole.pvalue)
    assert (found.t_low, found.t_high) == pytest.approx(tuple(whole.confidence_interval()))
    assert (found.mean, found.sd, found.n) == (pytest.approx((a - b).mean()), pytest.approx((a - b).std(ddof=1)), n)
    exact = stats.permutation_test((a, b), lambda x, y: (x - y).mean(), permutation_type="samples", n_resamples=np.inf)
    assert found.p_sign_flip == pytest.approx(exact.pvalue)
    assert found.p_sign_flip >= 2.0 ** (1 - n)


def test_sign_flips_the_slow_way_and_at_random():
    d = values(7, 3, -0.695)
    sums = [abs(sum(s * x for s, x in zip(signs, d, strict=True))) for signs in itertools.product((1, -1), repeat=7)]
    assert sign_flip_test(d) == np.mean([s >= abs(d.sum()) - 1e-12 for s in sums])
    many = values(23, 4, -0.698)
    # what 23 differences give by 100,000 random signs, a normal approximation gives within its noise
    assert sign_flip_test(many) == pytest.approx(
        2 * stats.norm.sf(abs(many.sum()) / np.sqrt((many**2).sum())), abs=0.01
    )
    assert math.isnan(sign_flip_test(np.zeros(0)))


def slow_interval(d, method, alpha=0.05):
    """All resamples, one after another."""
    n = len(d)
    means, u = [], []
    for picks in itertools.product(range(n), repeat=n):
        x = np.array([d[i] for i in picks])
        means.append(x.mean())
        if len(set(picks)) > 1:
            u.append((x.mean() - d.mean()) / (x.std(ddof=1) / math.sqrt(n)))
        else:
            u.append(math.copysign(math.inf, x.mean() - d.mean()))
    means, u = sorted(means), sorted(u)
    low, high = (math.ceil(q * len(means) - 1e-9) - 1 for q in (alpha / 2, 1 - alpha / 2))
    if method == "studentised":
        error = d.std(ddof=1) / math.sqrt(n)
        return d.mean() - u[high] * error, d.mean() - u[low] * error
    factor = math.sqrt(n / (n - 1)) * stats.t.ppf(1 - alpha / 2, n - 1) / stats.norm.ppf(1 - alpha / 2)
    factor = factor if method == "scaled" else 1
    return tuple(d.mean() + (means[i] - d.mean()) * factor for i in (low, high))


@pytest.mark.parametrize("method", ["scaled", "percentile", "studentised"])
@pytest.mark.parametrize("n", [2, 5])
def test_intervals_the_slow_way(method, n):
    d = values(n, 5, -0.69)
    found, wanted = mean_interval(d, method=method), slow_interval(d, method)
    if not all(map(math.isfinite, wanted)):
        assert all(map(math.isnan, found))
        assert "too few pairs" in paired_difference(d, np.zeros(n), method=method).reason
    else:
        assert found == pytest.approx(wanted)


def test_coverage_with_five_values():
    """The default covers what it says, the percentile interval does not: 95 % and 85 % (standard error 1.1 %)."""
    rng = np.random.default_rng(0)
    inside = {"scaled": 0, "percentile": 0}
    for d in rng.normal(size=(400, 5)):
        for method in inside:
            low, high = mean_interval(d, method=method)
            inside[method] += low <= 0 <= high
    assert inside["scaled"] / 400 > 0.92
    assert inside["percentile"] / 400 < 0.89


@FEW
@given(arrays(np.float64, st.integers(2, 9), elements=st.floats(-1, 1)), st.floats(-3, 3), st.floats(0.1, 9))
def test_intervals_move_and_stretch_with_the_values(d, shift, factor):
    low, high = mean_interval(d, resamples=99)
    assert low <= d.mean() + 1e-9
    assert high >= d.mean() - 1e-9
    moved = mean_interval(factor * d + shift, resamples=99)
    np.testing.assert_allclose(moved, (factor * low + shift, factor * high + shift), atol=1e-9)


def test_swapping_the_two_swaps_the_sign():
    a, b = values(7, 1), values(7, 2)
    one, other = paired_difference(a, b), paired_difference(b, a)
    assert (one.mean, one.p, one.p_sign_flip) == pytest.approx((-other.mean, other.p, other.p_sign_flip))
    assert paired_difference(torch.tensor(a), list(b)) == one
    assert paired_difference(a, b, seed=0) == one
    assert paired_difference(a, b, seed=1).low != one.low, "7 pairs have more resamples than are taken"
    assert paired_difference(a[:5], b[:5], seed=1) == paired_difference(a[:5], b[:5]), "5 have not"


def test_values_that_say_little():
    none = paired_difference([math.nan, 0.5], [0.5, math.nan])
    assert (none.n, none.reason) == (0, "no pair has both values")
    one = paired_difference([0.75, math.nan], [0.5, 0.5])
    assert (one.mean, one.n, one.reason) == (0.25, 1, "one pair says nothing about the spread")
    assert (one.p_sign_flip, math.isnan(one.p), math.isnan(one.low)) == (1.0, True, True)
    same = paired_difference([0.6, 0.7, 0.8], [0.5, 0.6, 0.7])  # differences of 0.1 but for rounding
    assert (same.sd, same.p_sign_flip, math.isnan(same.p), math.isnan(same.low)) == (0.0, 0.25, True, True)
    assert same.reason == "all 3 differences are 0.1: there is no spread to test against"
    equal = paired_difference([0.6, 0.7, 0.8], [0.6, 0.7, 0.8])
    assert (equal.mean, equal.p, equal.p_sign_flip) == (0.0, 1.0, 1.0)
    two = paired_difference([0.6, 0.75], [0.5, 0.6])
    assert two.low < two.mean < two.high
    assert 0 < two.p < 1
    lost = paired_difference([0.6, math.nan, 0.7, 0.9], [0.5, 0.5, 0.65, 0.8])
    assert lost == paired_difference([0.6, 0.7, 0.9], [0.5, 0.65, 0.8])


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: paired_difference([1.0, 2.0], [1.0]), "expected two vectors of the same runs, got shapes"),
        (lambda: paired_difference(np.ones((2, 2)), np.ones((2, 2))), "expected two vectors"),
        (lambda: mean_interval(np.ones(3), method="scale"), "got 'scale'. Did you mean 'scaled'"),
        (lambda: mean_interval(np.ones(3), alpha=1.0), "expected 0 < alpha < 1"),
        (lambda: holm(np.array([0.5, 1.5])), "between 0 and 1, got 0.5 to 1.5"),
    ],
)
def test_refusals(call, text):
    with pytest.raises(InputError, match=text):
        call()


@FEW
@given(arrays(np.float64, st.integers(0, 7), elements=st.floats(0, 1) | st.just(math.nan)))
def test_holm_the_slow_way(p):
    """Step down: reject the smallest while p <= alpha / (tests left); the corrected p is the smallest such alpha."""
    known = sorted(x for x in p if x == x)
    for x, corrected in zip(p, holm(p), strict=True):
        if x != x:
            assert corrected != corrected
            continue
        rank = known.index(x)
        assert corrected == pytest.approx(min(1, max((len(known) - j) * known[j] for j in range(rank + 1))))
        assert corrected >= x


def test_holm_keeps_the_family_of_errors_small():
    """Of 400 families of 6 true nulls about 5 % have a rejection; without correction 26 %."""
    p = np.random.default_rng(0).uniform(size=(400, 6))
    wrong = np.mean([(holm(family) <= 0.05).any() for family in p])
    assert 0.01 < wrong < 0.09
    assert (p <= 0.05).any(1).mean() > 0.2
