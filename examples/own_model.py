"""Dissect a model of your own, trained in a few lines of plain PyTorch.

    python examples/own_model.py

scikit-learn's handwritten digits, cut into top and bottom halves. The model sees both halves but its encoder of the
bottom half is made blind halfway through, so the dissection must find that the bottom no longer matters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fusionscope as fs


class TwoHalves(nn.Module):
    """An encoder per half, summed, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.bottom = (nn.Sequential(nn.Flatten(), nn.Linear(32, 64), nn.ReLU()) for _ in range(2))
        self.head = nn.Linear(64, 10)

    def forward(self, top: Tensor, bottom: Tensor) -> Tensor:
        return self.head(self.top(top) + self.bottom(bottom))


def halves(split: str) -> TensorDataset:
    """Return one split as (top, bottom, label) tuples."""
    batch = next(iter(fs.load_data("digits").loader(split, 2000)))
    return TensorDataset(batch["inputs"]["top"], batch["inputs"]["bottom"], batch["target"])


def main() -> None:
    """Train, dissect, blind one encoder, dissect again."""
    torch.manual_seed(0)
    model = TwoHalves()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(15):
        for top, bottom, label in DataLoader(halves("train"), batch_size=64, shuffle=True):
            loss = nn.functional.cross_entropy(model(top, bottom), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    loader = DataLoader(halves("test"), batch_size=64)
    both = fs.dissect(model, loader, modalities=("top", "bottom"), progress=False)
    print(both)
    with torch.no_grad():
        model.bottom[1].weight.zero_()
    blind = fs.dissect(model, loader, modalities=("top", "bottom"), progress=False)
    print(blind)

    cost = [found.tables["removal"].set_index("subset").loc["top", "drop"] for found in (both, blind)]
    print(f"\nremoving the bottom half costs {cost[0]:.3f}, and {cost[1]:.3f} once its encoder is blind")
    assert cost[0] > 0.1
    assert cost[1] == 0


if __name__ == "__main__":
    main()
