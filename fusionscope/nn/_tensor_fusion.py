"""Fuses by products across channels: tensor fusion, its low-rank form, bilinear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import combinations
from math import prod, sqrt

import torch
from torch import Tensor, nn

from fusionscope.errors import InputError

from ._fuse_base import Pointwise, keep, total

LARGEST = 2**20


class TensorFusion(Pointwise):
    """Outer product of all modalities, each with a constant 1 in front: ``[1; x_1] (x) [1; x_2] (x) ...``, flattened.

    All products of one channel of each modality of every subset: ``prod_m (C_m + 1)`` channels, the last modality's
    index running fastest. Channel 0 is the constant 1. Vectors; sequences and maps location by location (memory grows
    with the product). An absent modality is ``[1; 0]``, so that the products without it remain; a sample without any
    modality gives zeros.

    Source: Zadeh et al. 2017, arXiv:1707.07250.

    Args:
        channels: ``{modality: channels}``, or one number with ``modalities``.
        modalities: names, where ``channels`` is one number.
        project: channels that each modality is first projected to (linear); by default none.

    Raises:
        InputError: if more than 2^20 channels would come out; if a modality is missing, has other channels, or the
            locations differ.

    >>> import torch
    >>> fuse = TensorFusion({"rgb": 1, "depth": 2})
    >>> fuse({"rgb": torch.tensor([[3.0]]), "depth": torch.tensor([[5.0, 7.0]])})
    tensor([[ 1.,  5.,  7.,  3., 15., 21.]])
    """

    def __init__(
        self, channels: Mapping[str, int] | int, modalities: Sequence[str] | None = None, project: int | None = None
    ):
        super().__init__(channels, modalities)
        self.channels = prod((project or c) + 1 for c in self.sizes.values())
        if self.channels > LARGEST:
            raise InputError(
                f"TensorFusion of {dict(self.sizes) if project is None else f'{project} channels each'} has "
                f"{self.channels:,} channels (at most {LARGEST:,}); give project=, the channels that each modality is "
                "first projected to, or take LowRankTensorFusion"
            )
        self.project = nn.ModuleDict({m: nn.Linear(c, project) for m, c in self.sizes.items()} if project else {})

    def fuse(self, x: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        if len(self.project):
            x = {m: keep(self.project[m](v), masks[m]) for m, v in x.items()}
        with_one = (torch.cat([torch.ones_like(v[..., :1]), v], -1) for v in x.values())
        return reduce(lambda a, b: (a[..., :, None] * b[..., None, :]).flatten(-2), with_one)


class LowRankTensorFusion(Pointwise):
    """Tensor fusion followed by a linear map whose weight tensor has low rank, without ever forming the tensor.

    ``y = sum_{r<=R} w_r prod_m (F_{m,r} [1; x_m]) + b`` with ``F_{m,r}`` of shape ``(out, C_m + 1)``. The column of the
    1 is the bias of ``factors[m]``, a linear map to ``R * out`` channels (the rank's index running slower). With R
    large enough it is any linear map of :class:`TensorFusion`; it costs ``R * out * sum_m (C_m + 1)`` instead of
    ``out * prod_m (C_m + 1)`` weights. Vectors; sequences and maps location by location. An absent modality is
    ``[1; 0]``; a sample without any modality gives zeros.

    Source: Liu et al. 2018, arXiv:1806.00064.

    Args:
        channels: ``{modality: channels}``, or one number with ``modalities``.
        modalities: names, where ``channels`` is one number.
        out: channels of the result; by default the widest modality's.
        rank: R.

    Raises:
        InputError: if a modality is missing, has other channels, or the locations differ.

    >>> import torch
    >>> fuse = LowRankTensorFusion({"rgb": 5, "depth": 3}, out=7)
    >>> fuse({"rgb": torch.zeros(2, 5), "depth": torch.zeros(2, 3)}).shape
    torch.Size([2, 7])
    """

    def __init__(
        self,
        channels: Mapping[str, int] | int,
        modalities: Sequence[str] | None = None,
        out: int | None = None,
        *,
        rank: int = 4,
    ):
        super().__init__(channels, modalities)
        if rank < 1:
            raise InputError(f"LowRankTensorFusion needs a rank of 1 or more, got {rank}")
        self.rank = rank
        self.channels = max(self.sizes.values()) if out is None else out
        self.factors = nn.ModuleDict()
        for m, c in self.sizes.items():
            factor = nn.Linear(c, rank * self.channels)
            # of about unit scale, so that products of many neither vanish nor explode
            nn.init.normal_(factor.weight, std=1 / sqrt(c + 1))
            nn.init.normal_(factor.bias, std=1 / sqrt(c + 1))
            self.factors[m] = factor
        self.weight = nn.Parameter(torch.full((rank,), 1 / sqrt(rank)))
        self.bias = nn.Parameter(torch.zeros(self.channels))

    def fuse(self, x: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        factors = reduce(torch.mul, (self.factors[m](v) for m, v in x.items()))
        return (self.weight[:, None] * factors.unflatten(-1, (self.rank, self.channels))).sum(-2) + self.bias


class Bilinear(Pointwise):
    """Sum over all pairs of modalities of bilinear forms, ``y_o = sum_{m<n} x_m^T W_mn,o x_n + b_o``.

    For two modalities the usual bilinear fusion; summing over pairs for more is *our choice*; one modality alone is
    paired with itself. Vectors ``[B,C_m] -> [B,out]``; sequences and maps location by location. A pair of which one is
    absent adds nothing: of a sample with one modality only the bias is left (:class:`LowRankTensorFusion` keeps what
    single modalities say), and a sample without any gives zeros.

    Source: Tenenbaum and Freeman 2000, doi:10.1162/089976600300015349.

    Args:
        channels: ``{modality: channels}``, or one number with ``modalities``.
        modalities: names, where ``channels`` is one number.
        out: channels of the result; by default the widest modality's.

    Raises:
        InputError: if a modality is missing, has other channels, or the locations differ.

    >>> import torch
    >>> fuse = Bilinear({"rgb": 5, "depth": 3}, out=7)
    >>> fuse({"rgb": torch.zeros(2, 5), "depth": torch.zeros(2, 3)}).shape
    torch.Size([2, 7])
    """

    def __init__(
        self, channels: Mapping[str, int] | int, modalities: Sequence[str] | None = None, out: int | None = None
    ):
        super().__init__(channels, modalities)
        self.channels = max(self.sizes.values()) if out is None else out
        self.pairs = list(combinations(self.modalities, 2)) or [self.modalities * 2]
        self.forms = nn.ModuleList()
        for m, n in self.pairs:
            form = nn.Linear(self.sizes[m], self.channels * self.sizes[n], bias=False)
            nn.init.normal_(form.weight, std=1 / sqrt(self.sizes[m] * self.sizes[n] * len(self.pairs)))
            self.forms.append(form)
        self.bias = nn.Parameter(torch.zeros(self.channels))

    def fuse(self, x: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        parts = []
        for (m, n), form in zip(self.pairs, self.forms, strict=True):
            rows = form(x[m]).unflatten(-1, (self.channels, self.sizes[n]))
            parts.append((rows * x[n][..., None, :]).sum(-1))
        return total(parts) + self.bias
