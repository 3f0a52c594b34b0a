"""How well a linear classifier reads labels from features."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import stdtrit

from fusionscope.errors import InputError

from ._arrays import ArrayLike, as_tensor
from ._pid_features import label_codes
from ._resampling import grouped_jackknife

Array = np.ndarray
FEWEST = 5  # folds that an interval takes
STRENGTHS = 10.0 ** np.arange(-4, 4)


@dataclass(frozen=True, eq=False)
class ProbeAccuracy:
    """Share of held-out samples that a ridge classifier labels right, with its interval.

    ``chance`` is the share of the most frequent label; ``reason`` says why there is no value or no interval.
    ``hits`` of ``sizes`` samples are right in each fold.
    """

    accuracy: float
    low: float
    high: float
    chance: float
    samples: int
    folds: int
    reason: str
    hits: Float64[Array, "F"] = field(repr=False)
    sizes: Float64[Array, "F"] = field(repr=False)
    alpha: float = 0.05

    def minus(self, other: "ProbeAccuracy") -> tuple[float, float, float]:
        """Return the difference to a probe of the same samples and folds, with its paired interval.

        Raises:
            InputError: it has other folds.
        """
        if np.isnan(self.accuracy) or np.isnan(other.accuracy):
            return float("nan"), float("nan"), float("nan")
        if not np.array_equal(self.sizes, other.sizes):
            raise InputError("expected two probes of the same samples with the same groups, folds and seed")
        return _with_interval(self.hits - other.hits, self.sizes, self.alpha)


def _with_interval(hits: Float64[Array, "F"], sizes: Float64[Array, "F"], alpha: float) -> tuple[float, float, float]:
    n = sizes.sum()
    value = hits.sum() / n
    if len(sizes) < FEWEST:
        return float(value), float("nan"), float("nan")
    se = grouped_jackknife(np.array(value), (hits.sum() - hits) / (n - sizes), sizes)
    half = float(stdtrit(len(hits) - 1, 1 - alpha / 2) * se)
    return float(value), float(value - half), float(value + half)


def probe_accuracy(
    x: ArrayLike,
    y: ArrayLike,
    group: ArrayLike | None = None,
    folds: int = 10,
    seed: int = 0,
    alpha: float = 0.05,
) -> ProbeAccuracy:
    """Fit a ridge classifier in closed form without each fold, and score it on that fold.

    Units are standardised on the fitting folds, labels are one-hot, the largest output is the prediction. The strength
    of the ridge is that with the least leave-one-out error on the fitting folds. The interval is Student's with the
    standard error of a jackknife over folds (``grouped_jackknife``), for the probes as fitted.

    Args:
        x: features ``[n, D]``; axes past the first are flattened.
        y: labels ``[n]``; a label < 0 leaves the sample out.
        group: samples of one group stay in one fold.
        folds: number of folds; fewer where there are fewer groups.
        seed: of the folds.
        alpha: the interval holds with probability ``1 - alpha``.

    Raises:
        InputError: other numbers of samples, labels that are not integers, or fewer than 2 folds.

    >>> x = np.random.default_rng(0).normal(size=(200, 3))
    >>> probe_accuracy(x, (x[:, 0] > 0).astype(int)).accuracy > 0.9
    True
    """
    labels, features = as_tensor(y), as_tensor(x).detach().cpu().double().numpy()
    if labels.is_floating_point() or folds < 2:
        raise InputError(f"expected integer labels and folds >= 2, got {labels.dtype} and {folds}")
    codes = label_codes(labels)
    groups = np.arange(len(codes)) if group is None else as_tensor(group).detach().cpu().numpy()
    if not len(features) == len(codes) == len(groups):
        raise InputError(
            f"expected features, labels and groups of the same samples, got lengths {len(features)}, {len(codes)} and "
            f"{len(groups)}"
        )
    known = codes >= 0
    features = features.reshape(len(features), -1)[known]
    codes, groups = (np.unique(v[known], return_inverse=True)[1] for v in (codes, groups))
    n, G = len(codes), int(groups.max(initial=-1)) + 1
    fold = np.random.default_rng(seed).permutation(G)[groups] % min(folds, max(G, 1))
    reason = _why_not(features, codes, G)
    if reason:
        nan, none = float("nan"), np.zeros(0)
        return ProbeAccuracy(nan, nan, nan, nan, n, 0, reason, none, none, alpha)
    F = int(fold.max()) + 1
    right = np.concatenate([[hits(features, codes, fold == f).sum(), (fold == f).sum()] for f in range(F)])
    hit, sizes = right.reshape(F, 2).T.astype(np.float64)
    chance = float(np.bincount(codes).max() / n)
    reason = f"no interval: fewer than {FEWEST} groups" if F < FEWEST else ""
    return ProbeAccuracy(*_with_interval(hit, sizes, alpha), chance, n, F, reason, hit, sizes, alpha)


def _why_not(features: Float64[Array, "n D"], codes: Int64[Array, "n"], groups: int) -> str:
    if not len(codes):
        return "no sample has a label"
    if not np.isfinite(features).all():
        return "features are not finite"
    if not np.ptp(features, axis=0).any():
        return "features do not differ between samples"
    if not codes.any():
        return "only one class occurs"
    return "fewer than 2 groups" if groups < 2 else ""


def hits(x: Float64[Array, "n D"], codes: Int64[Array, "n"], held: Array) -> Array:
    """Return which held-out samples a ridge classifier, fitted to the others, labels right."""
    seen = x[~held]
    spread = seen.std(0)
    scale = np.where(spread > 1e-12 * np.abs(seen).max(initial=0), spread, np.inf)
    a, b = ((part - seen.mean(0)) / scale for part in (seen, x[held]))
    onehot = np.eye(int(codes.max()) + 1)[codes[~held]]
    mean = onehot.mean(0)
    target = onehot - mean
    tall = len(a) > a.shape[1]
    power, vectors = np.linalg.eigh(a.T @ a if tall else a @ a.T)
    good = power > 1e-10 * max(power.max(), 1e-300)
    root = np.sqrt(power[good])
    left = a @ vectors[:, good] / root if tall else vectors[:, good]
    right = vectors[:, good] if tall else a.T @ vectors[:, good] / root
    inner = left.T @ target
    best, weights = np.inf, np.zeros((a.shape[1], len(mean)))
    for strength in STRENGTHS * len(a):
        shrink = power[good] / (power[good] + strength)
        leverage = (left**2 @ shrink + 1 / len(a)).clip(max=1 - 1e-9)[:, None]
        error = float((((target - left @ (shrink[:, None] * inner)) / (1 - leverage)) ** 2).sum())
        if error < best:
            best, weights = error, right @ ((shrink / root)[:, None] * inner)
    return (b @ weights + mean).argmax(1) == codes[held]
