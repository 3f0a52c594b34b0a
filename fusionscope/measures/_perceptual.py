"""Perceptual scores: what is lost when a modality is exchanged between samples."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Num, Shaped
from scipy.stats import t
from torch import Tensor

from fusionscope.errors import InputError

from ._paired import PairedScores
from ._paired_rows import PairedResult
from .functional._perceptual import KINDS, perceptual_score
from .functional._resampling import percentile_interval

Key = tuple[str, str, int]


@dataclass(frozen=True)
class PerceptualRow:
    """``value = (V - mean_r V_r)/V`` of one modality and kind of permutation; ``sd`` over the repeats."""

    metric: str
    modality: str
    kind: str
    value: float
    sd: float
    low: float
    high: float
    repeats: int
    reason: str


@dataclass(frozen=True)
class PerceptualResult:
    """Rows by modality, then kind."""

    rows: tuple[PerceptualRow, ...]
    modalities: tuple[str, ...]
    metric: str
    samples: int
    groups: int
    alpha: float

    def __getitem__(self, where: tuple[str, str]) -> PerceptualRow:
        """Return the row of ``(modality, kind)``."""
        for row in self.rows:
            if (row.modality, row.kind) == where:
                return row
        raise InputError(f"expected one of {[(row.modality, row.kind) for row in self.rows]}, got {where!r}")


class PerceptualScore(PairedScores):
    """Perceptual scores of all modalities: what share of V is lost when one is permuted over samples.

    Feed the plain run with ``update(None, ...)`` and every permuted run with ``update((modality, kind, repeat), ...)``,
    permuted as ``functional.permute_within`` says, always on the same samples. Intervals are those of the paired
    bootstrap over groups, widened by the repeats' standard error ``sd/sqrt(repeats)`` (times a t quantile: two repeats
    make them very wide). Source: see ``functional.perceptual_score``.

    Args:
        modalities: their names.
        kinds: of "any", "within class", "across classes".
        repeats: permutations of each kind.
        settings: of ``PairedScores``.

    Raises:
        InputError: an unknown kind, or settings out of range.

    >>> import torch
    >>> from fusionscope.measures import resolve_score
    >>> score = resolve_score("accuracy", "classification", 2)
    >>> metric = PerceptualScore(["rgb"], kinds=["any"], repeats=2, score=score)
    >>> labels = torch.tensor([0, 1, 0, 1])
    >>> metric.update(None, torch.eye(2)[labels], labels)
    >>> for repeat, guess in enumerate([[0, 0, 0, 1], [0, 1, 1, 0]]):
    ...     metric.update(("rgb", "any", repeat), torch.eye(2)[guess], labels)
    >>> metric.compute()["rgb", "any"].value
    0.375
    """

    stayed: Tensor

    def __init__(
        self, modalities: Iterable[str], *, kinds: Sequence[str] = KINDS, repeats: int = 10, **settings: Any
    ) -> None:
        self.modalities, self.kinds, self.repeats = tuple(modalities), tuple(kinds), repeats
        if not self.kinds or set(self.kinds) - set(KINDS) or repeats < 1:
            raise InputError(f"expected kinds of {list(KINDS)} and repeats >= 1, got {list(kinds)} and {repeats}")
        keys = [(m, kind, r) for m in self.modalities for kind in self.kinds for r in range(repeats)]
        super().__init__(["as they are", *map(_name, keys)], **settings)
        self.add_state("stayed", torch.zeros(len(self.conditions), dtype=torch.int64), "sum")

    def update(
        self,
        condition: Key | None,
        /,
        output: Num[Tensor, "B *outputs"],
        target: Shaped[Tensor, "rows *places"],
        group: Shaped[Tensor, "members"] | None = None,
        sample: Shaped[Tensor, "numbers"] | None = None,
        stayed: int = 0,
    ) -> None:
        """Add one batch; ``stayed`` samples of it could not be permuted as the kind says."""
        c = self._index(_name(condition))
        self._add(c, output, target.to(output.device), group, sample)
        self.stayed[c] += stayed

    def fail(self, condition: Key | None, /, reason: str) -> None:
        """Note that the model raised on a run: what needs it has no value, for this reason, from now on."""
        self._fail(self._index(_name(condition)), reason)

    def compute(self) -> PerceptualResult:
        """Return the scores of all modalities and kinds."""
        paired, _ = self._paired()
        rows = [self._row(paired, m, kind) for m in self.modalities for kind in self.kinds]
        shape = (self.modalities, self.score.name, paired.samples, paired.groups, self.alpha)
        return PerceptualResult(tuple(rows), *shape)

    def _row(self, paired: PairedResult, modality: str, kind: str) -> PerceptualRow:
        names = ["as they are", *(_name((modality, kind, r)) for r in range(self.repeats))]
        nan = float("nan")
        missing = [name for name in names if name not in paired.conditions]
        reason = ""
        if not paired.conditions:
            reason = "no batch was seen"
        elif missing:
            reason = f"not scored: {missing[0]}"
        else:
            places = [paired.index(name) for name in names]
            V = paired.values[places]
            lost = [f"{names[k]}: {paired.reason[i]}" for k, i in enumerate(places) if not np.isfinite(V[k])]
            reason = lost[0] if lost else "" if V[0] > 0 else "no share: the score as it is, is not above 0"
        if reason:
            return PerceptualRow(paired.score, modality, kind, nan, nan, nan, nan, self.repeats, reason)
        score = perceptual_score(V[0], V[1:])
        draws = paired.draws[:, places]
        with np.errstate(invalid="ignore", divide="ignore"):
            whole = np.where(draws[:, 0] > 0, draws[:, 0], np.nan)
            each = (draws[:, 0] - draws[:, 1:].mean(1)) / whole
        low, high = map(float, percentile_interval(each, self.alpha))
        reasons = [str(paired.reason[places[0]])]
        if self.repeats > 1:
            reach = t.isf(self.alpha / 2, self.repeats - 1) * score.sd / np.sqrt(self.repeats)
            low, high = score - np.hypot(score - low, reach), score + np.hypot(high - score, reach)
        else:
            reasons.append("the interval does not hold the chance of the permutation: one repeat")
        stayed = int(self.stayed[[self._index(name) for name in names[1:]]].sum()) / self.repeats
        if stayed:
            what = "their own value" if kind != "across classes" else "a value of their own class"
            reasons.append(f"{stayed:g} of {paired.samples} samples had {what}, there was no other in their batch")
        told = "; ".join(dict.fromkeys(filter(None, reasons)))
        return PerceptualRow(
            paired.score, modality, kind, float(score), score.sd, float(low), float(high), self.repeats, told
        )


def _name(condition: Key | None) -> str:
    if condition is None:
        return "as they are"
    modality, kind, repeat = condition
    return f"{modality}, {kind}, repeat {repeat}"
