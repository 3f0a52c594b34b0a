"""Similarities that need pairs of samples, on a subsample that merges exactly."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from fusionscope.errors import InputError

from ._pairs import check_reduced, check_taps, pair_reasons, take_rows
from ._samples import sample_hash
from ._subsample import Subsample
from .functional._cka import check_word
from .functional._factors import centred, knn_factor, procrustes_factor, rbf_factor, rsa_factor, svcca_factor
from .functional._resampling import bound_rank, family_bound

Array = np.ndarray
UNSOUND = {
    "procrustes": "fewer than 2 samples",
    "svcca": "fewer than 2 samples",
    "rsa": "fewer than 3 units or samples, a sample whose units are all equal, or equally distant samples",
    "mutual_knn": "fewer than k + 2 samples, or a sample whose units are all 0",
    "cka_rbf": "fewer than 4 samples, equally distant samples, or more than half of them coincide",
}


@dataclass(frozen=True, eq=False)
class PairMatrix:
    """One measure between all taps; every array is ``[L, L]`` in the order of the taps.

    ``null_mean`` is the mean under random pairing of samples, ``null_high`` what any cross pair of the matrix exceeds
    by chance with probability ``alpha``; the diagonal has no null. ``reason`` says why ``matrix`` is NaN.
    """

    matrix: Float64[Array, "L L"]
    null_mean: Float64[Array, "L L"]
    null_high: Float64[Array, "L L"]
    reason: Any


@dataclass(frozen=True, eq=False)
class PairwiseResult:
    """All measures, and how many of the samples seen they are made from."""

    taps: tuple[str, ...]
    measures: dict[str, PairMatrix]
    used: int
    samples: int
    batches: int


class PickContext(NamedTuple):
    """Which samples of a batch may belong to the subsample, and their hashes."""

    size: int
    picked: Int[Tensor, "m"]
    keys: Int[Tensor, "m"]


class PairwiseSimilarity(Subsample):
    """Similarity of all taps by measures that compare samples with samples, each with a permutation null.

    ``procrustes``, ``svcca``, ``rsa`` (correlation distance), ``mutual_knn`` (cosine) and ``cka_rbf`` (unbiased) as in
    ``measures.functional``, of features averaged over locations, on the ``samples`` whose hashes are smallest: a random
    subsample that depends on ``seed`` and on each sample's place in the run only. No unit.

    The null pairs the samples of one side at random, the same way in all pairs of taps; its bound is family-wise over
    the cross pairs of one measure (``family_bound``). Samples are taken as exchangeable: where several belong to one
    group it is too narrow.

    Memory: ``8 · samples · units`` bytes of all taps together, also for taps of more than 2,048 units; in ``compute``
    ``8 · samples²`` bytes per tap. Time: ``procrustes`` and ``svcca`` take a singular value decomposition per pair and
    permutation (1,000 samples, 512 units: some 0.04 s each); the others a matrix product per permutation.

    Args:
        taps: names, in the order of the result.
        measures: names of measures.
        samples: size of the subsample.
        k: neighbours of ``mutual_knn``.
        keep: share of the variance that ``svcca`` keeps.
        bandwidth: of ``cka_rbf``, as a multiple of the median distance.
        permutations: of the null; at least ``1/alpha - 1`` and 3, or 0 for none.
        alpha: level of the bound.
        seed: of the subsample and the permutations.

    Raises:
        InputError: settings out of range, unknown measures, unknown or missing taps.

    >>> import torch
    >>> metric = PairwiseSimilarity(["a", "b"], ["procrustes"], permutations=0)
    >>> x, context = torch.randn(11, 3), metric.context(11, None, 0)
    >>> metric.update({"a": metric.reduce(x, context), "b": metric.reduce(x[:, [1, 2, 0]] * 5 + 1, context)}, context)
    >>> metric.compute().measures["procrustes"].matrix.round(6)
    array([[1., 1.],
           [1., 1.]])
    """

    def __init__(
        self,
        taps: Iterable[str],
        measures: Sequence[str] = ("procrustes", "svcca", "rsa", "mutual_knn", "cka_rbf"),
        *,
        samples: int = 1000,
        k: int = 10,
        keep: float = 0.99,
        bandwidth: float = 0.5,
        permutations: int = 20,
        alpha: float = 0.05,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.taps, self.measures = check_taps(taps), tuple(measures)
        for measure in self.measures:
            check_word("measures", measure, tuple(UNSOUND))
        if samples < 1 or k < 1 or not 0 < keep <= 1 or not bandwidth > 0 or permutations < 0 or 0 < permutations < 3:
            raise InputError(
                "expected samples >= 1, k >= 1, 0 < keep <= 1, bandwidth > 0 and permutations 0 or >= 3, got "
                f"{samples}, {k}, {keep}, {bandwidth} and {permutations}"
            )
        if permutations:
            bound_rank(permutations, alpha)
        self.k, self.keep, self.bandwidth = k, keep, bandwidth
        self.permutations, self.alpha, self.seed = permutations, alpha, seed
        self._start(len(self.taps), samples)

    def settings(self) -> dict[str, Any]:
        """Return what two instruments must share to be merged."""
        names = ("taps", "measures", "samples", "k", "keep", "bandwidth", "permutations", "alpha", "seed")
        return {name: getattr(self, name) for name in names}

    def context(self, size: int, target: Tensor | None, index: int, group: Tensor | None = None) -> PickContext:
        """Return which samples may belong to the subsample: no more than it holds, none above its largest hash."""
        return PickContext(size, *self._picked(sample_hash(size, index, self.seed)))

    def _reduce(self, features: Tensor, context: PickContext, tap: str) -> Tensor:
        return take_rows(features[context.picked.to(features.device)], ()).rows

    def update(self, reduced: dict[str, Tensor], context: PickContext) -> None:
        """Add one batch."""
        check_reduced(reduced, self.taps)
        self._add_rows(self.taps, context.keys, [reduced[tap] for tap in self.taps])
        self.tally += torch.tensor([context.size, 1], device=self.device)

    def compute(self) -> PairwiseResult:
        """Return every measure with its null."""
        samples, batches = (int(v) for v in self.tally)
        sides = self.vectors.split(self.widths.tolist(), 1)
        usual = [self._reason(side, batches) for side in sides]
        rng = np.random.default_rng(self.seed)
        n = len(self.keys)
        orders = [torch.from_numpy(rng.permutation(n)).to(self.device) for _ in range(self.permutations if n else 0)]
        measures = {m: self._measure(m, sides, usual, orders) for m in self.measures}
        return PairwiseResult(self.taps, measures, n, samples, batches)

    def _measure(self, measure: str, sides: Sequence[Tensor], usual: list[str], orders: list[Tensor]) -> PairMatrix:
        prepare: dict[str, Callable[[Tensor], Tensor]] = {
            "procrustes": procrustes_factor,
            "svcca": lambda x: svcca_factor(x, self.keep),
            "rsa": lambda x: rsa_factor(x, "correlation"),
            "mutual_knn": lambda x: knn_factor(x, self.k, "cosine"),
            "cka_rbf": lambda x: rbf_factor(x, self.bandwidth),
        }
        L, n = len(sides), len(self.keys)
        sound = [not reason and n > 1 for reason in usual]
        factors = [prepare[measure](x) if ok else None for x, ok in zip(sides, sound, strict=True)]
        sound = [f is not None and bool(f.isfinite().all()) for f in factors]
        whole = [f for f, ok in zip(factors, sound, strict=True) if ok and f is not None]
        at = np.flatnonzero(sound)
        matrix, null_mean, null_high = (np.full((L, L), np.nan) for _ in range(3))
        compare = nuclear_pairs if measure in ("procrustes", "svcca") else inner_pairs
        ranks = np.array([f.shape[1] for f in whole])
        scale, meet = np.ones((len(at), len(at))), np.zeros((L, L), dtype=bool)
        if measure == "svcca":
            meet[np.ix_(at, at)] = ranks[:, None] + ranks > n - 1
            scale = np.where(meet[np.ix_(at, at)], np.nan, np.minimum(ranks[:, None], ranks))
        if len(at):
            matrix[np.ix_(at, at)] = compare(whole, None) / scale
        rows, columns = np.triu_indices(len(at), 1)
        if orders and len(rows):
            null = np.stack([compare(whole, order)[rows, columns] for order in orders]) / scale[rows, columns]
            z, mean, sd = family_bound(null, self.alpha)
            high = mean + np.multiply(z, sd, out=np.zeros_like(sd), where=sd > 0)
            for out, value in ((null_mean, mean), (null_high, high)):
                out[at[rows], at[columns]] = out[at[columns], at[rows]] = value
        reasons = [r or ("" if ok else UNSOUND[measure]) for r, ok in zip(usual, sound, strict=True)]
        reason = pair_reasons(reasons, reasons)
        reason = np.where(meet, f"so many directions of {n} samples meet in any case", reason)
        return PairMatrix(matrix, null_mean, null_high, reason)

    def _reason(self, x: Tensor, batches: int) -> str:
        if not batches:
            return "no batch was seen"
        if not x.isfinite().all():
            return "features are not finite"
        return "" if centred(x).isfinite().all() and x.numel() else "features do not differ between samples"


def nuclear_pairs(factors: Sequence[Tensor], order: Tensor | None) -> Array:
    """Nuclear norms of ``AᵀB`` for the pairs ``i <= j``, mirrored; with an order for ``i < j``, less exactly."""
    out = np.full((len(factors), len(factors)), np.nan)
    for j, b in enumerate(factors):
        side = b if order is None else b[order]
        for i, a in enumerate(factors[: j + (order is None)]):
            M = a.T @ side
            if order is None:
                value = torch.linalg.svdvals(M).sum()
            else:
                value = torch.linalg.eigvalsh(M.T @ M if M.shape[0] > M.shape[1] else M @ M.T).relu().sqrt().sum()
            out[i, j] = out[j, i] = float(value)
    return out


def inner_pairs(factors: Sequence[Tensor], order: Tensor | None) -> Array:
    """Inner products of square factors, of the second one with its samples in another order."""
    flat = torch.stack([f.flatten() for f in factors])
    if order is None:
        return (flat @ flat.T).cpu().numpy()
    place = (order[:, None] * len(order) + order).flatten()
    blocks = [flat @ flat[start : start + 8, place].T for start in range(0, len(flat), 8)]
    return torch.cat(blocks, 1).cpu().numpy()
