"""Parts (encoders, norms, exchanges, calibration, fuses, heads), models made of them, and surgery on users' models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusionscope._lazy import attach

if TYPE_CHECKING:
    from ._encoders import ClipEncoder as ClipEncoder
    from ._encoders import MapEncoder as MapEncoder
    from ._encoders import SequenceEncoder as SequenceEncoder
    from ._encoders import VectorEncoder as VectorEncoder
    from ._fuse import Concat as Concat
    from ._heads import DenseHead as DenseHead
    from ._heads import VectorHead as VectorHead
    from ._hf import HFBackbone as HFBackbone
    from ._hf import hf_backbone as hf_backbone
    from ._model import FusionNet as FusionNet
    from ._model import build_model as build_model
    from ._resnet import ResNet as ResNet
    from ._resnet import resnet18 as resnet18
    from ._resnet import resnet34 as resnet34
    from ._resnet import resnet50 as resnet50
    from ._resnet import resnet101 as resnet101
    from ._resnet import resnet152 as resnet152
    from ._transformer import TokenEncoder as TokenEncoder
    from ._wrappers import Pooled as Pooled

_exports = {
    "ClipEncoder": "_encoders",
    "Concat": "_fuse",
    "DenseHead": "_heads",
    "FusionNet": "_model",
    "HFBackbone": "_hf",
    "MapEncoder": "_encoders",
    "Pooled": "_wrappers",
    "ResNet": "_resnet",
    "SequenceEncoder": "_encoders",
    "TokenEncoder": "_transformer",
    "VectorEncoder": "_encoders",
    "VectorHead": "_heads",
    "build_model": "_model",
    "hf_backbone": "_hf",
    "resnet101": "_resnet",
    "resnet152": "_resnet",
    "resnet18": "_resnet",
    "resnet34": "_resnet",
    "resnet50": "_resnet",
}
__getattr__, __dir__ = attach(__name__, _exports)
__all__ = sorted(_exports)
