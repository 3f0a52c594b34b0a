"""Labels of a batch as every tap's grid sees them, and their permutations across samples."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from fusionscope.errors import InputError

BLOCK = 16


@dataclass(frozen=True, eq=False)
class Block:
    """Samples whose label maps are permuted among each other.

    ``pairs[p, i] = π_p(i)·b + i`` indexes the table of (labels of sample, features of sample); row 0 is the identity.
    """

    members: Int[Tensor, "b"]
    pairs: Int[Tensor, "P1 b"]


@dataclass(frozen=True, eq=False)
class Grid:
    """One block's pure label maps on one tap grid: one-hot per class, any class, rows per class."""

    onehot: Float[Tensor, "b C cells"]
    any: Float[Tensor, "b cells"]


@dataclass(eq=False)
class LabelContext:
    """What all taps of one batch share: labels, their seeded permutations, and their maps per grid (made once each)."""

    size: int
    labels: Int[Tensor, "B *places"]
    classes: int
    purity: float
    order: Int[Tensor, "P1 B"]
    blocks: Sequence[Block]
    maps: dict[tuple[int, ...], list[Grid]] = field(default_factory=dict)
    stacked: list[Tensor] = field(default_factory=list)

    @property
    def places(self) -> int:
        """Number of location axes of the labels: 0 per sample, 1 per time step, 2 per pixel."""
        return self.labels.ndim - 1

    def grids(self, shape: Sequence[int]) -> list[Grid]:
        """Return the blocks' pure label maps on the grid ``shape``."""
        key = tuple(shape)
        if key not in self.maps:
            pure = pure_maps(self.labels, self.classes, key, self.purity)
            self.maps[key] = [Grid(pure[b.members], pure[b.members].sum(1)) for b in self.blocks]
        return self.maps[key]

    def permuted(self) -> tuple[Float[Tensor, "rows B"], Float[Tensor, "P1 B"]]:
        """Return per-sample labels under every permutation: one-hot ``[P1·C, B]``, and whether there is a label."""
        if not self.stacked:
            onehot = onehot_labels(self.labels, self.classes)
            self.stacked += [onehot[self.order].transpose(1, 2).flatten(0, 1).contiguous(), onehot.sum(1)[self.order]]
        return self.stacked[0], self.stacked[1]


def onehot_labels(labels: Int[Tensor, "B *places"], classes: int) -> Float[Tensor, "B C *places"]:
    """One-hot maps; a negative label is zero in every class."""
    out = torch.zeros(len(labels), classes + 1, *labels.shape[1:], device=labels.device)
    out.scatter_(1, torch.where(labels < 0, classes, labels).unsqueeze(1), 1.0)
    return out[:, :classes]


def pure_maps(
    labels: Int[Tensor, "B *places"], classes: int, shape: tuple[int, ...], purity: float
) -> Float[Tensor, "B C cells"]:
    """One-hot maps on another grid: 1 where at least ``purity`` of a cell's area is one class, else 0 in all classes.

    Axes where the grid is finer take the nearest label; the others are area-averaged (ignored area is no class).
    """
    places = labels.unsqueeze(1) if labels.ndim == 2 else labels
    size = (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])
    finer = [max(new, old) for new, old in zip(size, places.shape[1:], strict=True)]
    if finer != list(places.shape[1:]):
        for axis, length in enumerate(finer):
            old = places.shape[axis + 1]
            nearest = ((torch.arange(length, device=labels.device) + 0.5) * old / length).long()
            places = places.index_select(axis + 1, nearest)
    share = onehot_labels(places, classes)
    if tuple(size) != tuple(places.shape[1:]):
        share = F.adaptive_avg_pool2d(share, size)
    return (share >= purity - 1e-6).to(share.dtype).flatten(2)


def label_context(
    target: Tensor | None, size: int, classes: int, purity: float, permutations: int, seed: list[int]
) -> LabelContext:
    """Check a batch's labels and draw the permutations that all taps share.

    Raises:
        InputError: no labels, not integers, not one (map) per sample, or out of range.
    """
    if target is None:
        raise InputError("expected integer class labels as target, got none; leave this instrument out or give labels")
    if target.is_floating_point() or target.is_complex() or not 1 <= target.ndim <= 3 or len(target) != size:
        raise InputError(
            f"expected integer labels [{size}], [{size}, T] or [{size}, H, W], got {target.dtype} of shape "
            f"{tuple(target.shape)}; classes are numbered from 0, negative = ignored"
        )
    if target.numel() and int(target.max()) >= classes:
        raise InputError(f"expected labels below {classes}, got {int(target.max())}; raise classes or mark them as -1")
    rng = np.random.default_rng(seed)
    order = np.concatenate([np.arange(size)[None], rng.permuted(np.tile(np.arange(size), (permutations, 1)), axis=1)])
    blocks = []
    if target.ndim > 1:
        for members in np.array_split(rng.permutation(size), max(size // BLOCK, 1)):
            b = np.arange(len(members))
            shuffled = np.concatenate([b[None], rng.permuted(np.tile(b, (permutations, 1)), axis=1)])
            pairs = torch.from_numpy(shuffled * len(b) + b).to(target.device)
            blocks.append(Block(torch.from_numpy(members).to(target.device), pairs))
    labels = target.detach().long()
    return LabelContext(size, labels, classes, purity, torch.from_numpy(order).to(target.device), blocks)
