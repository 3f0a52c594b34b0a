"""Unit statistics: saturated and dead units, planted selectivity, the rank of few directions, and what has no value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from measures_registry import feed_all, feed_taps

from fusionscope.errors import InputError
from fusionscope.measures import UnitStatistics, _unit_statistics


def stream(batches, classes=None, passes=2):
    metric = UnitStatistics(list(batches[0][0]), classes)
    metric.passes = passes
    feed_all(metric, batches, feed_taps)
    return metric.compute()


def test_saturated_sparse_and_dead_units():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(2, 53, 4, 7, 11, generator=g)
    x = torch.stack([(9 * z[:, :, 0]).sigmoid(), z[:, :, 1].sigmoid(), z[:, :, 2].relu(), -z[:, :, 3].abs() - 1], 2)
    found = stream([({"a": part}, None) for part in x]).taps["a"]
    assert found.near_smallest[0] + found.near_largest[0] > 0.5
    assert found.near_smallest[1] + found.near_largest[1] < 0.05
    assert 0.45 < found.zeros[2] < 0.55
    assert found.near_largest[2] < 0.01
    assert found.dead.tolist() == [False, False, False, True]
    assert set(found.reason) == {"no classes were given"}


def test_mean_far_above_spread():
    x = 1e4 + torch.randn(2, 53, 3, 7, generator=torch.Generator().manual_seed(0))
    x[1] += 10
    found = stream([({"a": part}, None) for part in x]).taps["a"]
    wide = x.double().transpose(1, 2).transpose(0, 1).flatten(1).numpy()
    np.testing.assert_allclose(found.mean, wide.mean(1), rtol=1e-9)
    np.testing.assert_allclose(found.sd, wide.std(1), rtol=1e-5)
    rank = np.linalg.svd(x.double().mean(3).flatten(0, 1).numpy() - wide.mean(1), compute_uv=False)
    p = rank / rank.sum()
    assert found.effective_rank == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-4)


def test_planted_selectivity_and_rank():
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(202) % 4
    x = torch.rand(202, 5, generator=g)
    x[:, 3] *= labels == 2
    found = stream([({"a": x}, labels)], 4).taps["a"]
    assert found.selectivity[3] == pytest.approx(1)
    assert (np.delete(found.selectivity, 3) < 0.2).all()
    assert 4 < found.effective_rank <= 5
    few = torch.randn(202, 3, generator=g) @ torch.randn(3, 17, generator=g)
    assert stream([({"a": few}, None)]).taps["a"].effective_rank <= 3


def test_what_has_no_value_says_why(monkeypatch):
    x = torch.randn(7, 5, 3)
    once = stream([({"a": x}, None)], passes=1).taps["a"]
    assert "a second time" in once.reason[0]
    assert np.isnan(once.near_largest).all()
    assert np.isfinite(once.mean).all()
    assert "without locations" in stream([({"a": x[..., 0]}, torch.zeros(7, 3).long())], 2).taps["a"].reason[0]
    assert stream([({"a": x * 0 + 0.3}, None)]).taps["a"].rank_reason == "features do not differ between samples"
    assert stream([({"a": x[:1]}, None)]).taps["a"].rank_reason == "features do not differ between samples"
    monkeypatch.setattr(_unit_statistics, "WIDEST", 3)
    wide = stream([({"a": x}, None)]).taps["a"]
    assert wide.rank_reason == "more than 3 units (5)"
    assert np.isnan(wide.effective_rank)
    with pytest.raises(InputError, match="classes >= 1, or None"):
        UnitStatistics(["a"], 0)
