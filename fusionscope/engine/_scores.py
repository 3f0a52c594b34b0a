"""Losses and scores by task."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from ._score_tables import Table, of_classes, of_labels, of_numbers, of_pixels, of_sentiment

METRIC = {
    "classification": "accuracy",
    "multilabel": "f1",
    "dense": "miou",
    "regression": "r2",
    "translation": "psnr",
}
WINDOW = 11  # of SSIM: Gaussian of 1.5 pixels, cut at 5


def task_loss(
    task: str, output: Float[Tensor, "b ..."], target: Shaped[Tensor, "b ..."], smoothing: float, scale: Tensor
) -> Float[Tensor, ""]:
    """Cross-entropy in nats over samples or pixels (negative targets ignored), or error in units of ``scale``.

    Of several labels the binary cross-entropy, averaged over samples and labels; ``smoothing`` s makes its targets
    ``(1 - s) y + s / 2``, as it makes those of K classes ``(1 - s) y + s / K``. The error is squared for regression,
    absolute for translation (``scale`` then has one number, or one per channel).
    Computed in float32 whatever the precision of the forward pass.
    """
    output = output.float()
    if task == "regression":
        return F.mse_loss(output / scale, target / scale)
    if task == "translation":
        return ((output - target) / scale.view(-1, 1, 1)).abs().mean()
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits(output, target.float() * (1 - smoothing) + smoothing / 2)
    target = target.clamp(min=-1)
    total = F.cross_entropy(output, target, ignore_index=-1, label_smoothing=smoothing, reduction="sum")
    return total / (target >= 0).sum().clamp(min=1)


class Scores:
    """Accumulate predictions and give the scores of a task, computed with torchmetrics.

    - classification: ``accuracy``, ``balanced_accuracy`` (mean recall of the classes that occur), ``macro_f1`` (mean F1
      of the classes in target or prediction), ``recall`` per class.
    - multilabel: ``f1`` (mean over the labels in target or prediction of 2TP / (2TP + FP + FN); a label is told where
      its probability is above 1/2), ``micro_f1`` (the same of all labels' counts together), ``exact_match`` (share of
      samples with all labels right), ``map`` (mean average precision of the labels that occur), ``label_f1`` per label.
    - dense: ``miou`` (mean over the classes in target or prediction), ``pixel_accuracy``, ``mean_accuracy`` (mean
      recall of the classes that occur), ``iou`` per class.
    - regression: ``r2`` (1 - SSE / total sum of squares), ``mae`` in the target's unit, ``correlation`` (Pearson's); r2
      and correlation are means over the values that vary. With ``sentiment``, as papers on CMU-MOSI report them (MulT
      arXiv:1906.00295, MISA arXiv:2005.03545): ``acc2`` and ``f1`` of negative against the rest, ``acc2_nonzero`` and
      ``f1_nonzero`` of negative against positive without the samples of target 0, each F1 weighted by how often a sign
      is true, and ``acc7`` of numbers cut to -3..3 and rounded (halves to the even number).
    - translation: ``psnr`` in dB, ``10 log10(data_range² / MSE)``, and ``ssim`` (Wang et al. 2004,
      doi:10.1109/TIP.2003.819861; Gaussian window of 1.5 pixels, where it lies inside the picture; left out below 11x11
      pixels), both per image and then averaged, and ``mae`` in the target's unit.

    A score that cannot be computed is NaN: the correlation with a constant, a mean over no class.

    Args:
        task: one of ``METRIC``.
        classes: names of the classes.
        device: where the counts are.
        data_range: of translation targets: their largest possible value minus their smallest; 1 for images in 0..1.
        sentiment: of regression: also score the sign and the rounded number.
    """

    def __init__(
        self,
        task: str,
        classes: tuple[str, ...],
        device: torch.device | str = "cpu",
        *,
        data_range: float = 1.0,
        sentiment: bool = False,
    ):
        self.task = task
        self.classes = classes
        self.data_range = data_range
        self.sentiment = sentiment
        self.loss = 0.0
        self.count = 0
        self.sums: dict[str, float] = {}
        self.rows: list[tuple[Tensor, Tensor]] = []
        self.matrix = None
        if task in ("classification", "dense"):
            matrix = MulticlassConfusionMatrix(
                len(classes), ignore_index=-1, validate_args=False, sync_on_compute=False
            )
            self.matrix = matrix.to(device)

    def update(self, output: Tensor, target: Tensor, loss: Tensor) -> None:
        """Add a batch."""
        self.loss += float(loss) * len(target)
        self.count += len(target)
        if self.task == "translation":
            self._compare(output.float(), target.float())
        elif self.matrix is not None:
            self.matrix.update(output.argmax(1), target.clamp(min=-1))
        else:
            self.rows.append((output.detach().cpu(), target.detach().cpu()))

    def compute(self) -> Table:
        """Return every score; the task's main one has the name ``METRIC[task]``."""
        result: Table = {"loss": self.loss / max(self.count, 1)}
        if self.task == "translation":
            return result | {name: total / max(self.count, 1) for name, total in self.sums.items()}
        if self.matrix is not None:
            scores = of_pixels if self.task == "dense" else of_classes
            return result | scores(self.matrix.compute(), self.classes)
        output, target = (torch.cat(each) for each in zip(*self.rows, strict=True))
        if self.task == "multilabel":
            return result | of_labels(output, target, self.classes)
        return result | of_numbers(output, target) | (of_sentiment(output, target) if self.sentiment else {})

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
