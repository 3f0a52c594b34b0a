"""Two-pass quantiles: how far from the sorted values, and what merging changes (nothing)."""

from __future__ import annotations

import pytest
import torch

from fusionscope.measures import _quantiles
from fusionscope.measures._quantiles import BINS, exceeded_by, histogram, spread

VALUES = {
    "normal": lambda g: torch.randn(11, 3, 997, generator=g),
    "half zeros": lambda g: torch.randn(11, 3, 997, generator=g).relu(),
    "almost all zeros": lambda g: (torch.randn(11, 3, 997, generator=g) - 2.7).relu(),
    "far away": lambda g: 1e4 + torch.randn(11, 3, 997, generator=g),
    "heavy tail": lambda g: torch.randn(11, 3, 997, generator=g) ** 5,
    "few values": lambda g: torch.randint(0, 4, (11, 3, 997), generator=g).float(),
}


def bracket(x, share):
    """The two neighbouring sorted values between which exactly that share begins, per unit, by sorting."""
    flat = x.transpose(0, 1).flatten(1).double()
    return [flat.quantile(1 - share, 1, interpolation=how) for how in ("lower", "higher")]


def off(x, share, bins=BINS, found=None):
    """How far outside the bracket a value is, in bins."""
    extent = spread(x)
    value = exceeded_by(share, histogram(x, extent, bins), extent) if found is None else found
    low, high = bracket(x, share)
    return (torch.maximum(low - value, value - high).clamp(min=0) / (extent.sum(0) / bins)).max()


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("share", [0.005, 0.02, 0.3, 0.9])
def test_within_one_bin_of_the_sorted_values(name, share):
    x = VALUES[name](torch.Generator().manual_seed(0))
    assert off(x, share) <= 1.001
    assert off(x, share, 17) <= 1.001


def test_the_bound_rejects_the_neighbouring_share_and_a_coarser_histogram():
    x = VALUES["heavy tail"](torch.Generator().manual_seed(0))
    extent = spread(x)
    assert off(x, 0.005, found=exceeded_by(0.006, histogram(x, extent), extent)) > 1.001
    assert off(x, 0.005, found=exceeded_by(0.005, histogram(x, extent, 37), extent)) > 1.001


def test_a_unit_that_is_rarely_above_zero_has_threshold_zero():
    x = torch.zeros(1, 1, 1000)
    x[..., :3] = 5.0
    extent = spread(x)
    assert exceeded_by(0.005, histogram(x, extent), extent).tolist() == [0.0]


def test_parts_merge_exactly(monkeypatch):
    x = VALUES["heavy tail"](torch.Generator().manual_seed(0))
    whole = spread(x)
    assert torch.equal(torch.maximum(spread(x[:4]), spread(x[4:])), whole)
    assert torch.equal(histogram(x[:4], whole) + histogram(x[4:], whole), histogram(x, whole))
    once = histogram(x, whole)
    monkeypatch.setattr(_quantiles, "CHUNK", 1)
    assert torch.equal(histogram(x, whole), once)


def test_constant_and_infinite_units():
    x = torch.randn(5, 4, 7)
    x[:, 0], x[2, 1, 3], x[2, 2, 3] = 0.3, torch.nan, torch.inf
    extent = spread(x)
    found = exceeded_by(0.1, histogram(x, extent), extent)
    assert found[0] == x[0, 0, 0].double()
    assert found[1:].isfinite().tolist() == [False, False, True]
