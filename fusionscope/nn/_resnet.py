"""Residual networks in the published shapes, with the published names, so that published weights load."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from fusionscope.errors import InputError


class BasicBlock(nn.Module):
    """``relu(bn2(conv2(relu(bn1(conv1(x))))) + downsample(x))``, both convolutions 3x3, the first one strided."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _downsample(inputs, width, stride)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d hh ww"]:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """Convolutions 1x1, 3x3, 1x1, the last to four times the width; the 3x3 one carries the stride ("v1.5")."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int = 1):
        super().__init__()
        outputs = self.expansion * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample = _downsample(inputs, outputs, stride)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d hh ww"]:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """A residual network without its classifier: ``[B,C,H,W] -> [x_1, ..., x_S]``, the map of every stage.

    The stem (7x7 convolution and 3x3 max-pool, stride 2 each) and every stage after the first halve the resolution:
    of 4 stages the maps have 1/4, 1/8, 1/16 and 1/32 of the input's height and width, rounded up. Modules and
    parameters are named as in torchvision (``conv1``, ``bn1``, ``layer1.0.conv1``, ``layer1.0.downsample.0``, ...),
    so published weights load with ``load_state_dict``; a classifier in them (``fc``) is left out. Published weights
    expect images of mean 0 and variance 1 per channel. Source: He et al. 2015, arXiv:1512.03385.

    Args:
        inputs: channels of the input.
        blocks: blocks of each stage.
        bottleneck: blocks of three convolutions (ResNet-50 and deeper) instead of two.
        width: channels of the stem; the stages have ``width * (1, 2, 4, 8)`` of them, four times that with
            ``bottleneck``.
        small: for small maps (32 x 32 and the like): a 3x3 stem that keeps the resolution, without max-pool.

    Attributes:
        channels: channels of each stage's map.

    Raises:
        InputError: if a number is below 1 or there is no stage.

    >>> import torch
    >>> net = ResNet(2, blocks=(1, 2), width=4).eval()
    >>> net.channels, [tuple(x.shape) for x in net(torch.zeros(3, 2, 29, 37))]
    ((4, 8), [(3, 4, 8, 10), (3, 8, 4, 5)])
    """

    channels: tuple[int, ...]

    def __init__(
        self,
        inputs: int = 3,
        blocks: Sequence[int] = (2, 2, 2, 2),
        bottleneck: bool = False,
        width: int = 64,
        *,
        small: bool = False,
    ):
        super().__init__()
        if min(inputs, width, *blocks, len(blocks)) < 1:
            raise InputError(
                f"ResNet needs inputs, width and blocks of 1 or more, got inputs={inputs}, width={width}, "
                f"blocks={tuple(blocks)}"
            )
        block = Bottleneck if bottleneck else BasicBlock
        kernel, stride = (3, 1) if small else (7, 2)
        self.conv1 = nn.Conv2d(inputs, width, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1)
        self.stages = tuple(f"layer{i + 1}" for i in range(len(blocks)))
        self.channels = tuple(block.expansion * width * 2**i for i in range(len(blocks)))
        before = width
        for i, (name, count, after) in enumerate(zip(self.stages, blocks, self.channels, strict=True)):
            first = block(before, width * 2**i, 1 if i == 0 else 2)
            self.add_module(name, nn.Sequential(first, *(block(after, width * 2**i) for _ in range(count - 1))))
            before = after
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.register_load_state_dict_pre_hook(_without_classifier)

    def forward(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = []
        for name in self.stages:
            x = self.get_submodule(name)(x)
            maps.append(x)
        return maps


def resnet18(inputs: int = 3, *, width: int = 64, small: bool = False) -> ResNet:
    """:class:`ResNet` of 18 layers: 11,176,512 parameters at the published width.

    >>> sum(p.numel() for p in resnet18().parameters())
    11176512
    """
    return ResNet(inputs, (2, 2, 2, 2), False, width, small=small)


def resnet34(inputs: int = 3, *, width: int = 64, small: bool = False) -> ResNet:
    """:class:`ResNet` of 34 layers: 21,284,672 parameters at the published width."""
    return ResNet(inputs, (3, 4, 6, 3), False, width, small=small)


def resnet50(inputs: int = 3, *, width: int = 64, small: bool = False) -> ResNet:
    """:class:`ResNet` of 50 layers: 23,508,032 parameters at the published width."""
    return ResNet(inputs, (3, 4, 6, 3), True, width, small=small)


def resnet101(inputs: int = 3, *, width: int = 64, small: bool = False) -> ResNet:
    """:class:`ResNet` of 101 layers: 42,500,160 parameters at the published width."""
    return ResNet(inputs, (3, 4, 23, 3), True, width, small=small)


def resnet152(inputs: int = 3, *, width: int = 64, small: bool = False) -> ResNet:
    """:class:`ResNet` of 152 layers: 58,143,808 parameters at the published width."""
    return ResNet(inputs, (3, 8, 36, 3), True, width, small=small)


def _downsample(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def _without_classifier(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Published weights come with a classifier."""
    for name in ("fc.weight", "fc.bias"):
        state.pop(prefix + name, None)
