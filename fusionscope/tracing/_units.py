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


_WIDTHS = ("out_channels", "num_features", "num_channels", "out_features", "embedding_dim", "embed_dim")


def unit_axis(module: nn.Module, shape: tuple[int, ...], sample: int | None) -> int | None:
    """The unit axis that the module's type tells, or None: it must be inherited from where the values come from."""
    rank = len(shape)
    if rank > 1 and isinstance(module, CHANNELS_FIRST):
        return fitting_axis(shape, sample, 1, _width(module))
    if isinstance(module, CHANNELS_LAST):
        return fitting_axis(shape, sample, rank - 1, _width(module))
    if rank == 2 and sample is not None:
        return 1 - sample
    return None


def fitting_axis(shape: tuple[int, ...], sample: int | None, axis: int, size: int | None) -> int | None:
    """``axis`` if it has the number of units expected, else the only other axis that has it, else None."""
    if axis < len(shape) and axis != sample and size in (None, shape[axis]):
        return axis
    same = [a for a, n in enumerate(shape) if a != sample and n == size]
    return same[0] if len(same) == 1 else None


def flattened_axis(shape: tuple[int, ...], sample: int | None, locations: int) -> int | None:
    """The unit axis of a sequence made of a map with so many ``locations`` (and a class token), or None."""
    if len(shape) != 3 or sample is None:
        return None
    rest = [a for a in range(3) if a != sample]
    held = [a for a in rest if shape[a] in (locations, locations + 1)]
    return next(a for a in rest if a != held[0]) if len(held) == 1 else None


def taken_axis(module: nn.Module, shape: tuple[int, ...], sample: int | None) -> int | None:
    """The unit axis of a tensor that a module of this type takes, or None."""
    width = _width(module, ("in_channels", "num_features", "in_features", "input_size", "embed_dim"))
    if width is None:
        return None
    if len(shape) > 1 and isinstance(module, CHANNELS_FIRST):
        return fitting_axis(shape, sample, 1, width)
    return fitting_axis(shape, sample, len(shape) - 1, width) if isinstance(module, CHANNELS_LAST) else None


def _width(module: nn.Module, names: tuple[str, ...] = _WIDTHS) -> int | None:
    """The number of units that the module declares."""
    shape = getattr(module, "normalized_shape", None)
    if shape:
        return int(shape[-1])
    return next((int(w) for name in names if isinstance(w := getattr(module, name, None), int)), None)


def is_folded(module: str) -> bool:
    """True for norms, activations and dropout, which belong to the call before them."""
    return any(word in module for word in FOLDED)
