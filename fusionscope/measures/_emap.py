"""EMAP: how well the best additive approximation of a model does, and what interaction adds to it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Num, Shaped
from torch import Tensor

from fusionscope.errors import InputError

from ._instrument import Instrument
from ._paired import PairedScores
from .functional._scores import resolve_score

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class EmapResult:
    """Score of the additive approximation, of the model on the same samples, and ``gap`` = model - approximation.

    ``predictions [N, *outputs]`` are the approximation's, in the order of the samples' numbers.
    """

    predictions: Float64[Array, "N *outputs"] = field(repr=False)
    metric: str
    value: float
    low: float
    high: float
    model: float
    model_low: float
    model_high: float
    gap: float
    gap_low: float
    gap_high: float
    samples: int
    groups: int
    alpha: float
    reason: str


class Emap(Instrument):
    """The empirical multimodally-additive projection of a model, from its outputs for all pairs of ``N`` samples.

    One modality stands against all others: ``L[i, j]`` is the output for this modality of sample i and the others of
    sample j. Pairs come in blocks of rows, each with all N samples on the right, in the same order everywhere. Sums of
    rows and columns are kept, not the pairs: ``2N`` outputs, in float64. ``N²`` outputs have to be computed, so N is a
    subsample of some hundred.

    The interval is a paired bootstrap over groups (or samples) of the scores of both predictions; the approximation
    itself, fitted on these N samples, is held fixed.

    Args:
        samples: N.
        score: from ``resolve_score``, or a function ``f(output, target) -> [B]``.
        resamples: bootstrap draws; 0 for no interval.
        alpha: 1 - the level of the intervals.
        seed: of the bootstrap.

    Raises:
        InputError: settings out of range, blocks that do not fit, rows that came twice.

    >>> from fusionscope.measures import resolve_score
    >>> a, b = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    >>> metric = Emap(4, score=resolve_score("accuracy", "classification", 2))
    >>> metric.update(torch.arange(4), torch.eye(2)[a[:, None] ^ b[None, :]], a ^ b)
    >>> found = metric.compute()
    >>> found.model, found.value, found.gap
    (1.0, 0.5, 0.5)
    """

    keys: list[Tensor]
    sums: list[Tensor]
    own: list[Tensor]
    targets: list[Tensor]
    columns: Tensor
    shapes: Tensor
    failed: Tensor

    def __init__(
        self, samples: int, *, score: Any, resamples: int = 1000, alpha: float = 0.05, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if samples < 1:
            raise InputError(f"expected at least one sample, got {samples}")
        self.samples, self.resamples, self.alpha, self.seed = samples, resamples, alpha, seed
        self.score = resolve_score(score, "classification") if not isinstance(score, str | None) else score
        if self.score is None or isinstance(self.score, str) or self.score.metric is not None:
            raise InputError("expected a resolved score that has values per sample, see resolve_score")
        self.reason = ""
        self._paired()  # settings out of range are told here
        self.add_state("keys", [], "cat")  # [b, 3]: number, 1 if grouped, group
        self.add_state("sums", [], "cat")  # [b, K]: sum over the right
        self.add_state("own", [], "cat")  # [b, K]: the pair of a sample with itself
        self.add_state("targets", [], "cat")  # [b, places]
        self.add_state("columns", torch.zeros(0, 0, dtype=torch.float64), "sum")  # [N, K]
        # Axes of an output and of a target: how many, their sizes; and 1 if targets are integers.
        self.add_state("shapes", torch.zeros(2, 10, dtype=torch.int64), "max")
        self.add_state("failed", torch.zeros(1, dtype=torch.int64), "sum")

    def settings(self) -> dict[str, Any]:
        """Return what two instruments must share to be merged."""
        names = ("samples", "resamples", "alpha", "seed")
        return {k: getattr(self, k) for k in names} | {"score": self.score.name}

    def _paired(self) -> PairedScores:
        given = {"resamples": self.resamples, "alpha": self.alpha, "seed": self.seed}
        return PairedScores(["model", "additive"], score=self.score, sync_on_compute=False, **given)

    def update(
        self,
        number: Shaped[Tensor, "b"],
        output: Num[Tensor, "b N *outputs"],
        target: Shaped[Tensor, "b *places"],
        group: Shaped[Tensor, "b"] | None = None,
    ) -> None:
        """Add rows ``number`` (0 to N - 1, the samples' places on the right) of the outputs for all pairs."""
        if output.shape[1] != self.samples or ((number < 0) | (number >= self.samples)).any():
            raise InputError(
                f"expected outputs [b, {self.samples}, ...] of rows 0 to {self.samples - 1} with all samples, got "
                f"{tuple(output.shape)} and rows {number.tolist()}"
            )
        number = number.to(output.device)
        wide = output.detach().double().flatten(2) if output.ndim > 2 else output.detach().double().unsqueeze(2)
        shapes = torch.zeros_like(self.shapes)
        for row, axes in zip(shapes, (output.shape[2:], target.shape[1:]), strict=True):
            row[: len(axes) + 1] = torch.tensor([len(axes), *axes])
        shapes[1, -1] = not target.is_floating_point()
        self.accumulate("shapes", shapes)
        keys = torch.zeros(len(number), 3, dtype=torch.int64, device=self.device)
        keys[:, 0] = number
        if group is not None:
            keys[:, 1], keys[:, 2] = 1, group.to(keys)
        self.keys.append(keys)
        self.sums.append(wide.sum(1).to(self.device))
        self.own.append(wide[torch.arange(len(wide), device=wide.device), number].to(self.device))
        self.targets.append(target.detach().to(self.device).double().reshape(len(target), -1))
        self.accumulate("columns", wide.sum(0))

    def fail(self, reason: str) -> None:
        """Note that the model raised on some pairs: there is no value, for this reason, from now on."""
        with torch.inference_mode(False):
            self.failed += 1
        self.reason = self.reason or reason
        self._computed = None

    def merge_state(self, incoming_state: Any) -> None:
        """Add what another instrument has seen."""
        super().merge_state(incoming_state)
        if isinstance(incoming_state, Emap):
            self.reason = self.reason or incoming_state.reason

    def reset(self) -> None:
        """Forget every block."""
        super().reset()
        self.reason = ""

    def _no_rows(self, name: str) -> Tensor:
        if name == "keys":
            return torch.zeros(0, 3, dtype=torch.int64)
        return torch.zeros(0, 0, dtype=torch.float64)

    def compute(self) -> EmapResult:
        """Return the approximation's predictions and score, the model's, and the gap.

        Raises:
            InputError: a row came twice.
        """
        paired, predictions, reason = self._paired(), np.zeros((0, 0)), "no batch was seen"
        if self.failed.sum():
            reason = self.reason or "the model raised an error in another process"
        elif self.keys:
            keys = torch.cat(self.keys)
            order = keys[:, 0].argsort()
            keys, sums, own, targets = (torch.cat(x)[order] for x in (self.keys, self.sums, self.own, self.targets))
            outputs, places = ([-1, *row[1 : int(row[0]) + 1].tolist()] for row in self.shapes)
            targets = targets.long() if self.shapes[1, -1] else targets
            if len(keys[:, 0].unique()) < len(keys):
                raise InputError(f"expected each sample in one row, got {len(keys)} rows with some samples twice")
            if 0 < int(keys[:, 1].sum()) < len(keys):
                raise InputError("expected groups for all samples or for none, got both; give group= in every update")
            N, reason = self.samples, ""
            if len(keys) < N:
                reason = f"only {len(keys)} of {N} samples were seen in all pairs"
            else:
                additive = (sums + self.columns) / N - self.columns.sum(0) / N**2
                group = keys[:, 2] if keys[:, 1].any() else None
                for name, output in (("model", own), ("additive", additive)):
                    paired.update(name, output.view(outputs), targets.view(places), group, keys[:, 0])
                predictions = additive.view(outputs).cpu().numpy()
        found = paired.compute()
        if reason:
            numbers = [float("nan")] * 9
        else:
            drop = found.drops("model")
            parts = [found.values, found.low, found.high]
            numbers = [float(x[s]) for s in (1, 0) for x in parts] + [float(x[1]) for x in drop]
            reason = "; ".join(dict.fromkeys(str(r) for r in found.reason if r))
        return EmapResult(predictions, self.score.name, *numbers, found.samples, found.groups, self.alpha, reason)
