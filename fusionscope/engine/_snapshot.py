"""Snapshots of a training: nested plain values as JSON, tensors as safetensors; whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fusionscope._files import atomic_write
from fusionscope.errors import FileError

STATE = "state.json"
TENSOR, PAIRS = "$tensor", "$pairs"


def unfinished(out: Path) -> Path:
    """Where a training that will become ``out`` keeps what it has so far."""
    return out.with_name(f"{out.name}.unfinished")


def save_snapshot(folder: Path, state: dict[str, Any]) -> None:
    """Write nested dicts and lists of tensors, numbers, strings, booleans and None; the one before is replaced.

    The JSON file names the file of tensors that belongs to it and is renamed into place last, so at every moment the
    two fit together.
    """
    tensors: dict[str, Tensor] = {}
    plain = _packed(state, tensors)
    before = _tensor_files(folder)
    number = 1 + max((int(p.stem.rpartition("-")[2]) for p in before), default=0)
    name = f"state-{number}.safetensors"
    with atomic_write(folder / name) as temporary:
        save_file(tensors, temporary)
    with atomic_write(folder / STATE) as temporary:
        temporary.write_text(json.dumps({"tensors": name, "state": plain}), encoding="utf-8")
    for path in before:
        path.unlink(missing_ok=True)


def is_newer(folder: Path, file: Path) -> bool:
    """Whether there is a snapshot that was saved after the file was written."""
    state = folder / STATE
    return state.exists() and state.stat().st_mtime_ns > file.stat().st_mtime_ns


def load_snapshot(folder: Path) -> dict[str, Any] | None:
    """Read what :func:`save_snapshot` wrote; None where there is nothing.

    Raises:
        FileError: if it is damaged.
    """
    try:
        found = json.loads((folder / STATE).read_text(encoding="utf-8"))
        return _unpacked(found["state"], load_file(folder / found["tensors"]))
    except FileNotFoundError as error:
        if not (folder / STATE).exists():
            return None
        raise FileError(f"{folder} is damaged: {error.filename} is missing; remove it and train anew") from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise FileError(f"{folder} is damaged ({error}); remove it and train anew") from error


def remove_snapshot(folder: Path) -> None:
    """Remove it with all that lies beside it; the state goes first, so that half of it is never taken for a whole."""
    (folder / STATE).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _tensor_files(folder: Path) -> list[Path]:
    return [p for p in folder.glob("state-*.safetensors") if p.stem.rpartition("-")[2].isdecimal()]


def _packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        copy = torch.empty(value.shape, dtype=value.dtype)  # contiguous, and no view of anything
        tensors[name] = copy.copy_(value.detach())
        return {TENSOR: name}
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: _packed(v, tensors) for key, v in value.items()}
        return {PAIRS: [[key, _packed(v, tensors)] for key, v in value.items()]}
    if isinstance(value, list | tuple):
        return [_packed(v, tensors) for v in value]
    return value


def _unpacked(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) == {TENSOR}:
            return tensors[value[TENSOR]]
        if set(value) == {PAIRS}:
            return {key: _unpacked(v, tensors) for key, v in value[PAIRS]}
        return {key: _unpacked(v, tensors) for key, v in value.items()}
    if isinstance(value, list):
        return [_unpacked(v, tensors) for v in value]
    return value
