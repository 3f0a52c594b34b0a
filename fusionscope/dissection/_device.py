"""Where a model is, and which one it is."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn

from fusionscope._nest import tensors
from fusionscope.batch import unwrap
from fusionscope.errors import InputError


@contextmanager
def moved(model: nn.Module, device: torch.device) -> Generator[None, None, None]:
    """Hold a model on a device, and put it back."""
    home = device_of(model)
    if home == device:
        yield
        return
    try:
        model.to(device)
        yield
    finally:
        model.to(home)


def device_of(model: nn.Module) -> torch.device:
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def usable(device: torch.device | str) -> torch.device:
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except Exception as error:
        raise InputError(f"cannot use the device {device!r}: {error}") from error
    return chosen


def model_fingerprint(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(unwrap(model).state_dict().items()):
        digest.update(name.encode())
        for _, part in tensors(tensor):
            digest.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
