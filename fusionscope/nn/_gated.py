"""Gated multimodal units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ._fuse_base import Pointwise, keep, precise, total


class Gated(Pointwise):
    """Gated multimodal unit: each modality's features, weighed channel by channel by gates that see all modalities.

    ``h_m = tanh(W_m x_m + b_m)``, ``y = sum_m z_m * h_m`` with gates of the concatenation ``x = [x_1; ...; x_M]``:

    - tied, ``z = softmax over m of (U_m x + c_m)``: they sum to 1. With two modalities this is the paper's bimodal
      unit, ``z = sigmoid(...)`` and ``1 - z``, with the difference of the two rows of ``U`` as its weights.
    - not tied, ``z_m = sigmoid(U_m x + c_m)``: the paper's unit for M modalities.

    Vectors ``[B,C_m] -> [B,out]``; sequences and maps location by location. An absent modality is zero in ``x`` and its
    gate is 0; tied gates sum to 1 over the present. A sample without any modality gives zeros.

    Source: Arevalo et al. 2017, arXiv:1702.01992 (which leaves out the biases).

    Args:
        channels: ``{modality: channels}``, or one number with ``modalities``.
        modalities: names, where ``channels`` is one number.
        out: channels of the result; by default the widest modality's.
        tied: see above; by default as in the paper, tied for two modalities only.

    Raises:
        InputError: if a modality is missing, has other channels, or the locations differ.

    >>> import torch
    >>> fuse = Gated({"rgb": 5, "depth": 3}, out=7)
    >>> fuse({"rgb": torch.zeros(2, 5), "depth": torch.zeros(2, 3)}).shape
    torch.Size([2, 7])
    """

    def __init__(
        self,
        channels: Mapping[str, int] | int,
        modalities: Sequence[str] | None = None,
        out: int | None = None,
        *,
        tied: bool | None = None,
    ):
        super().__init__(channels, modalities)
        self.channels = max(self.sizes.values()) if out is None else out
        self.tied = len(self.sizes) == 2 if tied is None else tied
        self.value = nn.ModuleDict({m: nn.Linear(c, self.channels) for m, c in self.sizes.items()})
        self.gate = nn.Linear(sum(self.sizes.values()), len(self.sizes) * self.channels)

    def gates(
        self, features: dict[str, Float[Tensor, "b ..."]], present: dict[str, Bool[Tensor, " b"]] | None = None
    ) -> dict[str, Float[Tensor, "b ..."]]:
        """Return each modality's gates, in [0, 1], for plots: ``[B,out]``, ``[B,T,out]`` or ``[B,out,H,W]``."""
        z = self._gates(*self.rows(features, present))
        return {m: v.movedim(-1, 1) if v.ndim == 4 else v for m, v in z.items()}

    def _gates(self, x: dict[str, Tensor], masks: dict[str, Tensor]) -> dict[str, Tensor]:
        scores = self.gate(torch.cat(list(x.values()), -1)).unflatten(-1, (len(x), self.channels))
        scores = precise(scores)
        mask = torch.stack(list(masks.values()), -2)
        if self.tied:
            lowest = torch.full((), torch.finfo(scores.dtype).min, dtype=scores.dtype, device=scores.device)
            z = torch.softmax(torch.where(mask, scores, lowest), -2)
        else:
            z = torch.sigmoid(scores)
        return dict(zip(self.modalities, keep(z, mask).unbind(-2), strict=True))

    def fuse(self, x: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        z = self._gates(x, masks)
        values = {m: torch.tanh(self.value[m](v)) for m, v in x.items()}
        return total(z[m].to(v.dtype) * v for m, v in values.items())
