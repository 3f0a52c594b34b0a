"""Set IoU of concepts, semantic variance, and the joint score of two representations."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from fusionscope.errors import InputError, did_you_mean

Array = np.ndarray
AGGS = ("l1", "l2", "popvar", "sum")


def set_iou(scores: Any, masks: Any, threshold: float) -> float:
    """Set IoU of thresholded scores with a concept's masks: sums over all samples first, then one ratio.

    ``IoU_set = Σ_x |[s(x) > t] ∧ L(x)| / Σ_x |[s(x) > t] ∨ L(x)|``, not the mean of the samples' IoUs. No unit; NaN
    where both sides are empty. Source: Fong and Vedaldi 2018, arXiv 1801.03454; step S3 of claim 1 of US 12,283,082 B1.

    Args:
        scores: ``[N, ...]``, the concept's total activation, at the masks' resolution.
        masks: of the same shape, true where the concept is.
        threshold: in the unit of the scores; above it counts as predicted.

    Raises:
        InputError: shapes that differ.

    >>> round(set_iou([[0.9, 0.2], [0.7, 0.1]], [[True, False], [False, True]], 0.5), 6)
    0.333333
    """
    s, m = torch.as_tensor(scores), torch.as_tensor(masks).bool()
    if s.shape != m.shape:
        raise InputError(
            f"expected scores and masks of one shape, got {tuple(s.shape)} and {tuple(m.shape)}; resize the scores"
        )
    said = s > threshold
    union = int((said | m).sum())
    return int((said & m).sum()) / union if union else float("nan")


def semantic_variance(iou_a: Any, iou_b: Any, agg: str = "l1") -> float:
    """Semantic variance of two representations from the set IoU of each concept in both.

    With ``d_c = s_c^A - s_c^B`` over ``C`` concepts: ``l1`` = ``Σ|d_c|/C`` (in [0, 1], a pseudometric), ``l2`` =
    ``Σ d_c²/C``, ``popvar`` = ``l2/4`` (the mean population variance of the pair), ``sum`` = ``Σ|d_c|``. No unit. NaN
    if any IoU is. The procedure (one set IoU per concept and representation, their variance, integrated over concepts)
    is claim 1 of US 12,283,082 B1 and arXiv 2308.10019; the aggregators are our reconstruction.

    Raises:
        InputError: lengths that differ, no concept, an unknown ``agg``.

    >>> a, b = (0.30, 0.10, 0.05, 0.0), (0.20, 0.10, 0.15, 0.08)
    >>> [round(semantic_variance(a, b, agg), 6) for agg in ("l1", "sum", "l2", "popvar")]
    [0.07, 0.28, 0.0066, 0.00165]
    """
    a, b = _vector(iou_a), _vector(iou_b)
    if a.shape != b.shape or not len(a):
        raise InputError(f"expected the IoU of the same concepts twice, got {len(a)} and {len(b)}")
    return float(integrate(a - b, agg))


def integrate(d: Float64[Array, "*more C"], agg: str) -> Float64[Array, "*more"]:
    """Integrate differences over the concepts on the last axis; see ``semantic_variance``."""
    if agg not in AGGS:
        raise InputError(f"expected agg of {list(AGGS)}, got {agg!r}.{did_you_mean(str(agg), AGGS)}")
    if agg in ("l1", "sum"):
        total = np.abs(d).sum(-1)
        return np.asarray(total / d.shape[-1] if agg == "l1" else total)
    return np.asarray((d**2).mean(-1) / (4 if agg == "popvar" else 1))


class JointScore(NamedTuple):
    """``variance`` is the semantic variance over its mean under shuffled concepts; see ``joint_score``."""

    variance: float
    consistency: float
    speciality: float


def joint_score(similarity: float, iou_a: Any, iou_b: Any) -> JointScore:
    """Joint score of feature similarity and semantic variance, our reconstruction.

    ``ν = SV / mean_{c, c'} |s_c^A - s_{c'}^B|``: the L1 semantic variance over its mean when the concepts of one side
    are shuffled. ``J_c = FS (1 - ν)`` is large where the features are alike and tell the same concepts, ``J_s =
    (1 - FS) ν`` where neither holds. No unit; not clamped. NaN where all IoUs are the same.

    Args:
        similarity: feature similarity FS, such as unbiased linear CKA.
        iou_a, iou_b: IoU of the same concepts.

    >>> joint_score(0.5, (0.5, 0.1), (0.5, 0.1)).consistency
    0.5
    """
    a, b = _vector(iou_a), _vector(iou_b)
    shuffled = float(np.abs(a[:, None] - b).mean())
    variance = semantic_variance(a, b) / shuffled if shuffled > 1e-12 else float("nan")
    return JointScore(variance, similarity * (1 - variance), (1 - similarity) * variance)


def _vector(values: Any) -> Float64[Array, "C"]:
    values = values.detach().cpu() if isinstance(values, Tensor) else values
    return np.asarray(values, dtype=np.float64).reshape(-1)
