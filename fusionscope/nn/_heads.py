"""Heads: from fused features to the prediction."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ._encoders import resize


class VectorHead(nn.Module):
    """Fused vectors to logits or values: ``[B,C] -> [B,K]``; with ``regression`` and one value ``[B]``.

    dropout - linear - norm - relu - dropout - linear; the hidden layer is what lets modalities interact. For regression
    the output is ``centre + scale * layers(x)``, see :meth:`set_range`.

    >>> import torch
    >>> VectorHead(7, 3).eval()(torch.zeros(2, 7)).shape
    torch.Size([2, 3])
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, inputs: int, outputs: int, *, hidden: int = 64, dropout: float = 0.0, regression: bool = False):
        super().__init__()
        self.regression = regression
        self.layers = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(inputs, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, outputs),
        )
        if regression:
            self.register_buffer("centre", torch.zeros(outputs))
            self.register_buffer("scale", torch.ones(outputs))

    def set_range(self, centre: Float[Tensor, " k"], scale: Float[Tensor, " k"]) -> None:
        """Set the mean and standard deviation of the values to regress, so that the layers work in unit scale."""
        self.centre.copy_(centre)
        self.scale.copy_(scale)

    def rescale(self, x: Float[Tensor, "b k"]) -> Float[Tensor, "b ..."]:
        """From unit scale to the target's."""
        x = self.centre + self.scale * x
        return x.squeeze(1) if x.shape[1] == 1 else x

    def forward(self, x: Float[Tensor, "b c"]) -> Float[Tensor, "b ..."]:
        x = self.layers(x)
        return self.rescale(x) if self.regression else x


class DenseHead(nn.Module):
    """Fused maps to per-pixel logits: ``[B,C,h,w] -> [B,K,H,W]`` with ``(H, W) = size``.

    Two conv-norm-relu (3x3, then 1x1), then the logits of a 2x2 block of pixels from each position (sub-pixel
    convolution, arXiv:1609.05158), cropped to ``size``; features that are not at half the target's size are resized.

    >>> import torch
    >>> DenseHead(7, 3, (11, 13)).eval()(torch.zeros(2, 7, 6, 7)).shape
    torch.Size([2, 3, 11, 13])
    """

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int], *, hidden: int = 32, dropout: float = 0.0):
        super().__init__()
        self.size = size
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
            nn.Conv2d(hidden, 4 * outputs, 1),
            nn.PixelShuffle(2),
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k hh ww"]:
        height, width = self.size
        return self.layers(resize(x, half(self.size)))[:, :, :height, :width]


def half(size: tuple[int, int]) -> tuple[int, int]:
    """Half the resolution, rounded up."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2
