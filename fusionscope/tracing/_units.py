"""Which axis of a call's output holds the units."""

from __future__ import annotations

from torch import nn

CHANNELS_FIRST: tuple[type, ...] = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.modules.batchnorm.SyncBatchNorm,
    nn.LocalResponseNorm,
    nn.PixelShuffle,
    nn.Upsample,
)
CHANNELS_LAST: tuple[type, ...] = (
    nn.Linear,
    nn.Bilinear,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
    nn.TransformerEncoder,
    nn.TransformerDecoder,
)
FOLDED = (
    "BatchNorm",
    "LayerNorm",
    "GroupNorm",
    "InstanceNorm",
    "RMSNorm",
    "Dropout",
    "DropPath",
    "ReLU",
    "GELU",
    "SiLU",
    "ELU",
    "Sigmoid",
    "Tanh",
    "Hardswish",
    "Mish",
    "Softplus",
    "PReLU",
    "Activation",
    "Norm2d",
    "Norm1d",
)


def unit_axis(module: nn.Module, rank: int, sample: int | None) -> int | None:
    """The unit axis that the module's type tells, or None: it must be inherited from where the values come from."""
    if isinstance(module, CHANNELS_FIRST):
        return 1 if rank > 1 else None
    if isinstance(module, CHANNELS_LAST):
        return rank - 1
    if rank == 2 and sample is not None:
        return 1 - sample
    return None


def is_folded(module: str) -> bool:
    """True for norms, activations and dropout, which belong to the call before them."""
    return any(word in module for word in FOLDED)
