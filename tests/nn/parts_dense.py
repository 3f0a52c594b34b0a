"""The Translator's outputs together, since gradients do not pass an ensemble. (The Segmenter compiles and exports as
well, but takes too long for every run of the tests.)"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusionscope.nn import Translator

from .parts import Case

SHAPES: dict[str, tuple[int, ...]] = {"rgb": (3, 13, 17), "depth": (2, 13, 17)}


class Whole(nn.Module):
    """All outputs of a model side by side."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, inputs: dict[str, Tensor], present: dict[str, Tensor] | None = None) -> Tensor:
        return torch.cat(list(self.model.outputs(inputs, present).values()), 1)


def translator() -> nn.Module:
    return Whole(Translator({m: s[0] for m, s in SHAPES.items()}, 2, width=5, depth=2, dropout=0.1))


PARTS = {"translator": Case(translator, SHAPES)}
