"""Class selectivity of units: eta squared with a permutation null."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor
from torch.nn import functional as F

from fusionscope.errors import InputError

from ._instrument import Instrument
from ._labels import LabelContext, label_context
from ._pairs import check_reduced, check_taps
from .functional._resampling import bound_rank, family_bound
from .functional._variance import variance_shares

Array = np.ndarray
LIMIT = 4e9
MISFITS = (
    "labels per location cannot be compared with a tap without locations",
    "the tap's location axes do not match the labels' axes",
)


@dataclass(frozen=True, eq=False)
class TapEta:
    """One tap's selectivity. Cell 0 is all classes together, cell ``c + 1`` is class ``c`` against the rest.

    ``eta2``, ``epsilon2`` are ``[cells, U]``; ``best_unit`` (by ``epsilon2``, -1 if none), its ``best_epsilon2``, the
    mean over units, the null of the best unit and ``encoded = best_epsilon2 > null_high`` are ``[cells]``. ``reason``
    per cell and ``unit_reason`` per unit say why something is NaN and are empty otherwise. ``rows`` counts samples or
    pure locations per class.
    """

    eta2: Float64[Array, "cells U"]
    epsilon2: Float64[Array, "cells U"]
    best_unit: Int[Array, "cells"]
    best_epsilon2: Float64[Array, "cells"]
    mean_epsilon2: Float64[Array, "cells"]
    null_mean: Float64[Array, "cells"]
    null_high: Float64[Array, "cells"]
    encoded: Bool[Array, "cells"]
    reason: Any
    unit_reason: Any
    rows: Int[Array, "C"]


@dataclass(frozen=True, eq=False)
class EtaResult:
    """Selectivity of all taps, and the one bound ``z`` (in null sd) that all taps, classes and units share."""

    taps: dict[str, TapEta]
    z: float
    samples: int
    batches: int


class ClassSums(NamedTuple):
    """One tap's batch: sums under the true labels (row 0) and under each permutation; or why there are none."""

    counts: Float64[Tensor, "C"]
    sums: Float64[Tensor, "P1 C U"]
    squares: Float64[Tensor, "P1 U"]
    misfit: int = -1


class EtaSquared(Instrument):
    """Share of each unit's variance that classes explain, with a null that keeps spatial correlation.

    ``η² = SSB/SST``, ``ε² = (SSB - df_b·MSW)/SST`` over rows (Kelley 1935; Okada 2013, doi:10.2333/bhmk.40.129), over
    all classes and for each class against the rest. No unit. Rows: for labels ``[B]``, samples (features averaged
    over locations); for labels ``[B, H, W]`` or ``[B, T]``, tap locations of whose area at least ``purity`` is one
    class (nearest label where the tap is finer; label < 0 is no class). Locations are not independent, so there ε²
    removes too little bias: the null decides.

    The null permutes whole label maps across the samples of a batch, the same for all taps (dense labels: within
    random blocks of about 16 samples, which is as valid and cheaper). ``null_high`` is family-wise over units, cells
    and taps: the best unit of each cell is standardised over permutations and the largest cell of each permutation
    gives the bound (``family_bound``). Samples are taken as exchangeable: repeated samples of one group make the null
    too narrow.

    Memory: ``8·(permutations + 1)·(classes + 1)·U`` bytes per tap of ``U`` units (100 permutations, 13 classes, 512
    units: 5.8 MB). Spread and mean are safe together in float64 sums up to a mean of about ``1e6`` spreads; class
    sums of a batch are made in the features' own precision (half types in float32) after centring.

    Args:
        taps: names, in the order of the result.
        classes: number of classes; labels are ``0 .. classes - 1``, negative = ignored.
        permutations: of the null; at least ``1/alpha - 1`` and 3, or 0 for none.
        purity: least share of a location's area that one class covers, above 0.5.
        alpha: level of the bound.
        seed: of the permutations, which depend on it and on the batch number only.

    Raises:
        InputError: settings or labels out of range, unknown or missing taps, or more than 4 GB of sums.

    >>> import torch
    >>> metric = EtaSquared(["a"], 2, permutations=0)
    >>> context = metric.context(4, torch.tensor([0, 0, 1, 1]), 0)
    >>> metric.update({"a": metric.reduce(torch.tensor([[1.0, 5], [1, 6], [3, 5], [3, 7]]), context)}, context)
    >>> metric.compute().taps["a"].eta2[0].round(4).tolist()
    [1.0, 0.0909]
    """

    counts: Tensor
    misfits: Tensor
    tally: Tensor

    def __init__(
        self,
        taps: Iterable[str],
        classes: int,
        *,
        permutations: int = 100,
        purity: float = 0.9,
        alpha: float = 0.05,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.taps = check_taps(taps)
        if classes < 1 or not 0.5 < purity <= 1 or permutations < 0 or 0 < permutations < 3:
            raise InputError(
                f"expected classes >= 1, 0.5 < purity <= 1 and permutations 0 or >= 3, got {classes}, {purity} and "
                f"{permutations}"
            )
        if permutations:
            bound_rank(permutations, alpha)
        self.classes, self.permutations, self.purity, self.alpha, self.seed = classes, permutations, purity, alpha, seed
        for i in range(len(self.taps)):
            self.add_state(f"sums_{i}", torch.zeros(0, 0, 0, dtype=torch.float64), "sum")
            self.add_state(f"squares_{i}", torch.zeros(0, 0, dtype=torch.float64), "sum")
        self.add_state("counts", torch.zeros(len(self.taps), classes, dtype=torch.float64), "sum")
        self.add_state("misfits", torch.zeros(len(self.taps), len(MISFITS), dtype=torch.int64), "sum")
        self.add_state("tally", torch.zeros(2, dtype=torch.int64), "sum")  # samples, batches

    def settings(self) -> dict[str, Any]:
        """Return what two instruments must share to be merged."""
        return {k: getattr(self, k) for k in ("taps", "classes", "permutations", "purity", "alpha", "seed")}

    def context(self, size: int, target: Tensor | None, index: int, group: Tensor | None = None) -> LabelContext:
        """Return the batch's labels and permutations."""
        target = target if target is None else target.to(self.device)
        return label_context(target, size, self.classes, self.purity, self.permutations, [self.seed, index])

    def _reduce(self, features: Tensor, context: LabelContext, tap: str) -> ClassSums:
        x = features if features.dtype in (torch.float32, torch.float64) else features.float()
        if context.places and context.places != x.ndim - 2:
            nothing = torch.zeros(0, dtype=torch.float64, device=x.device)
            return ClassSums(nothing, nothing.view(0, 0, 0), nothing.view(0, 0), 0 if x.ndim == 2 else 1)
        self._afford(x.shape[1])
        if context.places:
            return self._dense(x, context)
        x = x.flatten(2).mean(2) if x.ndim > 2 else x
        onehot, labelled = (t.to(x) for t in context.permuted())
        mean = x.mean(0)
        y = x - mean
        counts = onehot[: self.classes].double().sum(1)
        return self._raw(counts, (onehot @ y).unflatten(0, (-1, self.classes)), labelled @ y.square(), mean)

    def _dense(self, x: Tensor, context: LabelContext) -> ClassSums:
        # S[a, i] = (one-hot labels of sample a) @ (features of sample i): every permutation is then a choice of pairs.
        C, U, P1 = self.classes, x.shape[1], self.permutations + 1
        mean = x.mean((0, *range(2, x.ndim)))
        counts = torch.zeros(C, dtype=torch.float64, device=x.device)
        sums, squares = x.new_zeros(P1, C * U), x.new_zeros(P1, U)
        for block, grid in zip(context.blocks, context.grids(x.shape[2:]), strict=True):
            b = len(block.members)
            y = x[block.members.to(x.device)].flatten(2) - mean[:, None]
            onehot, pairs = grid.onehot.to(y), block.pairs.to(x.device)
            cross = (onehot.flatten(0, 1) @ y.flatten(0, 1).T).view(b, C, b, U).transpose(1, 2)
            sums += F.embedding_bag(pairs, cross.reshape(b * b, C * U), mode="sum")
            power = grid.any.to(y) @ y.square_().flatten(0, 1).T
            squares += F.embedding_bag(pairs, power.view(b * b, U), mode="sum")
            counts += onehot.sum((0, 2)).double()
        return self._raw(counts, sums.view(P1, C, U), squares, mean)

    def _raw(self, counts: Tensor, sums: Tensor, squares: Tensor, mean: Tensor) -> ClassSums:
        """Undo the centring in float64, so that batches with different means add up."""
        sums, squares, mean = sums.to(torch.float64, copy=True), squares.to(torch.float64, copy=True), mean.double()
        squares += 2 * mean * sums.sum(1) + counts.sum() * mean.square()
        return ClassSums(counts, sums.add_(counts[:, None] * mean), squares)

    def _afford(self, units: int) -> None:
        need = 8.0 * (self.permutations + 1) * (self.classes + 1) * units
        if need > LIMIT:
            raise InputError(
                f"expected at most {LIMIT / 1e9:g} GB of class sums, got {need / 1e9:.1f} GB for {units} units, "
                f"{self.classes} classes and {self.permutations} permutations; lower permutations to "
                f"{int(self.permutations * LIMIT / need)} or measure fewer taps"
            )

    def update(self, reduced: dict[str, ClassSums], context: LabelContext) -> None:
        """Add one batch."""
        check_reduced(reduced, self.taps)
        if not self.tally[1]:
            units = sum(r.squares.shape[-1] for r in reduced.values())
            self._afford(units)
        for i, tap in enumerate(self.taps):
            part = reduced[tap]
            if part.misfit >= 0:
                self.misfits[i, part.misfit] += 1
                continue
            for name, value in ((f"sums_{i}", part.sums), (f"squares_{i}", part.squares)):
                state = getattr(self, name)
                if state.numel():
                    state += value.to(state.device)
                else:
                    with torch.inference_mode(False):
                        setattr(self, name, value.to(self.device).clone())
            self.counts[i] += part.counts.to(self.device)
        self.tally += torch.tensor([context.size, 1], device=self.device)

    def compute(self) -> EtaResult:
        """Return the selectivity of every tap and cell."""
        shares = [self._shares(i) for i in range(len(self.taps))]
        best = [self._best(epsilon2) for _, epsilon2 in shares]
        cells = self.classes + 1
        z, mean, sd = float("nan"), np.full(cells * len(best), np.nan), np.full(cells * len(best), np.nan)
        if self.permutations and int(self.tally[1]):
            z, mean, sd = family_bound(np.concatenate([b[1:] for b in best], 1), self.alpha)
        with np.errstate(invalid="ignore"):
            high = mean + np.where(sd > 0, z * sd, 0.0 * sd)
        taps = {}
        for i, tap in enumerate(self.taps):
            part = slice(i * cells, (i + 1) * cells)
            taps[tap] = self._tap(i, shares[i], best[i][0], mean[part], high[part])
        return EtaResult(taps, z, int(self.tally[0]), int(self.tally[1]))

    def _shares(self, i: int) -> tuple[Array, Array]:
        sums, squares = getattr(self, f"sums_{i}"), getattr(self, f"squares_{i}")
        if not sums.numel():
            nothing = np.zeros((self.permutations + 1, self.classes + 1, 0))
            return nothing[0], nothing
        eta2, epsilon2 = variance_shares(self.counts[i], sums, squares)
        return eta2[0].cpu().numpy(), epsilon2.cpu().numpy()

    @staticmethod
    def _best(epsilon2: Array) -> Array:
        largest = np.where(np.isnan(epsilon2), -np.inf, epsilon2).max(2, initial=-np.inf)
        return np.where(np.isfinite(largest), largest, np.nan)

    def _tap(self, i: int, shares: tuple[Array, Array], best: Array, null_mean: Array, null_high: Array) -> TapEta:
        eta2, epsilon2 = shares[0], shares[1][0]
        rows = self.counts[i].long().cpu().numpy()
        known = np.isfinite(epsilon2)
        some = known.any(1)
        mean = np.where(known, epsilon2, 0).sum(1) / np.where(some, known.sum(1), np.nan)
        unit = np.full(len(best), -1)
        if some.any():
            unit[some] = np.where(known, epsilon2, -np.inf)[some].argmax(1)
        reason = [self._reason(i, cell, rows) for cell in range(len(best))]
        sound = [not r for r in reason]
        finite = np.isfinite(getattr(self, f"squares_{i}")[:1].cpu().numpy()).flatten()
        units = np.where(finite, np.where(known[sound].any(0) | (not any(sound)), "", "constant"), "not finite")
        worst = "every unit is " + " or ".join(sorted(set(units) - {""}))
        reason = [worst if not r and not s else r for r, s in zip(reason, some, strict=True)]
        with np.errstate(invalid="ignore"):
            encoded = best > null_high
        return TapEta(eta2, epsilon2, unit, best, mean, null_mean, null_high, encoded, np.array(reason), units, rows)

    def _reason(self, i: int, cell: int, rows: Array) -> str:
        """Say why a cell has no value in any unit, judged by its rows alone."""
        if not int(self.tally[1]):
            return "no batch was seen"
        for code, text in enumerate(MISFITS):
            if self.misfits[i, code]:
                return text
        if not rows.sum():
            return "no row belongs to a class"
        if cell and not rows[cell - 1]:
            return "the class has no rows"
        present = int((rows > 0).sum())
        if present < 2:
            return "only one class has rows"
        return f"too few rows ({rows.sum()})" if rows.sum() <= (2 if cell else present) else ""
