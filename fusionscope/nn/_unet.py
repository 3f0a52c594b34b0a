"""A U-Net generator: image to image, for any size."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fusionscope.errors import InputError

from ._encoders import resize

EDGE = "replicate"  # zeros would show as a frame in what comes out


class Down(nn.Module):
    """Halve the map: convolutions 4x4 with stride 2, 3x3, 1x1, each with instance norm and leaky ReLU 0.2.

    The 3x3 one keeps channels and size, so that an exchange can stand around it.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False, padding_mode=EDGE)
        self.norm1 = nn.InstanceNorm2d(outputs, affine=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False, padding_mode=EDGE)
        self.norm2 = nn.InstanceNorm2d(outputs, affine=True)
        self.conv3 = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.norm3 = nn.InstanceNorm2d(outputs, affine=True)
        self.act = nn.LeakyReLU(0.2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d hh ww"]:
        x = self.act(self.norm1(self.conv1(x)))
        x = self.act(self.norm2(self.conv2(x)))
        return self.act(self.norm3(self.conv3(x)))


class Up(nn.Module):
    """Enlarge the deeper map to the skip's size, whatever it is, concatenate, 3x3 convolution, norm, ReLU, dropout."""

    def __init__(self, inputs: int, skip: int, outputs: int, dropout: float):
        super().__init__()
        self.conv = nn.Conv2d(inputs + skip, outputs, 3, padding=1, bias=False, padding_mode=EDGE)
        self.norm = nn.InstanceNorm2d(outputs, affine=True)
        self.act = nn.ReLU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b c h w"], skip: Float[Tensor, "b s hh ww"]) -> Float[Tensor, "b d hh ww"]:
        x = torch.cat([resize(x, (skip.shape[2], skip.shape[3])), skip], 1)
        return self.dropout(self.act(self.norm(self.conv(x))))


class UNet(nn.Module):
    """U-Net: ``[B,C,H,W] -> [B,outputs,H,W]``, unbounded values (a range is for the caller to give).

    A 4x4 convolution with stride 2 without norm, so that the picture's own brightness comes through; ``depth - 1``
    blocks that halve the map (:class:`Down`); as many that enlarge it bilinearly to the size of the skip (:class:`Up`),
    so that height and width need no divisor; last, bilinearly to the input's size, beside the input itself, two 3x3
    convolutions. Convolutions are padded with the edge's values. Widths ``width * (1, 2, 4, 8, 8, ...)``. After
    Ronneberger et al. 2015, arXiv:1505.04597, and the generator of Isola et al. 2017, arXiv:1611.07004, with resizing
    in place of transposed convolutions.

    Args:
        inputs: channels of the image.
        outputs: channels of what comes out.
        width: channels of the first convolution.
        depth: how often the map is halved.
        dropout: in the two deepest enlarging blocks.

    Attributes:
        blocks: names of the halving blocks, where an exchange can stand.

    Raises:
        InputError: if depth is below 2, or the image is so small that nothing is left to normalise.

    >>> import torch
    >>> UNet(3, 2, width=4, depth=3)(torch.zeros(1, 3, 29, 31)).shape
    torch.Size([1, 2, 29, 31])
    """

    def __init__(self, inputs: int, outputs: int, *, width: int = 32, depth: int = 4, dropout: float = 0.0):
        super().__init__()
        if depth < 2 or min(inputs, outputs, width) < 1:
            raise InputError(
                f"UNet needs a depth of 2 or more and inputs, outputs and width above 0, got depth={depth}, "
                f"inputs={inputs}, outputs={outputs}, width={width}"
            )
        widths = [width * min(2**i, 8) for i in range(depth)]
        self.depth = depth
        self.blocks = tuple(f"down.{i}" for i in range(depth - 1))
        self.stem = nn.Conv2d(inputs, width, 4, stride=2, padding=1, padding_mode=EDGE)
        self.act = nn.LeakyReLU(0.2)
        self.down = nn.ModuleList(Down(widths[i], widths[i + 1]) for i in range(depth - 1))
        self.up = nn.ModuleList(
            Up(widths[i + 1], widths[i], widths[i], dropout if i >= depth - 3 else 0.0) for i in range(depth - 1)
        )
        fine = max(1, width // 2)
        self.last = nn.Sequential(
            nn.Conv2d(width + inputs, fine, 3, padding=1, padding_mode=EDGE),
            nn.LeakyReLU(0.2),
            nn.Conv2d(fine, outputs, 3, padding=1, padding_mode=EDGE),
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        image, size = x, (x.shape[2], x.shape[3])
        if (size[0] >> self.depth) * (size[1] >> self.depth) < 2:
            raise InputError(
                f"a U-Net of depth {self.depth} halves {size[0]}x{size[1]} until less than two pixels are left for its "
                f"instance norms; use larger images (a side of {2 ** (self.depth + 1)}) or a smaller depth"
            )
        skips = [self.act(self.stem(x))]
        for block in self.down:
            skips.append(block(skips[-1]))
        x = skips[-1]
        for i in range(self.depth - 2, -1, -1):
            x = self.up[i](x, skips[i])
        return self.last(torch.cat([resize(x, size), image], 1))
