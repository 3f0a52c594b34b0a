"""From histograms of scores to set IoUs at thresholds that were fitted elsewhere."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64, Num
from torch import Tensor

Array = np.ndarray
BINS = 256


@dataclass(frozen=True, eq=False)
class ProbeScores:
    """What an estimator found for one tap, on samples it was not fitted on.

    ``hit`` and ``union`` are counts by fold and concept (their sums give the set IoU); ``null`` the IoU under each
    permutation; ``refit`` the IoU of both sides of each half split; ``positives`` of each concept and places of each
    fold (``sizes``) were scored; ``untold`` says why a concept has no value, ``reason`` why none has.
    """

    hit: Float64[Array, "F C"]
    union: Float64[Array, "F C"]
    null: Float64[Array, "P C"]
    refit: Float64[Array, "R 2 C"]
    threshold: Float64[Array, "C"]
    positives: Float64[Array, "C"]
    sizes: Float64[Array, "F"]
    strength: float
    reason: str
    untold: Any = None


def edge(bin: Num[Array, "*shape"]) -> Float64[Array, "*shape"]:
    """Return the lower edge of a bin, in standard deviations."""
    share = np.asarray(bin) * (2 / BINS) - 1
    with np.errstate(divide="ignore"):
        return np.asarray(2 * share / (1 - np.abs(share)))


def histogram(
    z: Float[Tensor, "b K n"],
    masks: Bool[Tensor, "b K n"],
    known: Bool[Tensor, "b K n"] | None,
    part: Int[Tensor, "b"],
    parts: int,
) -> Int64[Tensor, "parts K 2 bins"]:
    """Count the known places (None: all) by the sample's part, by concept, by mask (0, 1) and by bin of the score.

    Bins of a score ``z`` in standard deviations are equal steps of ``z / (2 + |z|)``: finest near 0, and without end.
    """
    K = z.shape[1]
    cell = (z / (2 + z.abs())).clamp_(-1, 1 - 2 / BINS).add_(1).mul_(BINS / 2).long()
    row = part[:, None, None] * K + torch.arange(K, device=z.device)[:, None]
    cell += (masks.long() + 2 * row) * BINS
    total = 2 * parts * K * BINS
    if known is not None:
        cell = torch.where(known, cell, total)
    return torch.bincount(cell.flatten(), minlength=total)[:total].view(parts, K, 2, BINS)


def split_ious(
    counts: Float64[Array, "S *cells two bins"],
) -> tuple[Float64[Array, "S *cells"], Float64[Array, "S *cells"], Int[Array, "S *cells"]]:
    """Set the threshold for each part on all other parts, and count hits and union on the part itself.

    Returns:
        ``(hit, union, bin)``, by part.
    """
    total = counts.sum(0)
    above = np.flip(np.flip(counts, -1).cumsum(-1), -1)  # predicted positive if the bin is at least t
    rest = np.flip(np.flip(total - counts, -1).cumsum(-1), -1)
    union = rest[..., 1, :1] + rest[..., 0, :]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(union > 0, rest[..., 1, :] / union, -1.0)
    bin = middle_of_best(share)
    at = np.take_along_axis(above, bin[..., None, None], -1)[..., 0]
    return at[..., 1], above[..., 1, 0] + at[..., 0], bin


def middle_of_best(share: Float64[Array, "*cells bins"]) -> Int[Array, "*cells"]:
    """Return the middle of the first run of thresholds that are equally good.

    Where scores fall into two clusters, the edge of one would be a poor threshold for the scores of another probe.
    """
    best = share >= share.max(-1, keepdims=True) - 1e-12
    first = best.argmax(-1)
    ended = ~best & (np.arange(share.shape[-1]) > first[..., None])
    last = np.where(ended.any(-1), ended.argmax(-1), share.shape[-1]) - 1
    return (first + last) // 2
