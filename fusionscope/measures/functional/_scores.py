"""Scores of a model's outputs as per-sample statistics, so that any resample of samples is a weighted sum."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from torchmetrics import Metric

from fusionscope.errors import InputError, did_you_mean

Array = np.ndarray
DEFAULTS = {"classification": "accuracy", "dense": "miou", "regression": "r2"}


@dataclass(frozen=True)
class Score:
    """A score: ``value(Σ_samples statistics(output, target))``, or a torchmetrics ``metric`` that allows no resampling.

    ``statistics`` maps ``(output, target)`` to ``[B, K]`` in float64 (NaN for a sample whose output is not a number),
    ``value`` maps sums ``[..., K]`` to ``[...]`` (NaN where the score is not defined). Higher is better.
    """

    name: str
    statistics: Callable[[Tensor, Tensor], Tensor] = field(repr=False)
    value: Callable[[Array], Array] = field(repr=False)
    metric: Metric | None = field(default=None, repr=False)


def resolve_score(score: Any, task: str, classes: int = 0) -> Score:
    """Return the score for a name, a function, a torchmetrics metric, or None for the task's usual one.

    - ``accuracy``: share of samples (pixels) whose largest logit is the label; the default of "classification".
    - ``miou``: mean over classes of ``TP/(TP + FP + FN)``, summed over all samples; a class in neither labels nor
    predictions
      is left out; the default of "dense".
    - ``r2``: ``1 - Σ(y - ŷ)²/Σ(y - ȳ)²``, averaged over outputs; the default of "regression".
    - ``loglik``: mean log-likelihood of the label, in nats.
    - a function ``f(output, target) -> [B]``: its mean over samples.

    Labels below 0 are ignored. A score is better when higher.

    Args:
        score: as above.
        task: "classification", "dense" or "regression".
        classes: number of classes (not for
        regression).

    Raises:
        InputError: an unknown name or task, or a score that does not fit the task.

    >>> import torch
    >>> accuracy = resolve_score(None, "classification", 2)
    >>> rows = accuracy.statistics(torch.tensor([[2.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1]))
    >>> accuracy.name, rows.tolist(), float(accuracy.value(rows.sum(0).numpy()))
    ('accuracy', [[1.0, 1.0], [0.0, 1.0]], 0.5)
    """
    if task not in DEFAULTS:
        raise InputError(f"expected a task of {list(DEFAULTS)}, got {task!r}.{did_you_mean(task, DEFAULTS)}")
    if isinstance(score, Score):
        return score
    if isinstance(score, Metric):
        return Score(type(score).__name__, _no_statistics, _ratio, score)
    if score is None or isinstance(score, str):
        name = DEFAULTS[task] if score is None else score
        fitting = {
            "accuracy": (_accuracy, _ratio),
            "loglik": (_loglik, _ratio),
            "miou": (partial(_confusion, classes=classes), _miou),
        }
        if task == "regression":
            fitting = {"r2": (_residuals, _r2)}
        if name not in fitting:
            raise InputError(
                f"expected a score of {list(fitting)} for {task}, a function f(output, target) -> [B] or a "
                f"torchmetrics metric, got {name!r}.{did_you_mean(name, fitting)}"
            )
        if name == "miou" and classes < 1:
            raise InputError(f"expected the number of classes for 'miou', got {classes}; give classes=")
        return Score(name, *fitting[name])
    if callable(score):
        name = getattr(score, "__name__", type(score).__name__)
        return Score(name, partial(_per_sample, function=score, name=name), _ratio)
    raise InputError(f"expected a name, a function, a torchmetrics metric or None as score, got {score!r}")


def _ratio(sums: Float64[Array, "*more 2"]) -> Float64[Array, "*more"]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(sums[..., 1] != 0, sums[..., 0] / sums[..., 1], np.nan))


def _no_statistics(output: Tensor, target: Tensor) -> Tensor:
    raise NotImplementedError


def _labelled(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits ``[B, K, places]``, labels ``[B, places]``, and which samples have logits that are NaN."""
    fits = output.ndim >= 2 and output.shape[:1] + output.shape[2:] == target.shape
    if not fits or target.is_floating_point():
        raise InputError(
            f"expected logits [B, K, ...] and integer labels [B, ...] of the same places, got {tuple(output.shape)} "
            f"and {target.dtype} of shape {tuple(target.shape)}; resize or reduce the output in the model first"
        )
    top = int(target.max()) if target.numel() else -1
    if top >= output.shape[1]:
        raise InputError(f"expected labels below the {output.shape[1]} outputs, got {top}; negative labels are ignored")
    logits = output.detach().flatten(2) if output.ndim > 2 else output.detach().unsqueeze(2)
    return logits, target.detach().flatten(1) if target.ndim > 1 else target.unsqueeze(1), logits.isnan().any(2).any(1)


def _accuracy(output: Tensor, target: Tensor) -> Float64[Tensor, "B 2"]:
    logits, labels, bad = _labelled(output, target)
    counted = labels >= 0
    right = (logits.argmax(1) == labels) & counted
    return torch.stack([right.sum(1), counted.sum(1)], 1).double().masked_fill(bad[:, None], torch.nan)


def _loglik(output: Tensor, target: Tensor) -> Float64[Tensor, "B 2"]:
    logits, labels, bad = _labelled(output, target)
    counted = labels >= 0
    picked = logits.double().log_softmax(1).gather(1, labels.clamp(min=0).unsqueeze(1)).squeeze(1)
    rows = torch.stack([torch.where(counted, picked, 0.0).sum(1), counted.sum(1).double()], 1)
    return rows.masked_fill(bad[:, None], torch.nan)


def _confusion(output: Tensor, target: Tensor, classes: int) -> Float64[Tensor, "B CC"]:
    logits, labels, bad = _labelled(output, target)
    if logits.shape[1] != classes:
        raise InputError(f"expected {classes} outputs, one per class, got {logits.shape[1]}; give classes= accordingly")
    counted = labels >= 0
    sample = torch.arange(len(labels), device=labels.device)[:, None].expand_as(labels)
    cell = (sample * classes + labels) * classes + logits.argmax(1)
    table = torch.bincount(cell[counted], minlength=len(labels) * classes**2).view(-1, classes**2)
    return table.double().masked_fill(bad[:, None], torch.nan)


def _miou(sums: Float64[Array, "*more CC"]) -> Float64[Array, "*more"]:
    C = round(sums.shape[-1] ** 0.5)
    table = sums.reshape(*sums.shape[:-1], C, C)
    hit = np.diagonal(table, axis1=-2, axis2=-1)
    union = table.sum(-1) + table.sum(-2) - hit
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(union == 0, 0.0, hit / union)
        return np.asarray(np.where((union != 0).any(-1), share.sum(-1) / (union != 0).sum(-1), np.nan))


def _residuals(output: Tensor, target: Tensor) -> Float64[Tensor, "B K4"]:
    if output.numel() != target.numel() or len(output) != len(target):
        raise InputError(f"expected predictions shaped like targets {tuple(target.shape)}, got {tuple(output.shape)}")
    y, guess = target.detach().double().reshape(len(target), -1), output.detach().double().reshape(len(target), -1)
    bad = ~(guess.isfinite().all(1) & y.isfinite().all(1))
    return torch.cat([torch.ones_like(y), y, y**2, (y - guess) ** 2], 1).masked_fill(bad[:, None], torch.nan)


def _r2(sums: Float64[Array, "*more K4"]) -> Float64[Array, "*more"]:
    n, y, squares, error = np.split(sums, 4, -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = squares - y**2 / n
        return np.asarray(np.where(total > 1e-13 * squares, 1 - error / total, np.nan).mean(-1))


def _per_sample(output: Tensor, target: Tensor, function: Callable, name: str) -> Float64[Tensor, "B 2"]:
    values = function(output, target)
    if not isinstance(values, Tensor) or values.shape != target.shape[:1]:
        got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise InputError(
            f"expected the score {name!r} to return one value per sample [{len(target)}], got {got}; return a tensor "
            "without averaging over samples"
        )
    values = values.detach().double()
    return torch.stack([values, torch.ones_like(values)], 1)
