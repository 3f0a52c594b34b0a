"""Quantiles of each unit in two passes: first the range, then a histogram inside it; both merge exactly."""

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

BINS = 2048
CHUNK = 2**24


def spread(x: Float[Tensor, "B U n"]) -> Float64[Tensor, "two U"]:
    """Return minus the smallest, and the largest value of each unit: the largest of two such pairs is that of both."""
    return torch.stack([-x.amin((0, 2)), x.amax((0, 2))]).double()


def bounded(extent: Float64[Tensor, "two U"]) -> Tensor:
    """Return which units are finite."""
    return extent.isfinite().all(0)


def histogram(
    x: Float[Tensor, "B U n"], extent: Float64[Tensor, "two U"], bins: int = BINS
) -> Int64[Tensor, "U cells"]:
    """Count each unit's values: cell 0 holds its minimum alone, cell k the k-th of ``bins`` intervals ``(a, b]``.

    A minimum of its own keeps the zeros of a ReLU apart from the smallest positive values. Units that are not finite
    count as if they were constant.
    """
    B, U, n = x.shape
    extent = extent.to(x.device)
    sound = bounded(extent)
    low = torch.where(sound, -extent[0], 0.0).to(x.dtype)[:, None]
    width = torch.where(sound, extent.sum(0), 0.0)
    scale = torch.where(width > 0, bins / width, 0.0).to(x.dtype)[:, None]
    first = (torch.arange(U, device=x.device) * (bins + 1))[:, None]
    counts = torch.zeros(U * (bins + 1), dtype=torch.int64, device=x.device)
    together = max(1, CHUNK // max(1, U * n))
    for start in range(0, B, together):
        cell = ((x[start : start + together] - low) * scale).nan_to_num_(0.0).ceil_().clamp_(0, bins).long()
        counts += torch.bincount(cell.add_(first).flatten(), minlength=len(counts))
    return counts.view(U, bins + 1)


def exceeded_by(
    share: float, counts: Int64[Tensor, "U cells"], extent: Float64[Tensor, "two U"]
) -> Float64[Tensor, "U"]:
    """Return the value that a share of each unit's values exceeds, by linear interpolation inside a bin.

    Never further than one bin (the range over their number) from values that exactly that share exceeds. NaN for a unit
    that is not finite or has no values.

    >>> x = torch.arange(1000.0).view(1, 1, -1)
    >>> extent = spread(x)
    >>> exceeded_by(0.005, histogram(x, extent), extent).round(decimals=1)  # 995 to 999 are five of a thousand
    tensor([994.1000], dtype=torch.float64)
    """
    extent = extent.to(counts.device)
    bins = counts.shape[1] - 1
    total = counts.sum(1)
    above = total[:, None] - counts.cumsum(1)  # values beyond the upper edge of each cell
    wanted = share * total.double()
    cell = (above.double() > wanted[:, None]).sum(1)  # the first cell that no more than the share lies beyond
    beyond = above.gather(1, cell[:, None])[:, 0]
    here = counts.gather(1, cell[:, None])[:, 0]
    part = torch.where(here > 0, (wanted - beyond) / here, 0.0)
    low, width = -extent[0], extent.sum(0) / bins
    value = low + width * torch.where(cell > 0, cell - part, 0.0)
    return torch.where(bounded(extent) & (total > 0), value, torch.nan)
