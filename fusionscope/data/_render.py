"""Paint a chunk of scenes: states of the stones in, rgb and depth images out. All draws come from one generator."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

JITTER = 0.25  # of the stones' spacing
NIGHT_GAIN = 0.0005  # below this camera's noise even when a stone's pixels are averaged
HOLE_SHARE = 0.25  # of the pixels of a scene whose depth sensor has holes

_ALBEDO = torch.tensor(
    [[0.66, 0.57, 0.42], [0.42, 0.48, 0.57], [0.72, 0.27, 0.18], [0.30, 0.56, 0.24], [0.20, 0.34, 0.76]]
)  # sand, slate, red, green, blue
_RGB_NOISE, _DEPTH_NOISE = 0.03, 0.004  # full scale, metres
_DOME, _STEP, _MICRO, _SLOPE, _TILT, _JOINT = 0.11, 0.03, 0.018, 0.13, 0.03, 0.02  # metres


@dataclass(frozen=True)
class Stones:
    """Each pixel's stone, its distance to the stone's edge and its (y, x) offset from the stone's seed, in spacings."""

    cell: Int[Tensor, "N H W"]
    border: Float[Tensor, "N H W"]
    offset: Float[Tensor, "N 2 H W"]


def lay_stones(n: int, size: int, cells: int, rng: torch.Generator) -> Stones:
    """Voronoi cells of a jittered grid of ``cells + 2`` seeds a side, of which the outer ring lies out of view."""
    side = cells + 2
    grid = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1) - 0.5
    seeds = grid + JITTER * (2 * torch.rand(n, side, side, 2, generator=rng) - 1)
    at = (torch.arange(size) + 0.5) * cells / size
    home = at.long() + 1
    best = torch.full((n, size, size), torch.inf)
    second = best.clone()
    cell = torch.zeros(n, size, size, dtype=torch.int64)
    offset = torch.zeros(n, 2, size, size)
    # With this jitter the two nearest seeds are among the 3x3 around the pixel's own.
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            y, x = home + dy, home + dx
            seed = seeds[:, y][:, :, x]
            gap = torch.stack((at[:, None] - seed[..., 0], at[None, :] - seed[..., 1]), 1)
            distance = gap.square().sum(1).sqrt()
            nearer = distance < best
            second = torch.where(nearer, best, torch.minimum(second, distance))
            best = torch.where(nearer, distance, best)
            cell = torch.where(nearer, y[:, None] * side + x[None, :], cell)
            offset = torch.where(nearer[:, None], gap, offset)
    return Stones(cell, second - best, offset)


def _blobs(n: int, channels: int, knots: int, size: int, rng: torch.Generator) -> Tensor:
    """Smooth random fields, roughly standard normal at the knots."""
    coarse = torch.randn(n, channels, knots, knots, generator=rng)
    return F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)


def _per_pixel(values: Tensor, cell: Tensor) -> Tensor:
    return values.gather(1, cell.flatten(1)).view(cell.shape)


def paint_rgb(
    stones: Stones, colour: Int[Tensor, "N S"], night: Bool[Tensor, " N"], rng: torch.Generator
) -> Float[Tensor, "N 3 H W"]:
    """Albedo times smooth light that knows nothing of the relief, plus texture and sensor noise; in [0, 1]."""
    n, size, _ = stones.cell.shape
    albedo = _ALBEDO[_per_pixel(colour, stones.cell)].permute(0, 3, 1, 2)
    shade = _per_pixel(1 + 0.06 * torch.randn(colour.shape, generator=rng), stones.cell)
    joint = 1 - 0.45 * (1 - stones.border / 0.12).clamp_min(0)
    texture = 1 + 0.05 * torch.randn(n, size, size, generator=rng)
    level = 0.75 + 0.35 * torch.rand(n, 1, 1, 1, generator=rng)
    tint = 1 + 0.04 * torch.randn(n, 3, 1, 1, generator=rng)
    light = level * tint * (1 + 0.12 * _blobs(n, 1, 3, size, rng)).clamp(0.5, 1.5)
    gain = torch.where(night, NIGHT_GAIN, 1.0)[:, None, None, None]
    clean = albedo * (shade * joint * texture)[:, None] * light
    return (gain * clean + _RGB_NOISE * torch.randn(clean.shape, generator=rng)).clamp(0, 1)


def paint_depth(
    stones: Stones, relief: Int[Tensor, "N S"], holes: Bool[Tensor, " N"], rng: torch.Generator
) -> tuple[Float[Tensor, "N 1 H W"], Bool[Tensor, "N 1 H W"]]:
    """Depth in metres about the camera's mean distance, nearer is smaller, and where the sensor failed."""
    n, size, _ = stones.cell.shape
    y, x = stones.offset.unbind(1)
    rise = (stones.border / 0.7).clamp(0, 1)
    phase = 2 * pi * torch.rand(n, 2, 1, 1, generator=rng)
    turn = 2 * pi * torch.rand(n, 1, 1, generator=rng)
    wave_y, wave_x = torch.sin(4 * pi * y + phase[:, 0]), torch.sin(4 * pi * x + phase[:, 1])
    dome = _DOME * rise * (2 - rise)
    slab = _STEP * (4 * rise).clamp_max(1)
    heights = torch.stack(
        (
            slab + _MICRO * wave_y,
            -slab + 1.4 * _MICRO * wave_y * wave_x,
            dome,
            -dome,
            _SLOPE * (turn.cos() * y + turn.sin() * x) * (8 * rise).clamp_max(1),
        ),
        1,
    )
    height = heights.gather(1, _per_pixel(relief, stones.cell)[:, None])
    height = height - _JOINT * (1 - stones.border[:, None] / 0.12).clamp_min(0)
    tilt = _TILT * (2 * torch.rand(n, 2, 1, 1, 1, generator=rng) - 1)
    ramp = torch.linspace(-1, 1, size)
    plane = tilt[:, 0] * ramp[:, None] + tilt[:, 1] * ramp[None, :]
    depth = plane - height + _DEPTH_NOISE * torch.randn(height.shape, generator=rng)
    field = _blobs(n, 1, 6, size, rng)
    cut = field.flatten(1).kthvalue(round((1 - HOLE_SHARE) * size * size), dim=1).values[:, None, None, None]
    return depth, (field > cut) & holes[:, None, None, None]
