"""One encoder per kind of input: vectors, sequences, maps, clips. Each is a pure stream of one modality.

All begin with a batch norm without affine on the raw channels, so that inputs of any unit (metres, counts, grey
values) come in at zero mean and unit variance, with statistics learned from the training data.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from ._blocks import Deltas, Residual


def _floating(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


class VectorEncoder(nn.Module):
    """Multi-layer perceptron for vectors: ``[B,C] -> [B,D]`` with ``D = channels = 4 * width``.

    >>> import torch
    >>> VectorEncoder(5, width=4).eval()(torch.zeros(3, 5)).shape
    torch.Size([3, 16])
    """

    def __init__(self, inputs: int, width: int = 16, dropout: float = 0.0):
        super().__init__()
        self.channels = 4 * width
        self.stem = nn.Sequential(nn.BatchNorm1d(inputs, affine=False), nn.Dropout(dropout))
        self.stages = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU(inplace=True))
                for a, b in pairwise((inputs, self.channels, self.channels, self.channels))
            )
        )

    def forward(self, x: Shaped[Tensor, "b c"]) -> Float[Tensor, "b d"]:
        return self.stages(self.stem(_floating(x)))


class SequenceEncoder(nn.Module):
    """Residual 1-d convolutions for sequences: ``[B,T,C] -> [B,D]`` with ``D = channels = 4 * width``.

    The stem sees every channel and its difference to the step before; each stage after the first halves the time axis;
    the mean over time ends the stream. With ``keep_time`` it does not: ``[B,T,C] -> [B,ceil(T/4),D]``.

    >>> import torch
    >>> SequenceEncoder(5, width=4).eval()(torch.zeros(3, 17, 5)).shape
    torch.Size([3, 16])
    >>> SequenceEncoder(5, width=4, keep_time=True).eval()(torch.zeros(3, 17, 5)).shape
    torch.Size([3, 5, 16])
    """

    def __init__(self, inputs: int, width: int = 16, dropout: float = 0.0, *, keep_time: bool = False):
        super().__init__()
        self.channels = 4 * width
        self.stem = nn.Sequential(
            Deltas(),
            nn.BatchNorm1d(2 * inputs, affine=False),
            nn.Dropout1d(dropout),
            nn.Conv1d(2 * inputs, width, 5, padding=2, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
        )
        self.stages = _stages(1, width)
        self.pool = None if keep_time else nn.AdaptiveAvgPool1d(1)

    def forward(self, x: Shaped[Tensor, "b t c"]) -> Float[Tensor, "b *steps d"]:
        x = self.stages(self.stem(_floating(x).transpose(1, 2)))
        return x.transpose(1, 2) if self.pool is None else self.pool(x).flatten(1)


class MapEncoder(nn.Module):
    """Residual 2-d convolutions for maps: ``[B,C,H,W] -> [B,D]``, or ``[B,D,h,w]`` when ``size=(h, w)`` is given.

    The stem and each stage after the first halve the resolution. For a vector, the last stage's ``D = 4 * width``
    channels are averaged over the map. With ``size`` (dense prediction), the stages' maps are merged top-down into one
    map of that size with ``D = width``: a feature pyramid (arXiv:1612.03144) that stays inside this modality, so
    that fine detail reaches the fusion and the modalities meet at one place only.

    >>> import torch
    >>> MapEncoder(2, width=4).eval()(torch.zeros(3, 2, 29, 31)).shape
    torch.Size([3, 16])
    >>> MapEncoder(2, width=4, size=(15, 16)).eval()(torch.zeros(3, 2, 29, 31)).shape
    torch.Size([3, 4, 15, 16])
    """

    def __init__(self, inputs: int, width: int = 16, dropout: float = 0.0, size: tuple[int, int] | None = None):
        super().__init__()
        self.channels = 4 * width if size is None else width
        self.stem = nn.Sequential(
            nn.BatchNorm2d(inputs, affine=False),
            nn.Dropout2d(dropout),
            nn.Conv2d(inputs, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.stages = _stages(2, width)
        self.out = nn.AdaptiveAvgPool2d(1) if size is None else Pyramid((width, 2 * width, 4 * width), width, size)

    def forward(self, x: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b d *loc"]:
        x = self.stem(_floating(x))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return self.out(maps) if isinstance(self.out, Pyramid) else self.out(x).flatten(1)


class ClipEncoder(nn.Module):
    """Clips: ``[B,T,C,H,W]``, every frame through one :class:`MapEncoder`, then the mean over the frames.

    >>> import torch
    >>> ClipEncoder(2, width=4).eval()(torch.zeros(3, 5, 2, 29, 31)).shape
    torch.Size([3, 16])
    """

    def __init__(self, inputs: int, width: int = 16, dropout: float = 0.0, size: tuple[int, int] | None = None):
        super().__init__()
        self.frame = MapEncoder(inputs, width, dropout, size)
        self.channels = self.frame.channels

    def forward(self, x: Shaped[Tensor, "b t c h w"]) -> Float[Tensor, "b d *loc"]:
        return self.frame(x.flatten(0, 1)).unflatten(0, tuple(x.shape[:2])).mean(1)


class Pyramid(nn.Module):
    """Merge maps of falling resolution top-down into one of ``channels`` channels and the given ``size``.

    ``p_L = lateral_L(x_L)``, ``p_l = lateral_l(x_l) + resize(p_{l+1})``, then conv-norm-relu on ``p_0``.
    """

    def __init__(self, inputs: tuple[int, ...], channels: int, size: tuple[int, int]):
        super().__init__()
        self.size = size
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, channels, 1, bias=False), nn.BatchNorm2d(channels)) for c in inputs
        )
        self.smooth = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )

    def forward(self, maps: list[Tensor]) -> Float[Tensor, "b d h w"]:
        merged = self.laterals[-1](maps[-1])
        for lateral, x in zip(reversed(list(self.laterals)[:-1]), reversed(maps[:-1]), strict=True):
            merged = lateral(x) + resize(merged, (x.shape[2], x.shape[3]))
        return resize(self.smooth(merged), self.size)


def resize(x: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "b c h2 w2"]:
    """Bilinear interpolation to ``size``; the identity where nothing changes."""
    return x if (x.shape[2], x.shape[3]) == size else F.interpolate(x, size, mode="bilinear", align_corners=False)


def _stages(dims: int, width: int) -> nn.Sequential:
    widths = (width, width, 2 * width, 4 * width)
    return nn.Sequential(*(Residual(dims, a, b, 1 if i == 0 else 2) for i, (a, b) in enumerate(pairwise(widths))))
