"""Fingerprints tell tensors apart."""

from __future__ import annotations

import pytest
import torch

from fusionscope.tracing._fingerprint import fingerprint


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_fingerprints_tell_similar_rows_apart(dtype: torch.dtype) -> None:
    rows = torch.eye(509, dtype=torch.float32).to(dtype)
    assert len(set(fingerprint(rows).axes[0].tolist())) == 509
    for axis in fingerprint(rows, full=True).axes + fingerprint(rows[:101]).axes:
        assert len(set(axis.tolist())) >= 101


def test_fingerprints_of_special_values() -> None:
    x = torch.tensor([[0.0, torch.nan], [1.0, torch.inf]])
    y = torch.tensor([[-0.0, -torch.nan], [1.0, torch.inf]])
    assert fingerprint(x).key == fingerprint(y).key
    assert not fingerprint(x).finite
    assert fingerprint(x).key != fingerprint(x.nan_to_num(posinf=torch.inf)).key
    assert fingerprint(torch.full((3, 2), 5)).constant
    assert fingerprint(torch.fft.fft(torch.randn(3, 4)).conj()).shape == (3, 4)
    assert fingerprint(torch.tensor(2.0)).shape == ()
    assert fingerprint(torch.zeros(0, 3)).constant
    assert not fingerprint(torch.tensor(2.0)).constant
