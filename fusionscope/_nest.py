"""Nests: tensors inside dicts, lists, tuples, named tuples and dataclasses, as models take and return them."""

from __future__ import annotations

import copy
import dataclasses
from collections import UserDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fusionscope.errors import InputError

PLAIN = (str, bytes, int, float, type(None))


def tensors(nest: Any, prefix: str = "") -> list[tuple[str, Tensor]]:
    """List ``(path, tensor)`` of a nest in order; a bare tensor has the path ``""``.

    >>> import torch
    >>> [path for path, _ in tensors({"logits": torch.ones(2), "hidden": (torch.ones(1), None)})]
    ['logits', 'hidden.0']
    """
    return find(nest, Tensor, prefix)


def find(nest: Any, kind: type, prefix: str = "") -> list[tuple[str, Any]]:
    """List ``(path, value)`` of all values of type ``kind`` in a nest, in order."""
    if isinstance(nest, kind):
        return [(prefix, nest)]
    found: list[tuple[str, Any]] = []
    for key, value in _children(nest) or ():
        found += find(value, kind, f"{prefix}.{key}" if prefix else str(key))
    return found


def map_tensors(fn: Callable[[Tensor], Any], nest: Any) -> Any:
    """Return the same nest with ``fn`` applied to each tensor; everything else is passed on as it is."""
    if isinstance(nest, Tensor):
        return fn(nest)
    children = _children(nest)
    return nest if children is None else _rebuild(nest, [map_tensors(fn, value) for _, value in children])


def join_tensors(first: Any, second: Any) -> Any:
    """Return ``first`` with each tensor followed, along axis 0, by the tensor of ``second`` at the same path.

    Raises:
        InputError: if the paths differ, or two tensors differ in type, device or shape beyond axis 0.
    """
    mine, theirs = tensors(first), dict(tensors(second))
    if {path for path, _ in mine} != set(theirs):
        paths = (", ".join(path or "a tensor" for path, _ in tensors(nest)) or "no tensor" for nest in (first, second))
        raise InputError(f"cannot join {' with '.join(paths)}: the tensors are not the same ones")
    joined = iter([_cat(path, tensor, theirs[path]) for path, tensor in mine])
    return map_tensors(lambda _: next(joined), first)


def take_samples(nest: Any, index: Tensor, size: int) -> Any:
    """Return the samples ``index`` of what belongs to ``size`` samples.

    A tensor whose first axis is ``size`` is indexed, and so is a list with one entry per sample; the rest stays.

    >>> take_samples([{"boxes": torch.ones(7, 4)}, {"boxes": torch.ones(0, 4)}, "none"], torch.tensor([2, 1]), 3)
    ['none', {'boxes': tensor([], size=(0, 4))}]
    """
    if isinstance(nest, Tensor):
        return nest[index.to(nest.device)] if _stacked(nest, size) else nest
    if _listed(nest, size):
        return _rebuild(nest, [nest[i] for i in index.tolist()])
    children = _children(nest)
    return nest if children is None else _rebuild(nest, [take_samples(value, index, size) for _, value in children])


def join_samples(first: Any, second: Any, sizes: tuple[int, int]) -> Any:
    """Return what belongs to ``sizes[0]`` samples followed by what belongs to ``sizes[1]`` more.

    Raises:
        InputError: if the two are not of the same form, or a part without a sample axis differs.
    """
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        if _stacked(first, sizes[0]) and _stacked(second, sizes[1]):
            return _cat("target", first, second)
        if first.dtype == second.dtype and first.device == second.device and torch.equal(first, second):
            return first
    elif type(first) is type(second):
        # One of the two may look otherwise by chance: B tensors of B rows.
        fits = isinstance(first, list | tuple) and (len(first), len(second)) == sizes
        if fits and (_listed(first, sizes[0]) or _listed(second, sizes[1])):
            return _rebuild(first, [*first, *second])
        mine, theirs = _children(first), dict(_children(second) or ())
        if mine is not None and {key for key, _ in mine} == set(theirs):
            return _rebuild(first, [join_samples(value, theirs[key], sizes) for key, value in mine])
        if isinstance(first, PLAIN) and first == second:
            return first
    raise InputError(f"cannot join a {type(first).__name__} with a {type(second).__name__} of another form")


def shape(value: Any) -> str:
    """``[5, 3] float32`` for a tensor, the type's name for anything else."""
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__


def describe(inputs: Mapping[str, Any]) -> str:
    """Name every modality with its shape and type, in one line."""
    parts = []
    for modality, nest in inputs.items():
        inner = ", ".join(f"{path} {shape(t)}" if path else shape(t) for path, t in tensors(nest))
        parts.append(f"{modality} ({inner})" if not isinstance(nest, Tensor) else f"{modality} {inner}")
    return ", ".join(parts)


def _cat(path: str, first: Tensor, second: Tensor) -> Tensor:
    if (first.shape[1:], first.dtype, first.device) != (second.shape[1:], second.dtype, second.device):
        raise InputError(
            f"cannot join {path} {list(first.shape)} {first.dtype} with {list(second.shape)} {second.dtype}: "
            "only the first axis, the sample, may differ"
        )
    return torch.cat([first, second])


def _stacked(tensor: Tensor, size: int) -> bool:
    return tensor.ndim > 0 and len(tensor) == size


def _listed(nest: Any, size: int) -> bool:
    """Whether a list has one entry per sample (and is not a list of tensors that each hold all samples)."""
    if not isinstance(nest, list | tuple) or hasattr(nest, "_fields") or len(nest) != size:
        return False
    bare = [value for value in nest if isinstance(value, Tensor)]
    return not bare or not all(_stacked(tensor, size) for tensor in bare)


def _children(nest: Any) -> list[tuple[Any, Any]] | None:
    if isinstance(nest, Mapping):
        return list(nest.items())
    if isinstance(nest, tuple) and hasattr(nest, "_fields"):
        return list(zip(nest._fields, nest, strict=True))
    if isinstance(nest, list | tuple):
        return list(enumerate(nest))
    if dataclasses.is_dataclass(nest) and not isinstance(nest, type):
        return [(field.name, getattr(nest, field.name)) for field in dataclasses.fields(nest)]
    return None


def _rebuild(nest: Any, values: list[Any]) -> Any:
    """Return a nest of the same type with ``values`` for its children."""
    if isinstance(nest, Mapping):
        if type(nest) is dict or not isinstance(nest, dict | UserDict):
            # A shallow copy of an unknown mapping may share its contents, so it becomes a dict.
            return dict(zip(nest, values, strict=True))
        changed = copy.copy(nest)
        for key, value in zip(list(nest), values, strict=True):
            changed[key] = value
        return changed
    if isinstance(nest, tuple) and hasattr(nest, "_fields"):
        return type(nest)(*values)
    if isinstance(nest, list | tuple):
        return type(nest)(values)
    changed = copy.copy(nest)
    for (key, _), value in zip(_children(nest) or (), values, strict=True):
        object.__setattr__(changed, key, value)
    return changed
