"""A calibration at work in a model: in front of one call, or between two runs of the model's code."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from fusionscope._nest import map_tensors, tensors
from fusionscope.errors import ModelError
from fusionscope.tracing import rng_state, set_rng

from ._attach_sites import CallKey, Plan, module_at, told

PLAN = "_calibration_plan"
RUNNING = "_calibration_running"
NAME = "contextual_calibration"
METHODS = ("forward", "outputs")


class _Reached(Exception):
    """All features are there: the rest of the first run is not needed."""


class Before:
    """A forward pre-hook that calibrates what a call takes."""

    def __init__(self, calibration: nn.Module, plan: Plan, only: int | None, index: int | None) -> None:
        self.calibration, self.plan, self.position, self.index, self.count = calibration, plan, only, index, 0

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.count += 1
        if self.index is not None and self.index != self.count - 1:
            return None
        nest = {"args": list(args), "kwargs": kwargs}
        (key,) = {site.key for site in self.plan.sites.values()}
        changed = self.plan.change({key: nest}, self.calibration, find_present(self.position, args, kwargs))[key]
        return tuple(changed["args"]), changed["kwargs"]


class Restart:
    """A forward pre-hook of the whole model: the calls of a :class:`Before` count from 0 again."""

    def __init__(self, before: Before) -> None:
        self.before = before

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.before.count = 0


def present_position(forward: Callable[..., Any]) -> int | None:
    """Return the place of ``present`` among a forward's arguments, -1 if it is by keyword only, None if it has none."""
    names = [p for p in inspect.signature(forward).parameters.values() if p.name != "self"]
    for place, parameter in enumerate(names):
        if parameter.name == "present":
            return place if parameter.kind is not inspect.Parameter.KEYWORD_ONLY else -1
    return None


def find_present(position: int | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return what a call was given as ``present``, or None."""
    if position is None:
        return None
    return args[position] if 0 <= position < len(args) else kwargs.get("present")


def calibrated_class(plain: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass, of the same name, whose ``forward`` (and ``outputs``, if it has that) runs in two parts."""
    own = {name: _in_two(getattr(plain, name)) for name in METHODS if callable(getattr(plain, name, None))}

    def reduced(self: nn.Module, protocol: int) -> Any:
        """Pickle by the plain class, since its name finds no other."""
        make, args, *rest = plain.__reduce_ex__(self, protocol)
        return (_empty, (plain,), *rest) if args == (type(self),) else (make, args, *rest)

    more = {"__module__": plain.__module__, "__qualname__": plain.__qualname__, "_calibrated": plain}
    return type(plain.__name__, (plain,), {**own, **more, "__reduce_ex__": reduced})


def _empty(plain: type[nn.Module]) -> nn.Module:
    made = calibrated_class(plain)
    return made.__new__(made)


def _in_two(method: Callable[..., Any]) -> Callable[..., Any]:
    position = present_position(method)

    @functools.wraps(method)
    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if RUNNING in vars(self):  # a method that calls the other
            return method(self, *args, **kwargs)
        present = find_present(position, args, kwargs)
        vars(self)[RUNNING] = True
        try:
            return _Run(self, vars(self)[PLAN]).run(functools.partial(method, self), args, kwargs, present)
        finally:
            del vars(self)[RUNNING]

    return run


class _Run:
    """One forward: up to the last features, the calibration, and again with what ran before kept."""

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self.model, self.plan = model, plan
        self.kept: dict[CallKey, tuple[Any, dict[str, Any], dict[str, int]]] = {}
        self.counts: dict[str, int] = {}
        self.versions: list[tuple[CallKey, Tensor, int]] = []
        self.waiting = {site.key for site in plan.sites.values()}
        self.again = False
        self.gradients = torch.is_grad_enabled()

    def run(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], present: Any) -> Any:
        plan = self.plan
        with self._installed():
            start = rng_state()
            given = {"args": list(args), "kwargs": kwargs}
            before = [(tensor, version(tensor)) for _, tensor in tensors(given)] if plan.testing else []
            own = map_tensors(torch.clone if plan.own_inputs else _same, given)
            with suppress(_Reached):
                forward(*own["args"], **own["kwargs"])
            if self.waiting:
                raise ModelError(
                    f"{', '.join(sorted(map(told, self.waiting)))} ran when the calibration was attached, but not on "
                    "this batch: the model takes another path here; detach_calibration(model), and attach it on a "
                    "batch that takes this path"
                )
            if plan.testing:
                plan.own_inputs |= any(version(tensor) != was for tensor, was in before)
                self._mark()
            calibration = module_at(self.model, plan.home).get_submodule(NAME)
            nests = plan.change({key: nest for key, (nest, _, _) in self.kept.items()}, calibration, present)
            self.kept = {key: (nests[key], rng, counts) for key, (_, rng, counts) in self.kept.items()}
            set_rng(start)
            self.counts.clear()
            self.again = True
            return forward(*args, **kwargs)

    @contextmanager
    def _installed(self) -> Generator[None, None, None]:
        """Stand in front of the modules' calls, hooks included, for this forward only."""
        modules = {path: module_at(self.model, path) for path in {path for path, _ in self.plan.skip}}
        before = {path: vars(module).get("_compiled_call_impl", _Reached) for path, module in modules.items()}
        for path, module in modules.items():
            call = module._compiled_call_impl or module._call_impl
            vars(module)["_compiled_call_impl"] = functools.partial(self._call, path, call)
        try:
            yield
        finally:
            for path, module in modules.items():
                if before[path] is _Reached:
                    del vars(module)["_compiled_call_impl"]
                else:
                    vars(module)["_compiled_call_impl"] = before[path]

    def _call(self, path: str, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        key = (path, self.counts.get(path, 0))
        self.counts[path] = key[1] + 1
        if self.again and key in self.kept:
            output, rng, counts = self.kept[key]
            set_rng(rng)
            self.counts = dict(counts)
            return output
        if self.again or key not in self.plan.skip:
            return call(*args, **kwargs)
        if self.gradients and not torch.is_grad_enabled() and _checkpointed():
            raise ModelError(
                f"{told(key)} runs inside reentrant gradient checkpointing, whose backward would compute it again "
                "without the calibration; checkpoint with use_reentrant=False, or not at all"
            )
        self._mark()
        output = call(*args, **kwargs)
        self.versions = [(key, tensor, version(tensor)) for key, tensor, _ in self.versions]
        kept = map_tensors(torch.clone, output) if key in self.plan.spoilt else output
        self.kept[key] = (kept, rng_state(), dict(self.counts))
        if self.plan.testing:
            self.versions += [(key, tensor, version(tensor)) for _, tensor in tensors(output)]
        self.waiting.discard(key)
        if not self.waiting:
            raise _Reached
        return output

    def _mark(self) -> None:
        """Note whose output was changed in place by what is not kept: by the code between the calls."""
        self.plan.spoilt |= {key for key, tensor, was in self.versions if version(tensor) != was}


def _checkpointed() -> bool:
    """Whether this runs inside reentrant gradient checkpointing."""
    frame = sys._getframe()
    while frame is not None and frame.f_code is not CheckpointFunction.forward.__code__:
        frame = frame.f_back
    return frame is not None


def version(tensor: Tensor) -> int:
    """How often a tensor was changed in place."""
    return 0 if tensor.is_inference() else tensor._version


def _same(tensor: Tensor) -> Tensor:
    return tensor
