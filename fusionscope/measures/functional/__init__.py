"""Pure functions of tensors behind the instruments; the measures of similarity and variance take NumPy arrays too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusionscope._lazy import attach

if TYPE_CHECKING:
    from ._arrays import as_tensor as as_tensor
    from ._broja import BrojaResult as BrojaResult
    from ._broja import broja as broja
    from ._cka import centred_gram as centred_gram
    from ._cka import cka as cka
    from ._cka import hsic1 as hsic1
    from ._cka import u_center as u_center
    from ._concepts import JointScore as JointScore
    from ._concepts import joint_score as joint_score
    from ._concepts import semantic_variance as semantic_variance
    from ._concepts import set_iou as set_iou
    from ._discoveries import benjamini_hochberg as benjamini_hochberg
    from ._discoveries import mean_test as mean_test
    from ._emap import emap as emap
    from ._games import Cooperation as Cooperation
    from ._games import InterSHAP as InterSHAP
    from ._games import ShapeShares as ShapeShares
    from ._games import intershap as intershap
    from ._games import sample_valuation as sample_valuation
    from ._games import shape_scores as shape_scores
    from ._games import shapley as shapley
    from ._linear_probe import ProbeAccuracy as ProbeAccuracy
    from ._linear_probe import probe_accuracy as probe_accuracy
    from ._maps import pack_bits as pack_bits
    from ._maps import unpack_bits as unpack_bits
    from ._net2vec import Net2VecFit as Net2VecFit
    from ._net2vec import binarise as binarise
    from ._net2vec import net2vec_fit as net2vec_fit
    from ._net2vec import net2vec_maps as net2vec_maps
    from ._paired import PairedDifference as PairedDifference
    from ._paired import holm as holm
    from ._paired import mean_interval as mean_interval
    from ._paired import paired_difference as paired_difference
    from ._paired import sign_flip_test as sign_flip_test
    from ._perceptual import Perceptual as Perceptual
    from ._perceptual import perceptual_score as perceptual_score
    from ._perceptual import permute_within as permute_within
    from ._pid_batch import batch_decomposition as batch_decomposition
    from ._pid_features import Decomposition as Decomposition
    from ._pid_features import cvx_decomposition as cvx_decomposition
    from ._pid_features import decompose as decompose
    from ._pid_features import discretise as discretise
    from ._resampling import family_bound as family_bound
    from ._resampling import grouped_jackknife as grouped_jackknife
    from ._resampling import percentile_interval as percentile_interval
    from ._robustness import CorruptionError as CorruptionError
    from ._robustness import effective_robustness as effective_robustness
    from ._robustness import mean_corruption_error as mean_corruption_error
    from ._robustness import relative_corruption_error as relative_corruption_error
    from ._robustness import relative_robustness as relative_robustness
    from ._scores import resolve_score as resolve_score
    from ._similarity import channel_correlation as channel_correlation
    from ._similarity import mutual_knn as mutual_knn
    from ._similarity import procrustes as procrustes
    from ._similarity import rsa as rsa
    from ._similarity import svcca as svcca
    from ._units import class_selectivity_index as class_selectivity_index
    from ._units import effective_rank as effective_rank
    from ._units import participation_ratio as participation_ratio
    from ._variance import eta_squared as eta_squared
    from ._variance import variance_shares as variance_shares

__getattr__, __dir__ = attach(
    __name__,
    {
        "BrojaResult": "_broja",
        "Cooperation": "_games",
        "CorruptionError": "_robustness",
        "Decomposition": "_pid_features",
        "InterSHAP": "_games",
        "JointScore": "_concepts",
        "Net2VecFit": "_net2vec",
        "PairedDifference": "_paired",
        "Perceptual": "_perceptual",
        "ProbeAccuracy": "_linear_probe",
        "ShapeShares": "_games",
        "as_tensor": "_arrays",
        "batch_decomposition": "_pid_batch",
        "benjamini_hochberg": "_discoveries",
        "binarise": "_net2vec",
        "broja": "_broja",
        "centred_gram": "_cka",
        "channel_correlation": "_similarity",
        "cka": "_cka",
        "class_selectivity_index": "_units",
        "cvx_decomposition": "_pid_features",
        "decompose": "_pid_features",
        "discretise": "_pid_features",
        "effective_rank": "_units",
        "effective_robustness": "_robustness",
        "emap": "_emap",
        "eta_squared": "_variance",
        "family_bound": "_resampling",
        "grouped_jackknife": "_resampling",
        "holm": "_paired",
        "hsic1": "_cka",
        "intershap": "_games",
        "joint_score": "_concepts",
        "mean_corruption_error": "_robustness",
        "mean_interval": "_paired",
        "mean_test": "_discoveries",
        "mutual_knn": "_similarity",
        "net2vec_fit": "_net2vec",
        "net2vec_maps": "_net2vec",
        "pack_bits": "_maps",
        "paired_difference": "_paired",
        "participation_ratio": "_units",
        "percentile_interval": "_resampling",
        "perceptual_score": "_perceptual",
        "permute_within": "_perceptual",
        "probe_accuracy": "_linear_probe",
        "procrustes": "_similarity",
        "relative_corruption_error": "_robustness",
        "relative_robustness": "_robustness",
        "resolve_score": "_scores",
        "rsa": "_similarity",
        "sample_valuation": "_games",
        "semantic_variance": "_concepts",
        "set_iou": "_concepts",
        "shape_scores": "_games",
        "shapley": "_games",
        "sign_flip_test": "_paired",
        "svcca": "_similarity",
        "u_center": "_cka",
        "unpack_bits": "_maps",
        "variance_shares": "_variance",
    },
)

__all__ = [
    "BrojaResult",
    "Cooperation",
    "CorruptionError",
    "Decomposition",
    "InterSHAP",
    "JointScore",
    "Net2VecFit",
    "PairedDifference",
    "Perceptual",
    "ProbeAccuracy",
    "ShapeShares",
    "as_tensor",
    "batch_decomposition",
    "benjamini_hochberg",
    "binarise",
    "broja",
    "centred_gram",
    "channel_correlation",
    "cka",
    "class_selectivity_index",
    "cvx_decomposition",
    "decompose",
    "discretise",
    "effective_rank",
    "effective_robustness",
    "emap",
    "eta_squared",
    "family_bound",
    "grouped_jackknife",
    "holm",
    "hsic1",
    "intershap",
    "joint_score",
    "mean_corruption_error",
    "mean_interval",
    "mean_test",
    "mutual_knn",
    "net2vec_fit",
    "net2vec_maps",
    "pack_bits",
    "paired_difference",
    "participation_ratio",
    "percentile_interval",
    "perceptual_score",
    "permute_within",
    "probe_accuracy",
    "procrustes",
    "relative_corruption_error",
    "relative_robustness",
    "resolve_score",
    "rsa",
    "sample_valuation",
    "semantic_variance",
    "set_iou",
    "shape_scores",
    "shapley",
    "sign_flip_test",
    "svcca",
    "u_center",
    "unpack_bits",
    "variance_shares",
]
