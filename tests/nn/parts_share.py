"""Shared encoders, for the table of parts."""

from __future__ import annotations

from torch import Tensor, nn

from .parts import MAPS, SEQUENCES, Case


class Block(nn.Module):
    """A bottleneck as torchvision has it."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + x)


class TokenBlock(nn.Module):
    """A mixer's block of tokens."""

    def __init__(self, tokens: int, channels: int):
        super().__init__()
        self.norm1, self.mix = nn.LayerNorm(channels), nn.Linear(tokens, tokens)
        self.norm2, self.mlp = nn.LayerNorm(channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp(self.norm2(x)).relu()


def maps(channels: int = 20, inner: int = 11, blocks: int = 1, inputs: int = 20) -> nn.Sequential:
    """A stem and one stage."""
    stem = nn.Sequential(nn.Conv2d(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
    return nn.Sequential(stem, nn.Sequential(*(Block(channels, inner) for _ in range(blocks))))


def tokens(channels: int = 20, length: int = 7, blocks: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Sequential(*(TokenBlock(length, channels) for _ in range(blocks))))


def _around() -> nn.Module:
    from fusionscope.nn import AsymFusion, share

    return share(maps()[1], ("rgb", "depth", "audio"), exchange=AsymFusion(), at="0")


def _norm() -> nn.Module:
    from fusionscope.nn import ChannelExchange, share

    return share(tokens(), ("rgb", "depth", "audio"), exchange=ChannelExchange(0.99))


PARTS: dict[str, Case] = {
    "shared maps around": Case(_around, MAPS, exchange=True),
    "shared tokens norm": Case(_norm, SEQUENCES, exchange=True),
}
