"""Random numbers of a corruption: the same ones for every severity, so that severities are paired."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def places(share: float, count: int) -> int:
    """How many of ``count`` places a share is, rounded up: every severity damages at least one."""
    return math.ceil(share * count - 1e-9)


class Draws:
    """What one corruption draws for one tensor of one batch.

    Few numbers per sample (places, directions, orders) are drawn on the CPU and are the same on every device; noise
    per value is drawn on the values' own device, whose generator gives other numbers than the CPU's. What goes to the
    device is small, and nothing waits for it.

    Args:
        seed: of everything drawn here.
        samples: B.
        device: of the values.
        frames: rows per sample; a video's frames share what is drawn per sample.
    """

    def __init__(self, seed: int, samples: int, device: torch.device, frames: int = 1) -> None:
        self.seed, self.samples, self.device, self.frames = seed, samples, device, frames
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int) -> Tensor:
        """Return numbers in [0, 1), ``[rows, *shape]``, drawn per sample on the CPU and repeated for its frames."""
        return self._rows(torch.rand(self.samples, *shape, generator=self.generator))

    def _rows(self, drawn: Tensor) -> Tensor:
        drawn = drawn.to(self.device, non_blocking=True)
        return drawn.repeat_interleave(self.frames, 0) if self.frames > 1 else drawn

    def noise_like(self, x: Tensor) -> Tensor:
        """Return standard normal noise shaped like ``x``."""
        generator = torch.Generator(x.device).manual_seed(self.seed)
        return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)

    def chosen(self, share: float, count: int) -> Tensor:
        """Return a random share of ``count`` places per sample, ``[rows, count]`` bool; a larger share takes more."""
        return ranks(self.uniform(count)) < places(share, count)

    def blobs(self, share: float, size: tuple[int, int]) -> Tensor:
        """Return a share of an image in blobs, ``[rows, 1, H, W]`` bool: squares of 1/16 of a side, in clusters."""
        cells = [min(16, side) for side in size]
        field = torch.rand(self.samples, 1, *cells, generator=self.generator)
        field = self._rows(F.avg_pool2d(field, 3, 1, 1, count_include_pad=False).flatten(1))
        inside = (ranks(field) < places(share, cells[0] * cells[1])).view(-1, 1, *cells)
        return F.interpolate(inside.to(torch.uint8), size, mode="nearest").bool()

    def band(self, share: float, count: int) -> Tensor:
        """Return an interval that covers a share of ``count`` places, ``[rows, count]`` bool; a larger one holds it."""
        return interval(self.uniform(1), share, count)


def interval(start: Tensor, share: float, count: int) -> Tensor:
    """Return which of ``count`` places lie in an interval of a share of them, ``[B, count]``, grown about ``start``."""
    width = max(share * count, 1.0)
    low = start * (count - width)
    middle = torch.arange(count, device=start.device) + 0.5
    return (middle >= low) & (middle < low + width)


def ranks(numbers: Tensor) -> Tensor:
    """Return each number's place in the order of its row."""
    return numbers.argsort(stable=True, dim=1).argsort(1)
