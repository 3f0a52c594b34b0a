"""The contract between a user's data, a user's model and everything here: ``Batch`` and ``Adapter``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from fusionscope._nest import map_tensors, tensors
from fusionscope.errors import InputError, did_you_mean

TARGET_KEYS = ("target", "targets", "label", "labels", "y")
OUTPUT_KEYS = ("logits", "output", "out", "prediction", "pred")
CallStyle = Literal["keyword", "dict", "list", "positional"]


@dataclass(frozen=True)
class Batch:
    """Samples of several modalities: ``inputs[modality]`` is a tensor, or a nest of tensors that belong together.

    The first axis of each tensor is the sample.

    Attributes:
        inputs: modality name to tensor or nest of tensors, each ``[B, ...]``.
        target: what the model should give, ``[B]``, ``[B, ...]``, or None.
        present: modality name to a bool tensor ``[B]``: which samples have the modality; None = all.
        group: integer tensor ``[B]``: samples of one group (a video, a subject) are not independent; None = all are.

    Raises:
        InputError: if there is no modality, a modality holds no tensor, or the numbers of samples differ.

    >>> batch = Batch({"rgb": torch.zeros(5, 3, 7, 7), "depth": torch.zeros(5, 1, 7, 7)}, target=torch.zeros(5))
    >>> batch
    Batch(5 samples; rgb [5, 3, 7, 7] float32, depth [5, 1, 7, 7] float32; target [5] float32)
    """

    inputs: dict[str, Any]
    target: Any = None
    present: dict[str, Tensor] | None = None
    group: Any = None

    def __post_init__(self) -> None:
        if not self.inputs:
            raise InputError("a batch needs at least one modality; its inputs are empty")
        sizes: dict[str, int] = {}
        for modality, nest in self.inputs.items():
            found = tensors(nest)
            if not found:
                raise InputError(
                    f"modality {modality!r} holds no tensor (it is a {type(nest).__name__}); give a tensor"
                )
            for path, tensor in found:
                name = f"{modality}.{path}" if path else str(modality)
                if tensor.ndim == 0:
                    raise InputError(f"modality {name!r} is a scalar; its first axis must be the sample")
                sizes[name] = tensor.shape[0]
        for name in ("target", "group"):
            value = getattr(self, name)
            if isinstance(value, Tensor) and value.ndim:
                sizes[name] = value.shape[0]
        for modality, flags in (self.present or {}).items():
            sizes[f"present[{modality!r}]"] = len(flags)
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise InputError(
                f"the first axis of each tensor must be the sample, but the numbers of samples differ: {listed}; "
                "if one of them is time-major, transpose it"
            )

    @property
    def size(self) -> int:
        """The number of samples B."""
        return tensors(self.inputs)[0][1].shape[0]

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of the modalities, in order."""
        return tuple(self.inputs)

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        parts = [f"{self.size} samples", describe(self.inputs)]
        parts += [
            f"{name} {shape(value)}" for name in ("target", "group") if (value := getattr(self, name)) is not None
        ]
        if self.present is not None:
            parts.append("present " + ", ".join(self.present))
        return f"Batch({'; '.join(parts)})"

    def map(self, fn: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with ``fn`` applied to every tensor of it."""
        return Batch(*(map_tensors(fn, part) for part in (self.inputs, self.target, self.present, self.group)))

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on ``device``."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def clone(self) -> Batch:
        """Return a copy that shares no memory."""
        return self.map(torch.clone)

    def take(self, index: Tensor) -> Batch:
        """Return the samples ``index``, an integer tensor."""
        return self.map(lambda tensor: tensor[index.to(tensor.device)])

    def with_inputs(self, **inputs: Any) -> Batch:
        """Return the batch with some modalities replaced."""
        return replace(self, inputs={**self.inputs, **inputs})

    def join(self, other: Batch) -> Batch:
        """Return this batch followed by the samples of ``other``."""
        others = iter([tensor for part in _parts(other) for _, tensor in tensors(part)])
        return self.map(lambda tensor: torch.cat([tensor, next(others)]))


def _parts(batch: Batch) -> tuple[Any, ...]:
    return batch.inputs, batch.target, batch.present, batch.group


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


class Adapter:
    """Turn a user's batch into a :class:`Batch` and call the user's model with it.

    Args:
        modalities: for a tuple batch, the names in order, ``("rgb", "depth")``; for a flat dict, which keys belong to
            which modality, ``{"text": ["input_ids", "attention_mask"], "image": "pixel_values"}``; None takes every
            tensor of a dict that is not the target.
        target: the key of the target in a dict batch; None looks for ``target``, ``label``, ``labels``, ``y``.
        call: how to call the model, a function ``call(model, inputs)``; None reads it from ``forward``'s signature.
        output: how to find the prediction in what the model returns: a key, a position or a function; None takes a
            tensor as it is, else the entry ``logits``, ``output``, ``out``, ``prediction`` or ``pred``.

    Raises:
        InputError: (from the methods) where something cannot be inferred; it shows the two lines to write.

    >>> adapter = Adapter(modalities=("rgb", "depth"))
    >>> adapter.batch((torch.zeros(5, 3), torch.zeros(5, 2), torch.zeros(5)))
    Batch(5 samples; rgb [5, 3] float32, depth [5, 2] float32; target [5] float32)
    """

    def __init__(
        self,
        modalities: Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
        *,
        target: str | None = None,
        call: Callable[[nn.Module, dict[str, Any]], Any] | None = None,
        output: str | int | Callable[[Any], Tensor] | None = None,
    ) -> None:
        if isinstance(modalities, str):
            modalities = (modalities,)
        self.modalities = modalities
        self.target = target
        self._call = call
        self._output = output
        self._from_list = False

    def __repr__(self) -> str:
        return f"Adapter(modalities={self.modalities!r}, target={self.target!r})"

    # ------------------------------------------------------------------ batch

    def batch(self, raw: Any) -> Batch:
        """Return ``raw`` as a :class:`Batch`.

        Accepted: a ``Batch``; ``(dict, target)``; ``{"inputs": dict, "target": ...}``; a flat dict with a target key;
        ``(rgb, depth, target)`` or ``([rgb, depth], target)`` given ``modalities=("rgb", "depth")``.
        """
        if isinstance(raw, Batch):
            batch = raw
        elif isinstance(raw, Mapping):
            batch = self._from_dict(raw)
        elif isinstance(raw, list | tuple):
            batch = self._from_tuple(raw)
        else:
            raise self._unknown(raw)
        for modality, nest in batch.inputs.items():
            for path, tensor in tensors(nest):
                if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                    bad = int((~torch.isfinite(tensor)).flatten(1).any(1).sum()) if tensor.ndim > 1 else 1
                    name = f"{modality}.{path}" if path else modality
                    raise InputError(
                        f"modality {name!r} holds NaN or infinite values in {bad} of {batch.size} samples of a batch; "
                        "clean the data, or fill the gaps and say which samples have the modality with `present`"
                    )
        return batch

    def _from_dict(self, raw: Mapping[str, Any]) -> Batch:
        rest = dict(raw)
        nested = rest.pop("inputs", None) if isinstance(rest.get("inputs"), Mapping) else None
        if self.target is not None and self.target not in rest:
            raise InputError(
                f"no target key {self.target!r} in the batch; its keys are {', '.join(map(repr, raw))}."
                + did_you_mean(self.target, map(str, raw))
            )
        key = self.target or next((k for k in TARGET_KEYS if k in rest), None)
        target = rest.pop(key) if key is not None else None
        group, present = rest.pop("group", None), rest.pop("present", None)
        return Batch(self._select(nested if nested is not None else rest), target, present, group)

    def _from_tuple(self, raw: Sequence[Any]) -> Batch:
        if raw and isinstance(raw[0], Mapping) and len(raw) <= 3:
            target, group = (*raw[1:], None, None)[:2]
            return Batch(self._select(raw[0]), target, None, group)
        if self.modalities is None or isinstance(self.modalities, Mapping):
            raise self._unknown(raw)
        names, values = list(self.modalities), list(raw)
        if values and isinstance(values[0], list | tuple) and len(values[0]) == len(names) and len(values) <= 2:
            self._from_list = True
            values = [*values[0], *values[1:]]
        if len(values) not in (len(names), len(names) + 1):
            raise self._unknown(raw)
        return Batch(dict(zip(names, values, strict=False)), values[len(names)] if len(values) > len(names) else None)

    def _select(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        if self.modalities is None:
            return {str(k): v for k, v in inputs.items() if tensors(v)}
        wanted = self.modalities if isinstance(self.modalities, Mapping) else {name: name for name in self.modalities}
        chosen: dict[str, Any] = {}
        for modality, keys in wanted.items():
            for key in [keys] if isinstance(keys, str) else keys:
                if key not in inputs:
                    raise InputError(
                        f"modality {modality!r} needs the key {key!r}, which the batch has not; its keys are "
                        f"{', '.join(map(repr, inputs))}." + did_you_mean(key, map(str, inputs))
                    )
            chosen[modality] = inputs[keys] if isinstance(keys, str) else {key: inputs[key] for key in keys}
        return chosen

    def _unknown(self, raw: Any) -> InputError:
        kind = type(raw).__name__
        if isinstance(raw, list | tuple):
            kind += " of " + ", ".join(shape(value) for value in raw)
        given = "" if self.modalities is None else f" with modalities={self.modalities!r}"
        return InputError(
            f"cannot tell the modalities of a batch that is a {kind}{given}. Expected (dict, target), a dict with a "
            "target key, or a tuple together with the names of its modalities. Write for example:\n"
            '    adapter = fs.Adapter(modalities=("rgb", "depth"))  # a batch is then (rgb, depth, target)\n'
            "    fs.dissect(model, loader, adapter=adapter)"
        )

    # ------------------------------------------------------------------- call

    def style(self, model: nn.Module, inputs: Mapping[str, Any]) -> CallStyle:
        """How ``model`` takes ``inputs``: by ``keyword``, as one ``dict``, as one ``list``, or ``positional``.

        Raises:
            InputError: if its signature fits none of them.
        """
        parameters = inspect.signature(unwrap(model).forward).parameters.values()
        kinds = inspect.Parameter
        named = [p for p in parameters if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
        names = {p.name for p in named}
        positional = [p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
        required = [
            p.name
            for p in parameters
            if p.default is p.empty and p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
        ]
        any_keyword = any(p.kind is kinds.VAR_KEYWORD for p in parameters)
        any_position = any(p.kind is kinds.VAR_POSITIONAL for p in parameters)
        keys = list(self._keywords(inputs))
        matching = [key for key in keys if key in names]

        if set(required) <= set(keys) and (len(matching) == len(keys) or (any_keyword and (matching or not required))):
            return "keyword"
        if not matching:
            if positional and len(required) <= 1 and (len(positional) == 1 or required):
                first = positional[0]
                wanted = str(first.annotation).lower() if first.annotation is not first.empty else ""
                if self._from_list or any(word in wanted for word in ("list", "tuple", "sequence")):
                    return "list"
                if "dict" in wanted or "mapping" in wanted or len(keys) > 1:
                    return "dict"
                return "positional"
            if len(required) <= len(keys) <= len(positional) or any_position:
                return "positional"
        takes = ", ".join(str(p).split(":")[0] for p in parameters)
        extra = [key for key in keys if key not in names]
        hint = did_you_mean(extra[0], names) if extra and matching else ""
        example = ", ".join(f"inputs[{modality!r}]" for modality in inputs)
        raise InputError(
            f"{type(unwrap(model)).__name__}.forward({takes}) does not take the batch's {', '.join(keys)}.{hint} "
            "Rename or select the modalities, or say how to call it:\n"
            f"    adapter = fs.Adapter(call=lambda model, inputs: model({example}))\n"
            "    fs.dissect(model, loader, adapter=adapter)"
        )

    def call(self, model: nn.Module, batch: Batch) -> Any:
        """Run the model on the batch and return what it returns.

        An exception raised by the model passes through, with a note that says how the model was called.
        """
        inputs = batch.inputs
        style: str = "custom" if self._call is not None else self.style(model, inputs)
        try:
            if self._call is not None:
                return self._call(model, inputs)
            if style == "keyword":
                extra = {"present": batch.present} if batch.present is not None and _takes(model, "present") else {}
                return model(**self._keywords(inputs), **extra)
            if style == "dict":
                return model(dict(self._keywords(inputs)))
            if style == "list":
                return model(list(inputs.values()))
            return model(*self._keywords(inputs).values())
        except Exception as error:
            error.add_note(f"fusionscope called {type(unwrap(model)).__name__} ({style} call) with {describe(inputs)}")
            error.from_model = True  # ty: ignore[missing-attribute]
            raise

    def output(self, returned: Any) -> Tensor:
        """Return the prediction in what the model returned.

        Raises:
            InputError: if it cannot be told which tensor is the prediction.
        """
        if callable(self._output):
            return cast(Tensor, self._output(returned))
        if self._output is not None:
            return returned[self._output]
        if isinstance(returned, Tensor):
            return returned
        if isinstance(returned, Mapping):
            key = next((k for k in OUTPUT_KEYS if isinstance(returned.get(k), Tensor)), None)
            if key is not None:
                return returned[key]
        found = tensors(returned)
        if len(found) == 1:
            return found[0][1]
        listed = ", ".join(f"{path} {shape(tensor)}" for path, tensor in found) or type(returned).__name__
        raise InputError(
            f"cannot tell which output is the prediction: the model returned {listed}. Write for example:\n"
            f"    adapter = fs.Adapter(output={(found[0][0] if found else 'logits')!r})\n"
            "    fs.dissect(model, loader, adapter=adapter)"
        )

    def _keywords(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the user's own keys name them: a grouped modality gives its several keys back."""
        grouped = self.modalities if isinstance(self.modalities, Mapping) else {}
        flat: dict[str, Any] = {}
        for modality, nest in inputs.items():
            keys = grouped.get(modality, modality)
            if isinstance(keys, str):
                flat[keys] = nest
            else:
                flat |= {key: nest[key] for key in keys}
        return flat


def _takes(model: nn.Module, name: str) -> bool:
    return name in inspect.signature(unwrap(model).forward).parameters


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile`` wrappers."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = cast(nn.Module, model._orig_mod)
        else:
            return model
