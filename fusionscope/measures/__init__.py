"""The instruments' mathematics: pure functions in ``functional``, and one thin streaming class per instrument.

Every instrument follows one protocol (see ``Instrument``): ``context`` once per batch, ``reduce`` inside the hook,
``update`` after the forward, ``compute`` at the end. This room knows tensors, not models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusionscope._lazy import attach

if TYPE_CHECKING:
    from ._channels import ChannelCorrelation as ChannelCorrelation
    from ._channels import ChannelCorrelationResult as ChannelCorrelationResult
    from ._channels import PairChannels as PairChannels
    from ._cka import CKAResult as CKAResult
    from ._cka import MinibatchCKA as MinibatchCKA
    from ._coalitions import CoalitionTable as CoalitionTable
    from ._coalitions import RemovalResult as RemovalResult
    from ._coalitions import RemovalRow as RemovalRow
    from ._coalitions import sampled_subsets as sampled_subsets
    from ._collaboration import pressure as pressure
    from ._cooperation import CooperationResult as CooperationResult
    from ._cooperation import CooperationRow as CooperationRow
    from ._cooperation import InterShap as InterShap
    from ._cooperation import ShapeResult as ShapeResult
    from ._cooperation import ShapeScores as ShapeScores
    from ._cooperation import cooperations as cooperations
    from ._curves import CurveResult as CurveResult
    from ._curves import EffectiveRobustness as EffectiveRobustness
    from ._curves import MeanCorruptionError as MeanCorruptionError
    from ._curves import RelativeRobustness as RelativeRobustness
    from ._detectors import DetectorResult as DetectorResult
    from ._detectors import TapDetectors as TapDetectors
    from ._detectors import UnitDetectors as UnitDetectors
    from ._emap import Emap as Emap
    from ._emap import EmapResult as EmapResult
    from ._eta import EtaResult as EtaResult
    from ._eta import EtaSquared as EtaSquared
    from ._eta import TapEta as TapEta
    from ._games import ContributionResult as ContributionResult
    from ._games import ContributionRow as ContributionRow
    from ._games import SampleValuation as SampleValuation
    from ._games import Shapley as Shapley
    from ._games import ValuationResult as ValuationResult
    from ._games import contributions as contributions
    from ._games import valuations as valuations
    from ._information import Broja as Broja
    from ._information import InformationResult as InformationResult
    from ._information import InformationRow as InformationRow
    from ._instrument import Instrument as Instrument
    from ._paired import PairedScores as PairedScores
    from ._paired_rows import ClassScores as ClassScores
    from ._paired_rows import PairedResult as PairedResult
    from ._pairwise import PairMatrix as PairMatrix
    from ._pairwise import PairwiseResult as PairwiseResult
    from ._pairwise import PairwiseSimilarity as PairwiseSimilarity
    from ._perceptual import PerceptualResult as PerceptualResult
    from ._perceptual import PerceptualRow as PerceptualRow
    from ._perceptual import PerceptualScore as PerceptualScore
    from ._probe import ConceptProbe as ConceptProbe
    from ._probe import ConceptResult as ConceptResult
    from ._probe import TapConcepts as TapConcepts
    from ._robustness import Robustness as Robustness
    from ._robustness import RobustnessResult as RobustnessResult
    from ._robustness import RobustnessRow as RobustnessRow
    from ._robustness import RobustnessSummary as RobustnessSummary
    from ._samples import sample_hash as sample_hash
    from ._semantic import MARGIN as MARGIN
    from ._semantic import Profile as Profile
    from ._semantic import SemanticVariance as SemanticVariance
    from ._semantic import VarianceResult as VarianceResult
    from ._unit_statistics import StatisticsResult as StatisticsResult
    from ._unit_statistics import TapStatistics as TapStatistics
    from ._unit_statistics import UnitStatistics as UnitStatistics
    from ._whole_cka import CKA as CKA
    from ._whole_cka import WholeCKAResult as WholeCKAResult
    from .functional._scores import Score as Score
    from .functional._scores import resolve_score as resolve_score

__getattr__, __dir__ = attach(
    __name__,
    {
        "Broja": "_information",
        "CKA": "_whole_cka",
        "CKAResult": "_cka",
        "ChannelCorrelation": "_channels",
        "ChannelCorrelationResult": "_channels",
        "ClassScores": "_paired_rows",
        "CoalitionTable": "_coalitions",
        "ConceptProbe": "_probe",
        "ConceptResult": "_probe",
        "ContributionResult": "_games",
        "ContributionRow": "_games",
        "CooperationResult": "_cooperation",
        "CooperationRow": "_cooperation",
        "CurveResult": "_curves",
        "DetectorResult": "_detectors",
        "EffectiveRobustness": "_curves",
        "Emap": "_emap",
        "EmapResult": "_emap",
        "EtaResult": "_eta",
        "EtaSquared": "_eta",
        "InformationResult": "_information",
        "InformationRow": "_information",
        "Instrument": "_instrument",
        "InterShap": "_cooperation",
        "MARGIN": "_semantic",
        "MeanCorruptionError": "_curves",
        "MinibatchCKA": "_cka",
        "PairChannels": "_channels",
        "PairMatrix": "_pairwise",
        "PairedResult": "_paired_rows",
        "PairedScores": "_paired",
        "PairwiseResult": "_pairwise",
        "PairwiseSimilarity": "_pairwise",
        "PerceptualResult": "_perceptual",
        "PerceptualRow": "_perceptual",
        "PerceptualScore": "_perceptual",
        "Profile": "_semantic",
        "RelativeRobustness": "_curves",
        "RemovalResult": "_coalitions",
        "RemovalRow": "_coalitions",
        "Robustness": "_robustness",
        "RobustnessResult": "_robustness",
        "RobustnessRow": "_robustness",
        "RobustnessSummary": "_robustness",
        "SampleValuation": "_games",
        "Score": "functional._scores",
        "SemanticVariance": "_semantic",
        "ShapeResult": "_cooperation",
        "ShapeScores": "_cooperation",
        "Shapley": "_games",
        "StatisticsResult": "_unit_statistics",
        "TapConcepts": "_probe",
        "TapDetectors": "_detectors",
        "TapEta": "_eta",
        "TapStatistics": "_unit_statistics",
        "UnitDetectors": "_detectors",
        "UnitStatistics": "_unit_statistics",
        "ValuationResult": "_games",
        "VarianceResult": "_semantic",
        "WholeCKAResult": "_whole_cka",
        "contributions": "_games",
        "cooperations": "_cooperation",
        "functional": "",
        "pressure": "_collaboration",
        "resolve_score": "functional._scores",
        "sample_hash": "_samples",
        "sampled_subsets": "_coalitions",
        "valuations": "_games",
    },
)

__all__ = [
    "CKA",
    "MARGIN",
    "Broja",
    "CKAResult",
    "ChannelCorrelation",
    "ChannelCorrelationResult",
    "ClassScores",
    "CoalitionTable",
    "ConceptProbe",
    "ConceptResult",
    "ContributionResult",
    "ContributionRow",
    "CooperationResult",
    "CooperationRow",
    "CurveResult",
    "DetectorResult",
    "EffectiveRobustness",
    "Emap",
    "EmapResult",
    "EtaResult",
    "EtaSquared",
    "InformationResult",
    "InformationRow",
    "Instrument",
    "InterShap",
    "MeanCorruptionError",
    "MinibatchCKA",
    "PairChannels",
    "PairMatrix",
    "PairedResult",
    "PairedScores",
    "PairwiseResult",
    "PairwiseSimilarity",
    "PerceptualResult",
    "PerceptualRow",
    "PerceptualScore",
    "Profile",
    "RelativeRobustness",
    "RemovalResult",
    "RemovalRow",
    "Robustness",
    "RobustnessResult",
    "RobustnessRow",
    "RobustnessSummary",
    "SampleValuation",
    "Score",
    "SemanticVariance",
    "ShapeResult",
    "ShapeScores",
    "Shapley",
    "StatisticsResult",
    "TapConcepts",
    "TapDetectors",
    "TapEta",
    "TapStatistics",
    "UnitDetectors",
    "UnitStatistics",
    "ValuationResult",
    "VarianceResult",
    "WholeCKAResult",
    "contributions",
    "cooperations",
    "pressure",
    "resolve_score",
    "sample_hash",
    "sampled_subsets",
    "valuations",
]
