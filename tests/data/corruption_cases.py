"""One modality of every form, in prime sizes, smooth enough that larger shifts do more; and a slow JPEG."""

from __future__ import annotations

import math

import numpy as np
import torch

from fusionscope.data import corruptions


def smooth(*shape, seed=0, coarse=5):
    """Correlated noise over the last two axes."""
    g = torch.Generator().manual_seed(seed)
    field = torch.randn(math.prod(shape[:-2]), 1, coarse, coarse, generator=g)
    fine = torch.nn.functional.interpolate(field, shape[-2:], mode="bicubic", align_corners=True)
    return fine.view(shape) + 0.05 * torch.randn(shape, generator=g)


def tones(samples, channels, steps, seed=0):
    """Slow sines of random phase: a shift of up to 0.3 of the length does more the longer it is."""
    g = torch.Generator().manual_seed(seed)
    t = torch.arange(steps) / steps
    phase, size = torch.rand(2, samples, channels, 1, generator=g)
    return (0.5 + size) * torch.sin(2 * math.pi * (t + phase)) + 0.1 * torch.randn(
        samples, channels, steps, generator=g
    )


FORMS = {
    "image": ("image", lambda: smooth(17, 3, 37, 41)),
    "one plane": ("image", lambda: smooth(17, 1, 37, 41)),
    "depth": ("depth", lambda: smooth(17, 1, 37, 41) + 3),
    "video": ("video", lambda: smooth(11, 13, 3, 19, 23).cumsum(1)),
    "wave": ("audio", lambda: tones(11, 1, 307)),
    "bare wave": ("audio", lambda: tones(11, 1, 307)[:, 0]),
    "spectrogram": ("audio", lambda: smooth(11, 1, 23, 31)),
    "sequence": ("sequence", lambda: tones(11, 13, 31).transpose(1, 2).contiguous()),
    "vector": ("vector", lambda: smooth(37, 1, 1, 19)[:, 0, 0] * torch.arange(1, 20)),
}
CASES = [(form, name) for form, (kind, _) in FORMS.items() for name in corruptions(kind)]


def slow_jpeg(pixels, quality, luma, chroma):
    """JPEG of ``[H, W, 3]`` or ``[H, W]`` in 0-255, sides multiples of 16, block by block."""
    x = np.asarray(pixels, dtype=np.float64)
    if x.ndim == 2:
        return _clip(_plane(x, quality, luma, 128))
    r, g, b = x[..., 0], x[..., 1], x[..., 2]
    y = np.rint(0.299 * r + 0.587 * g + 0.114 * b)
    planes = [_clip(_plane(y, quality, luma, 128))]
    for plane in (-0.168736 * r - 0.331264 * g + 0.5 * b, 0.5 * r - 0.418688 * g - 0.081312 * b):
        small = np.rint(np.rint(plane).reshape(len(x) // 2, 2, -1, 2).mean((1, 3)))
        planes.append(_larger(_clip(_plane(small, quality, chroma, 0) + 128) - 128))
    y, cb, cr = planes
    return _clip(np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1))


def _clip(x):
    return np.clip(np.rint(x), 0, 255)


def _larger(x):
    """Twice the size, each new sample 3/4 of the near one and 1/4 of the next."""
    for axis in (0, 1):
        pad = np.concatenate([x.take([0], axis), x, x.take([-1], axis)], axis)
        n = x.shape[axis]
        near, before, after = (pad.take(range(i, n + i), axis) for i in (1, 0, 2))
        x = np.stack([0.75 * near + 0.25 * before, 0.75 * near + 0.25 * after], axis + 1)
        x = x.reshape([2 * n if a == axis else s for a, s in enumerate(pad.shape)])
    return x


def _plane(x, quality, table, offset):
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    out = np.zeros_like(x)
    for top in range(0, len(x), 8):
        for left in range(0, x.shape[1], 8):
            block = x[top : top + 8, left : left + 8] - offset
            back = np.zeros((8, 8))
            for u in range(8):
                for v in range(8):
                    size = (0.5 if u else 0.5**1.5) * (0.5 if v else 0.5**1.5)
                    wave = np.outer(_cos(u), _cos(v)) * size
                    step = min(max((table[u][v] * scale + 50) // 100, 1), 255)
                    back += np.rint((block * wave).sum() / step) * step * wave
            out[top : top + 8, left : left + 8] = back + offset
    return out


def _cos(u):
    return np.array([math.cos((2 * i + 1) * u * math.pi / 16) for i in range(8)])
