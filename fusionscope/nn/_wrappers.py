"""Around backbones: pooled output, clips frame by frame."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from fusionscope.errors import InputError

from ._part import pool


class Pooled(nn.Module):
    """The mean over space or time of what ``backbone`` returns: ``[B,D]``.

    A backbone may return a map ``[B,D,h,w]``, a sequence or tokens ``[B,T,D]``, a vector ``[B,D]``, or a list of these,
    of which the last counts.

    Args:
        backbone: an encoder, such as :class:`ResNet`.
        channels: D; by default the (last of the) backbone's ``channels``.

    Raises:
        InputError: if the backbone does not say its channels and ``channels`` does not either.

    >>> import torch
    >>> from fusionscope.nn import ResNet
    >>> encoder = Pooled(ResNet(2, blocks=(1, 1), width=4)).eval()
    >>> encoder.channels, encoder(torch.zeros(3, 2, 29, 37)).shape
    (8, torch.Size([3, 8]))
    """

    def __init__(self, backbone: nn.Module, channels: int | None = None):
        super().__init__()
        self.backbone = backbone
        self.channels = channels or last_channels(backbone, "Pooled")

    def forward(self, *inputs: Tensor) -> Float[Tensor, "b d"]:
        x = self.backbone(*inputs)
        return pool(x if isinstance(x, Tensor) else x[-1])


class Frames(nn.Module):
    """Clips: ``[B,T,C,H,W] -> [B,T,D]``, every frame through one ``encoder`` that returns ``[B,D]``.

    >>> import torch
    >>> from fusionscope.nn import MapEncoder
    >>> Frames(MapEncoder(2, width=4)).eval()(torch.zeros(3, 5, 2, 29, 31)).shape
    torch.Size([3, 5, 16])
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.channels = last_channels(encoder, "Frames")

    def forward(self, x: Tensor) -> Float[Tensor, "b t d"]:
        return self.encoder(x.flatten(0, 1)).unflatten(0, (x.shape[0], x.shape[1]))


def last_channels(module: nn.Module, part: str) -> int:
    """Return ``module.channels``, or the last of them.

    Raises:
        InputError: if there are none.
    """
    found = getattr(module, "channels", None)
    found = found[-1] if isinstance(found, Sequence) and found else found
    if not isinstance(found, int):
        raise InputError(
            f"{part} must know how many channels {type(module).__name__} returns: give it an attribute `channels` (a "
            f"number, or one per map), or say {part}(module, channels=...)"
        )
    return found
