"""Small models whose modalities meet in different ways, for attaching calibrations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

B = 5


def vectors(*names: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    sizes = {"a": 7, "b": 3, "c": 11}
    return {m: torch.randn(B, sizes[m], generator=generator) for m in names}


def encoder(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 13), nn.BatchNorm1d(13), nn.ReLU(inplace=True), nn.Linear(13, outputs))


class Cat(nn.Module):
    """Concatenates in its own code, with dropout in encoders and behind."""

    def __init__(self):
        super().__init__()
        self.enc_a, self.enc_b = encoder(7, 17), encoder(3, 19)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(36, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = nn.functional.dropout(self.enc_a(a), 0.2, self.training)
        return self.head(self.drop(torch.cat([x, self.enc_b(b)], 1)))

    def by_hand(self, a: Tensor, b: Tensor, calibration: nn.Module) -> Tensor:
        x = calibration({"a": self.enc_a(a), "b": self.enc_b(b)})
        left = nn.functional.dropout(x["a"], 0.2, self.training)
        return self.head(self.drop(torch.cat([left, x["b"]], 1)))


class Sum(nn.Module):
    """Adds in its own code, changing features and inputs in place, in layers of its own."""

    def __init__(self):
        super().__init__()
        self.a1, self.a2, self.b1 = nn.Linear(7, 13), nn.Linear(13, 17), nn.Linear(3, 17)
        self.act, self.head = nn.ReLU(inplace=True), nn.Linear(17, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a.mul_(2)
        x = self.a1(a)
        x += 1
        x = self.a2(self.act(x))
        x.mul_(3).add_(1)
        y = self.b1(b)
        y.mul_(2)
        return self.head((x + y).tanh())

    def by_hand(self, a: Tensor, b: Tensor, calibration: nn.Module) -> Tensor:
        x = calibration({"a": self.a2((self.a1(2 * a) + 1).relu()), "b": self.b1(b)})
        return self.head((x["a"] * 3 + 1 + x["b"] * 2).tanh())


class GatedFuse(nn.Module):
    """A gated unit that takes its two streams as separate arguments, the second by keyword."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.gate = nn.Linear(17, 5), nn.Linear(19, 5), nn.Linear(36, 5)

    def forward(self, x: Tensor, *, other: Tensor) -> Tensor:
        h, k = self.left(x).tanh(), self.right(other).tanh()
        z = self.gate(torch.cat([x, other], 1)).sigmoid()
        return z * h + (1 - z) * k


class Gated(nn.Module):
    """Encoders, then a fuse that takes their features as separate arguments."""

    def __init__(self):
        super().__init__()
        self.enc_a, self.enc_b, self.fuse, self.head = encoder(7, 17), encoder(3, 19), GatedFuse(), nn.Linear(5, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(self.fuse(self.enc_a(a), other=self.enc_b(b)))

    def by_hand(self, a: Tensor, b: Tensor, calibration: nn.Module) -> Tensor:
        x = calibration({"a": self.enc_a(a), "b": self.enc_b(b)})
        return self.head(self.fuse(x["a"], other=x["b"]))


class Twice(nn.Module):
    """A fuse that is called on one modality first, then on both, from a list in a dict."""

    def __init__(self):
        super().__init__()
        self.enc_a, self.enc_b = encoder(7, 17), encoder(3, 17)
        self.fuse, self.head = Stack(), nn.Linear(17, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        alone = self.fuse({"streams": [self.enc_a(a)]})
        return self.head(self.fuse({"streams": [alone, self.enc_b(b)]}))

    def by_hand(self, a: Tensor, b: Tensor, calibration: nn.Module) -> Tensor:
        x = calibration({"a": self.fuse({"streams": [self.enc_a(a)]}), "b": self.enc_b(b)})
        return self.head(self.fuse({"streams": [x["a"], x["b"]]}))


class Stack(nn.Module):
    """The tanh of a sum of however many streams."""

    def forward(self, given: dict[str, list[Tensor]]) -> Tensor:
        return torch.stack(given["streams"]).sum(0).tanh()


class Siamese(nn.Module):
    """One encoder called once on both modalities: in blocks of the batch, or interleaved."""

    def __init__(self, interleaved: bool = False):
        super().__init__()
        self.stem_a, self.stem_b = nn.Linear(7, 11), nn.Linear(3, 11)
        self.encoder, self.head = nn.Sequential(nn.Linear(11, 13), nn.Tanh(), nn.Linear(13, 17)), nn.Linear(17, 2)
        self.interleaved = interleaved

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        pair = [self.stem_a(a), self.stem_b(b)]
        if self.interleaved:
            x, y = self.encoder(torch.stack(pair, 1).flatten(0, 1)).unflatten(0, (-1, 2)).unbind(1)
        else:
            x, y = self.encoder(torch.cat(pair)).chunk(2)
        return self.head((x * y).tanh())

    def by_hand(self, a: Tensor, b: Tensor, calibration: nn.Module) -> Tensor:
        x = calibration({"a": self.encoder(self.stem_a(a)), "b": self.encoder(self.stem_b(b))})
        return self.head((x["a"] * x["b"]).tanh())


class Shared(nn.Module):
    """One encoder called once per modality, inside a container and outside it."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(11, 11)
        self.stem_a = nn.Sequential(nn.Linear(7, 11), self.shared, nn.Tanh())
        self.stem_b, self.head = nn.Linear(3, 11), nn.Linear(22, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = self.stem_a(a)
        return self.head(torch.cat([self.shared(x), self.shared(self.stem_b(b))], 1))

    def by_hand(self, a: Tensor, b: Tensor, calibration: nn.Module) -> Tensor:
        x = calibration({"a": self.shared(self.stem_a(a)), "b": self.shared(self.stem_b(b))})
        return self.head(torch.cat([x["a"], x["b"]], 1))


class Signals(nn.Module):
    """Channels in front of time, concatenated along them; a map with its channels last, pooled."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(3, 7, 3, padding=1), nn.Conv1d(2, 5, 3, padding=1)
        self.head = nn.Conv1d(12, 2, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.cat([self.a(a), self.b(b)], 1).tanh()).mean(2)

    def by_hand(self, a: Tensor, b: Tensor, calibration: nn.Module) -> Tensor:
        x = calibration({"a": self.a(a).transpose(1, 2), "b": self.b(b).transpose(1, 2)})
        return self.head(torch.cat([x["a"], x["b"]], 2).transpose(1, 2).tanh()).mean(2)


class Early(nn.Module):
    """Three modalities: the third joins after the others have met."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(7, 13), nn.Linear(3, 13), nn.Linear(11, 13)
        self.middle, self.head = nn.Linear(13, 13), nn.Linear(26, 2)

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        x = self.middle((self.a(a) + self.b(b)).tanh())
        return self.head(torch.cat([x, self.c(c)], 1))

    def by_hand(self, a: Tensor, b: Tensor, c: Tensor, calibration: nn.Module) -> Tensor:
        x = calibration({"a": self.a(a), "b": self.b(b)})
        return self.head(torch.cat([self.middle((x["a"] + x["b"]).tanh()), self.c(c)], 1))
