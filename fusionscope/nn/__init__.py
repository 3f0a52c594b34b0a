"""Parts (encoders, norms, exchanges, calibration, fuses, heads), models made of them, and surgery on users' models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusionscope._lazy import attach

if TYPE_CHECKING:
    from . import functional as functional
    from ._channel_exchange import ChannelExchange as ChannelExchange
    from ._consistency import ConsistencySpeciality as ConsistencySpeciality
    from ._encoders import ClipEncoder as ClipEncoder
    from ._encoders import MapEncoder as MapEncoder
    from ._encoders import SequenceEncoder as SequenceEncoder
    from ._encoders import VectorEncoder as VectorEncoder
    from ._fuse import Concat as Concat
    from ._heads import DenseHead as DenseHead
    from ._heads import VectorHead as VectorHead
    from ._model import FusionNet as FusionNet
    from ._model import build_model as build_model
    from ._shuffle import AsymFusion as AsymFusion
    from ._shuffle import ChannelShuffle as ChannelShuffle
    from ._shuffle import PixelShift as PixelShift

_exports = {
    "AsymFusion": "_shuffle",
    "ChannelExchange": "_channel_exchange",
    "ChannelShuffle": "_shuffle",
    "ClipEncoder": "_encoders",
    "Concat": "_fuse",
    "ConsistencySpeciality": "_consistency",
    "DenseHead": "_heads",
    "FusionNet": "_model",
    "MapEncoder": "_encoders",
    "PixelShift": "_shuffle",
    "SequenceEncoder": "_encoders",
    "VectorEncoder": "_encoders",
    "VectorHead": "_heads",
    "build_model": "_model",
}
__getattr__, __dir__ = attach(__name__, _exports | {"functional": ""})
__all__ = sorted(_exports)
