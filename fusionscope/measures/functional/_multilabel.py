"""Scores of several labels per sample, as per-sample statistics of every label."""

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from fusionscope.errors import InputError

Array = np.ndarray


def _checked(
    output: Tensor, target: Tensor
) -> tuple[Float64[Tensor, "B K"], Bool[Tensor, "B K"], Bool[Tensor, "B K"], Bool[Tensor, "B K"]]:
    """Return logits, which labels are positive, which are known, and which known ones have a logit that is NaN."""
    if output.shape != target.shape or output.ndim != 2:
        raise InputError(
            f"expected one logit per label and targets of 0 and 1, both [B, K], got {tuple(output.shape)} and "
            f"{tuple(target.shape)}"
        )
    known = ~target.isnan() & (target >= 0)
    positive = known & (target == 1)
    if not torch.equal(known, known & ((target == 0) | positive)):
        raise InputError("expected targets of 0 and 1 (below 0 or NaN: ignored), got other values")
    logits = output.detach().double()
    return logits, positive, known, logits.isnan() & known


def f1_counts(output: Tensor, target: Tensor) -> Float64[Tensor, "B K3"]:
    """Count hits, predicted labels and true labels."""
    logits, positive, known, bad = _checked(output, target)
    guess = (logits > 0) & known
    rows = torch.cat([guess & positive, guess, positive], 1)
    return rows.double().masked_fill(bad.repeat(1, 3), torch.nan)


def f1_of_each(sums: Float64[Array, "*more K3"]) -> tuple[Array, Array]:
    """Return F1 of each label (NaN: neither in targets nor in predictions), and how often it is true."""
    hits, guessed, true = np.split(sums, 3, -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(guessed + true != 0, 2 * hits / (guessed + true), np.nan), true


def macro_f1(sums: Float64[Array, "*more K3"]) -> Float64[Array, "*more"]:
    """Average F1 over the labels that have one."""
    return _mean_of(f1_of_each(sums)[0], sums)


def right(output: Tensor, target: Tensor) -> Float64[Tensor, "B K2"]:
    """Count labels told right, and known labels."""
    logits, positive, known, bad = _checked(output, target)
    rows = torch.cat([((logits > 0) == positive) & known, known], 1)
    return rows.double().masked_fill(bad.repeat(1, 2), torch.nan)


def loglik(output: Tensor, target: Tensor) -> Float64[Tensor, "B K2"]:
    """Return the Bernoulli log-likelihood of each label in nats (0 where it is not known), and which are known."""
    logits, positive, known, bad = _checked(output, target)
    value = torch.nn.functional.logsigmoid(torch.where(positive, logits, -logits))
    rows = torch.cat([torch.where(known, value, 0.0), known.double()], 1)
    return rows.masked_fill(bad.repeat(1, 2), torch.nan)


def mean_ratio(sums: Float64[Array, "*more K2"]) -> Float64[Array, "*more"]:
    """Average the labels' means over the labels that are known anywhere."""
    total, count = np.split(sums, 2, -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _mean_of(np.where(count != 0, total / count, np.nan), sums)


def _mean_of(each: Array, sums: Array) -> Array:
    there = ~np.isnan(each)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, each, 0.0).sum(-1) / there.sum(-1)
    return np.asarray(np.where(np.isnan(sums).any(-1), np.nan, mean))
