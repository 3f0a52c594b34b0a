"""Concepts of a batch: their masks on any grid, the folds of its samples, and the permutations of the null."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from fusionscope.errors import InputError

from ._labels import onehot_labels
from ._samples import folds_of, sample_hash

FIT_CELLS = 1024
BLOCK = 16


@dataclass(frozen=True)
class Lattice:
    """Every ``step``-th place of a map, from ``start`` on, per axis; sizes are those of the whole map."""

    size: tuple[int, ...]
    start: tuple[int, ...]
    step: int

    def along(self, axis: int) -> Int[Tensor, "n"]:
        """Return the places on one axis."""
        return torch.arange(self.start[axis], self.size[axis], self.step)

    def take(self, x: Float[Tensor, "*more"]) -> Float[Tensor, "*out"]:
        """Return ``x`` at the lattice's places; the last axes of ``x`` are the map's."""
        for axis in range(len(self.size)):
            if self.step > 1:
                x = x.index_select(x.ndim - len(self.size) + axis, self.along(axis).to(x.device))
        return x

    def interpolate(self, x: Float[Tensor, "*more"]) -> Float[Tensor, "*out"]:
        """Return what bilinear upsampling of ``x`` to ``size`` (without aligned corners) gives at these places."""
        for axis in range(len(self.size)):
            dim = x.ndim - len(self.size) + axis
            have = x.shape[dim]
            if have == self.size[axis]:
                x = x if self.step == 1 else x.index_select(dim, self.along(axis).to(x.device))
                continue
            at = ((self.along(axis).to(x.device) + 0.5) * (have / self.size[axis]) - 0.5).clamp(min=0)
            below = at.long().clamp(max=have - 1)
            share = (at - below).clamp(max=1).to(x.dtype)
            share = share.view(-1, *[1] * (x.ndim - 1 - dim))
            low, high = x.index_select(dim, below), x.index_select(dim, (below + 1).clamp(max=have - 1))
            x = torch.lerp(low, high, share)
        return x


def lattice(size: Sequence[int], most: int, rng: np.random.Generator) -> Lattice:
    """Return the finest lattice of at most ``most`` places, at a random offset that keeps their number."""
    places = int(np.prod(size)) if len(size) else 1
    step = 1
    while len(size) and np.prod([-(-s // step) for s in size]) > most and places > most:
        step += 1
    return Lattice(tuple(size), tuple(int(rng.integers((s - 1) % step + 1)) for s in size), step)


@dataclass(eq=False)
class ConceptContext:
    """What all taps of one batch share.

    ``masks[b, c]`` is the share of concept ``c`` at each place, zero where ``known`` is zero; ``fold`` of each sample
    and the ``half`` it takes in the null; ``order`` permutes the masks across samples, once per row, within ``blocks``.
    Maps on other grids are made once each.
    """

    size: int
    masks: Float[Tensor, "B C *places"]
    known: Float[Tensor, "B *places"]
    fold: Int[Tensor, "B"]
    half: Int[Tensor, "B"]
    order: Int[Tensor, "P B"]
    blocks: Sequence[Int[Tensor, "b"]]
    seed: list[int]
    grids: dict[Any, Any] = field(default_factory=dict)

    @property
    def places(self) -> tuple[int, ...]:
        """Size of the masks' maps: empty for one mask value per sample."""
        return tuple(self.masks.shape[2:])

    def lattice(self, size: Sequence[int], most: int) -> Lattice:
        """Return the batch's lattice on a map of this size."""
        key = ("lattice", tuple(size), most)
        if key not in self.grids:
            self.grids[key] = lattice(size, most, np.random.default_rng([*self.seed, most, *size]))
        return self.grids[key]

    def cells(
        self, size: tuple[int, ...], most: int = FIT_CELLS
    ) -> tuple[Float[Tensor, "B C n"], Float[Tensor, "B n"], Lattice]:
        """Return masks, known shares and lattice of a tap grid: area averages, nearest where the tap is finer."""
        key = ("cells", size, most)
        if key not in self.grids:
            grid = self.lattice(size, most)
            both = torch.cat([self.masks, self.known.unsqueeze(1)], 1)
            both = grid.take(resized(both, size)).flatten(2) if size else both.unsqueeze(2)
            self.grids[key] = both[:, :-1].contiguous(), both[:, -1].contiguous(), grid
        return self.grids[key]

    def scored(self, most: int) -> tuple[Float[Tensor, "B C n"], Float[Tensor, "B n"], Lattice]:
        """Return masks and known shares at the places that are scored."""
        key = ("scored", most)
        if key not in self.grids:
            grid = self.lattice(self.places, most)
            masks, known = (self.masks, self.known) if self.places else (self.masks[..., None], self.known[..., None])
            self.grids[key] = grid.take(masks).flatten(2), grid.take(known).flatten(1), grid
        return self.grids[key]


def resized(x: Float[Tensor, "B C *places"], size: tuple[int, ...]) -> Float[Tensor, "B C *size"]:
    """Average over area where ``size`` is coarser, take the nearest place where it is finer."""
    for axis, length in enumerate(size):
        old = x.shape[axis + 2]
        if length > old:
            nearest = ((torch.arange(length, device=x.device) + 0.5) * old / length).long()
            x = x.index_select(axis + 2, nearest)
    if tuple(x.shape[2:]) == size:
        return x
    return F.adaptive_avg_pool1d(x, size[0]) if len(size) == 1 else F.adaptive_avg_pool2d(x, (size[0], size[1]))


def concept_context(
    target: Tensor | None,
    size: int,
    concepts: int,
    *,
    folds: int,
    permutations: int,
    seed: int,
    index: int,
    group: Tensor | None,
) -> ConceptContext:
    """Check a batch's concepts; deal its samples to folds and draw the permutations that all taps share.

    Raises:
        InputError: no concepts, of another number or shape, or labels out of range.
    """
    if target is None:
        raise InputError("expected class labels or concept masks as target, got none; leave this instrument out")
    if len(target) != size:
        raise InputError(f"expected labels or masks of the batch's {size} samples, got {len(target)}")
    whole = not (target.is_floating_point() or target.dtype == torch.bool)
    if target.is_complex() or not 1 <= target.ndim <= (3 if whole else 4) or (not whole and target.ndim < 2):
        raise InputError(
            f"expected integer labels [{size}], [{size}, T] or [{size}, H, W], or masks (bool, or shares from 0 to 1, "
            f"NaN = unknown) [{size}, {concepts}], [{size}, {concepts}, T] or [{size}, {concepts}, H, W], got "
            f"{target.dtype} of shape {tuple(target.shape)}"
        )
    target = target.detach()
    if whole:
        if target.numel() and int(target.max()) >= concepts:
            raise InputError(
                f"expected labels below {concepts}, got {int(target.max())}; raise concepts or mark them as -1"
            )
        known = (target >= 0).float()
        masks = onehot_labels(target.long(), concepts)
    else:
        if target.shape[1] != concepts:
            raise InputError(f"expected masks of {concepts} concepts on axis 1, got {tuple(target.shape)}")
        masks = target.float()
        nowhere = masks.isnan()
        if masks.numel() and (bool((masks < 0).any()) or bool((masks > 1).any())):
            raise InputError("expected masks from 0 to 1 (NaN = unknown); divide them by their largest value")
        known = (~nowhere.any(1)).float()
        masks = masks.nan_to_num() * known.unsqueeze(1)
    fold = folds_of(size, index, seed, folds, group).to(target.device)
    half = (sample_hash(size, index, seed) >> 17) % 2
    rng = np.random.default_rng([seed, index])
    # Maps are permuted within blocks: all pairs of a block are computed once, each permutation is a choice of pairs.
    blocks = np.array_split(rng.permutation(size), max(size // BLOCK, 1)) if masks.ndim > 2 else [np.arange(size)]
    order = np.tile(np.arange(size), (permutations, 1))
    for block in blocks:
        order[:, block] = rng.permuted(np.tile(block, (permutations, 1)), axis=1)
    home = target.device
    return ConceptContext(
        size,
        masks,
        known,
        fold,
        half.to(home),
        torch.from_numpy(order).to(home),
        [torch.from_numpy(block).to(home) for block in blocks],
        [seed, index],
    )
