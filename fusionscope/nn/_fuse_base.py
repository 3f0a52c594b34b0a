"""What the fuses share: channels last, who is present, the same locations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusionscope.errors import InputError

from ._part import check_features, check_present, dimensions, equal, hide, there


class Pointwise(nn.Module):
    """A fuse of vectors that serves sequences and maps location by location; subclasses define :meth:`fuse`.

    Attributes:
        sizes: channels of each modality.
        modalities: their names, in order.
        channels: channels of what comes out.
    """

    keeps_locations: ClassVar[bool] = True
    channels: int

    def __init__(self, channels: Mapping[str, int] | int, modalities: Sequence[str] | None = None):
        super().__init__()
        self.sizes = dimensions(channels, modalities, type(self).__name__)
        self.modalities = tuple(self.sizes)

    def fuse(self, x: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        """Fuse ``[B,...,C_m]`` (channels last; zero where absent); ``masks``, ``[B,1,...]``, say who is present."""
        raise NotImplementedError

    def forward(
        self, features: dict[str, Float[Tensor, "b ..."]], present: dict[str, Bool[Tensor, " b"]] | None = None
    ) -> Float[Tensor, "b ..."]:
        x, masks = self.rows(features, present)
        out = self.fuse(x, masks)
        if present is not None and all(m in present for m in self.modalities):
            out = keep(out, torch.stack(list(masks.values())).any(0))
        return out.movedim(-1, 1) if out.ndim == 4 else out

    def rows(
        self, features: dict[str, Tensor], present: dict[str, Tensor] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Check the features; return them channels last and zero where absent, and the masks."""
        part = type(self).__name__
        check_features(features, self.sizes, part)
        check_present(present, features, part)
        same_locations({m: features[m] for m in self.modalities}, part)
        x = {m: channels_last(hide(features[m], present, m)) for m in self.modalities}
        return x, {m: view(there(present, m, v), v) for m, v in x.items()}

    def extra_repr(self) -> str:
        return ", ".join(f"{m}={c}" for m, c in self.sizes.items()) + f", channels={self.channels}"


def channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1) if x.ndim == 4 else x


def view(mask: Bool[Tensor, " b"], x: Tensor) -> Tensor:
    """View ``[B]`` so that it broadcasts with ``x``."""
    return mask.view(-1, *[1] * (x.ndim - 1))


def keep(x: Tensor, mask: Tensor) -> Tensor:
    """Return ``x`` where ``mask``, else zero, without a gradient and whatever was there."""
    return torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))


def total(parts: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, parts)


def average(x: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
    """Mean over the present modalities; zero where there is none."""
    count = torch.stack([masks[m] for m in x]).sum(0).clamp(min=1)
    out = total(keep(v, masks[m]) for m, v in x.items())
    return out / count.to(out.dtype)


def precise(x: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 as they are."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def same_locations(features: Mapping[str, Tensor], part: str) -> None:
    """Check that the features differ in their channels only.

    Raises:
        InputError: if not.
    """
    shapes = {m: tuple(x.shape) for m, x in features.items()}
    if not equal((len(s), s[0], s[2:] if len(s) != 3 else s[1]) for s in shapes.values()):
        raise InputError(
            f"{part}: features must differ in their channels only (axis 1 of [B,C] and [B,C,H,W], axis 2 of [B,T,C]), "
            f"got {', '.join(f'{m} {list(s)}' for m, s in shapes.items())}; pool or resize them first, or take a fuse "
            "that accepts any lengths, as CrossAttention"
        )


def projections(sizes: Mapping[str, int], out: int | None, part: str) -> tuple[nn.ModuleDict, int]:
    """Return a linear map to ``out`` channels per modality; none, and the common channels, where ``out`` is None.

    Raises:
        InputError: if channels are unequal and ``out`` is None.
    """
    if out is not None:
        return nn.ModuleDict({m: nn.Linear(c, out) for m, c in sizes.items()}), out
    if len(set(sizes.values())) > 1:
        raise InputError(
            f"{part} adds channel by channel, so all modalities need the same number, got {dict(sizes)}; give "
            f"out={max(sizes.values())} and each is first projected to that many"
        )
    return nn.ModuleDict(), next(iter(sizes.values()))
