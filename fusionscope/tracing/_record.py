"""Record one forward: which module ran when, inside which call, and the fingerprints of what went in and came out."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fusionscope._nest import map_tensors, tensors
from fusionscope.tracing._fingerprint import Fingerprint, fingerprint

CallKey = tuple[str, int]
Prints = dict[str, Fingerprint]
Side = Literal["inputs", "outputs"]


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
    versions: dict[int, int] = field(default_factory=dict)


@dataclass
class Recording:
    """All calls of one forward by key, in the order they started."""

    calls: dict[CallKey, Record] = field(default_factory=dict)
    unread: set[CallKey] = field(default_factory=set)

    def deepen(self, other: Recording, keys: Collection[CallKey]) -> None:
        """Take the fingerprints of some calls from another recording of the same run."""
        for key in keys:
            if key in self.calls and key in other.calls:
                self.calls[key].inputs = other.calls[key].inputs
                self.calls[key].outputs = other.calls[key].outputs


@dataclass(frozen=True)
class Source:
    """Tensors to disturb: at some places of what a call takes or gives, by choice only some indices of an axis."""

    key: CallKey
    side: Side
    places: frozenset[str]
    axis: int = 0
    index: tuple[int, ...] | None = None


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

    Args:
        model: the model.
        disturb: tensors that the model goes on with in a disturbed form (to restart a trace from there).
        gently: only exchange samples there, and leave the scale of the values.
        full: calls whose large tensors are hashed along every axis.
        only: calls to take fingerprints of; None = all.
        size: how many samples the batch has.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        disturb: Source | None = None,
        gently: bool = False,
        full: Collection[CallKey] = (),
        only: Collection[CallKey] | None = None,
        size: int = 0,
    ) -> None:
        self.paths = module_paths(model)
        self.source, self.gently, self.full, self.only, self.size = disturb, gently, full, only, size
        self.recording = Recording()
        self._stack: list[Record] = []
        self._counts: dict[str, int] = {}
        self._cache: dict[int, tuple[weakref.ref[Tensor], int, Fingerprint, bytes]] = {}

    def __enter__(self) -> Recorder:
        with ExitStack() as stack:
            for path, module in self.paths.items():
                before = module.register_forward_pre_hook(functools.partial(self._enter, path), with_kwargs=True)
                stack.callback(before.remove)
                after = module.register_forward_hook(self._leave, with_kwargs=True, always_call=True)
                stack.callback(after.remove)
            self._exit = stack.pop_all()
        return self

    def run(self, model: nn.Module, inputs: Any, call: Callable[[], Any]) -> Any:
        """Run ``call`` and return what it returns.

        Where it is not one call of the whole model (a function that calls its methods), a record of the function stands
        for the model, with the calls it made inside.
        """
        before = self._prints(inputs, ("", 0))
        returned = call()
        calls = self.recording.calls
        outermost = [record for record in calls.values() if record.parent is None]
        if len(outermost) != 1 or outermost[0].key != ("", 0):
            key = ("(call)" if ("", 0) in calls else "", 0)
            root = Record(key, model, None, before, self._prints(returned, ("", 0)), len(outermost))
            for record in outermost:
                record.parent = key
            self.recording.calls = {key: root, **calls}
        return returned

    def __exit__(self, *error: object) -> None:
        self._exit.close()
        self._cache.clear()

    def _enter(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        index = self._counts.get(path, 0)
        self._counts[path] = index + 1
        parent = self._stack[-1] if self._stack else None
        if parent is not None:
            parent.children += 1
        given = {**dict(enumerate(args)), **_in_order(type(module).forward, kwargs)}
        key = (path, index)
        if self.source is not None and self.source.key == key and self.source.side == "inputs":
            for place, tensor in tensors(given):
                if place in self.source.places:
                    tensor.copy_(disturbed(tensor, self.source, self.gently))
        record = Record(key, module, parent.key if parent else None, self._prints(given, key))
        if self.source is not None and self.source.key == key:
            record.versions = {id(t): t._version for _, t in tensors(given) if not t.is_inference()}
        self._stack.append(record)
        self.recording.calls[record.key] = record

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
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
        changed = None
        if self.source is not None and self.source.key == record.key and self.source.side == "outputs":
            changed = self._replaced(output, self.source, record.versions)
        record.outputs = self._prints(output if changed is None else changed, record.key)
        return changed

    def _replaced(self, output: Any, source: Source, given: dict[int, int]) -> Any:
        names = {id(tensor): place for place, tensor in tensors(output)}

        def replace(tensor: Tensor) -> Tensor:
            if names.get(id(tensor)) not in source.places:
                return tensor
            moved = disturbed(tensor, source, self.gently)
            # A module that works in place: what it was given is its output too.
            return tensor.copy_(moved) if given.get(id(tensor), tensor._version) != tensor._version else moved

        return map_tensors(replace, output)

    def _prints(self, nest: Any, key: CallKey) -> Prints:
        if self.only is not None and key not in self.only:
            return {}
        full = key in self.full
        prints = {}
        for path, tensor in tensors(nest):
            try:
                prints[path] = self._print(tensor, full)
            except (RuntimeError, NotImplementedError, TypeError, ValueError):
                self.recording.unread.add(key)  # nested, quantized or inside vmap: its values cannot be got at
        return prints

    def _print(self, tensor: Tensor, full: bool) -> Fingerprint:
        if tensor.is_inference():
            return fingerprint(tensor, full, self.size)
        known = self._cache.get(id(tensor))
        fresh = known is not None and known[0]() is tensor and known[1] == tensor._version
        probe = _probe(tensor)
        fresh = fresh and known is not None and known[3] == probe
        if known is not None and fresh and (known[2].full or not full):
            return known[2]
        print_ = fingerprint(tensor, full, self.size)
        self._cache[id(tensor)] = (weakref.ref(tensor), tensor._version, print_, probe)
        return print_


def _in_order(forward: Callable[..., Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, in the order of the signature rather than of the call."""
    return kwargs if len(kwargs) < 2 else {k: kwargs[k] for k in sorted(kwargs, key=_places(forward, *kwargs).index)}


@functools.lru_cache(maxsize=512)
def _places(forward: Callable[..., Any], *names: str) -> tuple[str, ...]:
    try:
        own = [name for name in inspect.signature(forward).parameters if name in names]
    except (TypeError, ValueError):
        own = []
    return (*own, *(name for name in names if name not in own))


def _probe(tensor: Tensor) -> bytes:
    """Some values of a tensor: what is written through ``tensor.data`` leaves its version as it was."""
    if tensor.layout != torch.strided or not tensor.numel():
        return b""
    flat = tensor.detach().reshape(-1) if tensor.is_contiguous() else tensor.detach().flatten()
    return flat[:: max(1, flat.numel() // 64)].cpu().contiguous().view(torch.uint8).numpy().tobytes()


def disturbed(tensor: Tensor, source: Source, gently: bool) -> Tensor:
    """Return a tensor moved by one sample and, unless ``gently``, stretched, with seeded noise; other indices stay."""
    if not tensor.ndim:
        return tensor if not tensor.is_floating_point() else tensor * 1.25 + 0.5
    axis = min(source.axis, tensor.ndim - 1)
    chosen = torch.arange(tensor.shape[axis]) if source.index is None else torch.tensor(source.index)
    chosen = chosen.to(tensor.device)
    donors = torch.arange(1, len(chosen) + 1).to(chosen)
    donors[-1:] = max(0, len(chosen) - 2)  # not a permutation, which a sum over the samples would not see
    moved = tensor.index_select(axis, chosen[donors])
    if tensor.is_floating_point() and not gently:
        noise = torch.randn(moved.shape, generator=torch.Generator().manual_seed(0))
        moved = moved * 1.25 + 0.5 * noise.to(moved)
    return tensor.index_copy(axis, chosen, moved)
