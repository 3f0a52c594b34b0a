"""Models without training whose use of their modalities is known, and data for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NAMES = ("a", "b", "c")


class Known(nn.Module):
    """Reads a signed number from each of ``a``, ``b``, ``c`` by an encoder and decides by a rule of its own.

    ``xor``: class 1 where the signs of a and b differ; ``copy``: a + b, which carry the same sign; ``first``: a alone.
    """

    def __init__(self, rule: str, sharpness: float = 4.0) -> None:
        super().__init__()
        self.rule, self.sharpness = rule, sharpness
        self.encoders = nn.ModuleDict({name: nn.Linear(3, 1, bias=False) for name in NAMES})
        for encoder in self.encoders.values():
            encoder.weight.data = torch.tensor([[1.0, 0.0, 0.0]])
            encoder.requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        told = {name: self.encoders[name](x)[:, 0] for name, x in zip(NAMES, (a, b, c), strict=True)}
        evidence = self.decide(told)
        return self.sharpness * torch.stack([-evidence, evidence], 1)

    def decide(self, told: dict[str, Tensor]) -> Tensor:
        """Return positive numbers for class 1."""
        if self.rule == "xor":
            return -told["a"] * told["b"]
        return told["a"] + told["b"] if self.rule == "copy" else told["a"]


def planted(rule: str, seed: int, samples: int = 512, size: int = 64) -> list[dict[str, Any]]:
    """Batches whose label follows the rule exactly; ``c`` is noise, the second and third entries are noise."""
    generator = torch.Generator().manual_seed(seed)
    noise = {name: 0.3 * torch.randn(samples, 3, generator=generator) for name in NAMES}
    signs = {name: torch.randint(0, 2, (samples,), generator=generator) * 2 - 1 for name in NAMES}
    if rule == "copy":
        signs["b"] = signs["a"]
    label = {"xor": signs["a"] * signs["b"] < 0, "copy": signs["a"] > 0, "first": signs["a"] > 0}[rule].long()
    inputs = {
        name: torch.cat([signs[name][:, None] + 0.1 * noise[name][:, :1], noise[name][:, 1:]], 1) for name in NAMES
    }
    return [
        {"inputs": {name: x[i : i + size] for name, x in inputs.items()}, "target": label[i : i + size]}
        for i in range(0, samples, size)
    ]
