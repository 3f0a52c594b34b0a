"""Toy models whose wiring is known, for the tests of tracing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

B = 7


class Encoder(nn.Sequential):
    """A small convolutional encoder with in-place ReLU and three resolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, 5, 3, padding=1),
            nn.BatchNorm2d(5),
            nn.ReLU(inplace=True),
            nn.Sequential(nn.Conv2d(5, 11, 3, stride=2, padding=1), nn.ReLU(inplace=True)),
            nn.Sequential(nn.Conv2d(11, 13, 3, stride=2, padding=1), nn.ReLU(inplace=True)),
        )


class Encoders(nn.Module):
    """One encoder per modality, concatenation by a function, a 1x1 head."""

    def __init__(self, **channels: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: Encoder(c) for name, c in channels.items()})
        self.head = nn.Conv2d(13 * len(channels), 3, 1)
        self.spare = nn.Linear(2, 2)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.head(torch.cat([self.encoders[name](inputs[name]) for name in self.encoders], 1))


class Siamese(nn.Module):
    """One encoder, called once per modality; fused by ``+``."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder(3)
        self.head = nn.Linear(13, 3)

    def features(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder(a), self.encoder(b)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x, y = self.features(a, b)
        return self.head((x + y).mean((2, 3)))


class Stacked(Siamese):
    """The modalities in blocks along the batch axis: [a; b]."""

    def features(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self.encoder(torch.cat([a, b])).chunk(2)
        return x, y


class Interleaved(Siamese):
    """The modalities side by side along the batch axis: a0, b0, a1, b1, ..."""

    def features(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        both = self.encoder(torch.stack([a, b], 1).flatten(0, 1)).unflatten(0, (-1, 2))
        return both[:, 0], both[:, 1]


class ParallelConv(nn.Module):
    """A leaf that maps a list of tensors to a list of tensors with the same weights."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, 3, 3) * 0.2)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        return [nn.functional.conv2d(x, self.weight, padding=1).relu() for x in xs]


class Swap(nn.Module):
    """Exchange the last two channels of two modalities."""

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        a, b = xs
        return [torch.cat([a[:, :-2], b[:, -2:]], 1), torch.cat([b[:, :-2], a[:, -2:]], 1)]


class ListParallel(nn.Module):
    """List-in, list-out layers with an exchange between them, as AsymFusion and CEN are written."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.swap, self.second = ParallelConv(3, 5), Swap(), ParallelConv(5, 11)
        self.head = nn.Conv2d(11, 3, 1)

    def forward(self, xs: list[Tensor]) -> Tensor:
        x, y = self.second(self.swap(self.first(xs)))
        return self.head(x) + self.head(y)


class Sequence(nn.Module):
    """Time-major LSTM over audio, embedded tokens with a mask, cross-attention from one to the other."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 12)
        self.embed = nn.Embedding(31, 12)
        self.attend = nn.MultiheadAttention(12, 3, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, audio: Tensor, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
        states, (hidden, _) = self.lstm(audio.transpose(0, 1))
        words = self.embed(input_ids)
        mixed, _ = self.attend(states.transpose(0, 1), words, words, key_padding_mask=attention_mask == 0)
        return {"logits": self.head(mixed.mean(1)), "hidden": hidden}


def images(**channels: int) -> dict[str, Tensor]:
    """Random images of each modality, 16 x 16."""
    return {name: torch.randn(B, c, 16, 16) for name, c in channels.items()}
