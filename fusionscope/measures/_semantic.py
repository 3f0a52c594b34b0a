"""Semantic variance between all taps, and what each pair of taps shares or has to itself."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from fusionscope.errors import InputError

from ._probe import ConceptProbe, ConceptResult
from .functional._concepts import integrate
from .functional._resampling import grouped_jackknife

Array = np.ndarray
MARGIN = 0.05


@dataclass(frozen=True, eq=False)
class Profile:
    """Signed differences ``d = score(a) - score(b)`` of pairs of taps, each field ``[pairs, C]``.

    ``low`` and ``high`` hold for all comparisons together. ``beyond`` is how far a difference is from 0 at least, in
    either direction, also where the weaker side may be taken one level earlier or later. ``kind`` is "a" (special to a:
    encoded there, and told better by more than the margin), "b", "both" (consistent: encoded in both, special to
    neither), "neither", or "" where a side has no value.
    """

    pairs: tuple[tuple[str, str], ...]
    d: Float64[Array, "pairs C"]
    low: Float64[Array, "pairs C"]
    high: Float64[Array, "pairs C"]
    beyond: Float64[Array, "pairs C"]
    kind: Any
    margin: float

    def sets(self, kind: str) -> set[int]:
        """Return the concepts that are of this kind in any pair."""
        return set(np.nonzero((self.kind == kind).any(0))[0].tolist())


@dataclass(frozen=True, eq=False)
class VarianceResult:
    """Semantic variance of all pairs of taps; every array is ``[L, L]`` in the order of ``taps``.

    ``matrix`` is of the scores ``(IoU - null)/(1 - null)``, ``raw`` of the IoUs themselves, ``low`` and ``high`` the
    ``1 - alpha`` interval, ``floor`` what refits on disjoint halves of the data alone give, ``shuffled`` the L1 value
    with the concepts of one side shuffled, ``concepts`` how many have a value in both. ``reason`` says why something is
    NaN and is empty otherwise. ``probes`` holds every tap's concepts.
    """

    taps: tuple[str, ...]
    matrix: Float64[Array, "L L"]
    raw: Float64[Array, "L L"]
    low: Float64[Array, "L L"]
    high: Float64[Array, "L L"]
    floor: Float64[Array, "L L"]
    shuffled: Float64[Array, "L L"]
    concepts: Float64[Array, "L L"]
    reason: Any
    agg: str
    alpha: float
    probes: ConceptResult

    def profile(
        self,
        pairs: Sequence[tuple[str, str]],
        margin: float = MARGIN,
        near: Mapping[str, Sequence[str]] | None = None,
    ) -> Profile:
        """Compare pairs of taps concept by concept.

        ``[low, high] = d ± t·se``: ``se`` from a jackknife over folds (the folds of both sides are the same samples),
        ``t`` Student's with ``folds - 1`` degrees of freedom, two-sided at ``alpha`` over all comparisons and concepts
        (Bonferroni). ``margin`` is the noise floor of training: separately trained copies of one network differ, and no
        interval over samples shows that. Give what such copies differ by where there are any; the default 0.05 is our
        choice.

        Args:
            pairs: names of taps.
            margin: see above.
            near: for each tap those one level earlier and later in its stream. Levels of two networks need not
                correspond one to one, and copies of one network form a concept at slightly different depths: with
                ``near``, a concept is special only if the other side does not tell it one level on or back either.

        Raises:
            InputError: an unknown tap.
        """
        taps = self.probes.taps
        near = near or {}
        unknown = [name for pair in (*pairs, *near.values()) for name in pair if name not in taps]
        if unknown:
            raise InputError(f"expected taps of {list(taps)}, got {unknown[0]!r}")
        if not pairs:
            none = np.zeros((0, len(next(iter(taps.values())).iou)))
            return Profile((), none, none, none, none, none.astype(str), margin)
        from scipy.special import stdtrit

        needed = {pair for a, b in pairs for pair in ((a, b), *((a, n) for n in near.get(b, ())))}
        needed |= {(n, b) for a, b in pairs for n in near.get(a, ())}
        d = {(a, b): taps[a].score - taps[b].score for a, b in needed}
        cells = max(int(sum(np.isfinite(v).sum() for v in d.values())), 1)
        folds = max(len(taps[a].sizes) for a, _ in pairs)
        t = stdtrit(max(folds - 1, 1), 1 - self.alpha / 2 / cells) if folds > 1 else float("nan")
        width = {(a, b): t * _spread(taps[a], taps[b]) for a, b in needed}
        found = np.stack([d[pair] for pair in pairs])
        low, high = (np.stack([d[pair] + sign * width[pair] for pair in pairs]) for sign in (-1, 1))
        better = np.stack([_least([d[a, n] - width[a, n] for n in (b, *near.get(b, ()))]) for a, b in pairs])
        worse = np.stack([_least([-d[n, b] - width[n, b] for n in (a, *near.get(a, ()))]) for a, b in pairs])
        ours, theirs = (np.stack([taps[pair[side]].encoded for pair in pairs]) for side in (0, 1))
        with np.errstate(invalid="ignore"):
            rules = {"a": ours & (better > margin), "b": theirs & (worse > margin), "both": ours & theirs}
            kind = np.full(found.shape, "neither", dtype=object)
            for name in ("both", "b", "a"):
                kind[rules[name]] = name
        kind[~np.isfinite(found)] = ""
        return Profile(tuple(pairs), found, low, high, np.maximum(better, worse), kind, margin)


def _least(values: Sequence[Array]) -> Array:
    """The least of what could be told; the first value decides whether there is one."""
    rest = [np.where(np.isfinite(v), v, np.inf) for v in values[1:]]
    return np.minimum.reduce([values[0], *rest])


def _spread(a: Any, b: Any) -> Array:
    if len(a.sizes) < 2 or len(a.sizes) != len(b.sizes):
        return np.full(len(a.score), np.nan)
    return grouped_jackknife(a.score - b.score, a.without - b.without, a.sizes)


class SemanticVariance(ConceptProbe):
    """Semantic variance between all taps: how differently they tell the concepts.

    ``SV(A, B)`` integrates ``d_c = s_c^A - s_c^B`` over concepts (``functional.semantic_variance``), where ``s_c`` is
    the held-out set IoU of ``ConceptProbe`` as a share of what is possible above its null, ``(IoU - null)/(1 - null)``;
    the value of the raw IoUs is given beside it. No unit. Source: arXiv 2308.10019 and claim 1 of US 12,283,082 B1 for
    the procedure; null, scores, aggregation and floor are our reconstruction.

    The floor is the SV that refits alone give: probes fitted on one half of the folds against the other half, in
    several random splits, the same for all taps; an SV at its floor is no difference. It does not hold what another
    training of the same network would change: for that compare trained copies.

    Args:
        agg: "l1" (default), "l2", "popvar" or "sum".
        taps, concepts, and others: see ``ConceptProbe``.

    Raises:
        InputError: as ``ConceptProbe``; an unknown ``agg``.

    >>> import torch
    >>> x, labels = torch.randn(400, 3), torch.arange(400) % 2
    >>> metric = SemanticVariance(["a", "b"], 2)
    >>> for number in range(metric.passes):
    ...     if number:
    ...         metric.advance()
    ...     context = metric.context(400, labels, 0)
    ...     taps = {"a": x, "b": x + 6 * labels[:, None]}
    ...     metric.update({tap: metric.reduce(f, context, tap) for tap, f in taps.items()}, context)
    >>> metric.compute().profile([("a", "b")]).kind.tolist()
    [['b', 'b']]
    """

    def __init__(self, taps: Iterable[str], concepts: int, *, agg: str = "l1", **kwargs: Any) -> None:
        super().__init__(taps, concepts, **kwargs)
        integrate(np.zeros(1), agg)
        self.agg: str = agg

    def settings(self) -> dict[str, Any]:
        """Return what two instruments must share to be merged."""
        return {**super().settings(), "agg": self.agg}

    def compute(self) -> VarianceResult:  # ty: ignore[incompatible-method-override]
        """Return the matrix with its intervals and floor, and every tap's concepts."""
        return variances(super().compute(), self.taps, self.agg, self.alpha)


def variances(found: ConceptResult, taps: tuple[str, ...], agg: str, alpha: float) -> VarianceResult:
    """Return the semantic variance of all pairs of taps from their concepts."""
    L = len(taps)
    parts = [found.taps[tap] for tap in taps]
    names = ("matrix", "raw", "low", "high", "floor", "shuffled", "concepts")
    out = {name: np.full((L, L), np.nan) for name in names}
    reason = np.full((L, L), "", dtype=object)
    for i, a in enumerate(parts):
        for j, b in enumerate(parts[: i + 1]):
            values, why = _pair(a, b, agg, alpha)
            reason[i, j] = reason[j, i] = why
            for name, value in zip(names, values, strict=True):
                out[name][i, j] = out[name][j, i] = value
    return VarianceResult(taps, **out, reason=reason.astype(str), agg=agg, alpha=alpha, probes=found)


def _pair(a: Any, b: Any, agg: str, alpha: float) -> tuple[tuple[float, ...], str]:
    from scipy.special import stdtrit

    told = np.isfinite(a.score) & np.isfinite(b.score)
    nan = float("nan")
    if not told.any():
        words = [r for r in dict.fromkeys([*a.reason, *b.reason]) if r]
        return (nan,) * 6 + (0.0,), "; ".join(words[:2]) or "no concept has a value in both"
    d = (a.score - b.score)[told]
    sv = float(integrate(d, agg))
    raw = float(integrate((a.iou - b.iou)[told], agg))
    low = high = nan
    if len(a.sizes) > 1 and len(a.sizes) == len(b.sizes):
        without = integrate((a.without - b.without)[:, told], agg)
        width = stdtrit(len(a.sizes) - 1, 1 - alpha / 2) * float(
            grouped_jackknife(np.asarray(sv), np.asarray(without), a.sizes)
        )
        low, high = sv - width, sv + width
    noise = (a.refit - b.refit)[:, told] if len(a.refit) == len(b.refit) else np.full((1, 1), nan)
    floor = float(np.mean(integrate(noise, agg))) if noise.size else nan
    shuffled = float(np.abs(a.score[told][:, None] - b.score[told]).mean())
    return (sv, raw, low, high, floor, shuffled, float(told.sum())), ""
