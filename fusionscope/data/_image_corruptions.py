"""Corruptions of images and depth maps ``[N, C, H, W]``; of a video, frame by frame."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._corruption_draws import Draws, interval, places
from ._corruption_statistics import Scale


def noise(x: Tensor, level: float, draws: Draws, scale: Scale) -> Tensor:
    """Gaussian noise of ``level`` of the range, cut off at the range's ends as a sensor would."""
    return torch.addcmul(x, draws.noise_like(x), level * scale.range).clamp_(scale.low, scale.high)


def blur(x: Tensor, level: tuple[float, float], draws: Draws, scale: Scale) -> Tensor:
    """Gaussian blur; sigma is the larger of the first level at a side of 224 pixels, and the second one in pixels."""
    height, width = x.shape[-2:]
    sigma = max(level[0] * min(height, width) / 224, level[1])
    down, across = (_gaussian(side, sigma, x) for side in (height, width))
    return down @ (x @ across.T)


def _gaussian(side: int, sigma: float, like: Tensor) -> Tensor:
    """Return the blur of one axis as a matrix ``[side, side]``; beyond the edge the edge goes on."""
    reach = torch.arange(-math.ceil(4 * sigma), math.ceil(4 * sigma) + 1, device=like.device)
    weight = torch.exp(-0.5 * (reach / sigma) ** 2)
    source = (torch.arange(side, device=like.device)[:, None] + reach).clamp(0, side - 1)
    weight = (weight / weight.sum()).to(like.dtype).expand(side, -1)
    return like.new_zeros(side, side).scatter_add_(1, source, weight)


def brightness(x: Tensor, level: float, draws: Draws, scale: Scale) -> Tensor:
    """Every channel brighter by ``level`` of its range, cut off at its high end."""
    return torch.minimum(x + level * scale.range, scale.high.maximum(x))


def contrast(x: Tensor, level: float, draws: Draws, scale: Scale) -> Tensor:
    """Differences from each image's own mean (per channel) shrunk to ``level``."""
    return torch.lerp(x.mean((2, 3), keepdim=True), x, level)


def occlusion(x: Tensor, level: float, draws: Draws, scale: Scale) -> Tensor:
    """A box over ``level`` of the area, at a random place, filled with the channel's mean."""
    start = draws.uniform(2)
    down, across = (interval(start[:, i : i + 1], level**0.5, x.shape[2 + i]) for i in range(2))
    return torch.where((down[:, :, None] & across[:, None, :])[:, None], scale.mean, x)


def misalignment(x: Tensor, level: float, draws: Draws, scale: Scale) -> Tensor:
    """Shifted by ``level`` of the shorter side in a random direction; beyond the edge the edge goes on."""
    height, width = x.shape[2:]
    angle = 2 * math.pi * draws.uniform()
    shift = places(level, min(height, width)) * torch.stack([angle.sin(), angle.cos()])
    down, across = shift.round().long()[..., None]
    rows = (torch.arange(height, device=x.device) - down).clamp(0, height - 1)
    columns = (torch.arange(width, device=x.device) - across).clamp(0, width - 1)
    source = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    return x.flatten(2).gather(2, source[:, None].expand(-1, x.shape[1], -1)).view(x.shape)


def holes(x: Tensor, level: float, draws: Draws, scale: Scale) -> Tensor:
    """Blobs over ``level`` of the area read 0, or the low value where that is below 0."""
    return torch.where(draws.blobs(level, (x.shape[2], x.shape[3])), scale.low.clamp(max=0), x)


def quantisation(x: Tensor, level: int, draws: Draws, scale: Scale) -> Tensor:
    """Rounded to ``level`` values from low to high."""
    step = scale.range / (level - 1)
    return ((x - scale.low) / scale.divisor * (level - 1)).round_().clamp_(0, level - 1).mul_(step).add_(scale.low)


def range_clip(x: Tensor, level: float, draws: Draws, scale: Scale) -> Tensor:
    """What is farther than mean + ``level`` standard deviations reads that limit."""
    return torch.minimum(x, scale.mean + level * scale.sd)
