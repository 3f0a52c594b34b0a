"""Confidence calibration: how far a model's confidence is from how often it is right."""

import numpy as np
import torch
from jaxtyping import Float64, Num
from torch import Tensor

Array = np.ndarray
BINS = 15


def calibration_rows(logits: Num[Tensor, "B K places"], labels: Num[Tensor, "B places"]) -> Float64[Tensor, "B bins4"]:
    """Return of each sample how many places are in each bin of confidence, and their confidences, hits, variances.

    All are sums. Confidence ``c`` is the largest softmax probability; bin ``i`` of 15 is ``(i/15, (i+1)/15]``; the
    variance is ``c(1 - c)``, that of a hit of that chance. Labels below 0 are left out; a sample with a logit that is
    NaN is NaN.
    """
    wide = logits.detach().double()
    confidence, guess = wide.softmax(1).max(1)
    counted = (labels >= 0).double()
    hit = (guess == labels).double()
    values = torch.stack([torch.ones_like(hit), confidence, hit, confidence * (1 - confidence)], 1) * counted[:, None]
    place = (confidence * BINS).nan_to_num(1).ceil().long().clamp(1, BINS) - 1
    rows = values.new_zeros(len(logits), 4, BINS).scatter_add_(2, place[:, None].expand(-1, 4, -1), values)
    return rows.flatten(1).masked_fill(wide.isnan().any(2).any(1)[:, None], torch.nan)


def expected_calibration_error(sums: Float64[Array, "*more bins4"]) -> Float64[Array, "*more"]:
    """Return ``ECE = Σ_bins |Σ confidence - Σ hits| / N``, in [0, 1], lower is better (arXiv 1706.04599)."""
    count, confidence, hits, _ = np.split(sums, 4, -1)
    return _per_place(np.abs(confidence - hits), count)


def calibration_floor(sums: Float64[Array, "*more bins4"]) -> Float64[Array, "*more"]:
    """Return the ECE to expect of a calibrated model with the same confidences, ``Σ_bins sqrt(2/π Σ c(1 - c)) / N``.

    Noise alone makes it: ``E|X| = sqrt(2/π v)`` of a normal ``X`` of variance ``v``. For places that are independent;
    pixels are not, and their floor is higher.
    """
    count, _, _, variance = np.split(sums, 4, -1)
    return _per_place(np.sqrt(2 / np.pi * variance), count)


def _per_place(values: Float64[Array, "*more bins"], count: Float64[Array, "*more bins"]) -> Float64[Array, "*more"]:
    n = count.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(n > 0, values.sum(-1) / n, np.nan))
