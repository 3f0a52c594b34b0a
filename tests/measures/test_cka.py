"""Known values and laws of CKA, and where float32 shortcuts fail."""

from __future__ import annotations

from itertools import combinations

import measures_naive as naive
import numpy as np
import pytest
import torch
from measures_registry import cka_batches, feed_taps

from fusionscope.errors import InputError
from fusionscope.measures import MinibatchCKA
from fusionscope.measures.functional import centred_gram, cka, hsic1, u_center

X = torch.arange(1.0, 6.0)[:, None]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stream(taps, batches, kind=MinibatchCKA, **kwargs):
    metric = kind(taps, **{"permutations": 0} | kwargs)
    for index, batch in enumerate(batches):
        feed_taps(metric, (batch, None), index)
    return metric.compute()


@pytest.mark.parametrize(
    ("y", "estimator", "value"),
    [
        (X**2, "biased", 0.962567),
        (X**2, "unbiased", 0.984602),
        (torch.tensor([[2.0], [1], [5], [3], [4]]), "biased", 0.36),
        (torch.tensor([[2.0], [1], [5], [3], [4]]), "unbiased", 0.470968),
    ],
)
def test_known_values(y, estimator, value):
    assert cka(X, y, estimator).item() == pytest.approx(value, abs=5e-7)
    assert cka(X.numpy(), y.numpy(), estimator).item() == pytest.approx(value, abs=5e-7)
    if estimator == "unbiased":
        assert stream(["x", "y"], [{"x": X, "y": y}]).matrix[0, 1] == pytest.approx(value, abs=5e-7)


def test_known_hsic():
    assert hsic1(X @ X.T, X @ X.T).item() == pytest.approx(5.166667, abs=5e-7)
    assert naive.hsic1((X @ X.T).double().numpy(), (X @ X.T).double().numpy()) == pytest.approx(5.166667, abs=5e-6)


def test_biased_cka_of_a_subspace_is_the_root_of_the_share():
    q = torch.linalg.qr(noise(31, 9).double() - noise(31, 9).double().mean(0))[0]
    assert cka(q[:, :4], q, "biased").item() == pytest.approx((4 / 9) ** 0.5, abs=1e-12)


def test_full_hsic_is_the_mean_over_all_four_subsets():
    K, L = centred_gram(noise(11, 3)), centred_gram(noise(11, 5, seed=1) + noise(11, 1))
    parts = [hsic1(K[np.ix_(s, s)], L[np.ix_(s, s)]).item() for s in combinations(range(11), 4)]
    assert hsic1(K, L).item() == pytest.approx(np.mean(parts), rel=1e-10)


def test_u_centred_rows_sum_to_zero():
    A = u_center(centred_gram(noise(13, 7)))
    assert A.sum(0).abs().max() < 1e-12
    assert A.diagonal().abs().max() == 0


def test_extreme_scales_neither_overflow_nor_vanish():
    x, y = noise(17, 5), noise(17, 5) + noise(17, 5, seed=1)
    value = cka(x, y).item()
    for scale in (1e-25, 1e25):
        assert cka(x * scale, y).item() == pytest.approx(value, abs=1e-5)


def test_minibatch_sums_come_before_the_ratio_and_are_weighted_by_size():
    batches = cka_batches(sizes=(5, 19))
    got = stream(["a", "b", "c"], [f for f, _ in batches]).matrix[0, 1]

    def terms(i, j):
        return [naive.hsic1(naive.gram(f[i]), naive.gram(f[j])) for f, _ in batches]

    def weighted(v):
        return 5 * v[0] + 19 * v[1]

    exact = weighted(terms("a", "b")) / np.sqrt(weighted(terms("a", "a")) * weighted(terms("b", "b")))
    assert got == pytest.approx(exact, abs=1e-6)
    ratios = [c / np.sqrt(a * b) for c, a, b in zip(*(terms(*p) for p in ("ab", "aa", "bb")), strict=True)]
    assert abs(weighted(ratios) / 24 - exact) > 1e-3
    assert abs(sum(terms("a", "b")) / np.sqrt(sum(terms("a", "a")) * sum(terms("b", "b"))) - exact) > 1e-3


def collapsed(seed):
    """A modality whose encoder almost ignores its input: mean 1e4 times the spread."""
    z = noise(29, 3, seed=seed)
    x = z @ noise(3, 101, seed=50) + noise(29, 101, seed=seed + 100)
    y = z @ noise(3, 53, seed=51) + noise(29, 53, seed=seed + 200)
    return (x + 1e4).float(), y


def test_mean_far_above_spread_agrees_with_float64_and_an_uncentred_gram_does_not():
    batches = [collapsed(seed) for seed in range(5)]
    got = stream(["x", "y"], [{"x": x, "y": y} for x, y in batches]).matrix[0, 1]
    sums = np.zeros(3)
    plain = np.zeros(3)
    for x, y in batches:
        K, L = naive.gram(x), naive.gram(y)
        sums += [naive.hsic1(K, L), naive.hsic1(K, K), naive.hsic1(L, L)]
        K32, L32 = (t @ t.T for t in (x, y))
        plain += [hsic1(K32, L32).item(), hsic1(K32, K32).item(), hsic1(L32, L32).item()]
    wanted = sums[0] / np.sqrt(sums[1] * sums[2])
    assert 0.1 < wanted < 0.95
    assert got == pytest.approx(wanted, abs=1e-4)
    assert abs(plain[0] / np.sqrt(plain[1] * plain[2]) - wanted) > 0.01


def test_values_are_not_clamped():
    batches = [{"a": noise(5, 2, seed=s), "b": noise(5, 3, seed=s + 40)} for s in range(3)]
    values = [stream(["a", "b"], [b]).matrix[0, 1] for b in batches] + [
        stream(["a", "b"], [{"a": noise(5, 2, seed=s), "b": noise(5, 3, seed=s + 99)}]).matrix[0, 1] for s in range(20)
    ]
    assert min(values) < 0


def test_short_batches_are_skipped_and_counted():
    batches = [f for f, _ in cka_batches(sizes=(7, 3, 11))]
    got, without = stream(["a", "b", "c"], batches), stream(["a", "b", "c"], [batches[0], batches[2]])
    np.testing.assert_array_equal(got.matrix, without.matrix)
    assert (got.batches, got.samples, got.skipped) == (2, 18, 1)


def test_equally_distant_samples_have_no_structure_to_compare():
    result = stream(["a", "b"], [{"a": torch.eye(7), "b": noise(7, 3)}] * 2)
    assert np.isnan(result.matrix[0]).all()
    assert result.matrix[1, 1] == 1
    assert "do not differ" in result.reason[0, 1]


def test_a_bad_tap_leaves_the_others_alone():
    clean = [f for f, _ in cka_batches()]
    dirty = [f | {"a": f["a"] * torch.nan} for f in clean]
    got = stream(["a", "b", "c"], dirty, permutations=19)
    np.testing.assert_array_equal(got.matrix[1:, 1:], stream(["a", "b", "c"], clean, permutations=19).matrix[1:, 1:])
    assert (got.reason[1:, 1:] == "").all()
    assert np.isfinite(got.null_high[1:, 1:]).all()
    assert "not finite in 4 of 4" in got.reason[0, 1]


def test_interval_covers_the_value_of_the_population():
    rng = torch.Generator().manual_seed(0)

    def draw(n):
        z = torch.randn(n, 2, generator=rng)
        return {"a": z + torch.randn(n, 2, generator=rng), "b": z + torch.randn(n, 2, generator=rng)}

    truth = stream(["a", "b"], [draw(199) for _ in range(60)]).matrix[0, 1]
    hits = 0
    for _ in range(100):
        result = stream(["a", "b"], [draw(17) for _ in range(20)])
        hits += result.low[0, 1] <= truth <= result.high[0, 1]
    assert 86 <= hits <= 100


def test_null_bound_is_family_wise():
    class EachPairAlone(MinibatchCKA):
        def _bound(self, cross):
            return cross.max(0).mean()

    taps, upper = [str(t) for t in range(7)], np.triu_indices(7, 1)
    false = {MinibatchCKA: 0, EachPairAlone: 0}
    for trial in range(200):
        batches = [{str(t): noise(11, 3, seed=10_000 * trial + 100 * b + t) for t in range(7)} for b in range(3)]
        for kind in false if trial < 60 else [MinibatchCKA]:
            result = stream(taps, batches, kind, permutations=19, seed=trial)
            false[kind] += (result.matrix > result.null_high)[upper].any()
    assert 1 <= false[MinibatchCKA] <= 22  # 10 of 200 expected, sd 3
    assert false[EachPairAlone] / 60 > 22 / 200


def test_related_taps_are_above_their_null():
    result = stream(["a", "b", "c"], [f for f, _ in cka_batches(sizes=(23, 29, 31))], permutations=19)
    upper = np.triu_indices(3, 1)
    assert (result.matrix > result.null_high)[upper].all()
    assert (abs(result.null_mean[upper]) < 0.1).all()


def test_permutations_depend_on_seed_and_batch_number_only():
    metric = MinibatchCKA(["a"], seed=3)
    orders = metric.context(7, None, 5).permutations
    assert torch.equal(orders, MinibatchCKA(["a", "b"], seed=3).context(7, None, 5).permutations)
    assert not torch.equal(orders, metric.context(7, None, 6).permutations)
    assert not torch.equal(orders, MinibatchCKA(["a"], seed=4).context(7, None, 5).permutations)
    assert torch.equal(orders.sort(1).values, torch.arange(7).expand(20, 7))


def test_wrong_settings():
    with pytest.raises(InputError, match="at least 4 samples, got 3; use a larger batch"):
        cka(X[:3], X[:3])
    with pytest.raises(InputError, match=r"alpha=0.01 with 20 permutations; use permutations>=99"):
        MinibatchCKA(["a"], alpha=0.01)
    with pytest.raises(InputError, match="different names"):
        MinibatchCKA(["a", "a"])
    with pytest.raises(InputError, match="folds >= 2"):
        MinibatchCKA(["a"], folds=1)
