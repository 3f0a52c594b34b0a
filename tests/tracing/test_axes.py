"""Sample and unit axes of every layout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fusionscope.tracing import trace

from .models import B


@pytest.mark.parametrize(
    ("layout", "shape", "sample", "unit"),
    [
        ("NCHW", (B, 5, 11, 13), 0, 1),
        ("NHWC", (B, 11, 13, 5), 0, 3),
        ("NTC", (B, 11, 5), 0, 2),
        ("TNC", (11, B, 5), 1, 2),
        ("(NT)C", (B * 11, 5), 0, 1),
        ("(TN)C", (11 * B, 5), 0, 1),
    ],
)
def test_axes_of_every_layout(layout: str, shape: tuple[int, ...], sample: int, unit: int) -> None:
    class Layout(nn.Module):
        """A linear or convolutional layer in the layout, and an elementwise layer that must inherit its axes."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 5, 1) if layout == "NCHW" else nn.Linear(3, 5)
            self.act, self.b = nn.GELU(), nn.Linear(5, 5)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            moved = {"NCHW": lambda x: x.permute(0, 3, 1, 2), "TNC": lambda x: x.transpose(0, 1)}
            moved |= {"(NT)C": lambda x: x.flatten(0, 1), "(TN)C": lambda x: x.transpose(0, 1).flatten(0, 1)}
            x = self.act(self.layer(moved.get(layout, lambda x: x)(a)))
            spread = tuple(range(x.ndim - 1)) if layout != "NCHW" else (0, 2, 3)
            return x.mean(spread) + self.b(b)

    a = torch.randn(B, 11, 13, 3) if len(shape) == 4 else torch.randn(B, 11, 3)
    found = trace(Layout(), {"a": a, "b": torch.randn(B, 5)})
    for path in ("layer", "act"):
        call = found.call(path)
        assert (call.shape, call.axes.sample, call.axes.unit) == (shape, sample, unit)
        assert call.axes.per_sample == (11 if "(" in layout else 1)
        assert call.axes.stacked is (layout == "(TN)C")
