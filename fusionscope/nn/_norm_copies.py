"""Norms that torch does not have: a copy per modality; and a plain norm with one modality's values."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ._norm_math import NormValues
from ._rows import separate


class NormCopies(nn.ModuleDict):
    """One copy of a norm per modality; what is shared is the same tensor in each. Shared running statistics then take
    in one modality after another, each normalised by its own."""

    def __init__(self, norm: nn.Module, modalities: tuple[str, ...], affine: bool, statistics: bool):
        shared: dict[int, object] = {}
        for private, found in ((affine, norm.parameters()), (statistics, norm.buffers())):
            if not private:
                shared |= {id(v): copy.deepcopy(v) for v in found}
        super().__init__({m: copy.deepcopy(norm, dict(shared)) for m in modalities})

    @property
    def first(self) -> nn.Module:
        return next(iter(self.values()))

    def scales(self) -> dict[str, Tensor]:
        found = {m: getattr(norm, "weight", None) for m, norm in self.items()}
        return {m: w for m, w in found.items() if isinstance(w, Tensor) and w.ndim == 1}

    def forward(self, x: Tensor, active: tuple[str, ...], rows: int, keep: Tensor | None) -> Tensor:
        parts = separate(x, active, rows)
        masks = None if keep is None else separate(keep, active, rows)
        fresh = any(isinstance(getattr(self[m], "running_mean", None), Tensor) and self[m].training for m in active)
        outs = [self._some(self[m], parts[m], masks[m]) if masks and fresh else self[m](parts[m]) for m in active]
        if len(outs) == 1:
            return outs[0]
        return torch.stack([y.unflatten(0, (-1, rows)) for y in outs], 1).flatten(0, 2)

    def _some(self, norm: nn.Module, x: Tensor, keep: Tensor) -> Tensor:
        """Show the norm only the rows that are there, so that its batch statistics are theirs."""
        index = keep.flatten().nonzero()[:, 0]
        if len(index) == 0:
            return torch.zeros_like(x) + 0 * sum(p.sum() for p in norm.parameters())
        return torch.zeros_like(x).index_copy(0, index, norm(x[index]).to(x.dtype))


def single(norm: NormValues, modality: str) -> nn.Module:
    """Return a norm of the original class with one modality's values."""
    if norm.copies is not None:
        return copy.deepcopy(norm.copies[modality])
    options: dict[str, Any] = {"eps": norm.eps}
    if norm.kind == "layer":
        options["elementwise_affine"] = norm.elementwise_affine
        options["bias"] = norm.bias is not None or not norm.elementwise_affine
        made = norm.base(norm.normalized_shape, **options)
    elif norm.kind == "group":
        made = norm.base(norm.num_groups, norm.num_channels, affine=norm.affine, **options)
    else:
        options |= {"momentum": norm.momentum, "affine": norm.affine}
        made = norm.base(norm.num_features, track_running_stats=norm.track_running_stats, **options)
    place = norm.modalities.index(modality)
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        value = getattr(norm, name)
        if value is None:
            continue
        own = norm.own[name not in ("weight", "bias")]
        chosen = (value[place] if own else value).detach().clone()
        if isinstance(value, nn.Parameter):
            chosen = nn.Parameter(chosen, requires_grad=value.requires_grad)
        setattr(made, name, chosen)
    return made.train(norm.training and not norm.frozen)
