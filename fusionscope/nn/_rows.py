"""Interleaving: modalities along the batch axis, sample by sample, so that shared weights run once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

from ._part import there


def interleave(features: Mapping[str, Shaped[Tensor, "b ..."]]) -> Shaped[Tensor, "rows ..."]:
    """Return ``[B·M, ...]``: sample 0 of the first modality, sample 0 of the second, ..., sample 1 of the first, ...

    Channels-last maps stay channels-last. All modalities must have the same shape.

    >>> import torch
    >>> interleave({"rgb": torch.tensor([1, 2]), "depth": torch.tensor([10, 20])})
    tensor([ 1, 10,  2, 20])
    """
    parts = list(features.values())
    if len(parts) == 1:
        return parts[0]
    if channels_last(parts[0]):
        return torch.stack([x.permute(0, 2, 3, 1) for x in parts], 1).flatten(0, 1).permute(0, 3, 1, 2)
    return torch.stack(parts, 1).flatten(0, 1)


def separate(
    x: Shaped[Tensor, "n ..."], modalities: Sequence[str], rows: int = 1
) -> dict[str, Shaped[Tensor, "part ..."]]:
    """Return each modality's rows of ``[B·M·rows, ...]``, as ``{modality: [B·rows, ...]}``.

    The inverse of `interleave`. With ``rows`` above 1, every sample has that many consecutive rows per modality
    (windows, frames).

    >>> import torch
    >>> separate(torch.tensor([1, 10, 2, 20]), ("rgb", "depth"))
    {'rgb': tensor([1, 2]), 'depth': tensor([10, 20])}
    """
    if len(modalities) == 1:
        return {modalities[0]: x}
    split = x.unflatten(0, (-1, len(modalities), rows))
    if rows == 1:
        return {m: split[:, i, 0] for i, m in enumerate(modalities)}
    return {m: split[:, i].flatten(0, 1) for i, m in enumerate(modalities)}


def channels_last(x: Tensor) -> bool:
    """Whether a map's memory is channels-last, and not contiguous as well."""
    return x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def row_mask(present: Mapping[str, Tensor], modalities: Sequence[str], x: Tensor, rows: int) -> Shaped[Tensor, "n ..."]:
    """Return which interleaved rows of ``x`` are there, in a shape that broadcasts with ``x``."""
    like = x[: x.shape[0] // (len(modalities) * rows)]
    masks = torch.stack([there(present, m, like) for m in modalities], 1)
    return masks[:, :, None].expand(-1, -1, rows).reshape(-1, *[1] * (x.ndim - 1))
