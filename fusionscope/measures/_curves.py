"""One number of a curve of scores over levels of damage, with its interval from the curve's own bootstrap draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64

from fusionscope.errors import InputError

from ._paired import PairedScores
from ._paired_rows import PairedResult
from .functional._resampling import percentile_interval
from .functional._robustness import _ratio, effective_robustness, relative_robustness

Array = np.ndarray
BEST = {"loglik": 0.0, "neg_mse": 0.0}


@dataclass(frozen=True, eq=False)
class CurveResult:
    """A number of a curve with its interval; ``reason`` explains a NaN; ``paired`` holds the scores it was made from.

    ``per_corruption`` is what the number is the mean of, where there are several corruptions.
    """

    value: float
    low: float
    high: float
    reason: str
    paired: PairedResult = field(repr=False)
    per_corruption: dict[str, float] | None = None


def stacked(paired: PairedResult, conditions: Sequence[str]) -> Float64[Array, "R1 L"]:
    """Return the values of some conditions, and below them their bootstrap draws; NaN where there are none."""
    out = np.full((1 + len(paired.draws), len(conditions)), np.nan)
    for i, name in enumerate(conditions):
        if name in paired.conditions:
            s = paired.index(name)
            out[0, i], out[1:, i] = paired.values[s], paired.draws[:, s]
    return out


def interval(numbers: Float64[Array, "R1"], alpha: float) -> tuple[float, float, float]:
    """Return the first number, and the interval of the rest if it is finite."""
    value = float(numbers[0])
    low, high = percentile_interval(numbers[1:, None], alpha)
    return (value, float(low[0]), float(high[0])) if np.isfinite(value) else (value, np.nan, np.nan)


def missing(paired: PairedResult, conditions: Sequence[str]) -> str:
    """Say why a number that needs all these conditions has no value, "" if it has them all."""
    if not paired.conditions:
        return "no batch was scored"
    for name in conditions:
        if name not in paired.conditions:
            return f"{name} was not scored"
        s = paired.index(name)
        if not np.isfinite(paired.values[s]):
            return f"{name}: {paired.reason[s]}"
    return ""


def no_interval(paired: PairedResult, conditions: Sequence[str]) -> str:
    """Say what is said of the interval of any of these conditions, "" if nothing is."""
    notes = (str(paired.reason[paired.index(name)]) for name in conditions)
    return next((note for note in notes if note), "")


def error_of(values: Array, score: str) -> Array:
    """Return how far a score is from its best: 1, but 0 for log-likelihood and mean squared error; ECE is an error."""
    return values if score == "ece" else BEST.get(score, 1.0) - values


class _CurveMetric(PairedScores):
    """Scores under some conditions, reduced to one number."""

    def _name(self, condition: Any) -> str:
        return str(condition)

    def _index(self, condition: Any) -> int:
        return super()._index(self._name(condition))

    def _numbers(self, curves: Float64[Array, "R1 L"]) -> Float64[Array, "R1"]:
        raise NotImplementedError

    def _parts(self, curve: Float64[Array, "L"]) -> dict[str, float] | None:
        return None

    def compute(self) -> CurveResult:
        """Return the number with its interval."""
        paired, _ = self._paired()
        curves = stacked(paired, self.conditions)
        value, low, high = interval(self._numbers(curves), self.alpha)
        reason = missing(paired, self.conditions)
        if not reason and not np.isfinite(value):
            reason = "the reference makes no error"
        reason = reason or no_interval(paired, self.conditions)
        return CurveResult(value, low, high, reason, paired, self._parts(curves[0]))


class RelativeRobustness(_CurveMetric):
    """The area under a model's score over equidistant levels of damage: ``relative_robustness`` with its interval.

    ``update(level, output, target)`` with the level 0 (undamaged) to ``levels - 1``; each level gets the same samples.
    Over levels from 0 to 1, which is what ``step`` is by default, the area is a mean score. Source: MultiBench, arXiv
    2107.07502.

    Args:
        levels: how many, the undamaged included; 6 for severities 0-5.
        score: as ``PairedScores`` takes it.
        step: distance between two levels; None is ``1 / (levels - 1)``.
        kwargs: as ``PairedScores``.

    Raises:
        InputError: fewer than 2 levels, a level that is none of them.

    >>> import torch
    >>> from fusionscope.measures import resolve_score
    >>> metric = RelativeRobustness(2, score=resolve_score("accuracy", "classification", 2))
    >>> labels = torch.tensor([0, 1, 0, 1])
    >>> metric.update(0, torch.eye(2)[labels], labels)
    >>> metric.update(1, torch.eye(2)[[0, 0, 0, 0]], labels)
    >>> metric.compute().value
    0.75
    """

    def __init__(self, levels: int = 6, *, score: Any, step: float | None = None, **kwargs: Any) -> None:
        if levels < 2:
            raise InputError(f"expected 2 levels or more, got {levels}")
        super().__init__([str(level) for level in range(levels)], score=score, **kwargs)
        self.step = 1 / (levels - 1) if step is None else step

    def settings(self) -> dict[str, Any]:
        """Return what two instruments must share to be merged."""
        return super().settings() | {"step": self.step}

    def _numbers(self, curves: Float64[Array, "R1 L"]) -> Float64[Array, "R1"]:
        return relative_robustness(curves, self.step)


class EffectiveRobustness(_CurveMetric):
    """What a model keeps beyond a baseline that loses as much: ``effective_robustness`` with its interval.

    ``update(level, output, target)`` with the level 0 (undamaged) to the baseline's last. The interval is of the
    model's scores; the baseline's are taken as they are. Source: MultiBench, arXiv 2107.07502.

    Args:
        baseline: the baseline's scores at all levels, undamaged first.
        score: as ``PairedScores`` takes it.
        kwargs: as ``PairedScores``.

    Raises:
        InputError: fewer than 2 levels, a level that is none of them.

    >>> from fusionscope.measures import resolve_score
    >>> EffectiveRobustness([0.7, 0.5, 0.3], score=resolve_score("accuracy", "classification", 2)).conditions
    ('0', '1', '2')
    """

    def __init__(self, baseline: Sequence[float], *, score: Any, **kwargs: Any) -> None:
        values = np.asarray(baseline, dtype=np.float64)
        if values.ndim != 1 or len(values) < 2:
            raise InputError(f"expected the baseline's scores at 2 levels or more, got {baseline!r}")
        super().__init__([str(level) for level in range(len(values))], score=score, **kwargs)
        self.baseline = values

    def settings(self) -> dict[str, Any]:
        """Return what two instruments must share to be merged."""
        return super().settings() | {"baseline": self.baseline.tolist()}

    def _numbers(self, curves: Float64[Array, "R1 L"]) -> Float64[Array, "R1"]:
        return effective_robustness(curves, self.baseline)


class MeanCorruptionError(_CurveMetric):
    """mCE, a model's errors under corruptions over a reference model's: ``mean_corruption_error`` with its interval.

    ``update((corruption, severity), output, target)`` with severities from 1. The error is ``1 - score``, for scores
    that are 1 at best; ``-score`` for ``loglik`` and ``neg_mse``; ``ece`` itself. The interval is of this model's
    errors. Source: Hendrycks & Dietterich 2019, arXiv 1903.12261.

    Args:
        reference: errors of the reference model by corruption, ``{name: [severity 1, 2, ...]}``.
        score: as ``PairedScores`` takes it.
        kwargs: as ``PairedScores``.

    Raises:
        InputError: no reference, an unknown corruption or severity.

    >>> from fusionscope.measures import resolve_score
    >>> score = resolve_score("accuracy", "classification", 2)
    >>> MeanCorruptionError({"noise": [0.2, 0.4], "blur": [0.1, 0.2]}, score=score).conditions
    ('noise/1', 'noise/2', 'blur/1', 'blur/2')
    """

    def __init__(self, reference: Mapping[str, Sequence[float]], *, score: Any, **kwargs: Any) -> None:
        rows = {name: np.asarray(errors, dtype=np.float64) for name, errors in reference.items()}
        if not rows or any(row.ndim != 1 or not len(row) for row in rows.values()):
            raise InputError(f"expected the reference's errors {{corruption: [severity 1, 2, ...]}}, got {reference!r}")
        names = [f"{name}/{s + 1}" for name, row in rows.items() for s in range(len(row))]
        super().__init__(names, score=score, **kwargs)
        self.reference = rows

    def settings(self) -> dict[str, Any]:
        """Return what two instruments must share to be merged."""
        return super().settings() | {"reference": {name: row.tolist() for name, row in self.reference.items()}}

    def _name(self, condition: Any) -> str:
        corruption, severity = condition
        return f"{corruption}/{severity}"

    def _numbers(self, curves: Float64[Array, "R1 L"]) -> Float64[Array, "R1"]:
        return np.mean(list(self._each(curves).values()), axis=0)

    def _parts(self, curve: Float64[Array, "L"]) -> dict[str, float] | None:
        return {name: float(value[0]) for name, value in self._each(curve[None]).items()}

    def _each(self, curves: Float64[Array, "R1 L"]) -> dict[str, Float64[Array, "R1"]]:
        errors = error_of(curves, self.score.name)
        out, start = {}, 0
        for name, row in self.reference.items():
            mine = errors[:, start : start + len(row)]
            out[name] = _ratio(mine, 0.0, np.broadcast_to(row, mine.shape), 0.0)
            start += len(row)
        return out
