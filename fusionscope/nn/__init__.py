"""Parts (encoders, norms, exchanges, calibration, fuses, heads), models made of them, and surgery on users' models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusionscope._lazy import attach

if TYPE_CHECKING:
    from . import functional as functional
    from ._attach import attach_calibration as attach_calibration
    from ._attach import detach_calibration as detach_calibration
    from ._attention_fuses import BottleneckAttention as BottleneckAttention
    from ._attention_fuses import CrossAttention as CrossAttention
    from ._calibration import ContextualCalibration as ContextualCalibration
    from ._channel_exchange import ChannelExchange as ChannelExchange
    from ._classifier import Classifier as Classifier
    from ._consistency import ConsistencySpeciality as ConsistencySpeciality
    from ._discriminator import PatchDiscriminator as PatchDiscriminator
    from ._encoders import ClipEncoder as ClipEncoder
    from ._encoders import MapEncoder as MapEncoder
    from ._encoders import SequenceEncoder as SequenceEncoder
    from ._encoders import VectorEncoder as VectorEncoder
    from ._evidential import Evidential as Evidential
    from ._fuse import Concat as Concat
    from ._fuse import Mean as Mean
    from ._fuse import Sum as Sum
    from ._fuse import SumAndProduct as SumAndProduct
    from ._gated import Gated as Gated
    from ._heads import DenseHead as DenseHead
    from ._heads import VectorHead as VectorHead
    from ._hf import HFBackbone as HFBackbone
    from ._hf import hf_backbone as hf_backbone
    from ._hf import hf_configuration as hf_configuration
    from ._hf import hf_from_configuration as hf_from_configuration
    from ._late import LateFusion as LateFusion
    from ._late import LearnedEnsemble as LearnedEnsemble
    from ._model import FusionNet as FusionNet
    from ._model import build_model as build_model
    from ._norms import ModalityNorm as ModalityNorm
    from ._refine import RefineNet as RefineNet
    from ._resnet import ResNet as ResNet
    from ._resnet import resnet18 as resnet18
    from ._resnet import resnet34 as resnet34
    from ._resnet import resnet50 as resnet50
    from ._resnet import resnet101 as resnet101
    from ._resnet import resnet152 as resnet152
    from ._segmenter import Segmenter as Segmenter
    from ._sequence_model import SequenceModel as SequenceModel
    from ._share import SharedEncoder as SharedEncoder
    from ._share import share as share
    from ._share import unshare as unshare
    from ._shuffle import AsymFusion as AsymFusion
    from ._shuffle import ChannelShuffle as ChannelShuffle
    from ._shuffle import PixelShift as PixelShift
    from ._student import StudentFusion as StudentFusion
    from ._tensor_fusion import Bilinear as Bilinear
    from ._tensor_fusion import LowRankTensorFusion as LowRankTensorFusion
    from ._tensor_fusion import TensorFusion as TensorFusion
    from ._transformer import TokenEncoder as TokenEncoder
    from ._translator import Translator as Translator
    from ._unet import UNet as UNet
    from ._wrappers import Pooled as Pooled

_exports = {
    "AsymFusion": "_shuffle",
    "Bilinear": "_tensor_fusion",
    "BottleneckAttention": "_attention_fuses",
    "ChannelExchange": "_channel_exchange",
    "ChannelShuffle": "_shuffle",
    "Classifier": "_classifier",
    "ClipEncoder": "_encoders",
    "Concat": "_fuse",
    "ConsistencySpeciality": "_consistency",
    "ContextualCalibration": "_calibration",
    "CrossAttention": "_attention_fuses",
    "DenseHead": "_heads",
    "Evidential": "_evidential",
    "FusionNet": "_model",
    "Gated": "_gated",
    "HFBackbone": "_hf",
    "LateFusion": "_late",
    "LearnedEnsemble": "_late",
    "LowRankTensorFusion": "_tensor_fusion",
    "MapEncoder": "_encoders",
    "Mean": "_fuse",
    "ModalityNorm": "_norms",
    "PatchDiscriminator": "_discriminator",
    "PixelShift": "_shuffle",
    "Pooled": "_wrappers",
    "RefineNet": "_refine",
    "ResNet": "_resnet",
    "Segmenter": "_segmenter",
    "SequenceEncoder": "_encoders",
    "SequenceModel": "_sequence_model",
    "SharedEncoder": "_share",
    "StudentFusion": "_student",
    "Sum": "_fuse",
    "SumAndProduct": "_fuse",
    "TensorFusion": "_tensor_fusion",
    "TokenEncoder": "_transformer",
    "Translator": "_translator",
    "UNet": "_unet",
    "VectorEncoder": "_encoders",
    "VectorHead": "_heads",
    "attach_calibration": "_attach",
    "build_model": "_model",
    "detach_calibration": "_attach",
    "hf_backbone": "_hf",
    "hf_configuration": "_hf",
    "hf_from_configuration": "_hf",
    "resnet101": "_resnet",
    "resnet152": "_resnet",
    "resnet18": "_resnet",
    "resnet34": "_resnet",
    "resnet50": "_resnet",
    "share": "_share",
    "unshare": "_share",
}
__getattr__, __dir__ = attach(__name__, _exports | {"functional": ""})
__all__ = sorted(_exports)
