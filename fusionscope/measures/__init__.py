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
    from ._detectors import DetectorResult as DetectorResult
    from ._detectors import TapDetectors as TapDetectors
    from ._detectors import UnitDetectors as UnitDetectors
    from ._eta import EtaResult as EtaResult
    from ._eta import EtaSquared as EtaSquared
    from ._eta import TapEta as TapEta
    from ._information import Broja as Broja
    from ._information import InformationResult as InformationResult
    from ._information import InformationRow as InformationRow
    from ._instrument import Instrument as Instrument
    from ._pairwise import PairMatrix as PairMatrix
    from ._pairwise import PairwiseResult as PairwiseResult
    from ._pairwise import PairwiseSimilarity as PairwiseSimilarity
    from ._probe import ConceptProbe as ConceptProbe
    from ._probe import ConceptResult as ConceptResult
    from ._probe import TapConcepts as TapConcepts
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
        "CoalitionTable": "_coalitions",
        "ConceptProbe": "_probe",
        "ConceptResult": "_probe",
        "DetectorResult": "_detectors",
        "EtaResult": "_eta",
        "EtaSquared": "_eta",
        "InformationResult": "_information",
        "InformationRow": "_information",
        "Instrument": "_instrument",
        "MinibatchCKA": "_cka",
        "PairChannels": "_channels",
        "PairMatrix": "_pairwise",
        "PairwiseResult": "_pairwise",
        "PairwiseSimilarity": "_pairwise",
        "Profile": "_semantic",
        "RemovalResult": "_coalitions",
        "RemovalRow": "_coalitions",
        "Score": "functional._scores",
        "SemanticVariance": "_semantic",
        "StatisticsResult": "_unit_statistics",
        "TapConcepts": "_probe",
        "TapDetectors": "_detectors",
        "TapEta": "_eta",
        "TapStatistics": "_unit_statistics",
        "UnitDetectors": "_detectors",
        "UnitStatistics": "_unit_statistics",
        "VarianceResult": "_semantic",
        "WholeCKAResult": "_whole_cka",
        "functional": "",
        "resolve_score": "functional._scores",
    },
)

__all__ = [
    "CKA",
    "Broja",
    "CKAResult",
    "ChannelCorrelation",
    "ChannelCorrelationResult",
    "CoalitionTable",
    "ConceptProbe",
    "ConceptResult",
    "DetectorResult",
    "EtaResult",
    "EtaSquared",
    "InformationResult",
    "InformationRow",
    "Instrument",
    "MinibatchCKA",
    "PairChannels",
    "PairMatrix",
    "PairwiseResult",
    "PairwiseSimilarity",
    "Profile",
    "RemovalResult",
    "RemovalRow",
    "Score",
    "SemanticVariance",
    "StatisticsResult",
    "TapConcepts",
    "TapDetectors",
    "TapEta",
    "TapStatistics",
    "UnitDetectors",
    "UnitStatistics",
    "VarianceResult",
    "WholeCKAResult",
    "resolve_score",
]
