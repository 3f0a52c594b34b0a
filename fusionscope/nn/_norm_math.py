"""What a `ModalityNorm` computes: statistics of rows, running ones, and scales per modality."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class NormValues(nn.Module):
    """What a norm for several modalities holds: ``[M, C]`` where values are private, ``[C]`` where they are shared."""

    modalities: tuple[str, ...]
    rows: int
    base: type[nn.Module]
    kind: str
    own: tuple[bool, bool]
    frozen: bool
    copies: Any
    eps: float
    momentum: float | None
    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    synchronised: Any = False


def values(norm: NormValues, value: Tensor | None, private: bool, active: tuple[str, ...]) -> Tensor | None:
    """Return what each active modality has, ``[A, C]``: a view wherever the active ones follow one another."""
    if value is None:
        return None
    if not private:
        return value.expand(len(active), *value.shape)
    if len(active) == len(norm.modalities):
        return value
    if adjacent(norm, active):
        first = norm.modalities.index(active[0])
        return value[first : first + len(active)]
    return torch.stack([value[norm.modalities.index(m)] for m in active])


def adjacent(norm: NormValues, active: tuple[str, ...]) -> bool:
    return norm.modalities.index(active[-1]) - norm.modalities.index(active[0]) + 1 == len(active)


def flat(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.reshape(-1)


def affine(norm: NormValues, y: Tensor, active: tuple[str, ...]) -> Tensor:
    """Scale and shift rows by their modality's gamma and beta."""
    weight, bias = (values(norm, v, norm.own[0], active) for v in (norm.weight, norm.bias))
    if weight is None:
        return y
    inner = weight.shape[1:]
    left, right = (y.ndim - 1 - len(inner), 0) if norm.kind == "layer" else (0, y.ndim - 2)
    shape = (len(active), 1, *[1] * left, *inner, *[1] * right)
    rows = y.unflatten(0, (-1, len(active), norm.rows))
    weight = weight.reshape(shape)
    rows = rows * weight if bias is None else torch.addcmul(bias.reshape(shape), rows, weight)
    return rows.flatten(0, 2)


def statistical(norm: NormValues, x: Tensor, active: tuple[str, ...], keep: Tensor | None) -> Tensor:
    """Batch and instance norms: the kinds with running statistics."""
    own_affine, own_statistics = norm.own
    batch = norm.kind == "batch"
    fresh = norm.running_mean is None or (norm.training and not norm.frozen)
    update = fresh and norm.running_mean is not None
    # Each kind of rows side by side along the channel axis is a free view, and one native call.
    wide = norm.rows == 1 and x.is_contiguous() and (own_statistics or not fresh or not (batch or update))
    pooled = fresh and batch and not own_statistics
    masked = keep is not None and (update if not batch else fresh)
    if masked or not (wide or pooled) or (norm.synchronised and fresh and batch):
        return _slow(norm, x, active, keep, fresh, update).to(x.dtype)
    weight, bias = (values(norm, v, own_affine, active) for v in (norm.weight, norm.bias))
    after = pooled and own_affine
    if after:
        weight = bias = None
    elif pooled:
        weight, bias = (None if v is None else v[0] for v in (weight, bias))
    side_by_side = x if pooled else x.view(-1, len(active) * x.shape[1], *x.shape[2:])
    mean, var = (
        v if v is None or pooled else values(norm, v, own_statistics, active)
        for v in (norm.running_mean, norm.running_var)
    )
    momentum = norm.momentum
    direct = not update or pooled or adjacent(norm, active)
    if momentum is None:
        momentum, direct = 0.0, direct and not (update and batch)
    if update:
        _count(norm, active, None)
    if not direct and mean is not None and var is not None:
        # The native call gives this batch's statistics where old ones weigh nothing.
        mean, var, momentum = torch.zeros_like(mean), torch.ones_like(var), 1.0
    call = F.batch_norm if batch else F.instance_norm
    y = call(side_by_side, flat(mean), flat(var), flat(weight), flat(bias), fresh, momentum, norm.eps).view(x.shape)
    if not direct and mean is not None and var is not None:
        _move(norm, active, mean.reshape(-1, x.shape[1]), var.reshape(-1, x.shape[1]), None)
    return affine(norm, y, active).to(x.dtype) if after else y


def _slow(
    norm: NormValues, x: Tensor, active: tuple[str, ...], keep: Tensor | None, fresh: bool, update: bool
) -> Tensor:
    """The same for absent rows, several rows per sample and other memory formats, written out."""
    rows = x.unflatten(0, (-1, len(active), norm.rows))
    if rows.dtype in (torch.float16, torch.bfloat16):
        rows = rows.float()
    inner = (1, len(active), 1, -1, *[1] * (x.ndim - 2))
    if not fresh:
        mean, var = (values(norm, v, norm.own[1], active) for v in (norm.running_mean, norm.running_var))
        assert mean is not None
        assert var is not None
        y = (rows - mean.reshape(inner)) * torch.rsqrt(var.reshape(inner) + norm.eps)
        return affine(norm, y.flatten(0, 2), active)
    across = (0, 2) if norm.own[1] else (0, 1, 2)
    places = tuple(range(4, rows.ndim))
    mask = None if keep is None else keep.unflatten(0, (-1, len(active), norm.rows)).to(rows.dtype)
    if norm.kind == "batch":
        mean, var, count = _moments(rows, (*across, *places), mask, norm.synchronised)
        y = (rows - mean) * torch.rsqrt(var + norm.eps)
        unbiased = var * (count / (count - 1).clamp(min=1))
    else:
        y = F.instance_norm(x, eps=norm.eps).unflatten(0, (-1, len(active), norm.rows))
        if not update:
            return affine(norm, y.flatten(0, 2), active)
        var, mean = torch.var_mean(rows, places, correction=1, keepdim=True)
        mean, _, count = _moments(mean, across, mask)
        unbiased = _moments(var, across, mask)[0]
        count = count * 2  # one row has a variance of its own
    if update:
        shape = (-1, x.shape[1])
        seen = count.expand_as(mean).reshape(shape)[:, 0] > 1 if keep is not None else None
        _count(norm, active, seen)
        _move(norm, active, mean.reshape(shape), unbiased.reshape(shape), seen)
    return affine(norm, y.flatten(0, 2), active)


def _moments(
    x: Tensor, axes: tuple[int, ...], mask: Tensor | None, synchronised: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and number of values, of the rows that the mask leaves (the others are 0).

    Synchronised, over the rows of all ranks.
    """
    size = 1
    for axis in axes:
        size *= x.shape[axis]
    if mask is None and not synchronised:
        var, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        return mean, var, torch.full_like(mean[..., :1], size)
    mask = torch.ones_like(x[(..., *[slice(1)] * (x.ndim - 3))]) if mask is None else mask
    everywhere = _all_reduce if synchronised else lambda value: value
    rows = mask.expand(*x.shape[:3], *[1] * (x.ndim - 3)).sum(axes, keepdim=True)
    count = everywhere(rows * (size / max(1, _rows_in(x, axes))))
    mean = everywhere(x.sum(axes, keepdim=True)) / count.clamp(min=1)
    var = everywhere(((x - mean) * mask).square().sum(axes, keepdim=True)) / count.clamp(min=1)
    return mean, var, count


def _all_reduce(value: Tensor) -> Tensor:
    from torch.distributed.nn.functional import all_reduce  # not there in every build of torch

    return all_reduce(value)


def _rows_in(x: Tensor, axes: tuple[int, ...]) -> int:
    found = 1
    for axis in axes:
        found *= x.shape[axis] if axis < 3 else 1
    return found


def _count(norm: NormValues, active: tuple[str, ...], seen: Tensor | None) -> None:
    tracked = norm.num_batches_tracked
    if tracked is None or norm.kind != "batch":  # torch's instance norms hold the number, but do not count
        return
    if not norm.own[1]:
        tracked.add_(1 if seen is None else seen.any().to(tracked.dtype))
        return
    for i, m in enumerate(active):
        tracked[norm.modalities.index(m)].add_(1 if seen is None else seen[i].to(tracked.dtype))


@torch.no_grad()
def _move(norm: NormValues, active: tuple[str, ...], mean: Tensor, var: Tensor, seen: Tensor | None) -> None:
    """Move the running statistics towards this batch's, ``[A, C]`` (or ``[1, C]`` where they are shared)."""
    tracked = norm.num_batches_tracked
    for i, m in enumerate(active if norm.own[1] else active[:1]):
        place = norm.modalities.index(m) if norm.own[1] else None
        factor: Tensor | float = norm.momentum or 0.0
        if norm.momentum is None and norm.kind == "batch" and tracked is not None:
            factor = 1.0 / (tracked if place is None else tracked[place]).clamp(min=1).to(mean.dtype)
        for running, batch in ((norm.running_mean, mean), (norm.running_var, var)):
            assert running is not None
            old = running if place is None else running[place]
            new = old + (batch[i].to(old.dtype) - old) * factor
            # As the native norms do it: without notice to autograd, which may hold the buffer for an earlier forward.
            old.data.copy_(new if seen is None else torch.where(seen[i], new, old))
