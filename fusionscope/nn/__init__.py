"""Parts (encoders, norms, exchanges, calibration, fuses, heads), models made of them, and surgery on users' models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusionscope._lazy import attach

if TYPE_CHECKING:
    from ._attach import attach_calibration as attach_calibration
    from ._attach import detach_calibration as detach_calibration
    from ._calibration import ContextualCalibration as ContextualCalibration
    from ._encoders import ClipEncoder as ClipEncoder
    from ._encoders import MapEncoder as MapEncoder
    from ._encoders import SequenceEncoder as SequenceEncoder
    from ._encoders import VectorEncoder as VectorEncoder
    from ._fuse import Concat as Concat
    from ._heads import DenseHead as DenseHead
    from ._heads import VectorHead as VectorHead
    from ._model import FusionNet as FusionNet
    from ._model import build_model as build_model

_exports = {
    "ClipEncoder": "_encoders",
    "Concat": "_fuse",
    "ContextualCalibration": "_calibration",
    "DenseHead": "_heads",
    "FusionNet": "_model",
    "MapEncoder": "_encoders",
    "SequenceEncoder": "_encoders",
    "VectorEncoder": "_encoders",
    "VectorHead": "_heads",
    "attach_calibration": "_attach",
    "build_model": "_model",
    "detach_calibration": "_attach",
}
__getattr__, __dir__ = attach(__name__, _exports)
__all__ = sorted(_exports)
