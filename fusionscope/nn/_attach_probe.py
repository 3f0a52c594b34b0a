"""Run a model on changed inputs with some tensors held, to find out what passes where."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from fusionscope._nest import map_tensors, tensors
from fusionscope.batch import Adapter, Batch, unwrap
from fusionscope.tracing import ModelState, Trace, module_paths, quiet, rng_state, set_rng

from ._attach_sites import CallKey, Site

Given = Callable[[CallKey, Any], Any]
NOISE = 0.02


class Prober:
    """Runs one model; between runs everything is put back. Close it at the end.

    Parameters that are all zero hold small noise meanwhile: what they hide is seen.
    """

    def __init__(self, model: nn.Module, batch: Batch, adapter: Adapter) -> None:
        self.model, self.batch, self.adapter = model, batch, adapter
        self.before = rng_state()
        self.zero = [(p, p.detach().clone()) for p in model.parameters() if not p.is_meta and not p.detach().any()]
        generator = torch.Generator().manual_seed(0)
        for p, _ in self.zero:
            p.data.copy_(NOISE * torch.randn(p.shape, generator=generator))
        self.state = ModelState(model)

    def close(self) -> None:
        """Put the model back as it was."""
        self.state.restore()
        for p, value in self.zero:
            p.data.copy_(value)
        set_rng(self.before)

    @contextmanager
    def fresh(self) -> Generator[None, None, None]:
        """Run the model inside from the same state and random numbers, without gradients."""
        self.state.restore()
        set_rng(self.before)
        try:
            with torch.no_grad():
                yield
        finally:
            self.state.restore()

    def run(
        self,
        batch: Batch | None = None,
        watch: Collection[str] = (),
        gives: Given | None = None,
        takes: Given | None = None,
        *,
        training: bool = False,
        after: Callable[[], None] | None = None,
    ) -> list[Tensor]:
        """Return the tensors that come out; ``gives`` and ``takes`` see, and may change, what watched modules do."""
        with self.fresh(), quiet(self.model), self._hooked(watch, gives, takes):
            if training:
                self.model.train()
            returned = self.adapter.call(self.model, (batch or self.batch).clone())
            if after is not None:
                after()
            return [tensor.detach().clone() for _, tensor in tensors(returned)]

    @contextmanager
    def _hooked(self, watch: Collection[str], gives: Given | None, takes: Given | None) -> Generator[None, None, None]:
        counts: dict[str, int] = {}
        modules = module_paths(unwrap(self.model))

        def before(path: str, args: Any, kwargs: Any) -> Any:
            counts[path] = counts.get(path, -1) + 1
            nest = {"args": list(args), "kwargs": kwargs}
            changed = takes((path, counts[path]), nest) if takes is not None else None
            return None if changed is None else (tuple(changed["args"]), changed["kwargs"])

        def after(path: str, output: Any) -> Any:
            return gives((path, counts[path]), output) if gives is not None else None

        with ExitStack() as stack:
            for path in set(watch):
                module = modules[path]
                handle = module.register_forward_pre_hook(
                    lambda _, args, kwargs, path=path: before(path, args, kwargs), with_kwargs=True
                )
                stack.callback(handle.remove)
                handle = module.register_forward_hook(lambda _, __, output, path=path: after(path, output))
                stack.callback(handle.remove)
            yield

    def held(
        self, batch: Batch | None, sites: Collection[Site], values: dict[CallKey, Any], takes: bool = False
    ) -> list[Tensor]:
        """Run with the tensors of some sites as they are in ``values``."""
        mine: dict[CallKey, list[Site]] = {}
        for site in sites:
            mine.setdefault(site.key, []).append(site)

        def hold(key: CallKey, nest: Any) -> Any:
            for site in mine.get(key, ()):
                nest = site.write(nest, site.read(values[key]).clone())
            return nest if key in mine else None

        return self.run(batch, {key[0] for key in mine}, *((None, hold) if takes else (hold, None)))

    def changed(self, modalities: Collection[str]) -> Batch:
        """The batch with other samples' values of some modalities; masks and lengths stay."""
        inputs = dict(self.batch.inputs)
        for m in modalities:
            inputs[m] = roll(inputs[m])
        return self.batch.with_inputs(**inputs)

    def one_changed(self, sample: int) -> Batch:
        """The batch with one sample's values replaced."""

        def take(tensor: Tensor) -> Tensor:
            return torch.cat([tensor[:sample], tensor[sample - 1 : sample], tensor[sample + 1 :]])

        def change(old: Any, new: Any) -> Any:
            paths = {p for (p, a), (_, b) in zip(tensors(old), tensors(new), strict=True) if a is not b}
            names = iter([p for p, _ in tensors(old)])
            return map_tensors(lambda t: take(t) if next(names) in paths else t, old)

        return self.batch.with_inputs(**{m: change(v, roll(v)) for m, v in self.batch.inputs.items()})


def roll(nest: Any) -> Any:
    """Give every sample the sample before it; masks and lengths beside other tensors stay as they are."""
    parts = [tensor for _, tensor in tensors(nest)]
    content = {id(tensor) for tensor in parts if not _is_mask(tensor)} or {id(tensor) for tensor in parts}
    return map_tensors(lambda tensor: tensor.roll(1, 0) if id(tensor) in content else tensor, nest)


def _is_mask(tensor: Tensor) -> bool:
    if tensor.dtype == torch.bool or (tensor.ndim == 1 and not tensor.is_floating_point()):
        return True
    return bool(((tensor == 0) | (tensor == 1)).all())


def differs(one: list[Tensor], other: list[Tensor], noise: float = 0.0) -> bool:
    """Tell whether two runs gave other values, beyond what two equal runs differ by."""
    return gap(one, other) > 10 * noise


def gap(one: list[Tensor], other: list[Tensor]) -> float:
    """The largest difference between two runs; infinite where shapes differ."""
    if [x.shape for x in one] != [x.shape for x in other]:
        return float("inf")
    most = 0.0
    for a, b in zip(one, other, strict=True):
        if a.numel() and not torch.equal(a, b):
            apart = (a.double() - b.double()).abs()
            apart = apart[~(a.isnan() & b.isnan())] if a.is_floating_point() else apart
            if apart.numel():
                most = max(most, float(apart.nan_to_num(float("inf")).max()))
    return most


def unit_of(found: Trace, key: CallKey | None, modality: str, tensor: Tensor) -> int:
    """The channel axis of a tensor: that of the call that gives one of this shape, else the usual one."""
    for call in reversed(found.calls):
        mine = call.key == key if key is not None else call.wired_to == {modality}
        fits = len(call.shape) == tensor.ndim and (key is not None or call.shape == tuple(tensor.shape))
        if mine and fits and call.axes.unit is not None:
            return call.axes.unit
    return 2 if tensor.ndim == 3 else 1


def failing(run: Callable[[], list[Tensor]]) -> list[Tensor] | None:
    """Return what a run gives, or None if the model raises on changed inputs."""
    with suppress(Exception):
        return run()
    return None
