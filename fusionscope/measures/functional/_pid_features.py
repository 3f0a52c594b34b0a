"""Partial information decomposition of features: clusters, a joint table, and what binning alone would give."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import ndtri

from fusionscope.errors import InputError

from ._arrays import ArrayLike, as_tensor
from ._broja import UNITS, WIDEST, Tables, decompose_tables
from ._cka import check_word
from ._resampling import bound_rank

Array = np.ndarray
ATOMS = ("R", "U_a", "U_b", "S", "I_a", "I_b", "I_ab")
# The null is a mean over many tables: it needs no more digits than this.
COARSE = 1e-6


@dataclass(frozen=True, eq=False)
class Decomposition:
    """What two sets of features say about labels; arrays ``[7]`` in the order of ``atoms``, in ``unit``.

    ``R`` is what both say, ``U_a`` and ``U_b`` what one alone says, ``S`` what only both together say; ``I_a``, ``I_b``
    and ``I_ab`` are the informations that these make up. ``shuffled`` is the mean of the same estimate with shuffled
    labels, which is what finite samples give where nothing is there; ``shuffled_high`` is exceeded there with
    probability ``alpha``. ``corrected = value - shuffled`` may be negative; it takes off too much where labels are
    nearly determined, so ``low`` and ``high`` reach from ``corrected`` to ``value``, each with its error.

    ``gap`` bounds the solver's error (NaN for an estimator without one), ``bins`` are the clusters of both sides,
    ``samples`` those with a label. ``reason`` says why the values are NaN and is "" otherwise.
    """

    value: Float64[Array, "seven"]
    shuffled: Float64[Array, "seven"]
    shuffled_high: Float64[Array, "seven"]
    corrected: Float64[Array, "seven"]
    low: Float64[Array, "seven"]
    high: Float64[Array, "seven"]
    gap: float
    bins: tuple[int, int]
    samples: int
    estimator: str
    unit: str
    reason: str
    atoms: tuple[str, ...] = ATOMS

    def __getitem__(self, atom: str) -> float:
        """Return the value of one atom."""
        check_word("atom", atom, self.atoms)
        return float(self.value[self.atoms.index(atom)])


def nothing(reason: str, samples: int, bins: tuple[int, int], estimator: str, unit: str) -> Decomposition:
    """Return a decomposition without values, and why."""
    nan = np.full(len(ATOMS), np.nan)
    return Decomposition(nan, nan, nan, nan, nan, nan, float("nan"), bins, samples, estimator, unit, reason)


def usual_bins(samples: int, classes: int, bins: int = 20) -> int:
    """Return how many clusters of a side ``samples`` allow, at most ``bins`` and at least 2.

    ``sqrt(samples/5)``, so that a pair of clusters has five samples on average, or ``sqrt(samples/2)`` where there are
    more classes than that: with fewer clusters than classes, what both sides know looks like what each knows alone.

    >>> usual_bins(300, 2), usual_bins(300, 10), usual_bins(4096, 2)
    (7, 10, 20)
    """
    return max(2, min(bins, max(int((samples / 5) ** 0.5), min(classes, int((samples / 2) ** 0.5)))))


def discretise(x: ArrayLike, bins: int = 20, components: int = 5, seed: int = 0) -> Int64[Array, "n"]:
    """Return the cluster of each row of ``x[n, D]``: rows to length 1, principal components, k-means.

    As published with the ``CVX`` estimator (arXiv:2302.12247). A single dimension keeps its values, as its length is
    all that it has. Axes past the first are flattened. Fewer clusters where fewer rows differ.

    Raises:
        InputError: no rows, features that are not finite, or fewer than 2 bins or 1 component.

    >>> codes = discretise(np.array([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [0.1, 3.0]]), bins=2)
    >>> bool(codes[0] == codes[1]), bool(codes[1] != codes[2]), bool(codes[2] == codes[3])
    (True, True, True)
    """
    from sklearn.cluster import KMeans

    if bins < 2 or components < 1:
        raise InputError(f"expected bins >= 2 and components >= 1, got {bins} and {components}")
    rows = as_tensor(x).detach().cpu().double().numpy()
    if not rows.size or not np.isfinite(rows).all():
        raise InputError(f"expected finite features [n, D], got shape {rows.shape}; leave out rows that are not finite")
    rows = rows.reshape(len(rows), -1)
    if rows.shape[1] > 1:
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
        rows = principal(rows, components)
    clusters = min(bins, len(np.unique(rows.round(12), axis=0)))
    if clusters < 2:
        return np.zeros(len(rows), dtype=np.int64)
    return KMeans(clusters, n_init=4, random_state=seed).fit_predict(rows).astype(np.int64)


def principal(x: Float64[Array, "n D"], components: int) -> Float64[Array, "n K"]:
    """Return the first principal components of the rows."""
    x = x - x.mean(0)
    tall = len(x) > x.shape[1]
    power, vectors = np.linalg.eigh(x.T @ x if tall else x @ x.T)
    first = vectors[:, ::-1][:, :components]
    return x @ first if tall else first * np.sqrt(power[::-1][:components].clip(0))


def label_codes(y: ArrayLike, bins: int = 5) -> Int64[Array, "n"]:
    """Return labels as they are, and numbers as their quantile bin; -1 where there is none (a label < 0, NaN).

    Several numbers per row count by their first principal component.

    Raises:
        InputError: not one row per sample, or classes of more than one axis.

    >>> label_codes(np.array([0.1, 0.5, 0.2, 0.9]), bins=2).tolist()
    [0, 1, 0, 1]
    """
    labels = as_tensor(y).detach().cpu()
    if not labels.is_floating_point():
        if labels.ndim != 1:
            raise InputError(f"expected one label per sample [n], got shape {tuple(labels.shape)}")
        return np.maximum(labels.long().numpy(), -1)
    numbers = labels.double().flatten(1).numpy() if labels.ndim > 1 else labels.double().numpy()[:, None]
    known = np.isfinite(numbers).all(1)
    out = np.full(len(numbers), -1, dtype=np.int64)
    if known.any():
        centred = numbers[known] - numbers[known].mean(0)
        line = centred[:, 0] if centred.shape[1] == 1 else centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
        limits = np.quantile(line, np.arange(1, bins) / bins)
        out[known] = np.searchsorted(limits, line, side="right")
    return out


def decompose(
    codes_a: Array,
    codes_b: Array,
    y: ArrayLike,
    *,
    group: ArrayLike | None = None,
    shuffles: int = 20,
    alpha: float = 0.05,
    seed: int = 0,
    unit: str = "bits",
    workers: int = 1,
) -> Decomposition:
    """Decompose what two discretised sides say about labels, with the bias of binning.

    See ``cvx_decomposition``; ``codes`` come from ``discretise``, once per side.

    Raises:
        InputError: sides, labels and groups of other lengths, an unknown unit, or settings out of range.
    """
    check_word("unit", unit, tuple(UNITS))
    rank = bound_rank(shuffles, alpha) if shuffles else 0
    labels = label_codes(y)
    groups = np.arange(len(labels)) if group is None else as_tensor(group).detach().cpu().numpy()
    if not len(codes_a) == len(codes_b) == len(labels) == len(groups):
        raise InputError(
            "expected both sides, labels and groups of the same samples, got lengths "
            f"{len(codes_a)}, {len(codes_b)}, {len(labels)} and {len(groups)}"
        )
    known = labels >= 0
    a, b, labels, groups = (np.unique(v[known], return_inverse=True)[1] for v in (codes_a, codes_b, labels, groups))
    A, B, Y = (int(v.max(initial=-1)) + 1 for v in (a, b, labels))
    reason = why_not(A, B, Y)
    if reason:
        return nothing(reason, len(labels), (A, B), "cvx", unit)
    rng = np.random.default_rng(seed)
    orders = [labels] + [shuffle(labels, groups, rng) for _ in range(shuffles)]
    cells = [np.ravel_multi_index((a, b, o), (A, B, Y)) for o in orders]
    p = np.stack([np.bincount(c, minlength=A * B * Y).reshape(A, B, Y) / len(c) for c in cells])
    found = decompose_tables(p[:1], workers)
    values = found.parts
    if found.gap[0] / UNITS[unit] > WIDEST:
        return nothing(found.reason[0], len(labels), (A, B), "cvx", unit)
    if shuffles:
        null = decompose_tables(p[1:], workers, COARSE)
        if null.gap.max() > 1e-3:
            return nothing(f"shuffled: {null.reason[int(null.gap.argmax())]}", len(labels), (A, B), "cvx", unit)
        values = np.concatenate([values, null.parts], 1)
    influence = influences(p[0], found)[:, a, b, labels]
    return with_null(
        values / UNITS[unit],
        influence / UNITS[unit],
        groups,
        rank,
        alpha,
        gap=float(found.gap[0] / UNITS[unit]),
        bins=(A, B),
        estimator="cvx",
        unit=unit,
    )


def why_not(bins_a: int, bins_b: int, classes: int) -> str:
    """Say why there is nothing to decompose, "" if there is."""
    if not classes:
        return "no sample has a label"
    sides = " and ".join(side for side, bins in (("a", bins_a), ("b", bins_b)) if bins < 2)
    if sides:
        return f"the features of side {sides} do not differ between samples"
    return "only one class occurs" if classes < 2 else ""


def shuffle(labels: Int64[Array, "n"], groups: Int64[Array, "n"], rng: np.random.Generator) -> Int64[Array, "n"]:
    """Hand the labels to samples of other groups; those of one group stay together where groups are of one size.

    Groups follow each other in random order, samples within a group too, and the labels move on by a random number of
    groups (of samples, at least the largest group, where sizes differ): no sample keeps its label or gets one of its
    own group. Where one group has more than half of the samples, some have to get another label of their group.
    """
    n, sizes = len(labels), np.bincount(groups)
    row = np.lexsort((rng.random(n), rng.permutation(len(sizes))[groups]))
    most = int(sizes.max())
    least = min(most, n // 2)
    alike = len(sizes) > 1 and most == sizes.min()
    out = np.empty_like(labels)
    out[row] = np.roll(labels[row], most * rng.integers(1, len(sizes)) if alike else rng.integers(least, n - least + 1))
    return out


def influences(p: Float64[Array, "A B Y"], found: Tables) -> Float64[Array, "seven A B Y"]:
    """Derivative of every atom by the mass of each cell, up to a constant; nats.

    That of ``I_Q*`` is the dual solution, by the envelope theorem.
    """
    pa, pb, pab, py = p.sum(1, keepdims=True), p.sum(0, keepdims=True), p.sum(2, keepdims=True), p.sum((0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = [np.log(v / v.sum(2, keepdims=True) / py) + 0 * p for v in (pa, pb)] + [np.log(p / pab / py)]
        least = found.best.lambda1[0][:, None] + found.best.lambda2[0] - np.log(py)
    a, b, ab = whole
    out = np.stack([a + b - least, least - b, least - a, ab - least, a, b, ab])
    return np.where(p > 0, out, 0.0)


def with_null(
    values: Float64[Array, "seven P1"],
    influence: Float64[Array, "seven n"],
    groups: Int64[Array, "n"],
    rank: int,
    alpha: float,
    **rest: object,
) -> Decomposition:
    """Correct the first column of values by the others, its null; the interval holds both, and their error.

    The variance is that of the infinitesimal jackknife over groups (conditional on the clusters) plus that of the null,
    to which the first is blind: derivatives vanish where nothing is there.
    """
    value, null = values[:, 0], values[:, 1:]
    nan = np.full(len(value), np.nan)
    n, G = len(groups), int(groups.max()) + 1
    centred = influence - influence.mean(1, keepdims=True)
    sums = np.stack([np.bincount(groups, row, minlength=G) for row in centred])
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = (sums**2).sum(1) / n**2 * G / (G - 1)
    mean, top = (null.mean(1), np.sort(null, 1)[:, rank - 1]) if rank else (nan, nan)
    spread = null.var(1, ddof=1) * (1 + 1 / null.shape[1]) if rank else 0.0
    half = float(ndtri(1 - alpha / 2)) * np.sqrt(variance + spread)
    fixed = value - mean
    low, high = np.fmin(fixed, value) - half, np.fmax(fixed, value) + half
    return Decomposition(value, mean, top, fixed, low, high, samples=n, reason="", **rest)  # ty: ignore


def cvx_decomposition(
    x1: ArrayLike,
    x2: ArrayLike,
    y: ArrayLike,
    bins: int = 20,
    *,
    components: int = 5,
    shuffles: int = 20,
    group: ArrayLike | None = None,
    alpha: float = 0.05,
    seed: int = 0,
    unit: str = "bits",
    workers: int = 1,
) -> Decomposition:
    """Decompose what features ``x1[n, D1]`` and ``x2[n, D2]`` say about ``y[n]``: clusters, then exact BROJA.

    ``CVX`` of Liang et al. 2023 (arXiv:2302.12247): rows to length 1, principal components, k-means (``discretise``),
    joint table, ``broja``. An estimate from ``n`` samples says more than there is, above all of synergy: so it is made
    again with ``y`` shuffled among samples (of whole groups where there are groups), within the same clusters, and the
    mean is taken off. That is right where nothing is there and too much where labels are nearly determined: the truth
    then lies between ``corrected`` and ``value``, and so does the interval. What clusters cannot tell apart is lost in
    either.

    Args:
        x1: one side.
        x2: the other side, of the same samples.
        y: labels, or a model's predictions (classes that do not occur are left out, samples with a label < 0 too), or
            numbers, which are cut into 5 quantile bins.
        bins: most clusters of a side; fewer where samples are few (``usual_bins``).
        components: principal components, at most.
        shuffles: of the labels; at least ``1/alpha - 1``, or 0 for no correction.
        group: samples of one group are not independent.
        alpha: of the interval, and of ``shuffled_high``.
        seed: of clusters and shuffles.
        unit: "bits" or "nats".
        workers: threads.

    Raises:
        InputError: features that are not finite, other numbers of samples, or settings out of range.

    >>> rng = np.random.default_rng(0)
    >>> a, b = rng.integers(0, 2, (2, 500))
    >>> found = cvx_decomposition(np.eye(2)[a], np.eye(2)[b], a ^ b)
    >>> [round(v, 1) + 0 for v in found.corrected[:4].tolist()]
    [0.0, 0.0, 0.0, 1.0]
    """
    labels = label_codes(y)
    bins = usual_bins(int((labels >= 0).sum()), len(np.unique(labels[labels >= 0])), bins)
    sides = [discretise(x, bins, components, seed) for x in (x1, x2)]
    return decompose(*sides, labels, group=group, shuffles=shuffles, alpha=alpha, seed=seed, unit=unit, workers=workers)
