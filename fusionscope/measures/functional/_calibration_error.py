"""Confidence calibration: how far a model's confidence is from how often it is right."""

import numpy as np
import torch
from jaxtyping import Float64, Num
from torch import Tensor

Array = np.ndarray
BINS = 15


def calibration_rows(logits: Num[Tensor, "B K places"], labels: Num[Tensor, "B places"]) -> Float64[Tensor, "B bins3"]:
    """Return how many places of each sample are in each bin of confidence, their confidences and hits, summed.

    Confidence is the largest softmax probability; bin ``i`` of 15 is ``(i/15, (i+1)/15]``. Labels below 0 are left out;
    a sample with a logit that is NaN is NaN.
    """
    wide = logits.detach().double()
    confidence, guess = wide.softmax(1).max(1)
    counted = (labels >= 0).double()
    values = torch.stack([counted, confidence * counted, (guess == labels) * counted], 1)
    place = (confidence * BINS).nan_to_num(1).ceil().long().clamp(1, BINS) - 1
    rows = values.new_zeros(len(logits), 3, BINS).scatter_add_(2, place[:, None].expand(-1, 3, -1), values)
    return rows.flatten(1).masked_fill(wide.isnan().any(2).any(1)[:, None], torch.nan)


def expected_calibration_error(sums: Float64[Array, "*more bins3"]) -> Float64[Array, "*more"]:
    """Return ``ECE = Σ_bins |Σ confidence - Σ hits| / N``, in [0, 1], lower is better (arXiv 1706.04599)."""
    count, confidence, hits = np.split(sums, 3, -1)
    n = count.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(n > 0, np.abs(confidence - hits).sum(-1) / n, np.nan))
