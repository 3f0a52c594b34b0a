"""Record one forward: which module ran when, inside which call, and the fingerprints of what went in and came out."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fusionscope._nest import map_tensors, tensors
from fusionscope.tracing._fingerprint import Fingerprint, fingerprint

CallKey = tuple[str, int]
Prints = dict[str, Fingerprint]


@dataclass
class Record:
    """One call: ``inputs`` and ``outputs`` map the place of a tensor in the nest to its fingerprint."""

    key: CallKey
    module: nn.Module
    parent: CallKey | None
    inputs: Prints
    outputs: Prints = field(default_factory=dict)
    children: int = 0
    failed: bool = False


@dataclass
class Recording:
    """All calls of one forward by key, in the order they started."""

    calls: dict[CallKey, Record] = field(default_factory=dict)


def module_paths(model: nn.Module) -> dict[str, nn.Module]:
    """Every module that can be hooked, once, by a clean path; scripted modules are opaque, wrappers are left out."""
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()
    opaque: list[str] = []
    for raw, module in model.named_modules():
        if any(raw.startswith(prefix) for prefix in opaque) or "parametrizations" in raw.split("."):
            continue
        if isinstance(module, torch.jit.ScriptModule):
            opaque.append(f"{raw}.")
            continue
        if hasattr(module, "_orig_mod") or isinstance(module, nn.DataParallel):
            continue
        path = ".".join(part for part in raw.split(".") if part != "_orig_mod")
        if id(module) not in seen:
            seen.add(id(module))
            found[path] = module
    return found


class Recorder:
    """Context manager that hooks every module of a model and fills a :class:`Recording` per forward.

    ``edit`` maps calls to a function of their output, whose result the model goes on with (used to restart a trace from
    the output of a call).
    """

    def __init__(self, model: nn.Module, edit: dict[CallKey, Callable[[Any], Any]] | None = None) -> None:
        self.paths = module_paths(model)
        self.edit = edit or {}
        self.recording = Recording()
        self._stack: list[Record] = []
        self._counts: dict[str, int] = {}
        self._cache: dict[int, tuple[weakref.ref[Tensor], int, Fingerprint]] = {}

    def __enter__(self) -> Recorder:
        with ExitStack() as stack:
            for path, module in self.paths.items():
                before = module.register_forward_pre_hook(self._before(path), with_kwargs=True)
                stack.callback(before.remove)
                after = module.register_forward_hook(self._after(), with_kwargs=True, always_call=True)
                stack.callback(after.remove)
            self._exit = stack.pop_all()
        return self

    def run(self, model: nn.Module, inputs: Any, call: Callable[[], Any]) -> Any:
        """Run ``call`` and return what it returns.

        Where it is not one call of the whole model (a function that calls its methods), a record of the function stands
        for the model, with the calls it made inside.
        """
        before = self._prints(inputs)
        returned = call()
        calls = self.recording.calls
        outermost = [record for record in calls.values() if record.parent is None]
        if len(outermost) != 1 or outermost[0].key != ("", 0):
            key = ("(call)" if ("", 0) in calls else "", 0)
            root = Record(key, model, None, before, self._prints(returned), len(outermost))
            for record in outermost:
                record.parent = key
            self.recording.calls = {key: root, **calls}
        return returned

    def __exit__(self, *error: object) -> None:
        self._exit.close()
        self._cache.clear()

    def _before(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            index = self._counts.get(path, 0)
            self._counts[path] = index + 1
            parent = self._stack[-1] if self._stack else None
            if parent is not None:
                parent.children += 1
            inputs = self._prints({**dict(enumerate(args)), **kwargs})
            record = Record((path, index), module, parent.key if parent else None, inputs)
            self._stack.append(record)
            self.recording.calls[record.key] = record

        return hook

    def _after(self) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            while self._stack:
                record = self._stack.pop()
                if record.module is module:
                    break
                record.failed = True
            else:
                return None
            if output is None:
                record.failed = True
                return None
            record.outputs = self._prints(output)
            change = self.edit.get(record.key)
            return change(output) if change is not None else None

        return hook

    def _prints(self, nest: Any) -> Prints:
        return {path: self._print(tensor) for path, tensor in tensors(nest)}

    def _print(self, tensor: Tensor) -> Fingerprint:
        if tensor.is_inference():
            return fingerprint(tensor)
        known = self._cache.get(id(tensor))
        if known is not None and known[0]() is tensor and known[1] == tensor._version:
            return known[2]
        print_ = fingerprint(tensor)
        self._cache[id(tensor)] = (weakref.ref(tensor), tensor._version, print_)
        return print_


def disturbed(output: Any, places: set[str], stretch: bool = True) -> Any:
    """Return ``output`` with its floating tensors at ``places`` moved by one row and, by choice, stretched a little."""
    names = {id(tensor): place for place, tensor in tensors(output)}

    def change(tensor: Tensor) -> Tensor:
        if names.get(id(tensor)) not in places or not tensor.is_floating_point():
            return tensor
        moved = tensor.roll(1, 0) if tensor.ndim else tensor
        return moved * 1.25 + 0.5 if stretch else moved

    return map_tensors(change, output)
