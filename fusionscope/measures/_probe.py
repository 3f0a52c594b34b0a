"""Concept probes: how well each concept can be read off each tap, on samples the probe has not seen."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from fusionscope.errors import InputError, did_you_mean

from ._concepts import ConceptContext, concept_context
from ._instrument import Instrument
from ._net2vec import Net2Vec
from ._pairs import check_reduced, check_taps
from ._ridge import Ridge
from ._scores import ProbeScores
from .functional._resampling import bound_rank, family_bound, grouped_jackknife

Array = np.ndarray
LIMIT = 4e9
ESTIMATORS: dict[str, Callable[[], Any]] = {
    "ridge": Ridge,
    "net2vec": partial(Net2Vec, raw=True),
    "net2vec-binary": Net2Vec,
    "net2vec-published": partial(Net2Vec, "published"),
}


@dataclass(frozen=True, eq=False)
class TapConcepts:
    """One tap's concepts, each field ``[C]``.

    ``iou`` is the held-out set IoU, ``null_mean`` and ``null_high`` what the same procedure gives when masks belong to
    other samples (its mean, and its family-wise bound), ``score = (iou - null_mean)/(1 - null_mean)`` with its
    ``1 - alpha`` interval, ``encoded = iou > null_high``, ``threshold`` of the total activation in standard deviations,
    ``prevalence`` the share of places that show the concept. ``reason`` says why something is NaN, and is empty
    otherwise. ``without`` ``[F, C]`` is the score with one fold left out, ``refit`` ``[R, C]`` half the difference
    between two probes fitted on disjoint halves, ``sizes`` ``[F]`` the places of each fold, ``strength`` the tap's λ.
    """

    iou: Float64[Array, "C"]
    null_mean: Float64[Array, "C"]
    null_high: Float64[Array, "C"]
    score: Float64[Array, "C"]
    low: Float64[Array, "C"]
    high: Float64[Array, "C"]
    encoded: Bool[Array, "C"]
    threshold: Float64[Array, "C"]
    prevalence: Float64[Array, "C"]
    reason: Any
    without: Float64[Array, "F C"]
    refit: Float64[Array, "R C"]
    sizes: Float64[Array, "F"]
    strength: float


@dataclass(frozen=True, eq=False)
class ConceptResult:
    """Concepts of all taps, and the one bound ``z`` (in null sd) that all taps and concepts share."""

    taps: dict[str, TapConcepts]
    z: float
    samples: int
    batches: int


class ConceptProbe(Instrument):
    """Set IoU of concepts, read off each tap by a linear probe of its units.

    Per tap and concept one weight per unit is learned; the weighted sum of the units' maps is the concept's total
    activation; above a threshold it is the predicted mask, and ``IoU_set = Σ_x |M ∧ L| / Σ_x |M ∨ L|`` compares it with
    the concept's mask over the whole set (Fong and Vedaldi 2018, arXiv 1801.03454; US 12,283,082 B1, claim 1). No unit.

    ``ridge`` (default; our reconstruction) fits the weights in closed form from second moments of places: the first
    pass gathers the moments in ``folds`` folds by sample (or group), the second scores every sample with the probe
    fitted without its fold, and each fold's threshold is the best one of the other folds. λ is one for a tap, chosen on
    halves. Weights are mixed at feature resolution; concept maps are upsampled bilinearly to the masks.

    ``net2vec`` learns the weights by gradient descent on the 512 samples with the smallest hashes, whose features are
    kept: weighted cross-entropy, Adam, a bias (``net2vec_fit``; a stable variant, our reconstruction). One pass.
    ``net2vec-binary`` fits the same on units that are compared with the value that 0.5 % of their activations exceed,
    in three passes (range, histogram, maps), and ``net2vec-published`` has the published loss, optimiser and threshold
    as well. All are fitted on 7 of 10 folds and scored on the others; thresholds are probabilities. Slow: each
    permutation of the null is a fit. With few units the binary ones lose much: a concept that covers 5 % of the places
    cannot be shown by units that are on in 0.5 %.

    Null: ``permutations`` refits with masks and features paired across the samples of a batch; ``null_high`` is
    family-wise over taps and concepts (``family_bound``). Interval: Student's, from a jackknife over folds.

    Concepts come as integer labels ``[B]``, ``[B, T]`` or ``[B, H, W]`` (one concept per class, negative = unknown), or
    as masks (bool, or shares from 0 to 1; NaN = unknown) ``[B, C]``, ``[B, C, T]`` or ``[B, C, H, W]``. Concepts per
    sample are read off features averaged over locations. Maps of more than 1,024 cells are fitted, and masks of more
    than ``places`` places scored, on a lattice at a random offset per batch (nulls and refits: 256 places).

    Memory: ``8·F·U²`` bytes per tap of ``U`` units, and ``16·P·C·U``.

    Args:
        taps: names, in the order of the result.
        concepts: their number C.
        estimator: "ridge", "net2vec", "net2vec-binary" or "net2vec-published".
        folds: at least 2.
        permutations: of the null; at least ``1/alpha - 1``, or 0 for none.
        places: most places scored per mask.
        alpha: 1 - the level of intervals and of the null's bound.
        seed: of folds, permutations and lattices.

    Raises:
        InputError: settings, labels or masks out of range, unknown or missing taps, or more than 4 GB of sums.

    >>> import torch
    >>> x, labels = torch.randn(400, 3), torch.arange(400) % 2
    >>> x[:, 1] += 6 * labels
    >>> probe = ConceptProbe(["a"], 2)
    >>> for number in range(probe.passes):
    ...     if number:
    ...         probe.advance()
    ...     context = probe.context(400, labels, 0)
    ...     probe.update({"a": probe.reduce(x, context, "a")}, context)
    >>> probe.compute().taps["a"].encoded.tolist()
    [True, True]
    """

    tally: Tensor
    misfits: Tensor

    def __init__(
        self,
        taps: Iterable[str],
        concepts: int,
        *,
        estimator: str = "ridge",
        folds: int = 10,
        permutations: int = 20,
        places: int = 1024,
        alpha: float = 0.05,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.taps = check_taps(taps)
        if concepts < 1 or folds < 2 or permutations < 0 or 0 < permutations < 3 or places < 1:
            raise InputError(
                f"expected concepts >= 1, folds >= 2, places >= 1 and permutations 0 or >= 3, got {concepts}, {folds}, "
                f"{places} and {permutations}"
            )
        if estimator not in ESTIMATORS:
            raise InputError(
                f"expected an estimator of {list(ESTIMATORS)}, got {estimator!r}."
                + did_you_mean(str(estimator), ESTIMATORS)
            )
        if permutations:
            bound_rank(permutations, alpha)
        self.concepts, self.estimator, self.folds, self.permutations = concepts, estimator, folds, permutations
        self.places, self.alpha, self.seed = places, alpha, seed
        self.method = ESTIMATORS[estimator]()
        self.passes = self.method.passes
        for name, nothing in self.method.states().items():
            how = self.method.reductions.get(name, "sum")
            for i in range(len(self.taps)):
                self.add_state(f"{name}_{i}", [] if how == "cat" else nothing.clone(), how)
        self.add_state("tally", torch.zeros(2, dtype=torch.int64), "sum")  # samples, batches
        self.add_state("misfits", torch.zeros(len(self.taps), dtype=torch.int64), "sum")

    def settings(self) -> dict[str, Any]:
        """Return what two instruments must share to be merged."""
        names = ("taps", "concepts", "estimator", "folds", "permutations", "places", "alpha", "seed")
        return {k: getattr(self, k) for k in names}

    def _no_rows(self, name: str) -> Tensor:
        return torch.zeros(0, 0, dtype=torch.uint8)

    def state(self, name: str, tap: int) -> Any:
        """Return one tap's sum, or list of rows."""
        return getattr(self, f"{name}_{tap}")

    def add(self, name: str, tap: int, parts: int, index: int, value: Tensor) -> Tensor:
        """Add to one part of one tap's sum, and return that part."""
        state = self.state(name, tap)
        if not state.numel():
            with torch.inference_mode(False):
                state = torch.zeros(parts, *value.shape, dtype=state.dtype, device=self.device)
                setattr(self, f"{name}_{tap}", state)
        state[index] += value.to(state.device)
        return state[index]

    def context(self, size: int, target: Tensor | None, index: int, group: Tensor | None = None) -> ConceptContext:
        """Return the batch's concepts, folds and permutations."""
        target = target if target is None else target.to(self.device)
        return concept_context(
            target,
            size,
            self.concepts,
            folds=self.folds,
            permutations=self.permutations,
            seed=self.seed,
            index=index,
            group=group,
        )

    def _reduce(self, features: Tensor, context: ConceptContext, tap: str) -> Any:
        if tap not in self.taps:
            raise InputError(
                f"expected a tap of {list(self.taps)}, got {tap!r}; say which one: reduce(x, context, tap)"
            )
        self._afford(features.shape[1])
        x = features if features.dtype in (torch.float32, torch.float64) else features.float()
        return self.method.reduce(self, self.taps.index(tap), x, context)

    def _afford(self, units: int) -> None:
        need = 8.0 * units * (self.folds * (units + self.concepts) + 2 * self.permutations * (self.concepts + 1))
        need += 8.0 * 512 * self.concepts * (self.folds + 2 * self.permutations)
        if need > LIMIT:
            raise InputError(
                f"expected at most {LIMIT / 1e9:g} GB of sums for a tap, got {need / 1e9:.1f} GB for {units} units and "
                f"{self.concepts} concepts; lower folds or permutations, or measure fewer concepts"
            )

    def update(self, reduced: dict[str, Any], context: ConceptContext) -> None:
        """Add one batch."""
        check_reduced(reduced, self.taps)
        for i, tap in enumerate(self.taps):
            if isinstance(reduced[tap], str):
                self.misfits[i] += 1
            else:
                self.method.update(self, i, reduced[tap])
        self.tally += torch.tensor([context.size, 1], device=self.device)

    def _advance(self) -> None:
        self.method.advance(self)

    def compute(self) -> ConceptResult:
        """Return every tap's concepts."""
        found = [self.method.scores(self, i) for i in range(len(self.taps))]
        C = self.concepts
        z, mean, sd = float("nan"), np.full(C * len(found), np.nan), np.full(C * len(found), np.nan)
        if self.permutations and any(not f.reason for f in found):
            z, mean, sd = family_bound(np.concatenate([f.null for f in found], 1), self.alpha)
        with np.errstate(invalid="ignore"):
            high = mean + np.where(sd > 0, z * sd, 0.0 * sd)
        cells = [slice(i * C, (i + 1) * C) for i in range(len(found))]
        taps = {tap: self._tap(f, mean[cell], high[cell]) for tap, f, cell in zip(self.taps, found, cells, strict=True)}
        return ConceptResult(taps, z, int(self.tally[0]), int(self.tally[1]))

    def _tap(self, f: ProbeScores, null_mean: Array, null_high: Array) -> TapConcepts:
        places = float(f.sizes.sum())
        own = [""] * self.concepts if f.untold is None else f.untold
        reason = [f.reason or _reason(p, places) or str(why) for p, why in zip(f.positives, own, strict=True)]
        reason = np.array(reason, dtype=object)
        told = reason == ""
        used = f.sizes > 0
        hit, union = f.hit[used], f.union[used]
        with np.errstate(invalid="ignore", divide="ignore"):
            iou = np.where(told, hit.sum(0) / union.sum(0), np.nan)
            without = (hit.sum(0) - hit) / (union.sum(0) - union)
            prevalence = f.positives / places
            base = null_mean if self.permutations else np.zeros(self.concepts)
            score, without = (iou - base) / (1 - base), (without - base) / (1 - base)
            refit = (f.refit[:, 0] - f.refit[:, 1]) / 2 / (1 - base)
        from scipy.special import stdtrit

        sizes = f.sizes[used]
        width = stdtrit(max(len(sizes) - 1, 1), 1 - self.alpha / 2) * grouped_jackknife(score, without, sizes)
        if len(sizes) < 2:
            width = np.full(self.concepts, np.nan)
        with np.errstate(invalid="ignore"):
            encoded = iou > null_high
        return TapConcepts(
            iou,
            np.where(told, null_mean, np.nan),
            np.where(told, null_high, np.nan),
            score,
            score - width,
            score + width,
            encoded,
            np.where(told, f.threshold, np.nan),
            prevalence,
            reason.astype(str),
            np.where(told, without, np.nan),
            refit,
            sizes,
            f.strength,
        )


def _reason(positives: float, places: float) -> str:
    """Say why a concept has no value, judged by where it occurs."""
    if not positives:
        return "the concept occurs nowhere"
    return "the concept is everywhere" if positives == places else ""
