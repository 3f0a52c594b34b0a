"""Class selectivity index, effective rank and participation ratio: known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fusionscope.errors import InputError
from fusionscope.measures.functional import class_selectivity_index, effective_rank, participation_ratio


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_class_selectivity_of_the_reference_values(kind):
    columns = [(1, 0, 0, 0), (2, 2, 2, 2), (3, 1, 1, 1), (0.9, 0.3, 0.2, 0.1), (0, 0, 0, 0)]
    found = class_selectivity_index(kind(list(zip(*columns, strict=True))))
    np.testing.assert_allclose(found, [1, 0, 0.5, 0.636364, 0], atol=1e-6)


def test_class_selectivity_is_not_defined_for_negative_means_or_one_class():
    means = torch.tensor([[1.0, -0.1, torch.nan, torch.inf], [2.0, 5.0, 1.0, 1.0]])
    assert class_selectivity_index(means).isnan().tolist() == [False, True, True, True]
    assert class_selectivity_index(means[:1]).isnan().all()


def features(n=29, widths=(1.0, 1.0, 1.0, 0.0, 0.0), seed=0):
    """Orthogonal columns of known length, rotated, with a mean far away."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, len(widths), generator=g, dtype=torch.float64)
    x = torch.linalg.qr(x - x.mean(0)).Q * torch.tensor(widths)
    return x @ torch.linalg.qr(torch.randn(len(widths), len(widths), generator=g, dtype=torch.float64)).Q + 7


def test_rank_of_equal_directions_is_their_number():
    x = features()
    for value in (x, x.numpy(), 3 * x):
        assert effective_rank(value) == pytest.approx(3, abs=1e-6)
        assert participation_ratio(value) == pytest.approx(3, abs=1e-6)


def test_ranks_worked_by_hand_from_features_and_covariance():
    x = features(widths=(1.0, 2.0, 0.0))
    entropy = -(1 / 3) * math.log(1 / 3) - (2 / 3) * math.log(2 / 3)
    covariance = torch.cov(x.T)
    for value, given in ((x, False), (covariance, True), (covariance.numpy(), True)):
        assert effective_rank(value, covariance=given) == pytest.approx(math.exp(entropy), abs=1e-6)
        assert participation_ratio(value, covariance=given) == pytest.approx(25 / 17, abs=1e-6)


def test_rank_rejects_a_forgotten_mean():
    x = features()
    assert effective_rank(x.T @ x, covariance=True) < 2.5


def test_nothing_varies():
    for x in (torch.ones(5, 3) * 0.3, torch.ones(5, 3) * torch.nan, torch.zeros(0, 3), torch.ones(1, 3)):
        assert math.isnan(effective_rank(x))
        assert math.isnan(participation_ratio(x))
    with pytest.raises(InputError, match=r"expected a covariance \[U, U\], got shape \(29, 5\); leave out"):
        effective_rank(features(), covariance=True)
