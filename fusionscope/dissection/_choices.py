"""What is checked and chosen before a dissection starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from fusionscope._nest import map_tensors, tensors
from fusionscope.batch import Batch
from fusionscope.errors import InputError, did_you_mean
from fusionscope.tracing import Tap, Trace


def check_arguments(model: Any, loader: Any) -> None:
    """Tell a mixed-up argument from a model and a loader of batches."""
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch.nn.Module and then a loader of batches, got a {type(model).__name__} first")
    if hasattr(loader, "loader") and hasattr(loader, "splits"):
        raise InputError("expected a loader of batches, got DataSplits; give data.loader('test', 64, shuffle=True)")
    if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
        raise InputError(f"expected a loader of batches, got the data set {type(loader).__name__}; use a DataLoader")
    if not isinstance(loader, Iterable):
        raise InputError(f"expected a loader of batches, got a {type(loader).__name__}")


def choose_taps(found: Trace, wanted: Mapping[str, Sequence[str]] | None) -> tuple[list[Tap], list[str]]:
    """Return the taps to measure, and a note on those that cannot be read."""
    if wanted is None:
        taps = [tap for taps in found.taps.values() for tap in taps]
        unread = [tap.call for tap in taps if tap.call.axes.unit is None]
        if not unread:
            return taps, []
        layouts = ", ".join(f"{call.path!r}: '{'N' + '?' * (len(call.shape) - 1)}'" for call in unread[:3])
        text = (
            f"cannot tell which axis of {', '.join(call.id for call in unread[:3])} holds units, so "
            f"{len(unread)} of {len(taps)} taps are left out; say it with layouts={{{layouts}}} (N samples, C units)"
        )
        if len(unread) == len(taps):
            raise InputError(text)
        return [tap for tap in taps if tap.call.axes.unit is not None], [text]
    check_names("modality", wanted, found.modalities)
    chosen: dict[str, Tap] = {}
    for modality, names in wanted.items():
        for level, name in enumerate(names):
            tap = Tap(modality, level, (level + 1) / len(names), found.call(name))
            if tap.id in chosen:
                raise InputError(f"taps= names {tap.id} twice; a call is measured once, for one modality")
            chosen[tap.id] = tap
    return list(chosen.values()), []


def check_names(what: str, names: Iterable[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise InputError(f"unknown {what} {name!r}; expected {', '.join(known)}.{did_you_mean(name, known)}")


def varied(few: Batch) -> tuple[Batch, list[str]]:
    """Return the samples to trace with, a constant modality slightly varied, and a note for each that was.

    What depends on a modality can be seen only where its values differ. In a modality without any difference every
    second sample gets seeded noise (integers: one less), for the trace alone.
    """
    notes, changed = [], {}
    for modality, nest in few.inputs.items():
        found = [t for _, t in tensors(nest) if t.shape[0] == few.size]
        if few.size < 2 or any(bool((t != t[:1]).any()) for t in found):
            continue
        changed[modality] = map_tensors(_jittered, nest)
        notes.append(
            f"modality {modality!r} is constant in the first batch; the model was traced with small noise added to it, "
            "and what follows says what the model does with this one value"
        )
    return (few.with_inputs(**changed) if changed else few), notes


def _jittered(tensor: Tensor) -> Tensor:
    moved = tensor.clone()
    if tensor.is_floating_point():
        noise = torch.randn(tensor[1::2].shape, generator=torch.Generator().manual_seed(0)).to(tensor)
        moved[1::2] += 0.1 * tensor.abs().mean().clamp(min=0.1) * noise
    elif tensor.dtype != torch.bool:
        moved[1::2] += 1 if not bool(tensor.any()) else 0
        moved[1::2] -= (tensor[1::2] > 0).to(tensor.dtype)
    return moved
