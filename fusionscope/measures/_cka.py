"""Minibatch CKA between all taps at once."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from fusionscope.errors import InputError

from ._instrument import Instrument
from ._pairs import check_reduced, check_taps, pair_reasons
from .functional._cka import ROUNDING, check_word, rbf_gram, scaled_gram, u_center_
from .functional._resampling import bound_rank, grouped_jackknife

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class CKAResult:
    """CKA of ordered pairs of taps; every array is ``[L, A]`` in the order of ``taps`` and ``against`` (mostly equal).

    ``matrix`` is the estimate, ``low`` and ``high`` its ``1 - alpha`` interval, ``null_mean`` what samples paired
    at random give, ``null_high`` what the largest of all cross pairs exceeds by chance with probability ``alpha``.
    ``reason`` says why something is NaN and is empty otherwise. ``skipped`` counts batches of fewer than 4 samples.
    """

    taps: tuple[str, ...]
    against: tuple[str, ...]
    matrix: Float64[Array, "L A"]
    low: Float64[Array, "L A"]
    high: Float64[Array, "L A"]
    null_mean: Float64[Array, "L A"]
    null_high: Float64[Array, "L A"]
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
    """One tap's batch: its kernel, times the square of ``scale``."""

    kernel: Float[Tensor, "n n"]
    scale: Float[Tensor, ""]


class MinibatchCKA(Instrument):
    """Unbiased minibatch CKA between all taps, with jackknife intervals and a permutation null.

    ``CKA_ij = Σ_b n_b HSIC1(K_bi, K_bj) / (sqrt(Σ_b n_b HSIC1(K_bi, K_bi)) sqrt(Σ_b n_b HSIC1(K_bj, K_bj)))``: the sums
    over batches ``b`` of ``n_b`` samples come before the ratio. No unit; may lie slightly below 0 or above 1, never
    clamped. Linear kernels are those of the flattened features, centred over the batch before the product in float32
    (float64 stays; a process-wide TF32 setting lowers that product's precision on GPUs). Gaussian kernels
    ``exp(-d²/(2σ²))`` take ``σ`` relative to the median distance within each batch, as is usual: the kernel then
    differs a little from batch to batch, and the sums estimate CKA at this batch size. The interval is Student's,
    from a jackknife over ``folds`` (batch number modulo ``folds``). The null permutes the samples of one side, with
    the same permutations for all taps; ``null_high`` is the ``ceil((1-alpha)(P+1))``-th smallest, over permutations,
    of the largest cross pair. Batches of fewer than 4 samples are skipped. Source: arXiv 2010.15327 Eq. 2-3.

    Args:
        taps: names, in the order of the result.
        against: names that ``taps`` are compared with, in the order of the result; by default ``taps`` themselves.
            Pairs within one of two sets of taps that are not wanted are then not computed.
        kernel: "linear" or "rbf".
        bandwidth: ``σ`` of the Gaussian kernel as a multiple of the median distance.
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
    own: Tensor
    null: Tensor
    power: Tensor
    bad: Tensor
    sizes: Tensor
    tally: Tensor

    def __init__(
        self,
        taps: Iterable[str],
        *,
        against: Iterable[str] | None = None,
        kernel: str = "linear",
        bandwidth: float = 0.5,
        permutations: int = 20,
        folds: int = 10,
        alpha: float = 0.05,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.taps = check_taps(taps)
        self.against = self.taps if against is None else check_taps(against)
        self.every = tuple(dict.fromkeys(self.taps + self.against))
        check_word("kernel", kernel, ("linear", "rbf"))
        if folds < 2 or permutations < 0 or not bandwidth > 0:
            raise InputError(
                f"expected folds >= 2, permutations >= 0 and bandwidth > 0, got {folds}, {permutations} and {bandwidth}"
            )
        if permutations:
            bound_rank(permutations, alpha)
        self.kernel, self.bandwidth = kernel, bandwidth
        self.permutations, self.folds, self.alpha, self.seed = permutations, folds, alpha, seed
        self._columns = [self.every.index(tap) for tap in self.against]
        L, A, T = len(self.taps), len(self.against), len(self.every)
        self.add_state("hsic", torch.zeros(folds, L, A, dtype=torch.float64), "sum")
        self.add_state("own", torch.zeros(folds, T, dtype=torch.float64), "sum")
        self.add_state("null", torch.zeros(permutations, L, A, dtype=torch.float64), "sum")
        self.add_state("power", torch.zeros(T, dtype=torch.float64), "sum")
        self.add_state("bad", torch.zeros(T, dtype=torch.int64), "sum")
        self.add_state("sizes", torch.zeros(folds, dtype=torch.float64), "sum")
        self.add_state("tally", torch.zeros(3, dtype=torch.int64), "sum")  # batches, samples, skipped batches

    def settings(self) -> dict[str, Any]:
        """Return what two instruments must share to be merged."""
        names = ("taps", "against", "kernel", "bandwidth", "permutations", "folds", "alpha", "seed")
        return {name: getattr(self, name) for name in names}

    def context(self, size: int, target: Tensor | None, index: int, group: Tensor | None = None) -> CKAContext:
        """Return the batch's permutations; ``target`` is not used."""
        rng = np.random.default_rng([self.seed, index])
        order = rng.permuted(np.tile(np.arange(size), (self.permutations, 1)), axis=1)
        return CKAContext(size, index % self.folds, torch.from_numpy(order.astype(np.int64)).to(self.device))

    def _reduce(self, features: Tensor, context: CKAContext, tap: str) -> Gram:
        return Gram(*scaled_gram(features))

    def update(self, reduced: dict[str, Gram], context: CKAContext) -> None:
        """Add one batch: all pairs, and all pairs of each permutation, by one matrix product each."""
        check_reduced(reduced, self.every)
        n = context.size
        if n < 4:
            self.tally += torch.tensor([0, 0, 1], device=self.device)
            return
        K = torch.stack([reduced[tap].kernel.to(self.device, torch.float64) for tap in self.every])
        scale = torch.stack([reduced[tap].scale.to(self.device, torch.float64) for tap in self.every])
        if self.kernel == "rbf":
            K = torch.stack([rbf_gram(k, self.bandwidth) for k in K])
            self.bad += ~torch.stack([reduced[tap].kernel.isfinite().all() for tap in self.every]).to(self.device)
        else:
            K.div_(scale.square()[:, None, None])
            self.bad += ~K.diagonal(dim1=1, dim2=2).sum(1).isfinite()
        weight = n / (n * (n - 3))
        self.power += weight * torch.linalg.vector_norm(K, dim=(1, 2)).square()
        K = u_center_(K).flatten(1)
        self.own[context.fold] += weight * torch.linalg.vector_norm(K, dim=1).square()
        rows, columns = K[: len(self.taps)], K if self.every == self.against else K[self._columns]
        self.hsic[context.fold] += weight * (rows @ columns.T)
        for p, order in enumerate(context.permutations.to(self.device)):
            shuffled = columns[:, (order[:, None] * n + order).flatten()]
            self.null[p] += weight * (rows @ shuffled.T)
        self.sizes[context.fold] += n
        self.tally += torch.tensor([1, n, 0], device=self.device)

    def compute(self) -> CKAResult:
        """Return the matrix with its intervals and null."""
        hsic, null, own = self.hsic.cpu().numpy(), self.null.cpu().numpy(), self.own.cpu().numpy()
        power, bad, sizes = self.power.cpu().numpy(), self.bad.cpu().numpy(), self.sizes.cpu().numpy()
        batches, samples, skipped = (int(v) for v in self.tally)
        L, columns = len(self.taps), self._columns
        flat = ~(own.sum(0) > ROUNDING * power)
        root = np.sqrt(np.where(flat, np.nan, own.sum(0)))
        scale = root[:L, None] * root[columns]
        used = sizes > 0
        matrix = hsic.sum(0) / scale
        same = np.array(self.taps)[:, None] == np.array(self.against)
        matrix[same & np.isfinite(matrix)] = 1.0
        low, high = self._interval(matrix, hsic[used], own[used], sizes[used], same)
        null_mean, null_high = np.full(scale.shape, np.nan), np.full(scale.shape, np.nan)
        if self.permutations and batches:
            if self.taps == self.against:
                null = np.triu(null) + np.triu(null, 1).swapaxes(1, 2)
            chance = null / scale
            null_mean = chance.mean(0)
            null_high = np.where(np.isfinite(null_mean), self._bound(chance[:, ~same]), np.nan)
        reasons = [self._reason(int(bad[i]), bool(flat[i]), batches, skipped) for i in range(len(flat))]
        reason = pair_reasons(reasons[:L], [reasons[j] for j in columns])
        if batches and used.sum() < 2:
            alone = "no interval: the batches fill fewer than 2 folds"
            reason = np.where(np.isfinite(matrix) & (reason == ""), alone, reason)
        return CKAResult(
            self.taps, self.against, matrix, low, high, null_mean, null_high, batches, samples, skipped, reason
        )

    def _interval(self, matrix: Array, hsic: Array, own: Array, sizes: Array, same: Array) -> tuple[Array, Array]:
        from scipy.special import stdtrit

        rest = own.sum(0) - own
        root = np.sqrt(np.where(rest > 0, rest, np.nan))
        scale = root[:, : len(self.taps), None] * root[:, None, self._columns]
        se = grouped_jackknife(matrix, (hsic.sum(0) - hsic) / scale, sizes)
        se[same] *= 0.0
        width = stdtrit(max(len(sizes) - 1, 1), 1 - self.alpha / 2) * se
        return matrix - width, matrix + width

    def _bound(self, cross: Array) -> float:
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
