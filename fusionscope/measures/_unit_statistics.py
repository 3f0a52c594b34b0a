"""What each unit does over a data set, and how many directions a tap uses."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from fusionscope.errors import InputError

from ._eta import MISFITS
from ._instrument import Instrument
from ._labels import LabelContext, label_context, onehot_labels, pure_maps
from ._pairs import check_reduced, check_taps
from ._quantiles import bounded, spread
from .functional._units import class_selectivity_index, effective_rank, participation_ratio

Array = np.ndarray
WIDEST = 2048
NEAR = 0.01
PURITY = 0.9


@dataclass(frozen=True, eq=False)
class TapStatistics:
    """One tap's units, each field ``[U]``, and its rank.

    ``mean``, ``sd`` (population), ``smallest`` and ``largest`` activation, in the features' unit; ``zeros``,
    ``near_smallest`` and ``near_largest``: shares of activations that are exactly 0, and that lie within 1 % of the
    unit's range of its smallest and of its largest; ``dead``: constant, or never above 0; ``selectivity``: class
    selectivity index. ``reason`` says why a unit has a NaN. ``effective_rank`` and ``participation_ratio`` are of the
    tap's features averaged over locations; ``rank_reason`` says why they are NaN. Reasons are empty otherwise.
    """

    mean: Float64[Array, "U"]
    sd: Float64[Array, "U"]
    smallest: Float64[Array, "U"]
    largest: Float64[Array, "U"]
    zeros: Float64[Array, "U"]
    near_smallest: Float64[Array, "U"]
    near_largest: Float64[Array, "U"]
    dead: Bool[Array, "U"]
    selectivity: Float64[Array, "U"]
    reason: Any
    effective_rank: float
    participation_ratio: float
    rank_reason: str


@dataclass(frozen=True, eq=False)
class StatisticsResult:
    """Statistics of all taps' units."""

    taps: dict[str, TapStatistics]
    samples: int
    batches: int


@dataclass(frozen=True, eq=False)
class StatisticsContext:
    """What all taps of one batch share: its size, and its labels where there are any."""

    size: int
    labels: LabelContext | None


class UnitStatistics(Instrument):
    """Mean, spread, dead and saturated units, class selectivity index, and the effective rank of each tap.

    Over all samples and locations; in the activations' unit, or shares from 0 to 1. A unit that saturates (sigmoid,
    tanh, ReLU6) has a large share of activations near its own smallest or largest; for a ReLU the share near the
    smallest says how sparse it is. Extremes of the data set are known after the first pass, so that these two shares
    need a second one; with one pass they are NaN.

    Class selectivity index: ``(μ_max - μ_rest)/(μ_max + μ_rest + 1e-7)`` of class means (Morcos et al. 2018, arXiv
    1803.06959; see ``class_selectivity_index``), NaN where a class mean is negative. Labels ``[B]``: means over
    samples of activations averaged over locations; labels ``[B, T]`` or ``[B, H, W]``: over tap locations of whose area
    at least 90 % is one class. Classes that do not occur are left out.

    Effective rank: exponential of the entropy of the normalised singular values of the centred features, averaged over
    locations (Roy and Vetterli 2007; see ``effective_rank``), from a covariance streamed in float64, up to 2,048 units.

    Memory: ``8·U² + 8·(C + 9)·U`` bytes per tap of ``U`` units.

    Args:
        taps: names, in the order of the result.
        classes: number of classes C for the selectivity index; None for none, then no labels are needed.

    Raises:
        InputError: settings or labels out of range, unknown or missing taps.

    >>> import torch
    >>> metric = UnitStatistics(["a"], 2)
    >>> x, labels = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 3.0], [0.0, 3.0]]), torch.tensor([0, 0, 1, 1])
    >>> for number in range(metric.passes):
    ...     if number:
    ...         metric.advance()
    ...     context = metric.context(4, labels, 0)
    ...     metric.update({"a": metric.reduce(x, context, "a")}, context)
    >>> found = metric.compute().taps["a"]
    >>> found.mean, found.dead, found.selectivity.round(4)
    (array([0., 2.]), array([ True, False]), array([0. , 0.5]))
    """

    passes = 2
    misfits: Tensor
    tally: Tensor

    def __init__(self, taps: Iterable[str], classes: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.taps = check_taps(taps)
        if classes is not None and classes < 1:
            raise InputError(f"expected classes >= 1, or None for no class selectivity, got {classes}")
        self.classes = classes
        self.first: dict[str, Tensor] = {}
        for i in range(len(self.taps)):
            self.add_state(f"extent_{i}", torch.zeros(0, 0, dtype=torch.float64), "max")
            for name, axes in (("sums", 2), ("near", 2), ("classes", 2), ("rows", 1), ("pooled", 1), ("square", 2)):
                self.add_state(f"{name}_{i}", torch.zeros([0] * axes, dtype=torch.float64), "sum")
        self.add_state("misfits", torch.zeros(len(self.taps), len(MISFITS), dtype=torch.int64), "sum")
        self.add_state("tally", torch.zeros(2, dtype=torch.int64), "sum")  # samples, batches

    def settings(self) -> dict[str, Any]:
        """Return what two instruments must share to be merged."""
        return {"taps": self.taps, "classes": self.classes}

    def context(self, size: int, target: Tensor | None, index: int, group: Tensor | None = None) -> StatisticsContext:
        """Return the batch's labels."""
        if self.classes is None or self.stage:
            return StatisticsContext(size, None)
        target = target if target is None else target.to(self.device)
        return StatisticsContext(size, label_context(target, size, self.classes, PURITY, 0, [0, index]))

    def _reduce(self, features: Tensor, context: StatisticsContext, tap: str) -> Any:
        if tap not in self.taps:
            raise InputError(
                f"expected a tap of {list(self.taps)}, got {tap!r}; say which one: reduce(x, context, tap)"
            )
        x = features if features.dtype in (torch.float32, torch.float64) else features.float()
        rows = x.flatten(2) if x.ndim > 2 else x.unsqueeze(2)
        if self.stage:
            return self._near(rows, self.first.get(f"extent_{self.taps.index(tap)}"))
        mean = rows.mean((0, 2))
        y = rows - mean[:, None]
        count = rows.shape[0] * rows.shape[2]
        total, mean = y.sum((0, 2), dtype=torch.float64), mean.double()
        squares = y.square_().sum((0, 2), dtype=torch.float64) + 2 * mean * total + count * mean.square()
        zeros = (rows == 0).sum((0, 2)).double()
        found = {
            "extent": spread(rows),
            "sums": torch.stack([torch.full_like(total, count), total + count * mean, squares, zeros]),
        }
        pooled = rows.mean(2).double()
        if pooled.shape[1] <= WIDEST:
            found |= {"pooled": pooled.sum(0), "square": pooled.T @ pooled}
        if context.labels is None:
            return found, -1
        places = context.labels.places
        if places and places != x.ndim - 2:
            return found, 0 if x.ndim == 2 else 1
        labels = context.labels.labels.to(x.device)
        C = context.labels.classes
        if places:
            onehot = pure_maps(labels, C, tuple(x.shape[2:]), PURITY).to(x.dtype)
            sums = (onehot @ rows.transpose(1, 2)).sum(0, dtype=torch.float64)
        else:
            onehot = onehot_labels(labels, C).unsqueeze(2)
            sums = onehot[..., 0].double().T @ pooled
        return found | {"classes": sums, "rows": onehot.sum((0, 2), dtype=torch.float64)}, -1

    @staticmethod
    def _near(rows: Tensor, extent: Tensor | None) -> tuple[dict[str, Tensor], int]:
        if extent is None:
            return {}, -1
        extent = extent.to(rows.device)
        margin = NEAR * extent.sum(0)
        low, high = (margin - extent[0]).to(rows.dtype)[:, None], (extent[1] - margin).to(rows.dtype)[:, None]
        return {"near": torch.stack([(rows <= low).sum((0, 2)), (rows >= high).sum((0, 2))]).double()}, -1

    def update(self, reduced: dict[str, Any], context: StatisticsContext) -> None:
        """Add one batch."""
        check_reduced(reduced, self.taps)
        for i, tap in enumerate(self.taps):
            found, misfit = reduced[tap]
            for name, value in found.items():
                self.accumulate(f"{name}_{i}", value)
            if misfit >= 0:
                self.misfits[i, misfit] += 1
        self.tally += torch.tensor([context.size, 1], device=self.device)

    def _advance(self) -> None:
        kept = {name: getattr(self, name) for name in self._defaults}
        self.first = {name: value.clone() for name, value in kept.items() if value.numel()}

    def compute(self) -> StatisticsResult:
        """Return every tap's units."""
        taps = {tap: self._tap(i) for i, tap in enumerate(self.taps)}
        return StatisticsResult(taps, int(self.tally[0]), int(self.tally[1]))

    def _get(self, name: str, i: int) -> Tensor:
        """A sum of the first pass, wherever it now is."""
        name = f"{name}_{i}"
        default: Any = self._defaults[name]
        return self.first.get(name, default).to(self.device) if self.stage else getattr(self, name)

    def _tap(self, i: int) -> TapStatistics:
        sums, extent = self._get("sums", i), self._get("extent", i)
        if not sums.numel():
            none = np.zeros(0)
            nan = float("nan")
            dead, reason = np.zeros(0, dtype=bool), np.zeros(0, dtype=str)
            return TapStatistics(*[none] * 7, dead, none, reason, nan, nan, "no batch was seen")
        count, total, squares, zeros = sums.cpu().numpy()
        sound = bounded(extent).cpu().numpy()
        low, high = extent.cpu().numpy() * [[-1], [1]]
        flat = high == low
        with np.errstate(invalid="ignore"):
            mean = np.where(sound, np.where(flat, low, total / count), np.nan)
            sd = np.where(sound, np.where(flat, 0.0, np.sqrt(np.abs(squares / count - mean**2))), np.nan)
        near = getattr(self, f"near_{i}").cpu().numpy() if self.stage else np.zeros((0, 0))
        near = near / count if near.size else np.full((2, len(count)), np.nan)
        selectivity, why = self._selectivity(i, len(count))
        late = "" if self.stage else "the data must be read a second time: call advance() and feed it again"
        reason = [
            ("; ".join(filter(None, (w, late))) if ok else "not finite") for w, ok in zip(why, sound, strict=True)
        ]
        rank, ratio, rank_reason = self._rank(i, len(count), bool(sound.all()))
        return TapStatistics(
            mean,
            sd,
            np.where(sound, low, np.nan),
            np.where(sound, high, np.nan),
            np.where(sound, zeros / count, np.nan),
            *np.where(sound, near, np.nan),
            sound & (flat | (high <= 0)),
            np.where(sound, selectivity, np.nan),
            np.array(reason),
            rank,
            ratio,
            rank_reason,
        )

    def _selectivity(self, i: int, units: int) -> tuple[Array, list[str]]:
        misfits = (self.first["misfits"] if self.stage else self.misfits)[i].cpu().numpy()
        rows, sums = self._get("rows", i), self._get("classes", i)
        present = int((rows > 0).sum())
        text = next((text for code, text in enumerate(MISFITS) if misfits[code]), "")
        if self.classes is None:
            text = "no classes were given"
        elif not text and present < 2:
            text = "only one class has rows" if present else "no row belongs to a class"
        if text:
            return np.full(units, np.nan), [text] * units
        found = class_selectivity_index(sums[rows > 0] / rows[rows > 0, None]).cpu().numpy()
        return found, ["a class mean is negative" if np.isnan(v) else "" for v in found]

    def _rank(self, i: int, units: int, sound: bool) -> tuple[float, float, str]:
        nan = float("nan")
        if units > WIDEST:
            return nan, nan, f"more than {WIDEST} units ({units})"
        if not sound:
            return nan, nan, "not finite"
        total, square = self._get("pooled", i), self._get("square", i)
        samples = int(self.tally[0]) if not self.stage else int(self.first["tally"][0])
        scatter = square - torch.outer(total, total) / samples
        # A spread below 3e-7 of the mean is the rounding of float32 values.
        if samples < 2 or bool((scatter.diagonal() <= 1e-13 * square.diagonal()).all()):
            return nan, nan, "features do not differ between samples"
        return effective_rank(scatter, covariance=True), participation_ratio(scatter, covariance=True), ""
