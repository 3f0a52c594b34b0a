"""Fuses: ``{modality: Tensor} -> Tensor``."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusionscope.errors import InputError

from ._part import check_features, hide, named


class Concat(nn.Module):
    """Concatenate the modalities' features along the channel axis, in the order of ``modalities``.

    ``[B,C_m,...] -> [B, sum_m C_m, ...]``. Features of modalities that are not ``present`` are set to zero. With
    ``dropout = p``, while training each modality of each sample is absent with probability ``p`` (never all of a
    sample's; what stays is not rescaled): modality dropout, arXiv:1501.00102.

    Raises:
        InputError: if a modality is missing, or the features' other axes differ.

    >>> import torch
    >>> fuse = Concat(("rgb", "depth"))
    >>> fuse({"rgb": torch.ones(2, 3), "depth": torch.ones(2, 1)}, present={"depth": torch.tensor([True, False])})
    tensor([[1., 1., 1., 1.],
            [1., 1., 1., 0.]])
    """

    def __init__(self, modalities: tuple[str, ...], dropout: float = 0.0):
        super().__init__()
        self.modalities = named(modalities, "Concat")
        self.dropout = dropout

    def forward(
        self, features: dict[str, Float[Tensor, "b ..."]], present: dict[str, Bool[Tensor, " b"]] | None = None
    ) -> Float[Tensor, "b ..."]:
        check_features(features, self.modalities, "Concat")
        parts = [features[m] for m in self.modalities]
        if len({(x.shape[0], x.shape[2:]) for x in parts}) > 1:
            shapes = ", ".join(f"{m} {tuple(x.shape)}" for m, x in zip(self.modalities, parts, strict=True))
            raise InputError(f"features to concatenate must differ in the channel axis (1) only, got {shapes}")
        keep = [None if present is None else present.get(m) for m in self.modalities]
        if self.training and self.dropout > 0 and len(parts) > 1:
            keep = self._drop(parts[0], keep)
        parts = [x if k is None else hide(x, {"": k}, "") for x, k in zip(parts, keep, strict=True)]
        return torch.cat(parts, dim=1)

    def _drop(self, like: Tensor, keep: list[Tensor | None]) -> list[Tensor | None]:
        draw = torch.rand(len(keep), len(like), device=like.device)
        there = torch.stack([torch.ones_like(draw[0], dtype=torch.bool) if k is None else k for k in keep])
        # the present modality with the largest draw always stays
        last = draw.masked_fill(~there, -1.0).argmax(0)
        stays = (draw >= self.dropout) | (torch.arange(len(keep), device=like.device)[:, None] == last)
        return list(there & stays)

    def extra_repr(self) -> str:
        return ", ".join(self.modalities) + (f", dropout={self.dropout}" if self.dropout else "")
