"""Fingerprints of tensors: 64-bit hashes per index of an axis, so that two runs can be compared row by row.

Equal values give equal hashes (minus zero counts as zero, every NaN as the same NaN); a changed value changes the hash
of its index on each axis, but for collisions of odds about 2^-64.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

CHUNK = 1 << 20
SMALL = 1 << 16
BUCKETS = 16
MOST_SLOTS = 8
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Fingerprint:
    """What one tensor held: ``axes[a][i]`` is the hash of everything at index ``i`` of axis ``a``.

    A large tensor that was not asked for in full has the hashes of axis 0 only, and no ``sketches``: for axis 0, and
    any that may hold the samples, 16 signed sums of the values at each index, which tell the size of a change.
    Where axis 0 holds k rows of each sample, ``slots`` has for each layout ("interleaved", "stacked") and each of the k
    the hashes of the other axes.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    axes: tuple[np.ndarray, ...]
    finite: bool
    constant: bool
    sketches: Mapping[int, np.ndarray] = field(default_factory=dict)
    slots: Mapping[str, list[tuple[np.ndarray, ...]]] = field(default_factory=dict)

    @functools.cached_property
    def key(self) -> tuple[object, ...]:
        """Equal for two tensors of the same shape and content."""
        return self.shape, self.dtype, self.axes[0].tobytes()

    @property
    def full(self) -> bool:
        """All axes were hashed."""
        return len(self.axes) >= len(self.shape)

    def changed(self, other: Fingerprint) -> list[np.ndarray] | None:
        """Return a mask of the changed indices for each axis that both hashed, or None if shape or type differ."""
        if self.shape != other.shape or self.dtype != other.dtype:
            return None
        return [mine != theirs for mine, theirs in zip(self.axes, other.axes, strict=False)]

    def changed_slot(self, other: Fingerprint, layout: str, position: int) -> list[np.ndarray] | None:
        """:meth:`changed` within one of the rows that a sample has on axis 0; axis 0 itself counts as unchanged."""
        if layout not in self.slots or layout not in other.slots or self.shape != other.shape:
            return None
        mine, theirs = self.slots[layout][position], other.slots[layout][position]
        inner = [a != b for a, b in zip(mine, theirs, strict=True)]
        return [np.zeros(self.shape[0], bool), *inner]

    def effect(self, other: Fingerprint, rows: np.ndarray | None = None) -> float:
        """Estimate ``|other - self| / |self|`` (Euclidean norms, within about 20 %); NaN if it cannot be told."""
        if self.shape != other.shape or 0 not in self.sketches or 0 not in other.sketches:
            return float("nan")
        mine, theirs = (each.sketches[0] if rows is None else each.sketches[0][rows] for each in (self, other))
        size, moved = np.linalg.norm(mine), np.linalg.norm(theirs - mine)
        return float(moved / size) if size else (float("inf") if moved else 0.0)


@torch.no_grad()
def fingerprint(tensor: Tensor, full: bool = False, size: int = 0) -> Fingerprint:
    """Fingerprint a tensor of ``size`` samples, a large one along every axis only if ``full``. A scalar is one row."""
    shape = tuple(tensor.shape)
    x = tensor.detach().resolve_conj().resolve_neg()
    if x.layout != torch.strided:
        x = x.to_dense()
    if x.is_complex():
        x = torch.view_as_real(x)
    if not x.numel():
        axes = tuple(np.zeros(n, np.int64) for n in shape or (1,))
        return Fingerprint(shape, tensor.dtype, axes, True, True, {0: np.zeros((len(axes[0]), BUCKETS))})
    small = x.numel() <= SMALL
    x = x.reshape(shape[0] if shape else 1, -1)
    several = len(x) // size if size and len(shape) > 1 and len(x) % size == 0 else 1
    several = several if several <= MOST_SLOTS else 1
    rows, parts, finite, constant, values = _small(x, several) if small else _large(x, full, several)
    axes = [rows]
    sketches = {}
    if values is not None:
        sketches[0] = _sketch(values) if small else values
        for axis in [a for a, n in enumerate(shape) if small and a and n == size]:
            sketches[axis] = _sketch(np.moveaxis(values.reshape(*shape, -1), axis, 0).reshape(size, -1))
    slots = {}
    if parts is not None and len(shape) > 1:
        axes += _by_axis(parts[0].sum(0), shape)
        if several > 1:
            slots = {
                layout: [tuple(_by_axis(row, shape)) for row in part]
                for layout, part in zip(("interleaved", "stacked"), parts, strict=True)
            }
    # Bytes objects lie outside the heap that activations come from: arrays there would keep it from shrinking again.
    axes = [np.frombuffer(axis.tobytes(), np.int64) for axis in axes]
    return Fingerprint(shape, tensor.dtype, tuple(axes), finite, constant, sketches, slots)


def _by_axis(rest: np.ndarray, shape: tuple[int, ...]) -> list[np.ndarray]:
    inner = rest.reshape(*shape[1:], -1)
    return [inner.sum(axis=tuple(a for a in range(inner.ndim) if a != axis)) for axis in range(len(shape) - 1)]


Parts = tuple[np.ndarray, np.ndarray]
Hashed = tuple[np.ndarray, Parts | None, bool, bool, np.ndarray | None]


def _small(x: Tensor, several: int) -> Hashed:
    """Hashes of the rows, of all other indices, finite, constant, values; by numpy, which is fast on few values."""
    x = x.cpu()
    values = x.double().numpy()
    low, high = values.min(), values.max()
    finite = bool(np.isfinite(low) and np.isfinite(high))
    mixed = _fold(_bits(x, finite).to(torch.int64).numpy(), 32 if x.element_size() == 8 else 0)
    mixed = mixed * _weights(x.shape[1])
    grid = mixed * _weights(len(x))[:, None]
    rest = grid.reshape(-1, several, x.shape[1]).sum(0), grid.reshape(several, -1, x.shape[1]).sum(1)
    values = values if finite else np.nan_to_num(values, posinf=0.0, neginf=0.0)
    return mixed.sum(1), rest, finite, bool(finite and low == high and x.numel() > 1), values


def _large(x: Tensor, full: bool, several: int) -> Hashed:
    """The same in chunks on the tensor's device; the other indices and, for the values, a sketch only if ``full``."""
    rows, width = x.shape
    step = max(1, CHUNK // width)
    weights = _weights(width, x.device)
    order = _weights(rows, x.device)
    hashes, sketches = [], []
    extremes: list[float] = []
    rest = torch.zeros(2, several, width, dtype=torch.int64, device=x.device) if full else None
    place = torch.arange(rows, device=x.device)
    for start in range(0, rows, step):
        part = x[start : start + step]
        numbers = part.to(torch.uint8) if part.dtype == torch.bool else part
        extremes += (float(extreme) for extreme in torch.aminmax(numbers))
        finite = math.isfinite(extremes[-1]) and math.isfinite(extremes[-2])
        bits = _bits(part, finite)
        # Two four-byte values at once, as long as only the row counts.
        pairs = bits.element_size() == 4 and width % 2 == 0 and bits.is_contiguous()
        both = bits.view(torch.int64) if pairs else bits.to(torch.int64)
        both = _fold(both, 47 if pairs else 32 if bits.element_size() == 8 else 0)
        hashes.append(both.mul_(weights[: both.shape[1]]).sum(1))
        if rest is not None:
            alone = _fold(bits.to(torch.int64), 32 if bits.element_size() == 8 else 0)
            grid = (alone * weights).mul_(order[start : start + step, None])
            here = place[start : start + step]
            rest[0].index_add_(0, here % several, grid)
            rest[1].index_add_(0, here // (rows // several), grid)
            values = part if finite else torch.nan_to_num(part, posinf=0.0, neginf=0.0)
            sketches.append(_sketch(values.cpu().double().numpy()))
    low, high = min(extremes), max(extremes)
    finite = all(map(math.isfinite, extremes))
    row_hash = torch.cat(hashes).cpu().numpy()
    others = None if rest is None else (rest[0].cpu().numpy(), rest[1].cpu().numpy())
    return row_hash, others, finite, finite and low == high, np.concatenate(sketches) if sketches else None


def _bits(x: Tensor, finite: bool) -> Tensor:
    """The bits of floats as integers, equal where the values are; integers as they are."""
    if not x.is_floating_point():
        return x
    if not finite:
        x = torch.where(x.isnan(), torch.full_like(x, float("nan")), x)
    return (x + 0.0).contiguous().view(_BITS[x.element_size()])


def _fold(bits: Any, shift: int) -> Any:
    """Fold high bits onto low ones: a product keeps as many bits as its factors have, and floats have few low ones."""
    if not shift:
        return bits
    folded = bits >> shift
    folded ^= bits
    return folded


def _sketch(values: np.ndarray) -> np.ndarray:
    """Signed sums over every 16th value of each row."""
    whole = values.shape[1] // BUCKETS * BUCKETS
    signed = values * _signs(values.shape[1])
    sums = signed[:, :whole].reshape(len(values), -1, BUCKETS).sum(1)
    sums[:, : values.shape[1] - whole] += signed[:, whole:]
    return sums


@functools.lru_cache(maxsize=64)
def _signs(count: int) -> np.ndarray:
    return np.sign(_weights(count)).astype(np.float64)


@functools.lru_cache(maxsize=64)
def _weights(count: int, device: torch.device | None = None) -> Any:
    """Odd pseudo-random 64-bit weights, the same in every run: an array, or a tensor on ``device``."""
    values = np.random.default_rng(20230819).integers(-(2**63), 2**63 - 1, size=count, dtype=np.int64) | 1
    return values if device is None else torch.from_numpy(values).to(device)
