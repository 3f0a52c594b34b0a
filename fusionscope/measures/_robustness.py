"""A model's score as its modalities are corrupted by degrees, one modality and one corruption at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float64

from fusionscope.errors import InputError

from ._curves import _CurveMetric, error_of, interval, missing, no_interval, stacked
from ._paired_rows import PairedResult
from .functional._robustness import _ratio, effective_robustness, relative_robustness
from .functional._scores import resolve_score

Array = np.ndarray
CLEAN = "clean"
SEVERITIES = (0, 1, 2, 3, 4, 5)
STEP = 0.2
NUMBERS = ("relative", "effective", "corruption_error", "relative_corruption_error")


@dataclass(frozen=True)
class RobustnessRow:
    """The score at one severity and the drop from severity 0, with paired intervals; ``reason`` explains a NaN.

    ``floor`` is what noise alone would give, where the score says so (ECE of a calibrated model as confident), else
    NaN.
    """

    modality: str
    corruption: str
    severity: int
    value: float
    low: float
    high: float
    drop: float
    drop_low: float
    drop_high: float
    floor: float
    reason: str


@dataclass(frozen=True)
class RobustnessSummary:
    """Numbers of one curve, or of all of a modality (corruption "mean"); NaN without a baseline where one is needed."""

    modality: str
    corruption: str
    relative: float
    relative_low: float
    relative_high: float
    effective: float
    effective_low: float
    effective_high: float
    corruption_error: float
    corruption_error_low: float
    corruption_error_high: float
    relative_corruption_error: float
    relative_corruption_error_low: float
    relative_corruption_error_high: float
    baseline: str
    reason: str


@dataclass(frozen=True, eq=False)
class RobustnessResult:
    """Rows of all curves, severities 0-5 (0 is the same for all), and a summary of each."""

    rows: tuple[RobustnessRow, ...]
    summary: tuple[RobustnessSummary, ...]
    score: str
    samples: int
    groups: int
    alpha: float
    baseline: str
    paired: PairedResult = field(repr=False)

    def curve(self, modality: str, corruption: str) -> Float64[Array, "6"]:
        """Return the scores of one curve, NaN where there is none."""
        out = np.full(len(SEVERITIES), np.nan)
        for row in self.rows:
            if (row.modality, row.corruption) == (modality, corruption):
                out[row.severity] = row.value
        return out


class Robustness(_CurveMetric):
    """Scores under corruption with a paired bootstrap, and how robust they are.

    Per curve over the severities 0-5: ``relative``, the area under the curve over [0, 1] (a mean score);
    and against a baseline's curves ``effective`` (``Σ_l [f_l - (b_l + f_0 - b_0)]``), ``corruption_error`` (CE; of a
    modality's mean row, mCE) and ``relative_corruption_error``; see ``functional`` for their formulas and sources.
    Errors are ``1 - score``; ``-score`` for ``loglik`` and ``neg_mse``; ``ece`` itself, of which lower is better, so
    that its drop is negative where calibration suffers. Intervals come from one bootstrap: a draw takes the same groups
    at all severities of all curves. The baseline's scores are taken as they are.

    Args:
        curves: corruptions by modality, ``{"rgb": ["noise", "blur"], "depth": ["holes"]}``.
        score: as ``PairedScores`` takes it; values per class are not kept.
        baseline: the baseline's scores at severities 0-5, ``{(modality, corruption): [6 values]}``; curves may lack.
        baseline_name: of the baseline model.
        kwargs: ``resamples``, ``alpha``, ``seed`` as ``PairedScores``.

    Raises:
        InputError: no curve, a condition that is none of them, a baseline without 6 values.

    >>> import torch
    >>> from fusionscope.measures import resolve_score
    >>> metric = Robustness({"rgb": ["noise"]}, score=resolve_score("accuracy", "classification", 2))
    >>> labels = torch.arange(5) % 2
    >>> metric.update("clean", torch.eye(2)[labels], labels)  # severity 0 of all curves, once
    >>> for severity in range(1, 6):
    ...     wrong = torch.where(torch.arange(5) < severity, 1 - labels, labels)
    ...     metric.update(("rgb", "noise", severity), torch.eye(2)[wrong], labels)
    >>> result = metric.compute()
    >>> result.curve("rgb", "noise").round(3).tolist(), round(result.summary[0].relative, 3)
    ([1.0, 0.8, 0.6, 0.4, 0.2, 0.0], 0.5)
    """

    def __init__(
        self,
        curves: Mapping[str, Sequence[str]],
        *,
        score: Any,
        baseline: Mapping[tuple[str, str], Sequence[float]] | None = None,
        baseline_name: str = "",
        **kwargs: Any,
    ) -> None:
        pairs = [(modality, corruption) for modality, names in curves.items() for corruption in names]
        names = [f"{modality}/{corruption}/{s}" for modality, corruption in pairs for s in SEVERITIES[1:]]
        if not pairs:
            raise InputError(f"expected corruptions of at least one modality, got {dict(curves)}")
        if not (score is None or isinstance(score, str)):
            score = replace(resolve_score(score, "classification"), by_class=None, class_of=None)
        super().__init__([CLEAN, *names], score=score, **kwargs)
        self.curves = pairs
        self.baseline = {pair: np.asarray(values, dtype=np.float64) for pair, values in (baseline or {}).items()}
        self.baseline_name = baseline_name or ("baseline" if self.baseline else "")
        for pair, values in self.baseline.items():
            if values.shape != (len(SEVERITIES),):
                raise InputError(f"expected the baseline's scores at severities 0-5, got {values.tolist()} for {pair}")

    def settings(self) -> dict[str, Any]:
        """Return what two instruments must share to be merged."""
        baseline = {pair: values.tolist() for pair, values in self.baseline.items()}
        return super().settings() | {"baseline": baseline, "baseline name": self.baseline_name}

    def _name(self, condition: Any) -> str:
        if isinstance(condition, str):
            return condition
        modality, corruption, severity = condition
        return CLEAN if severity == 0 else f"{modality}/{corruption}/{severity}"

    def compute(self) -> Any:
        """Return rows and summaries of all curves, a ``RobustnessResult``."""
        paired, found_rows = self._paired()
        floors = dict.fromkeys(paired.conditions, np.nan)
        if found_rows is not None and self.score.floor is not None:
            good = [name for c, name in enumerate(self.conditions) if self.scored[c] and not self.failed[c]]
            floors |= dict(zip(good, self.score.floor(found_rows.table.sum(1)).tolist(), strict=True))
        drops = paired.drops(CLEAN) if CLEAN in paired.conditions else [np.full(len(paired.values), np.nan)] * 3
        rows: list[RobustnessRow] = []
        summary: list[RobustnessSummary] = []
        by_modality: dict[str, list[tuple[dict[str, Array], list[str]]]] = {}
        for modality, corruption in self.curves:
            names = [self._name((modality, corruption, s)) for s in SEVERITIES]
            for severity, name in enumerate(names):
                if name in paired.conditions:
                    rows.append(self._row(paired, drops, floors[name], modality, corruption, severity, name))
            numbers, reasons = self._numbers_of(paired, (modality, corruption), names)
            summary.append(self._summary(modality, corruption, numbers, reasons))
            by_modality.setdefault(modality, []).append((numbers, reasons))
        for modality, found in by_modality.items():
            means = {name: np.mean([numbers[name] for numbers, _ in found], axis=0) for name in NUMBERS}
            reasons = list(dict.fromkeys(reason for _, reasons in found for reason in reasons))
            summary.append(self._summary(modality, "mean", means, reasons))
        return RobustnessResult(
            tuple(rows),
            tuple(summary),
            self.score.name,
            paired.samples,
            paired.groups,
            self.alpha,
            self.baseline_name,
            paired,
        )

    def _row(
        self,
        paired: PairedResult,
        drops: Any,
        floor: float,
        modality: str,
        corruption: str,
        severity: int,
        name: str,
    ) -> RobustnessRow:
        s = paired.index(name)
        reasons = [str(paired.reason[s])] if paired.reason[s] else []
        if CLEAN not in paired.conditions:
            reasons.append("no drop: severity 0 was not scored")
        elif not np.isfinite(paired.values[paired.index(CLEAN)]):
            reasons.append("no drop: severity 0 has no score")
        numbers = (float(x[s]) for x in (paired.values, paired.low, paired.high, *drops))
        return RobustnessRow(modality, corruption, severity, *numbers, floor, "; ".join(reasons))

    def _numbers_of(
        self, paired: PairedResult, pair: tuple[str, str], names: list[str]
    ) -> tuple[dict[str, Float64[Array, "R1"]], list[str]]:
        """Return each number of one curve with its draws below it, and why there is none."""
        curves = stacked(paired, names)
        reason = missing(paired, names)
        nothing = np.full(len(curves), np.nan)
        numbers = dict.fromkeys(NUMBERS, nothing) | {"relative": relative_robustness(curves, STEP)}
        base = self.baseline.get(pair)
        if base is None:
            told = f"{self.baseline_name} has no curve for {pair[1]} of {pair[0]}" if self.baseline else ""
            return numbers, [part for part in (reason or no_interval(paired, names), told) if part]
        numbers["effective"] = effective_robustness(curves, base)
        mine, theirs = error_of(curves, self.score.name), error_of(base, self.score.name)
        reference = np.broadcast_to(theirs[1:], mine[:, 1:].shape)
        numbers["corruption_error"] = _ratio(mine[:, 1:], 0.0, reference, 0.0)
        numbers["relative_corruption_error"] = _ratio(mine[:, 1:], mine[:, :1], reference, theirs[0])
        if not reason and not np.isfinite(base).all():
            reason = f"{self.baseline_name} has no score at some severity of {pair[1]} of {pair[0]}"
        elif not reason and np.isnan(numbers["corruption_error"][0]):
            reason = f"{self.baseline_name} makes no error under {pair[1]} of {pair[0]}"
        elif not reason and np.isnan(numbers["relative_corruption_error"][0]):
            reason = f"{self.baseline_name} loses nothing under {pair[1]} of {pair[0]}"
        reason = reason or no_interval(paired, names)
        return numbers, [reason] if reason else []

    def _summary(
        self, modality: str, corruption: str, numbers: dict[str, Array], reasons: list[str]
    ) -> RobustnessSummary:
        found = (x for name in NUMBERS for x in interval(numbers[name], self.alpha))
        return RobustnessSummary(modality, corruption, *found, self.baseline_name, "; ".join(reasons))
