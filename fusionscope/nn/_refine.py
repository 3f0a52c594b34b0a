"""Light-weight RefineNet: maps of falling resolution to one map, without norms."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fusionscope.errors import InputError


class ResidualUnit(nn.Module):
    """Residual convolution unit, ``x + conv(relu(conv(relu(x))))``, light: both convolutions are 1x1."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(), nn.Conv2d(channels, channels, 1), nn.ReLU(inplace=True), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.body(x)


class ChainedPooling(nn.Module):
    """Chained residual pooling: ``x + p_1 + p_2 + ...`` with ``p_i = conv(maxpool(p_{i-1}))``, ``p_0 = x``.

    5x5 max-pools with stride 1, so that what is said about a place draws on ever larger surroundings; light: the
    convolutions are 1x1 without bias.
    """

    def __init__(self, channels: int, stages: int = 4):
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(5, stride=1, padding=2), nn.Conv2d(channels, channels, 1, bias=False))
            for _ in range(stages)
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        top = x
        for stage in self.stages:
            top = stage(top)
            x = x + top
        return x


class RefineNet(nn.Module):
    """Light-weight RefineNet decoder: ``[B,C_i,H_i,W_i]`` of four stages (or any number) to ``[B,width,H_0,W_0]``.

    From the deepest stage up: 1x1 dimension reduction, residual units, plus what came from below (1x1 convolution,
    enlarged bilinearly with aligned corners), ReLU, chained residual pooling. Before the reduction the two deepest
    stages pass through dropout. There are no norms: a decoder that is shared among modalities is shared entirely.

    Light means that the 3x3 convolutions of RefineNet (arXiv:1611.06612) are 1x1 here, in the residual units, in the
    pooling chains and in the reductions: Nekrasov et al. 2018, arXiv:1810.03272, who found the light residual units
    to add nothing and left them out; so does the default ``units=0``.

    Args:
        channels: of each stage's map, from the largest map to the smallest.
        width: channels inside and of what comes out.
        dropout: on the two deepest maps.
        units: residual units per stage.
        pools: stages of each pooling chain.

    Raises:
        InputError: if the maps are not those of ``channels``.

    >>> import torch
    >>> maps = [torch.zeros(2, c, s, s + 2) for c, s in ((3, 11), (5, 7), (7, 5), (11, 3))]
    >>> RefineNet((3, 5, 7, 11), width=4)(maps).shape
    torch.Size([2, 4, 11, 13])
    """

    def __init__(
        self, channels: Sequence[int], width: int = 256, *, dropout: float = 0.5, units: int = 0, pools: int = 4
    ):
        super().__init__()
        if not channels:
            raise InputError("RefineNet needs the channels of one stage or more, got none")
        self.inputs, self.channels = tuple(channels), width
        self.dropout = nn.Dropout(dropout)
        self.reduce = nn.ModuleList(nn.Conv2d(c, width, 1, bias=False) for c in channels)
        self.units = nn.ModuleList(nn.Sequential(*(ResidualUnit(width) for _ in range(units))) for _ in channels)
        self.pools = nn.ModuleList(ChainedPooling(width, pools) for _ in channels)
        self.below = nn.ModuleList(nn.Conv2d(width, width, 1, bias=False) for _ in pairwise(channels))
        self.relu = nn.ReLU()

    def forward(self, maps: Sequence[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b c h w"]:
        if tuple(x.shape[1] for x in maps) != self.inputs:
            raise InputError(
                f"RefineNet takes {len(self.inputs)} maps of {self.inputs} channels, got "
                f"{', '.join(str(list(x.shape)) for x in maps) or 'none'}"
            )
        *others, deepest = [self._own(i, x) for i, x in enumerate(maps)]
        merged = self.pools[-1](self.relu(deepest))
        for i in range(len(others) - 1, -1, -1):
            merged = self.pools[i](self.relu(others[i] + enlarge(self.below[i](merged), others[i])))
        return merged

    def _own(self, i: int, x: Tensor) -> Tensor:
        """What a stage brings before it meets the deeper ones."""
        return self.units[i](self.reduce[i](self.dropout(x) if i >= len(self.inputs) - 2 else x))


def enlarge(x: Float[Tensor, "b c h w"], like: Float[Tensor, "b _ h2 w2"]) -> Float[Tensor, "b c h2 w2"]:
    """Bilinear interpolation with aligned corners to the size of ``like``."""
    size = (like.shape[2], like.shape[3])
    return x if (x.shape[2], x.shape[3]) == size else F.interpolate(x, size, mode="bilinear", align_corners=True)
