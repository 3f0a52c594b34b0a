"""Fingerprints of tensors: one 64-bit hash per index of every axis, so that two runs can be compared row by row.

Equal values give equal hashes (minus zero counts as zero, every NaN as the same NaN); a changed value changes the hash
of its index on each axis, but for collisions of odds about 2^-64.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CHUNK = 1 << 20
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Fingerprint:
    """What one tensor held: ``axes[a][i]`` is the hash of everything at index ``i`` of axis ``a``."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    axes: tuple[np.ndarray, ...]
    finite: bool
    constant: bool

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for two tensors of the same shape and content."""
        return self.shape, self.dtype, self.axes[0].tobytes()

    def changed(self, other: Fingerprint) -> list[np.ndarray] | None:
        """Return a mask of the changed indices for each axis, or None if shape or type differ."""
        if self.shape != other.shape or self.dtype != other.dtype:
            return None
        return [mine != theirs for mine, theirs in zip(self.axes, other.axes, strict=True)]


def fingerprint(tensor: Tensor) -> Fingerprint:
    """Fingerprint a tensor. A scalar counts as one row."""
    shape = tuple(tensor.shape)
    x = tensor.detach().resolve_conj().resolve_neg()
    if x.layout != torch.strided:
        x = x.to_dense()
    if x.is_complex():
        x = torch.view_as_real(x)
    if not x.numel():
        return Fingerprint(shape, tensor.dtype, tuple(np.zeros(n, np.int64) for n in shape or (1,)), True, True)
    x = x.reshape(shape[0] if shape else 1, -1)
    rows, width = x.shape
    weights, order = _weights(width, x.device.type), _weights(rows, x.device.type)
    row_hash = torch.empty(rows, dtype=torch.int64, device=x.device)
    rest = torch.zeros(width, dtype=torch.int64, device=x.device)
    finite, low, high = True, [], []
    step = max(1, CHUNK // width)
    for start in range(0, rows, step):
        part = x[start : start + step]
        if part.is_floating_point():
            clean = torch.nan_to_num(part, nan=0.0, posinf=0.0, neginf=0.0) if not torch.isfinite(part).all() else None
            if clean is not None:
                finite = False
                part = torch.where(part.isnan(), torch.full_like(part, float("nan")), part)
            low.append((part if clean is None else clean).amin())
            high.append((part if clean is None else clean).amax())
            bits = (part + 0.0).contiguous().view(_BITS[part.element_size()])
        else:
            low.append(part.amin()) if part.dtype != torch.bool else low.append(part.all())
            high.append(part.amax()) if part.dtype != torch.bool else high.append(part.any())
            bits = part
        bits = bits.to(torch.int64)
        # The low bits of a float64 are often all zero, and a product keeps only as many bits as its factors have.
        mixed = (bits ^ (bits >> 32)) * weights if part.element_size() == 8 else bits * weights
        row_hash[start : start + step] = mixed.sum(1)
        rest += (mixed * order[start : start + step, None]).sum(0)
    axes = [row_hash.cpu().numpy()]
    if len(shape) > 1:
        inner = rest.cpu().reshape(*shape[1:], -1).numpy()
        for axis in range(len(shape) - 1):
            axes.append(inner.sum(axis=tuple(a for a in range(inner.ndim) if a != axis)))
    constant = bool(finite and torch.stack(low).amin() == torch.stack(high).amax())
    return Fingerprint(shape, tensor.dtype, tuple(axes), finite, constant)


@functools.lru_cache(maxsize=32)
def _weights(count: int, device: str) -> Tensor:
    """Odd pseudo-random 64-bit weights, the same in every run."""
    values = np.random.default_rng(20230819).integers(-(2**63), 2**63 - 1, size=count, dtype=np.int64) | 1
    return torch.from_numpy(values).to(device)
