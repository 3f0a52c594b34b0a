"""Unit detectors: worked by hand, planted units, what noise is called, and the order of enlarging and comparing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from measures_registry import CASES, feed_all, feed_taps
from test_measures_laws import check_reference
from torch.nn import functional as F

from fusionscope.errors import InputError
from fusionscope.measures import UnitDetectors, _detectors


def stream(batches, concepts, **kwargs):
    metric = UnitDetectors(list(batches[0][0]), concepts, **kwargs)
    feed_all(metric, batches, feed_taps)
    return metric.compute()


def test_worked_by_hand():
    # Unit 0 is on at two places of ten (0.2 exceed it): one inside concept 1, one without label.
    x = torch.zeros(2, 2, 5)
    x[0, 0, 1], x[1, 0, 4] = 3.0, 2.0
    x[:, 1, 0] = 1.0
    labels = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 1, 0, -1]])
    found = stream([({"a": x}, labels)], 3, quantile=0.2, permutations=0).taps["a"]
    np.testing.assert_allclose(found.iou[:2, 0], [0, 1 / 3])
    np.testing.assert_allclose(found.iou[:2, 1], [2 / 6, 0])
    assert found.label.tolist() == [1, 0]
    assert found.detects[:2].tolist() == [[False, True], [True, False]]
    assert (found.detectors, found.concepts) == (2, 2)
    assert np.isnan(found.iou[2]).all()
    assert found.reason.tolist() == ["", "", "the concept has no labelled place"]


def scenes(seed=0, n=31, batches=2):
    """Unit 2 of "a" answers to class 3; "b" is smooth noise."""
    g = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(batches):
        target = torch.randint(0, 5, (n, 3, 2), generator=g).repeat_interleave(7, 1).repeat_interleave(13, 2)
        a = torch.randn(n, 5, 21, 26, generator=g)
        a[:, 2] += 4.0 * (target == 3)
        out.append(({"a": a, "b": torch.randn(n, 7, 3, 2, generator=g)}, target))
    return out


def test_planted_unit_is_found_and_noise_is_not():
    result = stream(scenes(seed=1), 5, quantile=0.2)
    a, b = result.taps["a"], result.taps["b"]
    assert np.argwhere(a.detects).tolist() == [[3, 2]]
    assert a.iou[3, 2] > 0.6
    assert (a.label[2], a.detectors, a.concepts) == (3, 1, 1)
    assert not b.detects.any()
    assert b.detectors == 0
    # The published rule alone calls every unit of both a detector.
    assert (a.iou.max(0) > 0.04).all()
    assert (b.iou.max(0) > 0.04).all()
    assert stream(scenes(seed=1), 5, quantile=0.2, permutations=0).taps["b"].detectors == 7


def test_noise_is_rarely_a_detector():
    g = torch.Generator().manual_seed(1)
    hits = 0
    for seed in range(40):
        batches = [({"a": torch.randn(97, 11, generator=g)}, torch.randint(0, 3, (97,), generator=g)) for _ in range(2)]
        hits += stream(batches, 3, quantile=0.2, seed=seed).taps["a"].detects.any()
    assert hits <= 6


def nearest(maps, size):
    return F.interpolate(maps, size=tuple(size), mode="nearest")


def compared_first(maps, size):
    return torch.where(F.interpolate((maps > 0.5).float(), size=tuple(size), mode="bilinear") > 0.5, 1e9, -1e9)


@pytest.mark.parametrize("broken", [nearest, compared_first])
def test_reference_rejects_blocky_maps_and_comparing_before_enlarging(broken, monkeypatch):
    monkeypatch.setattr(_detectors, "resize", broken)
    with pytest.raises(AssertionError):
        check_reference(CASES["detectors-pixels"])


def test_units_are_enlarged_in_parts_where_memory_is_short(monkeypatch):
    whole = stream(scenes(batches=1), 5, quantile=0.2)
    monkeypatch.setattr(_detectors, "CHUNK", 1)
    np.testing.assert_array_equal(stream(scenes(batches=1), 5, quantile=0.2).taps["a"].iou, whole.taps["a"].iou)


def test_too_few_passes_and_taps_without_locations_have_a_reason():
    metric = UnitDetectors(["a", "b"], 5)
    feed_taps(metric, scenes(batches=1)[0], 0)
    assert "3 times: call advance()" in metric.compute().taps["a"].reason[0]
    features, target = scenes(batches=1)[0]
    result = stream([({"a": features["a"], "b": features["b"][..., 0, 0]}, target)], 5)
    assert "without locations" in result.taps["b"].reason[0]
    assert result.taps["a"].reason[0] == ""
    with pytest.raises(InputError, match="0 < quantile < 1"):
        UnitDetectors(["a"], 5, quantile=1.0)
    with pytest.raises(InputError, match=r"reduce\(x, context, tap\)"):
        metric.reduce(features["a"], metric.context(31, target, 0))
