"""Bottlenecks on lists of modalities, written the slow and obvious way from what is published of AsymFusion."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusionscope.nn import AsymFusion


def shift_slowly(x: Tensor, reverse: bool = False) -> Tensor:
    """Pixel by pixel; the first four fifths of the channels, in groups of a fifth, rounded down."""
    g = x.shape[1] // 5
    out = torch.zeros_like(x)
    # Where the value of (h, w) comes from.
    sources = [(-1, 0), (0, -1), (0, 1), (1, 0)]
    for q, (dh, dw) in enumerate(sources[::-1] if reverse else sources):
        for h in range(x.shape[2]):
            for w in range(x.shape[3]):
                if 0 <= h + dh < x.shape[2] and 0 <= w + dw < x.shape[3]:
                    out[:, q * g : (q + 1) * g, h, w] = x[:, q * g : (q + 1) * g, h + dh, w + dw]
    return out


def shift_shuffle(x: list[Tensor], reverse: bool = False) -> tuple[list[Tensor], list[Tensor]]:
    """The released operation on two modalities: what is shuffled, and the shift of what came in."""
    s = x[0].shape[1] // 5 * 4
    shuffled = [torch.cat((x[0][:, :s], x[1][:, s:]), dim=1), torch.cat((x[1][:, :s], x[0][:, s:]), dim=1)]
    return shuffled, [shift_slowly(x[0], reverse), shift_slowly(x[1], reverse)]


class Bottleneck(nn.Module):
    """Shared convolutions, private batch norms; ``fused`` by the part under test or, ``slow``, by the reference."""

    def __init__(self, channels: int, modalities: tuple[str, ...], part: AsymFusion):
        super().__init__()
        self.conv1 = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        sizes = {"bn1": channels, "bn2": channels, "bn3": 2 * channels}
        self.norms = nn.ModuleDict(
            {n: nn.ModuleDict({m: nn.BatchNorm2d(size) for m in modalities}) for n, size in sizes.items()}
        )
        self.part = part
        for p in self.parameters():
            nn.init.normal_(p, std=0.5)

    def norm(self, name: str, x: dict[str, Tensor]) -> dict[str, Tensor]:
        return {m: self.norms[name][m](v) for m, v in x.items()}

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        out = {m: v.relu() for m, v in self.norm("bn1", {m: self.conv1(v) for m, v in x.items()}).items()}
        out = self.part.before(out)
        out = {m: v.relu() for m, v in self.norm("bn2", {m: self.conv2(v) for m, v in out.items()}).items()}
        out = self.part.after(out)
        out = self.norm("bn3", {m: self.conv3(v) for m, v in out.items()})
        return {m: (v + x[m]).relu() for m, v in out.items()}

    def slow(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        names, x = list(inputs), list(inputs.values())
        out = [self.norms["bn1"][m](self.conv1(v)).relu() for m, v in zip(names, x, strict=True)]
        out, shift = shift_shuffle(out)
        out = [self.norms["bn2"][m](self.conv2(v)).relu() for m, v in zip(names, out, strict=True)]
        out[0] = out[0] + shift[1]
        out[1] = out[1] + shift[0]
        out, _ = shift_shuffle(out, reverse=True)
        out = [self.norms["bn3"][m](self.conv3(v)) for m, v in zip(names, out, strict=True)]
        return {m: (v + residual).relu() for m, v, residual in zip(names, out, x, strict=True)}
