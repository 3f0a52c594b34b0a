"""JPEG's loss, in torch: 8x8 cosine transform and the standard quantisation tables (ITU-T T.81, annexes A and K)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._corruption_draws import Draws
from ._corruption_statistics import Scale

LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99, 99, 99, 99, 99, 99, 99, 99),) * 4,
)
# From R, G, B to Y, Cb - 128, Cr - 128 (ITU-T T.871).
YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def compression(x: Tensor, level: int, draws: Draws, scale: Scale) -> Tensor:
    """What JPEG of quality ``level`` leaves of images; three channels as YCbCr with 4:2:0, others each as luma."""
    pixels = ((x - scale.low) * (255 / scale.divisor)).round_().clamp_(0, 255)
    return jpeg(pixels, level).mul_(scale.range / 255).add_(scale.low)


def jpeg(pixels: Tensor, quality: int) -> Tensor:
    """Return what is left of pixels ``[N, C, H, W]`` in 0-255 after compression at a quality of 1-100."""
    height, width = pixels.shape[2:]
    colour = pixels.shape[1] == 3
    unit = 16 if colour else 8
    padded = F.pad(pixels, (0, -width % unit, 0, -height % unit), mode="replicate")
    luma = _matrices(LUMA, quality, padded)
    if not colour:
        return _blocks(padded - 128, *luma).add_(128).round_().clamp_(0, 255)[..., :height, :width]
    forward = torch.tensor(YCC, dtype=pixels.dtype)
    backward = torch.linalg.inv(forward.double()).to(pixels, non_blocking=True)
    planes = _mix(forward.to(pixels, non_blocking=True), padded).round_()
    y = _blocks(planes[:, :1] - 128, *luma).add_(128).round_().clamp_(0, 255)
    chroma = F.avg_pool2d(planes[:, 1:], 2).round_()
    chroma = _blocks(chroma, *_matrices(CHROMA, quality, padded)).round_().clamp_(-128, 127)
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear")
    return _mix(backward, torch.cat([y, chroma], 1)).round_().clamp_(0, 255)[..., :height, :width]


def quantisation_table(base: tuple, quality: int) -> Tensor:
    """Return the table for a quality, as libjpeg scales it, ``[8, 8]``."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor(base) * percent + 50) // 100).clamp(1, 255)


def _matrices(base: tuple, quality: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ``[64, 64]`` matrices from a block to its quantised coefficients (to be rounded), and back."""
    order = torch.arange(8, dtype=torch.float64)
    cosine = torch.cos(math.pi / 8 * order[:, None] * (order + 0.5)) * 0.5
    cosine[0] *= 0.5**0.5
    transform = torch.kron(cosine, cosine)
    table = quantisation_table(base, quality).double().flatten()
    return (transform.T / table).to(like, non_blocking=True), (table[:, None] * transform).to(like, non_blocking=True)


def _blocks(planes: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """Return planes ``[N, C, H, W]`` with every 8x8 block transformed, rounded and transformed back."""
    N, C, H, W = planes.shape
    blocks = planes.view(N, C, H // 8, 8, W // 8, 8).transpose(3, 4).reshape(-1, 64)
    blocks = (blocks @ forward).round_() @ backward
    return blocks.view(N, C, H // 8, W // 8, 8, 8).transpose(3, 4).reshape(N, C, H, W)


def _mix(matrix: Tensor, planes: Tensor) -> Tensor:
    return (matrix @ planes.flatten(2)).view(planes.shape)
