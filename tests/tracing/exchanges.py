"""Toy networks with the wiring of published ones: modalities exchange at several layers, and their lanes go on."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from .models import ParallelConv


class ChannelExchange(nn.Module):
    """As in CEN (arXiv 2011.05005): where a modality's batch norm scale is small, the other's channel stands in."""

    def __init__(self, threshold: float = 0.02) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, xs: list[Tensor], norms: list[nn.BatchNorm2d]) -> list[Tensor]:
        small = [norm.weight.abs()[None, :, None, None] < self.threshold for norm in norms]
        return [torch.where(small[0], xs[1], xs[0]), torch.where(small[1], xs[0], xs[1])]


class CEN(nn.Module):
    """Shared convolutions on lists, private batch norms, an exchange after every block, a learned ensemble."""

    def __init__(self, *, trained: bool, blocks: int = 3) -> None:
        super().__init__()
        widths = (3, 6, 10, 14)
        self.convs = nn.ModuleList(ParallelConv(widths[i], widths[i + 1]) for i in range(blocks))
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(widths[i + 1]) for _ in range(2)) for i in range(blocks)
        )
        self.exchange = ChannelExchange()
        self.head = nn.Conv2d(widths[blocks], 5, 1)
        self.alpha = nn.Parameter(torch.tensor([0.3, -0.2]))
        if trained:
            for pair in self.norms:
                half = pair[0].num_features // 2
                with torch.no_grad():
                    pair[0].weight[:half] = 0.001
                    pair[1].weight[half:] = 0.001

    def forward(self, xs: list[Tensor]) -> Tensor:
        for conv, pair in zip(self.convs, self.norms, strict=True):
            xs = [norm(x) for norm, x in zip(pair, conv(xs), strict=True)]
            xs = self.exchange(xs, list(pair))
        share = self.alpha.softmax(0)
        return share[0] * self.head(xs[0]) + share[1] * self.head(xs[1])


class Shuffle(nn.Module):
    """Interleaved rows: the first half of the channels changes places between the modalities."""

    def forward(self, x: Tensor) -> Tensor:
        pair = x.unflatten(0, (-1, 2)).clone()
        half = x.shape[1] // 2
        pair[:, :, :half] = pair[:, :, :half].flip(1)
        return pair.flatten(0, 1)


class AsymFusion(nn.Module):
    """One encoder for both modalities, interleaved on the batch axis, a shuffle inside every block."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        widths = (3, 6, 10, 14)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(widths[i], widths[i + 1], 3, padding=1),
                Shuffle(),
                nn.ReLU(),
                nn.Conv2d(widths[i + 1], widths[i + 1], 3, stride=2, padding=1),
            )
            for i in range(blocks)
        )
        self.head = nn.Linear(widths[blocks], 5)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = torch.stack([a, b], 1).flatten(0, 1)
        for block in self.blocks:
            x = block(x)
        pooled = x.mean((2, 3)).unflatten(0, (-1, 2))
        return self.head(pooled[:, 0]) + self.head(pooled[:, 1])


class Rectify(nn.Module):
    """As CMX's rectification (arXiv 2203.04838): each modality is corrected by weights drawn from both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 2 * width), nn.Sigmoid())

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        w = self.weigh(torch.cat([a, b], 1).mean((2, 3)))[:, :, None, None]
        wa, wb = w.chunk(2, 1)
        return a + 0.5 * wb * b, b + 0.5 * wa * a


class Merge(nn.Module):
    """What goes to the decoder at each stage."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(2 * width, width, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.project(torch.cat([a, b], 1))


class CMX(nn.Module):
    """Two backbones; after each stage the pair is rectified, merged for the decoder, and goes on apart."""

    def __init__(self, stages: int = 3) -> None:
        super().__init__()
        widths = (3, 6, 10, 14)[: stages + 1]

        def backbone() -> nn.ModuleList:
            return nn.ModuleList(
                nn.Sequential(nn.Conv2d(c, d, 3, stride=2, padding=1), nn.BatchNorm2d(d), nn.ReLU())
                for c, d in itertools.pairwise(widths)
            )

        self.block, self.extra_block = backbone(), backbone()
        self.rectify = nn.ModuleList(Rectify(w) for w in widths[1:])
        self.merge = nn.ModuleList(Merge(w) for w in widths[1:])
        self.decode = nn.ModuleList(nn.Conv2d(w, 5, 1) for w in widths[1:])

    def forward(self, rgb: Tensor, x: Tensor) -> Tensor:
        total = torch.zeros(())
        for block, extra, rectify, merge, decode in zip(
            self.block, self.extra_block, self.rectify, self.merge, self.decode, strict=True
        ):
            rgb, x = rectify(block(rgb), extra(x))
            total = total + decode(merge(rgb, x)).mean((2, 3))
        return total


class CrossAttention(nn.Module):
    """Attention from one modality's tokens to the other's, then a projection, a residual and a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(context).transpose(1, 2) / x.shape[-1] ** 0.5
        return self.norm(self.dense(scores.softmax(-1) @ self.value(context)) + x)


class CrossLayer(nn.Module):
    """One shared cross-attention for both directions, then a feed-forward layer per modality."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attend = CrossAttention(width)
        self.feed_a, self.feed_b = (
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(2)
        )

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self.attend(a, b), self.attend(b, a)
        return x + self.feed_a(x), y + self.feed_b(y)


class CrossModal(nn.Module):
    """As LXMERT (arXiv 1908.07490): cross-modal layers, the two sequences are given back side by side."""

    def __init__(self, width: int = 12, layers: int = 3, *, pooled: bool = True) -> None:
        super().__init__()
        self.embed_a, self.embed_b = nn.Linear(5, width), nn.Linear(7, width)
        self.layers = nn.ModuleList(CrossLayer(width) for _ in range(layers))
        self.head = nn.Linear(2 * width, 3) if pooled else None

    def forward(self, a: Tensor, b: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x, y = self.embed_a(a), self.embed_b(b)
        for layer in self.layers:
            x, y = layer(x, y)
        return self.head(torch.cat([x.mean(1), y.mean(1)], 1)) if self.head is not None else (x, y)
