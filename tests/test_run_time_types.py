"""The annotations of the package are checked while these tests run, with shapes and without."""

from __future__ import annotations

import pytest
import torch

import fusionscope
from fusionscope.measures.functional import hsic1


def test_a_wrong_argument_is_found() -> None:
    with pytest.raises(Exception, match="violates type hint|Type-check error"):
        fusionscope.load(3)


def test_axes_of_unequal_size_are_found() -> None:
    with pytest.raises(Exception, match="Type-check error"):
        hsic1(torch.eye(7), torch.eye(5))
