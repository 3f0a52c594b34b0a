"""The contract between a user's data, a user's model and everything here: ``Batch`` and ``Adapter``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from fusionscope._calls import CallStyle, call_style, find_output, positions, takes_present, unannotated, unwrap
from fusionscope._nest import describe, find, join_samples, join_tensors, map_tensors, shape, take_samples, tensors
from fusionscope.errors import InputError, did_you_mean

TARGET_KEYS = ("target", "targets", "label", "labels", "y")
UNPACKS = "if forward unpacks its argument, use fs.Adapter(call=lambda model, inputs: model(list(inputs.values())))"
__all__ = ["Adapter", "Batch", "CallStyle", "describe", "shape", "takes_present", "unwrap"]


@dataclass(frozen=True)
class Batch:
    """Samples of several modalities: ``inputs[modality]`` is a tensor, or a nest of tensors that belong together.

    The first axis of each tensor is the sample.

    Attributes:
        inputs: modality name to tensor or nest of tensors, each ``[B, ...]``.
        target: what the model should give, ``[B]``, ``[B, ...]``, or None; also a list with one entry per sample, or a
            dict of such.
        present: modality name to a bool tensor ``[B]``: which samples have the modality; None = all.
        group: integer tensor ``[B]``: samples of one group (a video, a subject) are not independent; None = all are.

    Raises:
        InputError: if there is no modality, a modality holds no tensor or a numpy array, the numbers of samples
            differ, or ``present`` is no dict of tensors.

    >>> batch = Batch({"rgb": torch.zeros(5, 3, 7, 7), "depth": torch.zeros(5, 1, 7, 7)}, target=torch.zeros(5))
    >>> batch
    Batch(5 samples; rgb [5, 3, 7, 7] float32, depth [5, 1, 7, 7] float32; target [5] float32)
    """

    inputs: dict[str, Any]
    target: Any = None
    present: Any = None
    group: Any = None

    def __post_init__(self) -> None:
        if not self.inputs:
            raise InputError("a batch needs at least one modality; its inputs are empty")
        sizes: dict[str, int] = {}
        for modality, nest in self.inputs.items():
            found = tensors(nest)
            if find(nest, np.ndarray):
                raise _numpy(modality)
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
        flagged = {} if self.present is None else self.present
        if not isinstance(flagged, Mapping) or not all(isinstance(f, Tensor) and f.ndim for f in flagged.values()):
            names = ", ".join(f"{str(modality)!r}: tensor" for modality in self.inputs)
            came = f"a dict of {describe(flagged)}" if isinstance(flagged, Mapping) else f"a {shape(flagged)}"
            raise InputError(
                f"`present` must say for each modality which samples have it, as bool tensors [B]: {{{names}}}; it is "
                f"{came}"
            )
        for modality, flags in flagged.items():
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
        """Return the samples ``index``, an integer tensor; parts of the target without a sample axis stay whole."""
        parts = (self.inputs, self.present, self.group)
        inputs, present, group = (map_tensors(lambda tensor: tensor[index.to(tensor.device)], part) for part in parts)
        return Batch(inputs, take_samples(self.target, index, self.size), present, group)

    def with_inputs(self, **inputs: Any) -> Batch:
        """Return the batch with some modalities replaced."""
        return replace(self, inputs={**self.inputs, **inputs})

    def join(self, other: Batch) -> Batch:
        """Return this batch followed by the samples of ``other``; parts are paired by name.

        Raises:
            InputError: if the two do not hold the same parts, in the same shapes but for the first axis.
        """
        target = join_samples(self.target, other.target, (self.size, other.size))
        return Batch(
            join_tensors(self.inputs, other.inputs),
            target,
            join_tensors(self.present, other.present),
            join_tensors(self.group, other.group),
        )


def _numpy(modality: object) -> InputError:
    return InputError(
        f"the values of modality {modality!r} are numpy arrays; expected tensors. Convert them with torch.from_numpy, "
        "or read the data set through a torch.utils.data.DataLoader, which does it (an entry that is no modality is "
        "left out by naming the others: fs.Adapter(modalities=...))"
    )


class Adapter:
    """Turn a user's batch into a :class:`Batch` and call the user's model with it.

    Args:
        modalities: for a tuple batch, the names in order, ``("rgb", "depth")``; for a flat dict, which keys belong to
            which modality, ``{"text": ["input_ids", "attention_mask"], "image": "pixel_values"}``; None takes every
            tensor of a dict that is not the target.
        target: the key of the target in a dict batch; None looks for ``target``, ``label``, ``labels``, ``y``.
        call: how to call the model, a function ``call(model, inputs)``; None reads it from ``forward``'s signature.
        output: how to find the prediction in what the model returns: a key, a field, a position, a path such as
            ``"hidden.0"``, or a function; None takes a tensor as it is, else the entry ``logits``, ``output``, ``out``,
            ``prediction`` or ``pred``.

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
        self._form: Literal["dict", "tuple", "list"] = "dict"
        self._group_ids: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"Adapter(modalities={self.modalities!r}, target={self.target!r})"

    # ------------------------------------------------------------------ batch

    def batch(self, raw: Any) -> Batch:
        """Return ``raw`` as a :class:`Batch`.

        Accepted: a ``Batch``; ``(dict, target)``; ``{"inputs": dict, "target": ...}``; a flat dict with a target key;
        ``(rgb, depth, target)`` or ``([rgb, depth], target)`` given ``modalities=("rgb", "depth")``. ``group`` may be
        integers or strings; a string keeps its number over all batches.
        """
        if isinstance(raw, Batch):
            batch = raw
        elif isinstance(raw, Mapping):
            batch = self._from_dict(raw)
        elif isinstance(raw, list | tuple):
            batch = self._from_tuple(raw)
        else:
            raise self._unknown(raw)
        if batch.group is not None:
            batch = replace(batch, group=self._groups(batch.group))
        for modality, nest in batch.inputs.items():
            for path, tensor in tensors(nest):
                if tensor.layout != torch.strided or tensor.is_nested:
                    raise InputError(f"modality {modality!r} is a sparse or nested tensor; make it dense first")
                if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                    bad = int((~torch.isfinite(tensor)).flatten(1).any(1).sum()) if tensor.ndim > 1 else 1
                    name = f"{modality}.{path}" if path else modality
                    raise InputError(
                        f"modality {name!r} holds NaN or infinite values in {bad} of {batch.size} samples of a batch; "
                        "clean the data, or fill the gaps and say which samples have the modality with `present`"
                    )
        return batch

    def _from_dict(self, raw: Mapping[str, Any]) -> Batch:
        self._form = "dict"
        rest, wanted = dict(raw), self._keys()
        nested = rest.pop("inputs") if isinstance(rest.get("inputs"), Mapping) and "inputs" not in wanted else None
        taken = () if nested is not None else wanted
        if self.target is not None and self.target not in rest:
            raise InputError(
                f"no target key {self.target!r} in the batch; its keys are {', '.join(map(repr, raw))}."
                + did_you_mean(self.target, map(str, raw))
            )
        key = self.target or next((k for k in TARGET_KEYS if k in rest and k not in taken), None)
        target = rest.pop(key) if key is not None else None
        group, present = (rest.pop(k, None) if k not in taken else None for k in ("group", "present"))
        return Batch(self._select(nested if nested is not None else rest), target, present, group)

    def _from_tuple(self, raw: Sequence[Any]) -> Batch:
        named = not (self.modalities is None or isinstance(self.modalities, Mapping))
        names, values = list(self.modalities or ()), list(raw)
        if values and isinstance(values[0], Mapping) and len(values) <= 3:
            found = [name in values[0] for name in names]
            # Some of the names: a misspelt key rather than a first modality that is a dict, if the tuple is that short.
            if not named or all(found) or (any(found) and len(values) <= len(names)):
                target, group = (*values[1:], None, None)[:2]
                if not names and group is not None and not _is_group(group):
                    raise self._unknown(raw)
                self._form = "dict"
                return Batch(self._select(values[0]), target, None, group)
        if not named:
            raise self._unknown(raw)
        self._form = "tuple"
        if values and isinstance(values[0], list | tuple) and len(values[0]) == len(names) and len(values) <= 2:
            self._form = "list"
            values = [*values[0], *values[1:]]
        if len(values) not in (len(names), len(names) + 1):
            raise self._unknown(raw)
        return Batch(dict(zip(names, values, strict=False)), values[len(names)] if len(values) > len(names) else None)

    def _keys(self) -> set[str]:
        """The keys of a flat dict that ``modalities`` names."""
        if not isinstance(self.modalities, Mapping):
            return set(self.modalities or ())
        return {key for keys in self.modalities.values() for key in ([keys] if isinstance(keys, str) else keys)}

    def _groups(self, group: Any) -> Tensor:
        listed = group if isinstance(group, Tensor) or not hasattr(group, "tolist") else group.tolist()
        if isinstance(listed, list | tuple) and all(isinstance(name, str) for name in listed):
            listed = [self._group_ids.setdefault(name, len(self._group_ids)) for name in listed]
        try:
            found = torch.as_tensor(listed)
        except (TypeError, ValueError, RuntimeError):
            found = None
        if not _is_group(found):
            raise InputError(
                "`group` must hold one integer or string per sample, in a tensor [B], an array or a list; it is a "
                f"{type(group).__name__}" + (f" that gives {shape(found)}" if found is not None else "")
            )
        return cast(Tensor, found)

    def _select(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        if self.modalities is None:
            arrays = [key for key, value in inputs.items() if find(value, np.ndarray)]
            if arrays:
                raise _numpy(arrays[0])
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

    def style(self, model: nn.Module, inputs: Mapping[str, Any], *, present: bool = False) -> CallStyle:
        """How ``model`` takes ``inputs``: by ``keyword``, as one ``dict``, as one ``list``, or ``positional``.

        ``present`` says that the batch has it, so ``forward`` may require it.

        Raises:
            InputError: if its signature fits none of them, or a call by position would mix up the modalities.
        """
        keys = list(self._keywords(inputs))
        return call_style(model, keys, list(inputs), as_list=self._form == "list", present=present)

    def describe_call(self, model: nn.Module, inputs: Mapping[str, Any]) -> str:
        """Say in words how ``model`` is called with ``inputs``.

        >>> Adapter().describe_call(nn.Linear(3, 2), {"rgb": torch.zeros(5, 3)})
        'called by position: rgb as input'
        """
        if self._call is not None:
            return "called by your function"
        style = self.style(model, inputs, present=True)
        if style != "positional":
            return "called by keyword" if style == "keyword" else f"called with one {style}"
        keys = list(self._keywords(inputs))
        names = [parameter.name for parameter in positions(model, keys)][: len(keys)]
        pairs = zip_longest(keys, names)
        return "called by position: " + ", ".join(f"{key} as {name}" if name else key for key, name in pairs)

    def call(self, model: nn.Module, batch: Batch) -> Any:
        """Run the model on the batch and return what it returns; ``present`` goes to a ``forward`` that takes it.

        An exception raised by the model passes through, with a note that says how the model was called.
        """
        inputs, flags = batch.inputs, batch.present
        keywords = self._keywords(inputs)
        style = "custom" if self._call is not None else self.style(model, inputs, present=flags is not None)
        extra = {}
        if self._call is None and flags is not None and "present" not in keywords and takes_present(model):
            extra = {"present": flags}
        try:
            if self._call is not None:
                return self._call(model, inputs)
            if style == "keyword":
                return model(**keywords, **extra)
            if style == "dict":
                return model(dict(keywords), **extra)
            if style == "list":
                return model(list(inputs.values()), **extra)
            return model(*keywords.values(), **extra)
        except Exception as error:
            note = f"fusionscope called {type(unwrap(model)).__name__} ({style} call) with {describe(inputs)}"
            if style == "dict" and self._form == "tuple" and unannotated(positions(model, list(keywords))[0]):
                note += f"; {UNPACKS}"
            error.add_note(note)
            error.from_model = True  # ty: ignore[missing-attribute]
            raise

    def output(self, returned: Any) -> Tensor:
        """Return the prediction in what the model returned.

        Raises:
            InputError: if it cannot be told which tensor is the prediction.
        """
        if callable(self._output):
            return cast(Tensor, self._output(returned))
        return find_output(returned, self._output)

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


def _is_group(value: Any) -> bool:
    if not isinstance(value, Tensor) or value.ndim != 1 or value.dtype == torch.bool:
        return False
    return not (value.is_floating_point() or value.is_complex())
