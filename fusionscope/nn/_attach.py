"""Put a calibration in front of the fusion of an existing model, and take it away again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from fusionscope.batch import Adapter, unwrap
from fusionscope.errors import InputError
from fusionscope.tracing import Trace, one_adapter, trace

from ._attach_check import Check
from ._attach_find import Finder
from ._attach_probe import Prober
from ._attach_replay import NAME, PLAN, Before, Restart, calibrated_class, present_position
from ._attach_sites import Plan, module_at, told
from ._calibration import ContextualCalibration

CONTAINERS = nn.Sequential | nn.ModuleList | nn.ModuleDict


def attach_calibration(
    model: nn.Module,
    batch: Any,
    modalities: Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
    adapter: Adapter | None = None,
    calibration: ContextualCalibration | Mapping[str, Any] | None = None,
    *,
    among: Collection[str] | None = None,
    layouts: Mapping[str, str] | None = None,
) -> ContextualCalibration:
    """Put a :class:`ContextualCalibration` in front of the fusion of ``model``; neither its code nor its head change.

    The place is found by :func:`fusionscope.trace`. Where a call receives the modalities' features as separate tensors,
    a hook in front of it calibrates them. Otherwise the model's code runs until the last call of every stream, the
    features are calibrated, and the code runs again with these calls returning what they gave before, so that each
    encoder runs once and gradients pass. Random numbers are the same in both runs: dropout is as in the plain model.

    A place is taken only if everything a modality tells passes through it: with the features held, other values of
    the modality must not move the output (masks and lengths may). After attaching it is checked on the batch that the
    output is the same, that each modality's calibrated features reach it, and that no module runs twice.

    The calibration becomes a submodule of the model, ``contextual_calibration``: its weights are saved, loaded and
    trained with the model's own (make the optimizer afterwards). It takes ``present`` where the model, or the call, has
    an argument of that name. Copies of the model have their own. Methods other than ``forward`` (and ``outputs``,
    which our models have) are calibrated only as far as they make the fusing call. Attach before wrapping in DDP. A
    model with a calibration attached in this way is not meant for ``torch.compile`` or ``torch.export`` (the part
    itself is), nor for reentrant gradient checkpointing around its encoders' calls.

    Args:
        model: any module that takes the batch.
        batch: two samples or more that differ in every modality, as for ``trace``.
        modalities: names, or groups of keys, passed to the adapter.
        adapter: how to read the batch and call the model, if that cannot be inferred.
        calibration: one to attach, or options to make it with, such as ``{"mode": "residual"}``.
        among: calibrate these modalities only, if others join the fusion later.
        layouts: the axes of calls whose units cannot be told, as for ``trace``.

    Returns:
        The calibration, in the model's mode, on its device and in its type.

    Raises:
        InputError: if one is attached already, or no place is exact: the message names the calls and why.

    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b, self.head = nn.Linear(3, 5), nn.Linear(2, 5), nn.Linear(10, 7)
    ...     def forward(self, a, b):
    ...         return self.head(torch.cat([self.a(a), self.b(b)], 1))
    >>> model, batch = Net(), {"a": torch.randn(11, 3), "b": torch.randn(11, 2)}
    >>> attach_calibration(model, batch).channels
    {'a': 5, 'b': 5}
    >>> detach_calibration(model)
    """
    _check_model(model)
    adapter = one_adapter(adapter, modalities)
    whole = adapter.batch(batch)
    names = whole.modalities if among is None else tuple(among)
    if len(names) < 2 or not set(names) <= set(whole.modalities):
        raise InputError(
            f"a calibration compares two modalities or more of {', '.join(whole.modalities)}; got {', '.join(names)}"
        )
    found = trace(model, whole, adapter=adapter, layouts=layouts)
    prober = Prober(model, whole, adapter)
    try:
        finder = Finder(prober, found, names)
        plan = finder.plan()
        made = _made(model, plan, calibration, finder)
        check = Check(prober, plan, finder)
        _install(model, plan, made, found)
        try:
            check.compare()
        except BaseException:
            detach_calibration(model)
            raise
    finally:
        prober.close()
    return made


def detach_calibration(model: nn.Module) -> None:
    """Take away what :func:`attach_calibration` put into the model, which is then as it was before.

    Raises:
        InputError: if nothing is attached.
    """
    model = unwrap(model)
    plan = vars(model).get(PLAN)
    if plan is None:
        raise InputError(f"no calibration is attached to this {type(model).__name__}")
    for module in model.modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, Before | Restart):
                del module._forward_pre_hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)
    plain = vars(type(model)).get("_calibrated")
    if plain is not None:
        model.__class__ = plain
    delattr(module_at(model, plan.home), NAME)
    del vars(model)[PLAN]


def _check_model(model: nn.Module) -> None:
    if PLAN in vars(unwrap(model)):
        raise InputError("a calibration is attached to this model already; detach_calibration(model) takes it away")
    if unwrap(model) is not model:
        raise InputError(f"attach before wrapping: this is a {type(model).__name__} around the model")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError("a scripted model cannot be changed; attach the calibration before torch.jit.script")


def _made(
    model: nn.Module, plan: Plan, given: ContextualCalibration | Mapping[str, Any] | None, finder: Finder
) -> ContextualCalibration:
    """The calibration, made or checked."""
    nests = finder.seen["takes" if plan.takes else "gives"]
    features = {m: site.read(nests[site.key]) for m, site in plan.sites.items()}
    channels = {m: x.shape[2 if x.ndim == 3 else 1] for m, x in features.items()}
    first = next(iter(features.values()))
    if isinstance(given, ContextualCalibration):
        if given.channels != channels:
            raise InputError(f"the features in front of the fusion have channels {channels}, not {given.channels}")
        return given
    return ContextualCalibration(channels, **(given or {})).to(first.device, first.dtype).train(model.training)


def _install(model: nn.Module, plan: Plan, calibration: ContextualCalibration, found: Trace) -> None:
    key = next(iter(plan.sites.values())).key
    if isinstance(model, CONTAINERS):
        if not plan.takes or isinstance(module_at(model, key[0]), CONTAINERS):
            raise InputError(
                f"a {type(model).__name__} runs all its submodules, so it cannot hold a calibration; put it into a "
                "module with a forward of its own"
            )
        plan.home = key[0]
    home = module_at(model, plan.home)
    if hasattr(home, NAME):
        raise InputError(f"{plan.home or 'the model'} has something named {NAME!r} already; rename it")
    if plan.takes:
        module = module_at(model, key[0])
        several = len({call.index for call in found.calls if call.path == key[0]}) > 1
        hook = Before(calibration, plan, present_position(type(module).forward), key[1] if several else None)
        module.register_forward_pre_hook(hook, with_kwargs=True)
        if several:
            model.register_forward_pre_hook(Restart(hook))
    else:
        if "forward" in vars(model) or any(hasattr(module, "_orig_mod") for module in model.modules()):
            raise InputError(
                f"{told(key)} is followed by the model's own fusing code, which cannot be run in two parts where "
                "modules are compiled or forward is an attribute of the object; attach before that"
            )
        model.__class__ = calibrated_class(type(model))
    home.add_module(NAME, calibration)
    vars(model)[PLAN] = plan
