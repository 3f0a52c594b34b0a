"""The scores of each task from all its predictions; NaN where one cannot be computed, and out of every mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_accuracy,
    multiclass_accuracy,
    multiclass_f1_score,
    multilabel_average_precision,
    multilabel_confusion_matrix,
    multilabel_exact_match,
)
from torchmetrics.functional.regression import mean_absolute_error, pearson_corrcoef, r2_score

Table = dict[str, float | dict[str, float]]
STRONGEST = 3  # sentiments are from -3 to 3


def of_classes(counts: Int64[Tensor, "k k"], classes: Sequence[str]) -> Table:
    """Scores of samples with one class each, from the confusion matrix (rows: targets)."""
    right, truth, said = _margins(counts)
    recall = right / truth
    return {
        "accuracy": float(right.sum() / truth.sum()),
        "balanced_accuracy": float(recall.nanmean()),
        "macro_f1": float((2 * right / (truth + said)).nanmean()),
        "recall": _named(classes, recall),
    }


def of_pixels(counts: Int64[Tensor, "k k"], classes: Sequence[str]) -> Table:
    """Scores of maps of classes, from the confusion matrix (rows: targets)."""
    right, truth, said = _margins(counts)
    iou = right / (truth + said - right)
    return {
        "miou": float(iou.nanmean()),
        "pixel_accuracy": float(right.sum() / truth.sum()),
        "mean_accuracy": float((right / truth).nanmean()),
        "iou": _named(classes, iou),
    }


def of_labels(logits: Float[Tensor, "n k"], target: Shaped[Tensor, "n k"], classes: Sequence[str]) -> Table:
    """Scores of several labels per sample; a label is told where its probability is above 1/2."""
    # probabilities, as torchmetrics takes numbers outside 0..1 for logits, batch by batch; in float64, as rounding to 1
    # would tie what average precision puts in order
    probability, target = logits.double().sigmoid(), target.long()
    size = target.shape[1]
    counts = multilabel_confusion_matrix(probability, target, size, validate_args=False).double()
    right, told, true = counts[:, 1, 1], counts[:, :, 1].sum(1), counts[:, 1].sum(1)
    f1 = 2 * right / (told + true)
    seen = true > 0
    precision = torch.full_like(f1, torch.nan)
    if seen.any():
        # without the labels that no sample has: those are not defined, and torchmetrics warns of them
        some = probability[:, seen], target[:, seen]
        if some[0].shape[1] == 1:
            some = some[0].repeat(1, 2), some[1].repeat(1, 2)  # torchmetrics takes two labels or more
        found = multilabel_average_precision(*some, some[0].shape[1], average="none", validate_args=False)
        precision[seen] = found[: int(seen.sum())].double()
    return {
        "f1": float(f1.nanmean()),
        "micro_f1": float(2 * right.sum() / (told + true).sum()),
        "exact_match": float(multilabel_exact_match(probability, target, size, validate_args=False)),
        "map": float(precision.nanmean()),
        "label_f1": _named(classes, f1),
    }


def of_numbers(output: Float[Tensor, "n ..."], target: Float[Tensor, "n ..."]) -> Table:
    """Scores of numbers to regress, in float64; R2 and correlation are means over the values that have them."""
    output, target = (x.double().reshape(len(x), -1) for x in (output, target))
    varied = _varied(target)
    centre, spread = target.mean(0), torch.where(varied, target.std(0, correction=0), 1.0)
    r2 = torch.full_like(centre, torch.nan)
    correlation = r2.clone()
    if varied.any():
        # in units of the target's spread: torchmetrics takes sums of squares below 1e-4 for zero, in any unit
        x, y = ((t - centre) / spread for t in (output, target))
        r2[varied] = r2_score(x[:, varied], y[:, varied], multioutput="raw_values")
        for k in (varied & _varied(output)).nonzero().flatten().tolist():
            mine = (output[:, k] - output[:, k].mean()) / output[:, k].std(correction=0)
            correlation[k] = pearson_corrcoef(mine, y[:, k])
    return {
        "r2": float(r2.nanmean()),
        "mae": float(mean_absolute_error(output, target)),
        "correlation": float(correlation.nanmean()),
    }


def of_sentiment(output: Float[Tensor, " n"], target: Float[Tensor, " n"]) -> Table:
    """Scores of sentiments, as the papers on CMU-MOSI and CMU-MOSEI report them."""
    output, target = output.double(), target.double()
    there = target != 0
    told, true = (x.nan_to_num().clamp(-STRONGEST, STRONGEST).round().long() + STRONGEST for x in (output, target))
    return {
        **_signs(output >= 0, target >= 0, ""),
        **_signs(output[there] > 0, target[there] > 0, "_nonzero"),
        "acc7": float(multiclass_accuracy(told, true, 2 * STRONGEST + 1, "micro", validate_args=False)),
    }


def _signs(told: Tensor, true: Tensor, ending: str) -> Table:
    if not len(true):
        return {f"acc2{ending}": torch.nan, f"f1{ending}": torch.nan}
    told, true = told.long(), true.long()
    f1 = multiclass_f1_score(told, true, 2, average="weighted", validate_args=False)
    return {f"acc2{ending}": float(binary_accuracy(told, true)), f"f1{ending}": float(f1)}


def _margins(counts: Int64[Tensor, "k k"]) -> tuple[Tensor, Tensor, Tensor]:
    counts = counts.cpu().double()
    return counts.diagonal(), counts.sum(1), counts.sum(0)


def _varied(x: Float[Tensor, "n d"]) -> Tensor:
    return x.amax(0) > x.amin(0)


def _named(classes: Sequence[str], values: Tensor) -> dict[str, float]:
    return {name: float(v) for name, v in zip(classes, values, strict=True) if not v.isnan()}
