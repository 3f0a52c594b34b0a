"""Nests: tensors inside dicts, lists, tuples, named tuples and dataclasses, as models take and return them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


def tensors(nest: Any, prefix: str = "") -> list[tuple[str, Tensor]]:
    """List ``(path, tensor)`` of a nest in order; a bare tensor has the path ``""``.

    >>> import torch
    >>> [path for path, _ in tensors({"logits": torch.ones(2), "hidden": (torch.ones(1), None)})]
    ['logits', 'hidden.0']
    """
    if isinstance(nest, Tensor):
        return [(prefix, nest)]
    found: list[tuple[str, Tensor]] = []
    for key, value in _children(nest):
        found += tensors(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def map_tensors(fn: Callable[[Tensor], Any], nest: Any) -> Any:
    """Return the same nest with ``fn`` applied to each tensor; everything else is passed on as it is."""
    if isinstance(nest, Tensor):
        return fn(nest)
    if isinstance(nest, Mapping):
        if type(nest) is dict:
            return {key: map_tensors(fn, value) for key, value in nest.items()}
        changed = copy.copy(nest)
        for key, value in nest.items():
            changed[key] = map_tensors(fn, value)
        return changed
    if isinstance(nest, tuple) and hasattr(nest, "_fields"):
        return type(nest)(*(map_tensors(fn, value) for value in nest))
    if isinstance(nest, list | tuple):
        return type(nest)(map_tensors(fn, value) for value in nest)
    if dataclasses.is_dataclass(nest) and not isinstance(nest, type):
        changed = copy.copy(nest)
        for key, value in _children(nest):
            object.__setattr__(changed, key, map_tensors(fn, value))
        return changed
    return nest


def _children(nest: Any) -> list[tuple[Any, Any]]:
    if isinstance(nest, Mapping):
        return list(nest.items())
    if isinstance(nest, tuple) and hasattr(nest, "_fields"):
        return list(zip(nest._fields, nest, strict=True))
    if isinstance(nest, list | tuple):
        return list(enumerate(nest))
    if dataclasses.is_dataclass(nest) and not isinstance(nest, type):
        return [(field.name, getattr(nest, field.name)) for field in dataclasses.fields(nest)]
    return []
