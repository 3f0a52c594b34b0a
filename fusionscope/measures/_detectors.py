"""Network Dissection: which single units detect which concepts."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor
from torch.nn import functional as F

from fusionscope.errors import InputError

from ._concepts import Lattice, lattice
from ._eta import MISFITS
from ._instrument import Instrument
from ._labels import LabelContext, label_context, onehot_labels
from ._pairs import check_reduced, check_taps
from ._quantiles import bounded, exceeded_by, histogram, spread
from .functional._maps import resize
from .functional._resampling import bound_rank, family_bound

Array = np.ndarray
NULL_PLACES = 256
CHUNK = 2**24


@dataclass(frozen=True, eq=False)
class TapDetectors:
    """One tap's units as detectors.

    ``iou`` and ``detects`` are ``[C, U]``; ``label`` ``[U]`` is each unit's concept of largest IoU (-1: none) and
    ``threshold`` ``[U]`` the activation above which it counts as on, in its own unit. ``best_unit``, ``best_iou`` and
    the null of the best unit are ``[C]``. ``detectors`` counts units that detect their label, ``concepts`` the
    different labels among those. ``reason`` per concept and ``unit_reason`` per unit say why something is NaN and are
    empty otherwise.
    """

    iou: Float64[Array, "C U"]
    detects: Bool[Array, "C U"]
    label: Int[Array, "U"]
    threshold: Float64[Array, "U"]
    best_unit: Int[Array, "C"]
    best_iou: Float64[Array, "C"]
    null_mean: Float64[Array, "C"]
    null_high: Float64[Array, "C"]
    detectors: int
    concepts: int
    reason: Any
    unit_reason: Any


@dataclass(frozen=True, eq=False)
class DetectorResult:
    """Detectors of all taps, and the one bound ``z`` (in null sd) that all taps, concepts and units share."""

    taps: dict[str, TapDetectors]
    z: float
    samples: int
    batches: int


@dataclass(frozen=True, eq=False)
class DetectorContext:
    """What all taps of one batch share: labels, permutations, and the lattice on which the null is scored."""

    size: int
    labels: LabelContext
    grid: Lattice

    def masks(self, rows: slice, device: torch.device) -> Float[Tensor, "b C1 n"]:
        """Return the concepts' masks of some samples; the last one shows where there is any label."""
        return self._onehot(self.labels.labels[rows].to(device))

    def sparse(self, device: torch.device) -> Float[Tensor, "B C1 n"]:
        """Return the masks at the lattice's places."""
        labels = self.labels.labels
        for axis in range(self.labels.places):
            labels = labels.index_select(axis + 1, self.grid.along(axis).to(labels.device))
        return self._onehot(labels.to(device))

    def _onehot(self, labels: Int[Tensor, "b *places"]) -> Float[Tensor, "b C1 n"]:
        onehot = onehot_labels(labels.flatten(1) if labels.ndim > 1 else labels.unsqueeze(1), self.labels.classes)
        return torch.cat([onehot, onehot.sum(1, keepdim=True)], 1)


class Hits(NamedTuple):
    """One tap's batch in the last pass: places where a unit is on, by concept (the last: by any label)."""

    true: Int64[Tensor, "C1 U"]
    null: Int64[Tensor, "P C1 U"]


class UnitDetectors(Instrument):
    """Which single units detect which concepts, by the set IoU of their strongest activations.

    ``T_k`` is the value that a share ``quantile`` of all activations of unit ``k`` exceeds (within 1/2048 of the unit's
    range). Each activation map is brought to the labels' size first, bilinearly, and then compared: the unit is on
    where ``Up(A_k) > T_k``. ``IoU_kc = Σ_x |on_k ∧ L_c| / Σ_x |on_k ∨ L_c|`` over all samples, on labelled places
    (label >= 0) only. No unit. Unit k detects c if ``IoU_kc > threshold`` and above the null's bound; its label is the
    concept of its largest IoU. Source: Bau et al. 2017, arXiv 1704.05796, and its code; there the maps are
    enlarged by receptive field, here plainly, and there is no null.

    Null: whole label maps permuted across the samples of a batch (dense labels: within blocks of about 16 samples), on
    a lattice of at most 256 places per map; ``null_high`` is family-wise over units, concepts and taps (the best unit
    of each concept, then ``family_bound``). Labels ``[B]`` are compared with features averaged over locations, which
    are then also what ``T_k`` is taken of; there a larger ``quantile`` may be needed, as few samples are above it.

    Three passes over the data: range, histogram, overlap. Memory: 16 KB per unit in the second, in the third
    ``8·(permutations + 1)·(classes + 1)·U`` bytes per tap of ``U`` units.

    Args:
        taps: names, in the order of the result.
        concepts: number of classes C; labels are ``0 .. C - 1``, negative = not labelled.
        quantile: share of activations above ``T_k``.
        threshold: least IoU of a detector.
        permutations: of the null; at least ``1/alpha - 1`` and 3, or 0 for none.
        alpha: level of the bound.
        seed: of permutations and lattices.

    Raises:
        InputError: settings or labels out of range, unknown or missing taps.

    >>> import torch
    >>> labels = torch.arange(400) % 4
    >>> x = torch.rand(400, 3)
    >>> x[:, 1] += 5 * (labels == 2)
    >>> metric = UnitDetectors(["a"], 4, quantile=0.25)
    >>> for number in range(metric.passes):
    ...     if number:
    ...         metric.advance()
    ...     context = metric.context(400, labels, 0)
    ...     metric.update({"a": metric.reduce(x, context, "a")}, context)
    >>> found = metric.compute().taps["a"]
    >>> found.detects.nonzero(), found.iou[2, 1].round(2)
    ((array([2]), array([1])), np.float64(1.0))
    """

    passes = 3
    truth: Tensor
    sparse_truth: Tensor
    misfits: Tensor
    tally: Tensor

    def __init__(
        self,
        taps: Iterable[str],
        concepts: int,
        *,
        quantile: float = 0.005,
        threshold: float = 0.04,
        permutations: int = 20,
        alpha: float = 0.05,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.taps = check_taps(taps)
        if concepts < 1 or not 0 < quantile < 1 or not 0 <= threshold < 1 or permutations < 0 or 0 < permutations < 3:
            raise InputError(
                f"expected concepts >= 1, 0 < quantile < 1, 0 <= threshold < 1 and permutations 0 or >= 3, got "
                f"{concepts}, {quantile}, {threshold} and {permutations}"
            )
        if permutations:
            bound_rank(permutations, alpha)
        self.concepts, self.quantile, self.threshold, self.permutations = concepts, quantile, threshold, permutations
        self.alpha, self.seed = alpha, seed
        self.extents: list[Tensor] = []
        self.thresholds: list[Tensor] = []
        for i in range(len(self.taps)):
            self.add_state(f"extent_{i}", torch.zeros(0, 0, dtype=torch.float64), "max")
            for name, axes in (("counts", 2), ("hits", 2), ("null", 3)):
                self.add_state(f"{name}_{i}", torch.zeros([0] * axes, dtype=torch.int64), "sum")
        self.add_state("truth", torch.zeros(concepts + 1, dtype=torch.int64), "sum")
        self.add_state("sparse_truth", torch.zeros(concepts + 1, dtype=torch.int64), "sum")
        self.add_state("misfits", torch.zeros(len(self.taps), len(MISFITS), dtype=torch.int64), "sum")
        self.add_state("tally", torch.zeros(2, dtype=torch.int64), "sum")  # samples, batches

    def settings(self) -> dict[str, Any]:
        """Return what two instruments must share to be merged."""
        names = ("taps", "concepts", "quantile", "threshold", "permutations", "alpha", "seed")
        return {k: getattr(self, k) for k in names}

    def context(self, size: int, target: Tensor | None, index: int, group: Tensor | None = None) -> DetectorContext:
        """Return the batch's labels and permutations."""
        target = target if target is None else target.to(self.device)
        permutations = self.permutations if self.stage == 2 else 0
        labels = label_context(target, size, self.concepts, 1.0, permutations, [self.seed, index])
        grid = lattice(labels.labels.shape[1:], NULL_PLACES, np.random.default_rng([self.seed, index, NULL_PLACES]))
        return DetectorContext(size, labels, grid)

    def _reduce(self, features: Tensor, context: DetectorContext, tap: str) -> Any:
        if tap not in self.taps:
            raise InputError(
                f"expected a tap of {list(self.taps)}, got {tap!r}; say which one: reduce(x, context, tap)"
            )
        x = features if features.dtype in (torch.float32, torch.float64) else features.float()
        if context.labels.places and context.labels.places != x.ndim - 2:
            return 0 if x.ndim == 2 else 1
        i = self.taps.index(tap)
        rows = x.flatten(2) if x.ndim > 2 else x.unsqueeze(2)
        rows = rows if context.labels.places else rows.mean(2, keepdim=True)
        if self.stage == 0:
            return spread(rows)
        if not self.extents[i].numel():
            return -1
        if self.stage == 1:
            return histogram(rows, self.extents[i])
        limit = self.thresholds[i].to(x)
        return self._dense(x, limit, context) if context.labels.places else self._whole(rows[..., 0], limit, context)

    def _whole(self, x: Tensor, limit: Tensor, context: DetectorContext) -> Hits:
        on = (x > limit).to(x.dtype)
        masks = context.masks(slice(None), x.device)[..., 0].to(x.dtype)
        null = masks[context.labels.order[1:].to(x.device)].transpose(1, 2) @ on
        return Hits((masks.T @ on).long(), null.long())

    def _dense(self, x: Tensor, limit: Tensor, context: DetectorContext) -> Hits:
        B, U = x.shape[:2]
        size = context.labels.labels.shape[1:]
        C1, P, places = self.concepts + 1, self.permutations, int(np.prod(size))
        true = torch.zeros(C1, U, dtype=torch.int64, device=x.device)
        units = max(1, CHUNK // max(1, places))
        for b in range(B):
            masks = context.masks(slice(b, b + 1), x.device)[0].to(x.dtype)
            for u in range(0, U, units):
                part = slice(u, u + units)
                on = resize(x[b : b + 1, part], size)[0].flatten(1) > limit[part, None]
                true[:, part] += (masks @ on.to(x.dtype).T).long()
        null = torch.zeros(P, C1, U, dtype=torch.int64, device=x.device)
        if P:
            on = (context.grid.interpolate(x).flatten(2) > limit[:, None]).to(x.dtype)
            masks = context.sparse(x.device).to(x.dtype)
            for block in context.labels.blocks:
                b, members = len(block.members), block.members.to(x.device)
                cross = masks[members].flatten(0, 1) @ on[members].flatten(0, 1).T
                cross = cross.view(b, C1, b, U).transpose(1, 2).reshape(b * b, C1 * U)
                pairs = block.pairs[1:].to(x.device)
                null += F.embedding_bag(pairs, cross, mode="sum").view(P, C1, U).long()
        return Hits(true, null)

    def update(self, reduced: dict[str, Any], context: DetectorContext) -> None:
        """Add one batch."""
        check_reduced(reduced, self.taps)
        for i, tap in enumerate(self.taps):
            part = reduced[tap]
            if isinstance(part, int):
                self.misfits[i, part] += part >= 0
            elif isinstance(part, Hits):
                self.accumulate(f"hits_{i}", part.true)
                self.accumulate(f"null_{i}", part.null)
            else:
                self.accumulate(f"counts_{i}" if self.stage else f"extent_{i}", part)
        if self.stage == 2:
            labels = context.labels.labels
            counts = torch.bincount(labels[labels >= 0], minlength=self.concepts)
            self.truth += torch.cat([counts, counts.sum()[None]]).to(self.device)
            self.sparse_truth += context.sparse(self.device).double().sum((0, 2)).long()
        self.tally += torch.tensor([context.size, 1], device=self.device)

    def _advance(self) -> None:
        every = range(len(self.taps))
        if self.stage == 0:
            self.extents = [getattr(self, f"extent_{i}").clone() for i in every]
        else:
            counts = [getattr(self, f"counts_{i}") for i in every]
            self.thresholds = [
                exceeded_by(self.quantile, c, e) if c.numel() else c.new_zeros(0).double()
                for c, e in zip(counts, self.extents, strict=True)
            ]

    def compute(self) -> DetectorResult:
        """Return every tap's detectors."""
        ious = [self._ious(i) for i in range(len(self.taps))]
        best = [np.where(np.isnan(v), -np.inf, v).max(2, initial=-np.inf) for v in ious]
        best = [np.where(np.isfinite(v), v, np.nan) for v in best]
        C = self.concepts
        z, mean, sd = float("nan"), np.full(C * len(best), np.nan), np.full(C * len(best), np.nan)
        if self.permutations and self.stage == 2 and int(self.tally[1]):
            z, mean, sd = family_bound(np.concatenate([b[1:] for b in best], 1), self.alpha)
        with np.errstate(invalid="ignore"):  # z is infinite where a cell's null is all one value but for one
            high = mean + np.where(sd > 0, z * sd, 0.0 * sd)
        taps = {}
        for i, tap in enumerate(self.taps):
            part = slice(i * C, (i + 1) * C)
            taps[tap] = self._tap(i, ious[i][0], best[i][0], mean[part], high[part])
        return DetectorResult(taps, z, int(self.tally[0]), int(self.tally[1]))

    def _ious(self, i: int) -> Float64[Array, "P1 C U"]:
        """IoU under the true labels (row 0) and under each permutation."""
        hits, null = getattr(self, f"hits_{i}").double(), getattr(self, f"null_{i}").double()
        if self.stage < 2 or not hits.numel():
            return np.zeros((self.permutations + 1, self.concepts, 0))
        varies = bounded(self.extents[i]) & (self.extents[i].sum(0) > 0)
        both = []
        for here, truth in ((hits[None], self.truth), (null, self.sparse_truth)):
            union = here[:, -1:] + truth[:-1, None] - here[:, :-1]
            both.append(torch.where((truth[:-1, None] > 0) & varies.to(union.device), here[:, :-1] / union, torch.nan))
        return torch.cat(both).cpu().numpy()

    def _tap(self, i: int, iou: Array, best: Array, null_mean: Array, null_high: Array) -> TapDetectors:
        C, U = iou.shape
        known = np.isfinite(iou)
        ranked = np.where(known, iou, -np.inf)
        unit, label = np.full(C, -1), np.full(U, -1)
        unit[known.any(1)] = ranked[known.any(1)].argmax(1) if U else 0
        label[known.any(0)] = ranked[:, known.any(0)].argmax(0)
        bound = np.where(np.isfinite(null_high), null_high, np.inf) if self.permutations else np.zeros(C)
        with np.errstate(invalid="ignore"):
            detects = (iou > self.threshold) & (iou > bound[:, None])
        own = (label >= 0) & detects[label, np.arange(U)]
        threshold, units = np.zeros(0), np.zeros(0, dtype=str)
        if U:
            low, high = self.extents[i].cpu().numpy() * [[-1], [1]]
            units = np.where(np.isfinite(low) & np.isfinite(high), np.where(high > low, "", "constant"), "not finite")
            threshold = self.thresholds[i].cpu().numpy()
        worst = "every unit is " + " or ".join(sorted(set(units) - {""}))
        reason = [self._reason(i, c) or ("" if known[c].any() else worst) for c in range(C)]
        return TapDetectors(
            iou,
            detects,
            label,
            threshold,
            unit,
            best,
            null_mean,
            null_high,
            int(own.sum()),
            len(set(label[own])),
            np.array(reason),
            units,
        )

    def _reason(self, i: int, concept: int) -> str:
        if not int(self.tally[1]):
            return "no batch was seen"
        for code, text in enumerate(MISFITS):
            if self.misfits[i, code]:
                return text
        if self.stage < 2:
            return f"the data must be read {self.passes} times: call advance() and feed it again"
        if not int(self.truth[-1]):
            return "no place is labelled"
        return "" if int(self.truth[concept]) else "the concept has no labelled place"
