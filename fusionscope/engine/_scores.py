"""Losses and scores by task."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, R2Score
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

METRIC = {"classification": "accuracy", "dense": "miou", "regression": "r2", "translation": "psnr"}
WINDOW = 11  # of SSIM: Gaussian of 1.5 pixels, cut at 5


def task_loss(
    task: str, output: Float[Tensor, "b ..."], target: Shaped[Tensor, "b ..."], smoothing: float, scale: Tensor
) -> Float[Tensor, ""]:
    """Cross-entropy in nats over samples or pixels (negative targets ignored), or error in units of ``scale``.

    The error is squared for regression, absolute for translation (``scale`` then has one number, or one per channel).
    Computed in float32 whatever the precision of the forward pass.
    """
    output = output.float()
    if task == "regression":
        return F.mse_loss(output / scale, target / scale)
    if task == "translation":
        return ((output - target) / scale.view(-1, 1, 1)).abs().mean()
    target = target.clamp(min=-1)
    total = F.cross_entropy(output, target, ignore_index=-1, label_smoothing=smoothing, reduction="sum")
    return total / (target >= 0).sum().clamp(min=1)


class Scores:
    """Accumulate predictions and give the scores of a task.

    Classification: accuracy and balanced accuracy (mean recall of the classes that occur), recall per class. Dense:
    pixel accuracy, mIoU (mean over classes that occur in target or prediction), IoU per class. Regression: R2
    (1 - SSE / total sum of squares, mean over values) and mean absolute error. Translation: PSNR in dB,
    ``10 log10(data_range² / MSE)``, and SSIM (Wang et al. 2004, doi:10.1109/TIP.2003.819861; Gaussian window of 1.5
    pixels, where it lies inside the picture; left out below 11x11 pixels), both per image and then averaged, and mean
    absolute error in the target's unit.

    Args:
        task: one of ``METRIC``.
        classes: names of the classes.
        device: where the counts are.
        data_range: of translation targets: their largest possible value minus their smallest; 1 for images in 0..1.
    """

    def __init__(
        self,
        task: str,
        classes: tuple[str, ...],
        device: torch.device | str = "cpu",
        *,
        data_range: float = 1.0,
    ):
        self.task = task
        self.classes = classes
        self.data_range = data_range
        self.loss = 0.0
        self.count = 0
        self.metrics = []
        self.sums: dict[str, float] = {}
        if task == "translation":
            return
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
        if self.task == "translation":
            self._compare(output.float(), target.float())
        elif self.task != "regression":
            output, target = output.argmax(1), target.clamp(min=-1)
        for metric in self.metrics:
            metric.update(output, target)

    def compute(self) -> dict[str, float | dict[str, float]]:
        """Return every score; the task's main one has the name ``METRIC[task]``."""
        result: dict[str, float | dict[str, float]] = {"loss": self.loss / max(self.count, 1)}
        if self.task == "translation":
            return result | {name: total / max(self.count, 1) for name, total in self.sums.items()}
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

    def _compare(self, output: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> None:
        """Add the sums over the batch of each image's scores."""
        axes = (1, 2, 3)
        each = {
            "psnr": peak_signal_noise_ratio(output, target, self.data_range, reduction="none", dim=axes),
            "mae": (output - target).abs().mean(axes),
        }
        if min(target.shape[2:]) >= WINDOW:
            pictures = output.double(), target.double()
            full = structural_similarity_index_measure(
                *pictures, data_range=self.data_range, reduction="none", return_full_image=True
            )
            inside = slice(WINDOW // 2, -(WINDOW // 2))  # without the rim, where the window sees mirrored pixels
            each["ssim"] = full[1][..., inside, inside].mean(axes)
        for name, values in each.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(values.double().sum())

    def _named(self, values: Tensor) -> dict[str, float]:
        return {name: float(v) for name, v in zip(self.classes, values, strict=True) if not v.isnan()}
