"""Run a model on the probe with all modalities or with one of them only; read features and gates on the way."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from fusionscope._nest import tensors
from fusionscope.nn import ContextualCalibration, FusionNet, SharedEncoder
from fusionscope.tracing import Tap, TapReader, quiet, rng_state, set_rng

Inputs = dict[str, Tensor]


def how(model: nn.Module) -> str:
    """How a modality is left out: "encode" (``present`` of ``predict``, behind private encoders), "present" (of
    ``outputs``), or "others": other samples' values stand for it."""
    private = not any(isinstance(m, SharedEncoder) for m in model.modules())
    if private and callable(getattr(model, "encode", None)) and _takes(getattr(model, "predict", None)):
        return "encode"
    return "present" if _takes(cast(Any, model).outputs) else "others"


def forwards(model: nn.Module, modalities: int, task: str) -> float:
    """How often a sample goes through the model to be seen whole and with each modality alone."""
    others = modalities if modalities > 1 else 0
    if how(model) != "encode":
        return 1.0 + 1.5 * others  # norms that leave absent rows out take longer
    return 1.0 + 0.5 * others if task == "dense" else 1.0  # a head over maps is a good part of a model


class Seen(NamedTuple):
    """What a model gives on the probe.

    Attributes:
        whole: the prediction from all modalities.
        alone: the predictions from one each.
        features: each modality's, pooled, ``[B,D]``; those that cannot be read are left out.
        gates: of calibrations, by place and modality.
    """

    whole: Tensor
    alone: dict[str, Tensor]
    features: dict[str, Tensor]
    gates: dict[tuple[str, str], Any]


class Views:
    """A model's predictions on a batch: of all modalities, and of one alone.

    Args:
        model: with ``outputs`` and ``loss``, and for the cheap way ``encode`` and ``predict``.
        modalities: their names.
        taps: where the features are read if ``outputs`` does not give ``NAME features`` (and the model has no shared
            encoder, whose deepest maps are taken then).
    """

    def __init__(self, model: nn.Module, modalities: tuple[str, ...], taps: Mapping[str, Tap] | None = None):
        self.model: Any = model
        self.modalities, self.taps = modalities, dict(taps or {})
        self.how = how(model)
        self.calibrations = {n: m for n, m in model.named_modules() if isinstance(m, ContextualCalibration)}
        self.shared = next((m for m in model.modules() if isinstance(m, SharedEncoder)), None)

    def all(self, inputs: Inputs) -> Seen:
        """Run with all modalities, then with each one only."""
        gates: dict[tuple[str, str], Any] = {}
        features: dict[str, Tensor] = {}
        several, apart = len(self.modalities) > 1, []
        with ExitStack() as stack:
            for name, part in self.calibrations.items():
                hook = partial(_keep_gates, gates, name)
                stack.callback(part.register_forward_hook(hook, with_kwargs=True).remove)
            if self.taps:
                reader = TapReader(self.model, self.taps.values(), partial(_keep_tap, features))
                stack.enter_context(reader).start()
            elif self.shared is not None:
                stack.enter_context(_deepest(self.shared, features))
            if self.how == "encode" and several:
                encoded = self.model.encode(inputs)
                outputs = {f"{m} features": x for m, x in encoded.items()}
                # in one call, the whole first: small models take as long for one sample as for many
                whole, *apart = self.model.predict(*self._stacked(encoded)).chunk(1 + len(self.modalities))
            else:
                outputs = self.model.outputs(inputs)
                whole = outputs["prediction"]
        named = {m: outputs[f"{m} features"] for m in self.modalities if f"{m} features" in outputs}
        features |= {m: pooled(x) for m, x in named.items()}
        if apart:
            gates = {place: type(g)(*(x[: len(whole)] for x in g)) for place, g in gates.items()}
        elif several:
            apart = [self.outputs(m, inputs)["prediction"] for m in self.modalities]
        else:
            apart = [whole]
        return Seen(whole, dict(zip(self.modalities, apart, strict=True)), features, gates)

    def outputs(self, modality: str, inputs: Inputs) -> dict[str, Tensor]:
        """Return the model's ``outputs`` with this modality alone."""
        if self.how == "others":
            return self.model.outputs({m: x if m == modality else x.roll(1, 0) for m, x in inputs.items()})
        if _takes(self.model.outputs):
            return self.model.outputs(inputs, present=self._only(modality, inputs))
        return {"prediction": self.model.predict(self.model.encode(inputs), self._only(modality, inputs))}

    def losses(
        self, inputs: Inputs, target: Tensor, criterion: Callable[..., Tensor], behind: bool
    ) -> Iterator[Tensor]:
        """Yield the loss with each modality alone; ``behind``: nothing before the fuse needs a gradient."""
        cheap = behind and isinstance(self.model, FusionNet) and not getattr(self.model, "heads", None)
        encoded = None
        if cheap and self.how == "encode":
            with torch.no_grad():
                encoded = self.model.encode(inputs)
        for m in self.modalities:
            if encoded is None:
                found = self.outputs(m, inputs)
            else:
                found = {"prediction": self.model.predict(encoded, self._only(m, inputs))}
            yield self.model.loss(found, target, criterion)

    def _stacked(self, features: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The features once for all modalities together and once for each, and who is there."""
        count = len(self.modalities)
        x = {m: v.repeat(1 + count, *[1] * (v.ndim - 1)) for m, v in features.items()}
        there = torch.cat([torch.ones(1, count), torch.eye(count)]).bool()
        present = {}
        for place, m in enumerate(self.modalities):
            present[m] = there[:, place].to(x[m].device).repeat_interleave(len(features[m]))
        return x, present

    def _only(self, modality: str, inputs: Inputs) -> dict[str, Tensor] | None:
        none = {m: torch.zeros(len(x), dtype=torch.bool, device=x.device) for m, x in inputs.items() if m != modality}
        return none or None


def pooled(x: Tensor) -> Tensor:
    """Mean over time or space, in float32: ``[B,C]`` from ``[B,C]``, ``[B,T,C]``, ``[B,C,H,W]`` and clips' maps."""
    x = x.detach().float()
    return x if x.ndim == 2 else x.mean(1) if x.ndim == 3 else x.flatten(2).mean(2) if x.ndim > 3 else x[:, None]


@contextmanager
def undisturbed(model: nn.Module) -> Generator[None]:
    """Evaluation mode without gradients; random generators, buffers and modes are left as they were."""
    state = rng_state()
    homes = [(m._buffers, dict(m._buffers)) for m in model.modules() if m._buffers]
    kept = [(b, b.clone()) for _, held in homes for b in held.values() if b is not None]
    try:
        with quiet(model):
            yield
    finally:
        with torch.no_grad():
            for home, held in homes:
                home.update(held)
            for buffer, value in kept:
                buffer.copy_(value)
        set_rng(state)


def _takes(call: Callable[..., Any] | None) -> bool:
    return callable(call) and "present" in inspect.signature(call).parameters


def _keep_gates(
    gates: dict[tuple[str, str], Any],
    name: str,
    part: ContextualCalibration,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,
) -> None:
    for m, gate in part.gates(*args, **kwargs).items():
        gates[name, m] = gate


def _keep_tap(features: dict[str, Tensor], tap: Tap, values: Tensor) -> None:
    features[tap.modality] = values.detach().float().flatten(2).mean(2) if values.ndim > 2 else pooled(values).clone()


@contextmanager
def _deepest(encoder: SharedEncoder, features: dict[str, Tensor]) -> Generator[None]:
    """Keep each modality's map of fewest places inside a shared encoder, the last one computed, pooled."""
    fewest = float("inf")

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal fewest
        names = encoder.active
        for _, x in tensors(output):
            if x.ndim != 4 or not x.is_floating_point() or len(x) % len(names):
                continue
            places = x.shape[2] * x.shape[3]
            if places <= fewest:
                fewest = places
                features.update({m: pooled(x[i :: len(names)]) for i, m in enumerate(names)})

    handles = [m.register_forward_hook(keep) for m in encoder.backbone.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
