"""Losses and scores by task."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, R2Score
from torchmetrics.classification import MulticlassConfusionMatrix

METRIC = {"classification": "accuracy", "dense": "miou", "regression": "r2"}


def task_loss(
    task: str, output: Float[Tensor, "b ..."], target: Shaped[Tensor, "b ..."], smoothing: float, scale: Tensor
) -> Float[Tensor, ""]:
    """Cross-entropy in nats over samples or pixels (negative targets ignored), or squared error in units of ``scale``.

    Computed in float32 whatever the precision of the forward pass.
    """
    output = output.float()
    if task == "regression":
        return F.mse_loss(output / scale, target / scale)
    target = target.clamp(min=-1)
    total = F.cross_entropy(output, target, ignore_index=-1, label_smoothing=smoothing, reduction="sum")
    return total / (target >= 0).sum().clamp(min=1)


class Scores:
    """Accumulate predictions and give the scores of a task.

    Classification: accuracy and balanced accuracy (mean recall of the classes that occur), recall per class. Dense:
    pixel accuracy, mIoU (mean over classes that occur in target or prediction), IoU per class. Regression: R2
    (1 - SSE / total sum of squares, mean over values) and mean absolute error.
    """

    def __init__(self, task: str, classes: tuple[str, ...], device: torch.device | str = "cpu"):
        self.task = task
        self.classes = classes
        self.loss = 0.0
        self.count = 0
        if task == "regression":
            self.metrics = [
                R2Score(sync_on_compute=False).to(device),
                MeanAbsoluteError(sync_on_compute=False).to(device),
            ]
        else:
            matrix = MulticlassConfusionMatrix(len(classes), ignore_index=-1, sync_on_compute=False)
            self.metrics = [matrix.to(device)]

    def update(self, output: Tensor, target: Tensor, loss: Tensor) -> None:
        """Add a batch."""
        self.loss += float(loss) * len(target)
        self.count += len(target)
        if self.task != "regression":
            output, target = output.argmax(1), target.clamp(min=-1)
        for metric in self.metrics:
            metric.update(output, target)

    def compute(self) -> dict[str, float | dict[str, float]]:
        """Return every score; the task's main one has the name ``METRIC[task]``."""
        result: dict[str, float | dict[str, float]] = {"loss": self.loss / max(self.count, 1)}
        if self.task == "regression":
            return result | {n: float(m.compute()) for n, m in zip(("r2", "mae"), self.metrics, strict=True)}
        counts = self.metrics[0].compute().double()
        right, truth, said = counts.diagonal(), counts.sum(1), counts.sum(0)
        recall, iou = right / truth, right / (truth + said - right)
        accuracy = float(right.sum() / counts.sum())
        if self.task == "dense":
            return result | {
                "miou": float(iou.nanmean()),
                "pixel_accuracy": accuracy,
                "iou": self._named(iou),
            }
        return result | {
            "accuracy": accuracy,
            "balanced_accuracy": float(recall.nanmean()),
            "recall": self._named(recall),
        }

    def _named(self, values: Tensor) -> dict[str, float]:
        return {name: float(v) for name, v in zip(self.classes, values, strict=True) if not v.isnan()}
