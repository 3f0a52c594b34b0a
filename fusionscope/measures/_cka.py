"""Minibatch CKA between all taps at once."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from fusionscope.errors import InputError

from ._instrument import Instrument
from .functional._cka import ROUNDING, centred_gram, u_center
from .functional._resampling import bound_rank, grouped_jackknife

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class CKAResult:
    """CKA of all ordered pairs of taps; every array is ``[L, L]`` in the order of ``taps``.

    ``matrix`` is the estimate, ``low`` and ``high`` its ``1 - alpha`` interval, ``null_mean`` what samples paired
    at random give, ``null_high`` what the largest of all cross pairs exceeds by chance with probability ``alpha``.
    ``reason`` says why something is NaN and is empty otherwise. ``skipped`` counts batches of fewer than 4 samples.
    """

    taps: tuple[str, ...]
    matrix: Float64[Array, "L L"]
    low: Float64[Array, "L L"]
    high: Float64[Array, "L L"]
    null_mean: Float64[Array, "L L"]
    null_high: Float64[Array, "L L"]
    batches: int
    samples: int
    skipped: int
    reason: Any


@dataclass(frozen=True, eq=False)
class CKAContext:
    """What all taps of one batch share: its size, its fold and the permutations of the null."""

    size: int
    fold: int
    permutations: Int[Tensor, "P n"]


class Gram(NamedTuple):
    """One tap's batch: the U-centred kernel, the power of the plain kernel, and whether the features were finite."""

    kernel: Float64[Tensor, "n n"]
    power: Float64[Tensor, ""]
    finite: Bool[Tensor, ""]


class MinibatchCKA(Instrument):
    """Unbiased minibatch linear CKA between all taps, with jackknife intervals and a permutation null.

    ``CKA_ij = Σ_b n_b HSIC1(K_bi, K_bj) / (sqrt(Σ_b n_b HSIC1(K_bi, K_bi)) sqrt(Σ_b n_b HSIC1(K_bj, K_bj)))``: the sums
    over batches ``b`` of ``n_b`` samples come before the ratio. No unit; may lie slightly below 0 or above 1, never
    clamped. Kernels are linear, of the flattened features, centred over the batch before the product in float32
    (float64 stays; a process-wide TF32 setting lowers that product's precision on GPUs). The interval is Student's,
    from a jackknife over ``folds`` (batch number modulo ``folds``). The null permutes the samples of one side, with
    the same permutations for all taps; ``null_high`` is the ``ceil((1-alpha)(P+1))``-th smallest, over permutations,
    of the largest cross pair. Batches of fewer than 4 samples are skipped. Source: arXiv 2010.15327 Eq. 2-3.

    Args:
        taps: names, in the order of the result.
        permutations: of the null; at least ``1/alpha - 1``, or 0 for none.
        folds: of the jackknife, at least 2.
        alpha: 1 - the level of intervals and of the null's bound.
        seed: of the permutations, which depend on it and on the batch number only.

    Raises:
        InputError: settings out of range, an unknown or missing tap in ``update``.

    >>> import torch
    >>> metric = MinibatchCKA(["x", "square"], permutations=0)
    >>> x = torch.arange(1.0, 6.0)[:, None]
    >>> context = metric.context(5, None, 0)
    >>> metric.update({"x": metric.reduce(x, context), "square": metric.reduce(x**2, context)}, context)
    >>> metric.compute().matrix.round(6)
    array([[1.      , 0.984602],
           [0.984602, 1.      ]])
    """

    hsic: Tensor
    null: Tensor
    power: Tensor
    bad: Tensor
    sizes: Tensor
    tally: Tensor

    def __init__(
        self,
        taps: Iterable[str],
        *,
        permutations: int = 20,
        folds: int = 10,
        alpha: float = 0.05,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.taps = tuple(taps)
        if not self.taps or len(set(self.taps)) < len(self.taps):
            raise InputError(f"expected one or more taps with different names, got {self.taps}")
        if folds < 2 or permutations < 0:
            raise InputError(f"expected folds >= 2 and permutations >= 0, got {folds} and {permutations}")
        if permutations:
            bound_rank(permutations, alpha)
        self.permutations, self.folds, self.alpha, self.seed = permutations, folds, alpha, seed
        L = len(self.taps)
        self.add_state("hsic", torch.zeros(folds, L, L, dtype=torch.float64), "sum")
        self.add_state("null", torch.zeros(permutations, L, L, dtype=torch.float64), "sum")
        self.add_state("power", torch.zeros(L, dtype=torch.float64), "sum")
        self.add_state("bad", torch.zeros(L, dtype=torch.int64), "sum")
        self.add_state("sizes", torch.zeros(folds, dtype=torch.float64), "sum")
        self.add_state("tally", torch.zeros(3, dtype=torch.int64), "sum")  # batches, samples, skipped batches

    def settings(self) -> dict[str, Any]:
        """Return what two instruments must share to be merged."""
        return {k: getattr(self, k) for k in ("taps", "permutations", "folds", "alpha", "seed")}

    def context(self, size: int, target: Tensor | None, index: int, group: Tensor | None = None) -> CKAContext:
        """Return the batch's permutations; ``target`` is not used."""
        rng = np.random.default_rng([self.seed, index])
        order = rng.permuted(np.tile(np.arange(size), (self.permutations, 1)), axis=1)
        return CKAContext(size, index % self.folds, torch.from_numpy(order.astype(np.int64)).to(self.device))

    def _reduce(self, features: Tensor, context: CKAContext, tap: str) -> Gram:
        n = context.size
        K = centred_gram(features)
        power = K.square().sum() / max(n * (n - 3), 1)
        return Gram(u_center(K) if n > 3 else torch.zeros_like(K), power, K.isfinite().all())

    def update(self, reduced: dict[str, Gram], context: CKAContext) -> None:
        """Add one batch: all pairs, and all pairs of each permutation, by one matrix product each."""
        if set(reduced) != set(self.taps):
            raise InputError(f"expected exactly the taps {list(self.taps)}, got {list(reduced)}; reduce each of them")
        n = context.size
        if n < 4:
            self.tally += torch.tensor([0, 0, 1], device=self.device)
            return
        grams = [reduced[tap] for tap in self.taps]
        K = torch.stack([g.kernel for g in grams]).to(self.device).flatten(1)
        weight = n / (n * (n - 3))
        self.hsic[context.fold] += weight * (K @ K.T)
        for p, order in enumerate(context.permutations.to(self.device)):
            shuffled = K[:, (order[:, None] * n + order).flatten()]
            self.null[p] += weight * (K @ shuffled.T)
        self.power += n * torch.stack([g.power for g in grams]).to(self.device)
        self.bad += ~torch.stack([g.finite for g in grams]).to(self.device)
        self.sizes[context.fold] += n
        self.tally += torch.tensor([1, n, 0], device=self.device)

    def compute(self) -> CKAResult:
        """Return the matrix with its intervals and null."""
        hsic, null = self.hsic.cpu().numpy(), self.null.cpu().numpy()
        power, bad, sizes = self.power.cpu().numpy(), self.bad.cpu().numpy(), self.sizes.cpu().numpy()
        batches, samples, skipped = (int(v) for v in self.tally)
        L = len(self.taps)
        total = hsic.sum(0)
        flat = ~(np.diagonal(total) > ROUNDING * power)
        own = np.where(flat, np.nan, np.diagonal(total))
        scale = np.sqrt(own)[:, None] * np.sqrt(own)
        used = sizes > 0
        matrix = total / scale
        matrix[np.diag_indices(L)] = np.where(np.isnan(own), np.nan, 1.0)
        low, high = self._interval(matrix, total, hsic[used], sizes[used])
        null_mean, null_high = np.full((L, L), np.nan), np.full((L, L), np.nan)
        if self.permutations and batches:
            upper = np.triu(null) + np.triu(null, 1).swapaxes(1, 2)
            chance = upper / scale
            null_mean = chance.mean(0)
            null_high = np.where(np.isfinite(null_mean), self._bound(chance), np.nan)
        reasons = [self._reason(int(bad[i]), bool(flat[i]), batches, skipped) for i in range(L)]
        reason = np.array(
            [["; ".join(dict.fromkeys(filter(None, (reasons[i], reasons[j])))) for j in range(L)] for i in range(L)],
            dtype=object,
        )
        if batches and used.sum() < 2:
            alone = "no interval: the batches fill fewer than 2 folds"
            reason = np.where(np.isfinite(matrix) & (reason == ""), alone, reason)
        return CKAResult(
            self.taps, matrix, low, high, null_mean, null_high, batches, samples, skipped, reason.astype(str)
        )

    def _interval(self, matrix: Array, total: Array, hsic: Array, sizes: Array) -> tuple[Array, Array]:
        from scipy.special import stdtrit

        rest = total - hsic
        own = np.diagonal(rest, axis1=1, axis2=2)
        root = np.sqrt(np.where(own > 0, own, np.nan))
        se = grouped_jackknife(matrix, rest / (root[:, :, None] * root[:, None, :]), sizes)
        se[np.diag_indices(len(matrix))] *= 0.0
        width = stdtrit(max(len(sizes) - 1, 1), 1 - self.alpha / 2) * se
        return matrix - width, matrix + width

    def _bound(self, chance: Array) -> float:
        rows, columns = np.triu_indices(chance.shape[1], 1)
        cross = chance[:, rows, columns]
        cross = cross[:, np.isfinite(cross).all(0)]
        if not cross.shape[1]:
            return float("nan")
        return float(np.sort(cross.max(1))[bound_rank(self.permutations, self.alpha) - 1])

    def _reason(self, bad: int, flat: bool, batches: int, skipped: int) -> str:
        if not batches:
            return f"all {skipped} batches have fewer than 4 samples" if skipped else "no batch was seen"
        if bad:
            return f"features are not finite in {bad} of {batches} batches"
        return "features do not differ between samples" if flat else ""
