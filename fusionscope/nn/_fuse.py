"""Plain fuses: concatenation, sum, mean, sum and product. ``{modality: Tensor} -> Tensor``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ._fuse_base import Pointwise, average, keep, projections, same_locations, total
from ._part import channel_axis, check_features, check_present, dimensions, hide, named


class Concat(nn.Module):
    """Concatenate the modalities' features along the channel axis, in the order of ``modalities``.

    Vectors ``[B,C_m]``, sequences ``[B,T,C_m]`` and maps ``[B,C_m,H,W]`` of the same T or (H, W); ``sum_m C_m``
    channels come out. Features of modalities that are not ``present`` are set to zero.

    Args:
        modalities: their names, or ``{name: channels}``, with which ``channels`` is known and checked.

    Attributes:
        channels: channels of what comes out; None where only names were given.

    Raises:
        InputError: if a modality is missing, or the features' other axes differ.

    >>> import torch
    >>> fuse = Concat({"rgb": 3, "depth": 1})
    >>> fuse.channels
    4
    >>> fuse({"rgb": torch.ones(2, 3), "depth": torch.ones(2, 1)}, present={"depth": torch.tensor([True, False])})
    tensor([[1., 1., 1., 1.],
            [1., 1., 1., 0.]])
    """

    keeps_locations: ClassVar[bool] = True

    def __init__(self, modalities: Mapping[str, int] | Sequence[str]):
        super().__init__()
        self.sizes: dict[str, int] | None = None
        self.channels: int | None = None
        if isinstance(modalities, Mapping):
            self.sizes = dimensions(modalities, None, "Concat")
            self.channels = sum(self.sizes.values())
        self.modalities = named([modalities] if isinstance(modalities, str) else list(modalities), "Concat")

    def forward(
        self, features: dict[str, Float[Tensor, "b ..."]], present: dict[str, Bool[Tensor, " b"]] | None = None
    ) -> Float[Tensor, "b ..."]:
        check_features(features, self.sizes or self.modalities, "Concat")
        check_present(present, features, "Concat")
        same_locations({m: features[m] for m in self.modalities}, "Concat")
        parts = [hide(features[m], present, m) for m in self.modalities]
        return torch.cat(parts, dim=channel_axis(parts[0]))

    def extra_repr(self) -> str:
        names = ", ".join(f"{m}={c}" for m, c in self.sizes.items()) if self.sizes else ", ".join(self.modalities)
        return names


class Sum(Pointwise):
    """Sum of the modalities' features, ``sum_m P_m x_m`` over the present modalities.

    Vectors, sequences and maps (location by location). ``P_m`` is the identity, so that all modalities need the same
    channels, or with ``out`` a linear map with bias to that many channels (a 1x1 convolution of maps). What is absent
    adds nothing, its bias neither; a sample without any modality gives zeros.

    Args:
        channels: ``{modality: channels}``, or one number with ``modalities``.
        modalities: names, where ``channels`` is one number.
        out: channels to project to.

    Raises:
        InputError: if channels are unequal without ``out``; if a modality is missing or the locations differ.

    >>> import torch
    >>> fuse = Sum(2, modalities=("rgb", "depth"))
    >>> fuse({"rgb": torch.ones(1, 2), "depth": torch.full((1, 2), 3.0)})
    tensor([[4., 4.]])
    """

    def __init__(
        self, channels: Mapping[str, int] | int, modalities: Sequence[str] | None = None, out: int | None = None
    ):
        super().__init__(channels, modalities)
        self.project, self.channels = projections(self.sizes, out, type(self).__name__)

    def projected(self, x: dict[str, Tensor], masks: dict[str, Tensor]) -> dict[str, Tensor]:
        return {m: keep(self.project[m](v), masks[m]) for m, v in x.items()} if len(self.project) else x

    def fuse(self, x: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        return total(self.projected(x, masks).values())


class Mean(Sum):
    """Mean of the present modalities' features, ``1/|P| sum_{m in P} P_m x_m``.

    As :class:`Sum` in everything else: the same arguments, shapes and errors. Its scale does not depend on how many
    modalities a sample has.

    >>> import torch
    >>> fuse = Mean({"rgb": 1, "depth": 1})
    >>> features = {"rgb": torch.ones(2, 1), "depth": torch.full((2, 1), 3.0)}
    >>> fuse(features, present={"rgb": torch.tensor([True, False])})
    tensor([[2.],
            [3.]])
    """

    def fuse(self, x: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        return average(self.projected(x, masks), masks)


class SumAndProduct(Sum):
    """Sum plus product of the modalities' features, ``sum_m P_m x_m + prod_m P_m x_m``.

    JL-DCF's cross-modal fusion ``x_1 + x_2 + x_1 x_2`` (arXiv:2008.12134), which keeps what either modality says and
    strengthens what both say. For more than two modalities the product is that of all (*our choice*; the paper has
    two). An absent modality is 0 in the sum and 1 in the product, so that one modality alone gives ``2 x``. Arguments,
    shapes and errors as :class:`Sum`.

    >>> import torch
    >>> fuse = SumAndProduct({"rgb": 1, "depth": 1})
    >>> fuse({"rgb": torch.tensor([[2.0]]), "depth": torch.tensor([[5.0]])})
    tensor([[17.]])
    """

    def fuse(self, x: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        values = self.projected(x, masks)
        one = torch.ones((), device=next(iter(values.values())).device)
        factors = (torch.where(masks[m], v, one.to(v.dtype)) for m, v in values.items())
        return total(values.values()) + reduce(torch.mul, factors)
