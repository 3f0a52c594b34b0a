"""Eta squared: known values, planted units, and how often noise is called encoded."""

from __future__ import annotations

import measures_naive as naive
import numpy as np
import pytest
import torch
from measures_registry import eta_batches, feed_taps

from fusionscope.errors import InputError
from fusionscope.measures import EtaSquared, _eta
from fusionscope.measures._labels import pure_maps
from fusionscope.measures.functional import eta_squared, family_bound


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stream(batches, classes, **kwargs):
    metric = EtaSquared(list(batches[0][0]), classes, **kwargs)
    for index, batch in enumerate(batches):
        feed_taps(metric, batch, index)
    return metric.compute()


def test_agrees_with_the_f_test():
    from scipy.stats import f_oneway

    x, labels = noise(31, 1).double(), torch.arange(31) % 3
    F = f_oneway(*(x[labels == c, 0].numpy() for c in range(3))).statistic
    eta2, epsilon2 = eta_squared(x, labels)
    assert eta2[0, 0].item() == pytest.approx(2 * F / (2 * F + 28), rel=1e-10)
    assert epsilon2[0, 0].item() == pytest.approx(2 * (F - 1) / (2 * F + 28), rel=1e-10)


def test_worked_by_hand():
    # means 2, 3, 7 around 4; SSB = 2(4 + 1 + 9) = 28, SST = 34, MSW = 6/3 = 2
    x = torch.tensor([1.0, 3, 2, 4, 6, 8])[:, None]
    eta2, epsilon2 = eta_squared(x, torch.tensor([0, 0, 1, 1, 2, 2]))
    assert eta2[0, 0].item() == pytest.approx(28 / 34)
    assert epsilon2[0, 0].item() == pytest.approx((28 - 2 * 2) / 34)
    # class 2 against the rest: means 7 and 2.5, SSB = 6·(2/6)(4/6)·4.5² = 27
    assert eta2[3, 0].item() == pytest.approx(27 / 34)
    assert epsilon2[3, 0].item() == pytest.approx((27 - 7 / 4) / 34)


def test_epsilon_is_unbiased_where_eta_is_not():
    labels = torch.arange(37) % 11
    eta2, epsilon2 = eta_squared(noise(37, 4001), labels)
    assert eta2[0].mean().item() == pytest.approx(10 / 36, abs=0.01)
    assert abs(epsilon2[0].mean().item()) < 0.01


def test_mean_far_above_spread_agrees_with_float64():
    x, labels = noise(53, 3), torch.arange(53) % 5
    x[:, 1] += labels
    high = (x + 1e4).float()
    wanted = naive.shares(high.double().numpy(), labels.numpy(), 5)
    got = stream([({"a": high[:29]}, labels[:29]), ({"a": high[29:] + 0}, labels[29:])], 5, permutations=0)
    np.testing.assert_allclose(got.taps["a"].eta2, wanted[0], atol=1e-6)
    # The same sums without centring, all in float32, lose it.
    sums = torch.stack([high[labels == c].sum(0) for c in range(5)])
    counts = torch.bincount(labels).float()
    m = sums.sum(0) / 53
    ssb = (sums.square() / counts[:, None]).sum(0) - 53 * m.square()
    careless = ssb / (high.square().sum(0) - 53 * m.square())
    assert (abs(careless.numpy() - wanted[0][0]) > 0.05).any()


def test_batches_of_different_mean_add_up():
    x, labels = noise(46, 3).double(), torch.arange(46) % 5
    x[23:] += 100
    got = stream([({"a": x[:23]}, labels[:23]), ({"a": x[23:]}, labels[23:])], 5, permutations=0)
    np.testing.assert_allclose(got.taps["a"].eta2, naive.shares(x.numpy(), labels.numpy(), 5)[0], atol=1e-12)


def planted(seed=0, scenes=23, batches=2, strength=1.5):
    """Scenes of blobs: unit 2 of tap "a" answers to class 3 only; tap "b" is smooth noise."""
    g = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(batches):
        target = torch.randint(0, 5, (scenes, 3, 2), generator=g).repeat_interleave(7, 1).repeat_interleave(13, 2)
        a = torch.randn(scenes, 5, 21, 26, generator=g)
        a[:, 2] += strength * (target == 3)
        smooth = torch.randn(scenes, 7, 3, 2, generator=g).repeat_interleave(7, 2).repeat_interleave(13, 3)
        out.append(({"a": a, "b": smooth}, target))
    return out


def test_planted_unit_is_found_and_smooth_noise_is_not():
    result = stream(planted(), 5)
    a, b = result.taps["a"], result.taps["b"]
    assert a.best_unit[4] == 2
    assert a.encoded[4]
    assert a.best_epsilon2[4] > 0.2
    assert a.encoded[0]
    assert not b.encoded.any()
    # As rows of smooth noise are anything but independent, epsilon squared alone would call it encoded.
    assert b.best_epsilon2.max() > 0.01
    assert b.null_mean.max() > 0.01


def test_a_null_that_shuffles_pixels_would_call_smooth_noise_encoded():
    features, target = planted()[0]
    x, labels = features["b"].flatten(2).movedim(1, 2).reshape(-1, 7), target.flatten()
    observed = eta_squared(x, labels)[1].max(1).values
    rng = torch.Generator().manual_seed(0)
    null = torch.stack(
        [eta_squared(x, labels[torch.randperm(len(x), generator=rng)])[1].max(1).values for _ in range(99)]
    )
    z, mean, sd = family_bound(null.numpy())
    assert (observed.numpy() > mean + z * sd).any()


def each_cell_alone(null, alpha=0.05):
    """The broken bound: every cell at its own level."""
    mean, sd = null.mean(0), null.std(0, ddof=1)
    return float(np.median(np.quantile((null - mean) / sd, 1 - alpha, axis=0))), mean, sd


def false_positives(bound, monkeypatch, datasets=240):
    monkeypatch.setattr(_eta, "family_bound", bound)
    found = 0
    for seed in range(datasets):
        labels = torch.arange(37) % 5
        x = {tap: noise(37, units, seed=1000 * seed + units) for tap, units in (("a", 3), ("b", 7), ("c", 11))}
        result = stream([(x, labels)], 5, permutations=59, seed=seed)
        found += any(tap.encoded.any() for tap in result.taps.values())
    return found / datasets


def assert_near_alpha(rate):
    assert 0.005 <= rate <= 0.11


def test_noise_is_called_encoded_at_rate_alpha(monkeypatch):
    assert_near_alpha(false_positives(family_bound, monkeypatch))


def test_the_rate_check_rejects_an_uncorrected_bound(monkeypatch):
    with pytest.raises(AssertionError):
        assert_near_alpha(false_positives(each_cell_alone, monkeypatch, 60))


def test_dense_noise_is_called_encoded_at_rate_alpha():
    found = 0
    for seed in range(200):
        found += any(
            tap.encoded.any() for tap in stream(dense_noise(seed), 3, permutations=39, seed=seed).taps.values()
        )
    assert_near_alpha(found / 200)


def dense_noise(seed):
    g = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 3, (19, 2, 2), generator=g).repeat_interleave(3, 1).repeat_interleave(5, 2)
    return [({"a": torch.randn(19, 5, 2, 2, generator=g), "b": torch.randn(19, 3, 6, 10, generator=g)}, target)]


def test_bound_of_the_largest_of_correlated_cells():
    rng = np.random.default_rng(0)
    null = np.repeat(rng.normal(size=(9999, 1)), 7, 1)
    assert family_bound(null)[0] == pytest.approx(1.645, abs=0.06)
    assert family_bound(rng.normal(size=(9999, 7)))[0] == pytest.approx(2.44, abs=0.06)
    z, mean, sd = family_bound(np.concatenate([null, np.full((9999, 1), np.nan)], 1))
    assert np.isnan(mean[7])
    assert np.isnan(sd[7])
    assert z == pytest.approx(1.645, abs=0.06)


@pytest.mark.parametrize("shape", [(4, 6), (3, 5), (8, 12), (16, 36), (8, 18), (5, 1)])
def test_pure_maps(shape):
    labels = torch.randint(-1, 3, (2, 4, 3), generator=torch.Generator().manual_seed(1))
    labels = labels.repeat_interleave(2, 1).repeat_interleave(4, 2)
    got = pure_maps(labels, 3, shape, 0.9)
    for i in range(2):
        wanted = naive.pure(labels[i].numpy(), shape, 3, 0.9).ravel()
        found = torch.where(got[i].sum(0) > 0, got[i].argmax(0), -1).numpy()
        np.testing.assert_array_equal(found, wanted)


def test_purity_counts_ignored_area_as_no_class():
    labels = torch.zeros(1, 2, 10, dtype=torch.long)
    labels[0, 0, :2], labels[0, 1, :3] = -1, 1
    assert pure_maps(labels, 2, (2, 1), 0.8)[0].tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert pure_maps(labels, 2, (2, 1), 0.7)[0].tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_taps_that_do_not_fit_the_labels_say_so():
    batches = planted(batches=1)
    features, _ = batches[0]
    features |= {"v": noise(23, 3), "s": noise(23, 3, 11)}
    result = stream(batches, 5, permutations=19)
    assert "without locations" in result.taps["v"].reason[0]
    assert "do not match" in result.taps["s"].reason[3]
    for tap in "vs":
        assert np.isnan(result.taps[tap].best_epsilon2).all()
        assert not result.taps[tap].encoded.any()
    assert result.taps["a"].encoded[4]


def test_absent_class_and_dead_unit_do_not_hide_the_rest():
    batches = eta_batches(0)
    for features, target in batches:
        features["a"][:, 0] = 7.1
        features["b"][:, 3] = torch.nan
        target[target == 4] = 3
    result = stream(batches, 5, permutations=19)
    a, b = result.taps["a"], result.taps["b"]
    assert a.reason[5] == "the class has no rows"
    assert np.isnan(a.best_epsilon2[5])
    assert a.best_unit[5] == -1
    assert list(a.unit_reason) == ["constant", "", ""]
    assert b.unit_reason[3] == "not finite"
    assert np.isnan(a.eta2[:, 0]).all()
    assert np.isnan(b.epsilon2[:, 3]).all()
    assert a.encoded[0]
    assert a.best_unit[0] == 1
    assert (a.reason[:5] == "").all()
    assert np.isfinite(b.null_high[:5]).all()
    assert a.mean_epsilon2[0] == pytest.approx(a.epsilon2[0, 1:].mean())


def test_a_constant_with_rounding_is_constant():
    x = torch.full((29, 1, 3, 3), 1.1) + torch.randint(0, 2, (29, 1, 3, 3)) * 1e-7
    assert stream([({"a": x}, torch.arange(29) % 2)], 2, permutations=0).taps["a"].reason[0] == "every unit is constant"


def test_features_are_averaged_over_locations_for_labels_per_sample():
    x, labels = noise(23, 3, 5, 7), torch.arange(23) % 2
    maps, means = (stream([({"a": t}, labels)], 2, permutations=19).taps["a"] for t in (x, x.mean((2, 3))))
    np.testing.assert_allclose(maps.epsilon2, means.epsilon2, atol=1e-5)
    np.testing.assert_allclose(maps.null_high, means.null_high, atol=1e-5)


def test_all_taps_share_permutations_and_maps():
    metric = EtaSquared(["a", "b"], 5, permutations=19)
    ((features, target),) = planted(batches=1)
    context = metric.context(23, target, 0)
    once = context.grids((21, 26))
    metric.reduce(features["a"], context)
    assert context.grids((21, 26)) is once
    for block in context.blocks:
        b = len(block.members)
        assert 16 <= b < 32
        assert torch.equal((block.pairs // b).sort(1).values, torch.arange(b).expand(20, b))
    assert sorted(torch.cat([b.members for b in context.blocks]).tolist()) == list(range(23))


def test_wrong_labels_and_settings():
    metric = EtaSquared(["a"], 3)
    with pytest.raises(InputError, match="got none; leave this instrument out or give labels"):
        metric.context(5, None, 0)
    with pytest.raises(InputError, match=r"expected integer labels \[5\].*got torch.float32 of shape \(5,\)"):
        metric.context(5, torch.zeros(5), 0)
    with pytest.raises(InputError, match="expected labels below 3, got 4; raise classes"):
        metric.context(5, torch.arange(5), 0)
    with pytest.raises(InputError, match="0.5 < purity"):
        EtaSquared(["a"], 3, purity=0.4)
    with pytest.raises(InputError, match="use permutations>=19"):
        EtaSquared(["a"], 3, permutations=7)


def test_too_much_memory_names_the_mend(monkeypatch):
    for limit, units in ((1e4, 3), (4e4, 10)):
        monkeypatch.setattr(_eta, "LIMIT", limit)
        with pytest.raises(
            InputError, match=f"for {units} units, 5 classes and 100 permutations; lower permutations to"
        ):
            stream(eta_batches(0), 5)
