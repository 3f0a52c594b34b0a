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

from . import _calibration_error, _multilabel

Array = np.ndarray
DEFAULTS = {"classification": "accuracy", "dense": "miou", "multilabel": "f1", "regression": "r2"}


@dataclass(frozen=True)
class Score:
    """A score: ``value(Σ_samples statistics(output, target))``, or a torchmetrics ``metric`` that allows no resampling.

    ``statistics`` maps ``(output, target)`` to ``[B, K]`` in float64 (NaN for a sample whose output is not a number),
    ``value`` maps sums ``[..., K]`` to ``[...]`` (NaN where the score is not defined). Higher is better (but for ECE).

    A score has values per class in one of two ways: ``by_class`` maps sums ``[..., K]`` to values ``[..., C]`` and to
    how often each class was there ``[..., C]``; or every sample has one class, ``class_of(target) -> [B]`` (below 0:
    none), and ``value`` of the samples of a class is its value.

    ``floor``, where there is one, maps the same sums to the value that noise alone would give. ``reflected``: noise can
    only raise the score, so that resamples lie as far above the value as the value lies above the truth. Bootstrap
    draws are then reflected about it, which makes percentiles of them basic bootstrap intervals.
    """

    name: str
    statistics: Callable[[Tensor, Tensor], Tensor] = field(repr=False)
    value: Callable[[Array], Array] = field(repr=False)
    metric: Metric | None = field(default=None, repr=False)
    task: str = ""
    by_class: Callable[[Array], tuple[Array, Array]] | None = field(default=None, repr=False)
    class_of: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    floor: Callable[[Array], Array] | None = field(default=None, repr=False)
    reflected: bool = False


def resolve_score(score: Any, task: str, classes: int = 0) -> Score:
    """Return the score for a name, a function, a torchmetrics metric, or None for the task's usual one.

    - ``accuracy``: share of samples (pixels) whose largest logit is the label; the default of "classification".
    - ``miou``: mean over classes of ``TP/(TP + FP + FN)``, summed over all samples; a class in neither labels nor
      predictions is left out; the default of "dense".
    - ``r2``: ``1 - Σ(y - ŷ)²/Σ(y - ȳ)²``, averaged over outputs; the default of "regression".
    - ``neg_mse``: ``-mean (y - ŷ)²``, averaged over outputs, in squared units of the target.
    - ``loglik``: mean log-likelihood of the label, in nats.
    - "multilabel" (targets 0 or 1 ``[B, K]``, one logit per label): ``f1``, the default, the mean over labels of
      ``2TP/(2TP + FP + FN)``, a label is predicted where its logit is above 0, a label in neither targets nor
      predictions is left out; ``accuracy``, share of labels told right; ``loglik``, Bernoulli, mean over labels.
    - ``ece``: expected calibration error of classification and dense tasks, ``Σ_bins |Σ confidence - Σ hits| / N`` over
      15 bins of the largest softmax probability (arXiv 1706.04599). *Lower* is better. Noise adds to it: of a model
      that is calibrated it is above 0 (about .1 of 100 samples, .03 of 1,000); its intervals are basic bootstrap
      intervals, which allow for that and may begin below 0.
    - a function ``f(output, target) -> [B]``: its mean over samples.

    Labels below 0, and labels and numbers that are NaN, are ignored. A score is better when higher, but for ``ece``.

    Args:
        score: as above.
        task: "classification", "dense", "multilabel" or "regression".
        classes: number of classes (not needed for multilabel and regression).

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
        return Score(type(score).__name__, _no_statistics, _ratio, score, task)
    if score is None or isinstance(score, str):
        name = DEFAULTS[task] if score is None else score
        fitting = _fitting(task, classes)
        if name not in fitting:
            raise InputError(
                f"expected a score of {list(fitting)} for {task}, a function f(output, target) -> [B] or a "
                f"torchmetrics metric, got {name!r}.{did_you_mean(name, fitting)}"
            )
        if name == "miou" and classes < 1:
            raise InputError(f"expected the number of classes for 'miou', got {classes}; give classes=")
        return fitting[name]
    if callable(score):
        name = getattr(score, "__name__", type(score).__name__)
        return Score(name, partial(_per_sample, function=score, name=name), _ratio, task=task)
    raise InputError(f"expected a name, a function, a torchmetrics metric or None as score, got {score!r}")


def _fitting(task: str, classes: int) -> dict[str, Score]:
    """All named scores of a task."""
    if task == "regression":
        return {
            "r2": Score("r2", _residuals, _r2, task=task, by_class=_r2_of_each),
            "neg_mse": Score("neg_mse", _residuals, _neg_mse, task=task, by_class=_neg_mse_of_each),
        }
    if task == "multilabel":
        return {
            "f1": Score("f1", _multilabel.f1_counts, _multilabel.macro_f1, task=task, by_class=_multilabel.f1_of_each),
            "accuracy": Score("accuracy", _multilabel.right, _of_all, task=task, by_class=_of_each),
            "loglik": Score("loglik", _multilabel.loglik, _multilabel.mean_ratio, task=task, by_class=_of_each),
        }
    value, floor = _calibration_error.expected_calibration_error, _calibration_error.calibration_floor
    ece = Score("ece", _calibration, value, task=task, floor=floor, reflected=True)
    miou = Score("miou", partial(_confusion, classes=classes), _miou, task=task, by_class=_ious)
    if task == "dense" and classes > 0:
        named = {"accuracy": _right, "loglik": _likelihood}
        rows = {name: partial(_sums_by_label, places=places, classes=classes) for name, places in named.items()}
        return {n: Score(n, row, _of_all, task=task, by_class=_of_each) for n, row in rows.items()} | {
            "miou": miou,
            "ece": ece,
        }
    class_of = _label if task == "classification" else None
    return {
        "accuracy": Score("accuracy", partial(_sums, places=_right), _ratio, task=task, class_of=class_of),
        "loglik": Score("loglik", partial(_sums, places=_likelihood), _ratio, task=task, class_of=class_of),
        "miou": miou,
        "ece": ece,
    }


def _label(target: Tensor) -> Tensor:
    return target.long()


def _ratio(sums: Float64[Array, "*more 2"]) -> Float64[Array, "*more"]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(sums[..., 1] != 0, sums[..., 0] / sums[..., 1], np.nan))


def _of_each(sums: Float64[Array, "*more C2"]) -> tuple[Array, Array]:
    """From sums and counts of every class to each class's mean, and its count."""
    pairs = np.stack(np.split(sums, 2, -1), -1)
    return _ratio(pairs), pairs[..., 1]


def _of_all(sums: Float64[Array, "*more C2"]) -> Float64[Array, "*more"]:
    return _ratio(np.stack(np.split(sums, 2, -1), -1).sum(-2))


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


def _right(logits: Tensor, labels: Tensor) -> Float64[Tensor, "B places"]:
    return (logits.max(1).indices == labels).double()


def _likelihood(logits: Tensor, labels: Tensor) -> Float64[Tensor, "B places"]:
    return logits.double().log_softmax(1).gather(1, labels.clamp(min=0).unsqueeze(1)).squeeze(1)


def _sums(output: Tensor, target: Tensor, places: Callable) -> Float64[Tensor, "B 2"]:
    logits, labels, bad = _labelled(output, target)
    counted = labels >= 0
    values = torch.where(counted, places(logits, labels), 0.0)
    return torch.stack([values.sum(1), counted.sum(1).double()], 1).masked_fill(bad[:, None], torch.nan)


def _sums_by_label(output: Tensor, target: Tensor, places: Callable, classes: int) -> Float64[Tensor, "B C2"]:
    """Sums and counts of each class; a place whose logits are NaN spoils its own class only."""
    logits, labels, _ = _labelled(output, target)
    counted = labels >= 0
    values = places(logits, labels).masked_fill(logits.isnan().any(1), torch.nan)
    values = torch.where(counted, values, 0.0)
    rows = torch.zeros(2, len(labels), classes, dtype=torch.float64, device=labels.device)
    rows[0].scatter_add_(1, labels.clamp(min=0), values)
    rows[1].scatter_add_(1, labels.clamp(min=0), counted.double())
    return rows.movedim(0, 1).flatten(1)


def _calibration(output: Tensor, target: Tensor) -> Float64[Tensor, "B bins4"]:
    logits, labels, _ = _labelled(output, target)
    return _calibration_error.calibration_rows(logits, labels)


def _confusion(output: Tensor, target: Tensor, classes: int) -> Float64[Tensor, "B CC"]:
    logits, labels, bad = _labelled(output, target)
    if logits.shape[1] != classes:
        raise InputError(f"expected {classes} outputs, one per class, got {logits.shape[1]}; give classes= accordingly")
    counted = labels >= 0
    sample = torch.arange(len(labels), device=labels.device)[:, None].expand_as(labels)
    cell = (sample * classes + labels) * classes + logits.max(1).indices
    table = torch.bincount(cell[counted], minlength=len(labels) * classes**2).view(-1, classes**2)
    return table.double().masked_fill(bad[:, None], torch.nan)


def _ious(sums: Float64[Array, "*more CC"]) -> tuple[Array, Array]:
    C = round(sums.shape[-1] ** 0.5)
    table = sums.reshape(*sums.shape[:-1], C, C)
    hit = np.diagonal(table, axis1=-2, axis2=-1)
    labelled = table.sum(-1)
    return _ratio(np.stack([hit, labelled + table.sum(-2) - hit], -1)), labelled


def _miou(sums: Float64[Array, "*more CC"]) -> Float64[Array, "*more"]:
    share, _ = _ious(sums)
    there = ~np.isnan(share)
    mean = _ratio(np.stack([np.where(there, share, 0.0).sum(-1), there.sum(-1).astype(np.float64)], -1))
    return np.asarray(np.where(np.isnan(sums).any(-1), np.nan, mean))


def _residuals(output: Tensor, target: Tensor) -> Float64[Tensor, "B K4"]:
    if output.numel() != target.numel() or len(output) != len(target):
        raise InputError(f"expected predictions shaped like targets {tuple(target.shape)}, got {tuple(output.shape)}")
    y, guess = target.detach().double().reshape(len(target), -1), output.detach().double().reshape(len(target), -1)
    known = ~y.isnan()
    y, error = torch.where(known, y, 0.0), torch.where(known, y - guess, 0.0)
    bad = known & ~(guess.isfinite() & y.isfinite())
    return torch.cat([known.double(), y, y**2, error**2], 1).masked_fill(bad.repeat(1, 4), torch.nan)


def _r2_of_each(sums: Float64[Array, "*more K4"]) -> tuple[Array, Array]:
    n, y, squares, error = np.split(sums, 4, -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = squares - y**2 / n
        return np.where(total > 1e-13 * squares, 1 - error / total, np.nan), n


def _r2(sums: Float64[Array, "*more K4"]) -> Float64[Array, "*more"]:
    return np.asarray(_r2_of_each(sums)[0].mean(-1))


def _neg_mse_of_each(sums: Float64[Array, "*more K4"]) -> tuple[Array, Array]:
    n, _, _, error = np.split(sums, 4, -1)
    return -_ratio(np.stack([error, n], -1)), n


def _neg_mse(sums: Float64[Array, "*more K4"]) -> Float64[Array, "*more"]:
    return np.asarray(_neg_mse_of_each(sums)[0].mean(-1))


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
