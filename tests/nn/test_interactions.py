"""A planted interaction: the class is the exclusive or of two bits, one in each modality."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fusionscope.nn._fuse_names import FUSES

SIZES = {"a": 5, "b": 5}


def task(size: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Each modality is its bit (-1 or 1) times a fixed direction, and noise."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, 2, (size, 2), generator=generator)
    directions = torch.randn(2, 5, generator=torch.Generator().manual_seed(7))
    noise = 0.3 * torch.randn(2, size, 5, generator=generator)
    x = {m: (2 * bits[:, i, None] - 1) * directions[i] + noise[i] for i, m in enumerate(SIZES)}
    return x, bits.sum(1) % 2


def accuracy(name: str, steps: int = 60) -> float:
    """Of a linear layer on what the fuse gives."""
    torch.manual_seed(0)
    fuse = FUSES[name](SIZES)
    head = nn.Linear(fuse.channels, 2)
    optimiser = torch.optim.Adam([*fuse.parameters(), *head.parameters()], lr=0.01)
    x, y = task(149, 0)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(head(fuse(x)), y).backward()
        optimiser.step()
    x, y = task(499, 1)
    with torch.no_grad():
        return (head(fuse(x)).argmax(1) == y).double().mean().item()


@pytest.mark.parametrize("name", ["concat", "sum", "mean"])
def test_what_adds_up_cannot_tell(name):
    assert accuracy(name) < 0.8


@pytest.mark.parametrize("name", sorted(set(FUSES) - {"concat", "sum", "mean"}))
def test_what_multiplies_or_attends_can(name):
    # with bottlenecks, one layer must first learn to write what the next reads
    assert accuracy(name, 160 if name == "bottleneck_attention" else 60) > 0.95
