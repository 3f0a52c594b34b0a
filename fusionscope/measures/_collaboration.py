"""What joint training did to a pair of streams: pressed them together, apart, or both at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from fusionscope.errors import InputError

from ._semantic import MARGIN, VarianceResult
from .functional._concepts import integrate
from .functional._resampling import grouped_jackknife

Array = np.ndarray
Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, eq=False)
class Pressure:
    """Differences between the joint pair and the solo pair of each level.

    ``joint``, ``solo``, ``difference``, ``low``, ``high`` and ``pressure`` are ``[levels, 1 + C]``: column 0 is the
    semantic variance, column ``c + 1`` is ``|d_c|``. ``low`` and ``high`` hold for all levels and columns together.
    ``pressure`` is "consistency" (below ``-margin``), "speciality" (above ``margin``) or "". ``hybrid``: at least one
    of each survives.
    """

    joint: Float64[Array, "levels cells"]
    solo: Float64[Array, "levels cells"]
    difference: Float64[Array, "levels cells"]
    low: Float64[Array, "levels cells"]
    high: Float64[Array, "levels cells"]
    pressure: Any
    margin: float

    @property
    def hybrid(self) -> bool:
        """Both pressures survive somewhere."""
        return bool((self.pressure == "consistency").any() and (self.pressure == "speciality").any())


def pressure(
    result: VarianceResult,
    joint: Pairs,
    solo: Pairs,
    margin: float = MARGIN,
    near: Sequence[Sequence[int]] | None = None,
) -> Pressure:
    """Compare two streams inside a joint network with their separately trained twins, level by level.

    ``SV(joint_A, joint_B) - SV(solo_A, solo_B)``, and the same for ``|d_c|`` of each concept: below zero the joint
    training made the streams tell the concepts more alike (consistency pressure), above zero less (speciality
    pressure). The limits are ``± t·se``, ``se`` from a jackknife over folds, ``t`` Student's at the result's ``alpha``
    over all levels and concepts (Bonferroni). ``margin`` stands for what another training alone changes. Question Q3 of
    arXiv 2308.10019; the rule is our reconstruction.

    Args:
        result: of ``SemanticVariance`` with all four taps of each level.
        joint, solo: the pair of taps of each level, in the joint network and in the twins.
        margin: see above.
        near: for each level, the positions of the levels before and after it. Then a pressure counts only if it is also
            there against the twins one level earlier and later, since networks form a concept at different depths.

    Raises:
        InputError: another number of joint than of solo pairs, or none.
    """
    if len(joint) != len(solo) or not joint:
        raise InputError(f"expected as many joint as solo pairs, got {len(joint)} and {len(solo)}")
    taps = result.probes.taps

    from scipy.special import stdtrit

    def cells(pairs: Pairs, field: str) -> Array:
        """``[levels, ..., 1 + C]``: the semantic variance, then each concept's ``|d|``."""
        rows = []
        for (a, b), others in zip(pairs, zip(joint, solo, strict=True), strict=True):
            d = np.abs(getattr(taps[a], field) - getattr(taps[b], field))
            told = np.all([np.isfinite(taps[t].score) for pair in others for t in pair], axis=0)
            total = integrate(d[..., told], result.agg) if told.any() else np.full(d.shape[:-1], np.nan)
            rows.append(np.concatenate([np.asarray(total)[..., None], np.where(told, d, np.nan)], -1))
        return np.stack(rows)

    together, apart = cells(joint, "score"), cells(solo, "score")
    sizes = taps[joint[0][0]].sizes
    sound = len(sizes) > 1 and all(len(taps[t].sizes) == len(sizes) for pair in (*joint, *solo) for t in pair)
    without = (cells(joint, "without"), cells(solo, "without")) if sound else None
    others = [[i, *(near[i] if near else ())] for i in range(len(joint))]
    difference = together - apart
    count = max(int(np.isfinite(difference).sum()) * max(len(o) for o in others), 1)
    t = stdtrit(max(len(sizes) - 1, 1), 1 - result.alpha / 2 / count)
    low, high = np.full(difference.shape, np.nan), np.full(difference.shape, np.nan)
    least, most = low.copy(), high.copy()
    for i, levels in enumerate(others):
        bounds = []
        for k in levels:
            gap = together[i] - apart[k]
            se = np.full(gap.shape, np.nan)
            if without is not None:
                se = grouped_jackknife(gap, without[0][i] - without[1][k], sizes)
            bounds.append((gap - t * se, gap + t * se))
        low[i], high[i] = bounds[0]
        least[i] = np.min([b[0] for b in bounds], 0)
        most[i] = np.max([b[1] for b in bounds], 0)
    said = np.full(difference.shape, "", dtype=object)
    with np.errstate(invalid="ignore"):
        said[most < -margin] = "consistency"
        said[least > margin] = "speciality"
    return Pressure(together, apart, difference, low, high, said, margin)
