"""Pure functions of tensors behind the instruments; the measures of similarity and variance take NumPy arrays too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusionscope._lazy import attach

if TYPE_CHECKING:
    from ._arrays import as_tensor as as_tensor
    from ._cka import centred_gram as centred_gram
    from ._cka import cka as cka
    from ._cka import hsic1 as hsic1
    from ._cka import u_center as u_center
    from ._concepts import JointScore as JointScore
    from ._concepts import joint_score as joint_score
    from ._concepts import semantic_variance as semantic_variance
    from ._concepts import set_iou as set_iou
    from ._resampling import family_bound as family_bound
    from ._resampling import grouped_jackknife as grouped_jackknife
    from ._scores import resolve_score as resolve_score
    from ._similarity import channel_correlation as channel_correlation
    from ._similarity import mutual_knn as mutual_knn
    from ._similarity import procrustes as procrustes
    from ._similarity import rsa as rsa
    from ._similarity import svcca as svcca
    from ._variance import eta_squared as eta_squared
    from ._variance import variance_shares as variance_shares

__getattr__, __dir__ = attach(
    __name__,
    {
        "JointScore": "_concepts",
        "as_tensor": "_arrays",
        "centred_gram": "_cka",
        "channel_correlation": "_similarity",
        "cka": "_cka",
        "eta_squared": "_variance",
        "family_bound": "_resampling",
        "grouped_jackknife": "_resampling",
        "hsic1": "_cka",
        "joint_score": "_concepts",
        "mutual_knn": "_similarity",
        "procrustes": "_similarity",
        "resolve_score": "_scores",
        "rsa": "_similarity",
        "semantic_variance": "_concepts",
        "set_iou": "_concepts",
        "svcca": "_similarity",
        "u_center": "_cka",
        "variance_shares": "_variance",
    },
)

__all__ = [
    "JointScore",
    "as_tensor",
    "centred_gram",
    "channel_correlation",
    "cka",
    "eta_squared",
    "family_bound",
    "grouped_jackknife",
    "hsic1",
    "joint_score",
    "mutual_knn",
    "procrustes",
    "resolve_score",
    "rsa",
    "semantic_variance",
    "set_iou",
    "svcca",
    "u_center",
    "variance_shares",
]
