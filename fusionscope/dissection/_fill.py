"""What stands in for the modalities that a subset lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from fusionscope._nest import map_tensors, tensors
from fusionscope.batch import Batch
from fusionscope.errors import InputError, did_you_mean

FILLS = ("resample", "zero", "mean", "present")

Fill = str | Callable[[str, Any, Batch], Any]


def check_fill(fill: Fill) -> Fill:
    """Return ``fill`` if it is known.

    Raises:
        InputError: if it is not.
    """
    if not callable(fill) and fill not in FILLS:
        raise InputError(
            f"unknown fill-in {fill!r} for absent modalities; expected one of {', '.join(FILLS)} or a function."
            + did_you_mean(str(fill), FILLS)
        )
    return fill


def donors(size: int, modality: str, *, seed: int, index: int) -> Tensor:
    """For each sample of batch ``index`` another sample of it, drawn with repetition, never the sample itself."""
    key = [seed & 0xFFFFFFFF, index, *modality.encode()]
    mixed = 0
    for part in key:
        mixed = (mixed * 1000003 + part) % (2**62)
    generator = torch.Generator().manual_seed(mixed)
    shift = torch.randint(1, max(size, 2), (size,), generator=generator)
    return (torch.arange(size) + shift) % max(size, 1)


def fill_in(batch: Batch, absent: Iterable[str], fill: Fill = "resample", *, seed: int = 0, index: int = 0) -> Batch:
    """Return the batch with each absent modality replaced.

    ``resample`` takes the whole modality, masks included, from another sample of the batch (each absent modality from
    another one); ``zero`` and ``mean`` (over the batch) replace floating tensors and keep masks and lengths;
    ``present`` leaves the values and marks the modality absent, for models that take ``present``; a function gets
    ``(modality, values, batch)`` and returns the values to use.

    Raises:
        InputError: for ``zero`` or ``mean`` with a modality of integers only; for ``resample`` with one sample.

    >>> batch = Batch({"rgb": torch.ones(3, 2), "depth": torch.ones(3, 2)})
    >>> fill_in(batch, ["depth"], "zero").inputs["depth"].sum()
    tensor(0.)
    """
    check_fill(fill)
    changed: dict[str, Any] = {}
    absent = list(absent)
    if fill == "present":
        flags = dict(batch.present or {})
        device = tensors(batch.inputs)[0][1].device
        for modality in batch.modalities:
            old = flags.get(modality, torch.ones(batch.size, dtype=torch.bool, device=device))
            flags[modality] = torch.zeros_like(old) if modality in absent else old
        return Batch(batch.inputs, batch.target, flags, batch.group)
    for modality in absent:
        values = batch.inputs[modality]
        if callable(fill):
            changed[modality] = fill(modality, map_tensors(torch.clone, values), batch.clone())
        elif fill == "resample":
            if batch.size < 2:
                raise InputError("fill-in 'resample' needs two samples in a batch; use larger batches or fill='zero'")
            order = donors(batch.size, modality, seed=seed, index=index)
            changed[modality] = map_tensors(lambda t, order=order: t[order.to(t.device)], values)
        else:
            changed[modality] = _constant(modality, values, fill)
    return batch.with_inputs(**changed)


def _constant(modality: str, values: Any, fill: str) -> Any:
    if not any(tensor.is_floating_point() for _, tensor in tensors(values)):
        raise InputError(
            f"fill-in {fill!r} needs real-valued inputs, and modality {modality!r} has integers only, for which "
            f"{fill} means nothing; use fill='resample', 'present' or a function (modality, values, batch) -> values"
        )

    def replace(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return torch.zeros_like(tensor) if fill == "zero" else tensor.mean(0, keepdim=True).expand_as(tensor)

    return map_tensors(replace, values)
