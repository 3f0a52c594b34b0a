"""Where in a model a modality's features are read and written back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fusionscope._nest import map_tensors, tensors
from fusionscope.batch import unwrap

CallKey = tuple[str, int]
Change = Callable[..., dict[str, Tensor]]


def told(key: CallKey) -> str:
    """The name of a call, as a trace writes it."""
    return f"{key[0] or 'model'}#{key[1]}"


@dataclass(frozen=True)
class Site:
    """One modality's features: a tensor among what a call gives or takes.

    Attributes:
        key: the call.
        place: the tensor's place in the nest.
        unit: the channel axis.
        rows: rows per sample on the first axis, if modalities are stacked there.
        position: which of them is the modality's.
        stacked: the rows lie in blocks of all samples, else side by side.
    """

    key: CallKey
    place: str
    unit: int
    rows: int = 1
    position: int = 0
    stacked: bool = False

    def read(self, nest: Any) -> Tensor:
        """Return the features as ``[B,C]``, ``[B,T,C]`` or ``[B,C,H,W]``."""
        x = dict(tensors(nest))[self.place]
        return standard(self._unstack(x)[self.position] if self.rows > 1 else x, self.unit)

    def write(self, nest: Any, features: Tensor) -> Any:
        """Return the nest with other features; where it holds the same tensor twice, both change."""
        x = dict(tensors(nest))[self.place]
        if self.rows > 1:
            parts = list(self._unstack(x))
            parts[self.position] = restored(features, parts[self.position], self.unit)
            return put(nest, {self.place: torch.stack(parts, 0 if self.stacked else 1).flatten(0, 1)})
        return put(nest, {self.place: restored(features, x, self.unit)})

    def _unstack(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.unflatten(0, (self.rows, -1)).unbind(0) if self.stacked else x.unflatten(0, (-1, self.rows)).unbind(1)


@dataclass
class Plan:
    """How a calibration sits in a model; it holds names only, so that a copied model has its own.

    Attributes:
        sites: where each modality's features are.
        home: the path of the module that owns the calibration.
        takes: the sites are among what the calls take (a hook in front of one call), else among what they give.
        skip: calls that run before the calibration, and not again after it.
        spoilt: those among them whose output the model's code changes in place.
        own_inputs: the model's code changes its inputs in place.
        probe: stands for the calibration while it is tested.
    """

    sites: dict[str, Site]
    home: str = ""
    takes: bool = False
    skip: frozenset[CallKey] = frozenset()
    spoilt: set[CallKey] = field(default_factory=set)
    own_inputs: bool = False
    probe: Change | None = None
    testing: bool = False

    def change(self, nests: dict[CallKey, Any], calibration: Change, present: Any) -> dict[CallKey, Any]:
        """Return what the calls give or take with the features calibrated."""
        features = {m: site.read(nests[site.key]) for m, site in self.sites.items()}
        known = None
        if isinstance(present, Mapping):
            known = {m: p for m, p in present.items() if m in self.sites and isinstance(p, Tensor)} or None
        changed = (self.probe or calibration)(features, known)
        nests = dict(nests)
        for m, site in self.sites.items():
            nests[site.key] = site.write(nests[site.key], changed[m])
        return nests


def put(nest: Any, new: Mapping[str, Tensor]) -> Any:
    """Return a nest with other tensors at some places, and wherever the same tensor stands."""
    same = {id(tensor): new[place] for place, tensor in tensors(nest) if place in new}
    return map_tensors(lambda tensor: same.get(id(tensor), tensor), nest)


def standard(x: Tensor, unit: int) -> Tensor:
    """View features with the channels on axis ``unit`` as ``[B,C]``, ``[B,T,C]`` or ``[B,C,H,W]``."""
    if x.ndim < 4:
        return x.movedim(unit, -1)
    moved = x.movedim(unit, 1)
    return moved if x.ndim == 4 else moved.flatten(3)


def restored(features: Tensor, like: Tensor, unit: int) -> Tensor:
    """Undo :func:`standard`."""
    if like.ndim < 4:
        return features.movedim(-1, unit)
    return features.reshape(like.movedim(unit, 1).shape).movedim(1, unit)


def module_at(model: nn.Module, path: str) -> nn.Module:
    """Return the module of a path in which compiled modules leave no trace."""
    for part in path.split(".") if path else ():
        model = unwrap(model.get_submodule(part))
    return model
