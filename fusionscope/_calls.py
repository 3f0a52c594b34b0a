"""How a model's ``forward`` takes its modalities, and where the prediction is in what it returns."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal, cast

from torch import Tensor, nn

from fusionscope._nest import shape, tensors
from fusionscope.errors import InputError, did_you_mean

CallStyle = Literal["keyword", "dict", "list", "positional"]
OUTPUT_KEYS = ("logits", "output", "out", "prediction", "pred")
Parameter = inspect.Parameter


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile`` wrappers."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = cast(nn.Module, model._orig_mod)
        else:
            return model


def takes_present(model: nn.Module) -> bool:
    """Tell whether ``forward`` has a parameter ``present``, which says what samples have which modality.

    >>> takes_present(nn.Linear(3, 2))
    False
    """
    parameter = _signature(model).get("present")
    return parameter is not None and parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def positions(model: nn.Module, keys: Sequence[str]) -> list[Parameter]:
    """Return the parameters that ``keys`` can be given to by position; ``present`` is none unless it is a key."""
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return [p for p in _own(model, keys) if p.kind in kinds]


def call_style(
    model: nn.Module, keys: Sequence[str], modalities: Sequence[str], *, as_list: bool, present: bool
) -> CallStyle:
    """Tell how ``model`` takes the inputs ``keys``; ``as_list``: they came as a list, ``present``: flags are there.

    Raises:
        InputError: if its signature fits no style.
    """
    own = _own(model, keys)
    named = {p.name for p in own if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)}
    positional = positions(model, keys)
    required = [p.name for p in own if _required(p)]
    any_keyword = any(p.kind is Parameter.VAR_KEYWORD for p in own)
    any_position = any(p.kind is Parameter.VAR_POSITIONAL for p in own)
    matching = [key for key in keys if key in named]
    lacking = _signature(model).get("present")
    if lacking is not None and lacking not in own and _required(lacking) and not present:
        raise _refusal(model, keys, modalities, " It needs `present`, which the batch has not.")
    if set(required) <= set(keys) and (len(matching) == len(keys) or (any_keyword and (matching or not required))):
        return "keyword"
    if not matching:
        one = len(required) <= 1 and (len(positional) == 1 or required)
        if positional and one:
            wanted = "" if unannotated(positional[0]) else str(positional[0].annotation).lower()
            if as_list or any(word in wanted for word in ("list", "tuple", "sequence")):
                return "list"
            if "dict" in wanted or "mapping" in wanted or len(keys) > 1:
                return "dict"
        if (positional and one) or len(required) <= len(keys) <= len(positional) or any_position:
            _check_order(model, keys, modalities)
            return "positional"
    extra = [key for key in keys if key not in named]
    raise _refusal(model, keys, modalities, did_you_mean(extra[0], named) if extra and matching else "")


def find_output(returned: Any, wanted: str | int | None) -> Tensor:
    """Return the tensor ``wanted`` (a path, a key or a position) in what a model returned; None: the prediction.

    Raises:
        InputError: if there is no such tensor, or it cannot be told which one is the prediction.
    """
    found = dict(tensors(returned))
    listed = ", ".join(f"{path} {shape(tensor)}".strip() for path, tensor in found.items()) or type(returned).__name__
    if wanted is None:
        only = next(iter(found)) if len(found) == 1 else None
        key = next((key for key in OUTPUT_KEYS if key in found), only)
        if key is not None:
            return found[key]
        raise InputError(
            f"cannot tell which output is the prediction: the model returned {listed}. Write for example:\n"
            f"    adapter = fs.Adapter(output={next(iter(found), 'logits')!r})\n"
            "    fs.dissect(model, loader, adapter=adapter)"
        )
    if str(wanted) in found:
        return found[str(wanted)]
    try:
        entry = None if isinstance(returned, Tensor) else returned[wanted]
    except (TypeError, LookupError):
        entry = None
    inside = tensors(entry)
    if len(inside) != 1:
        raise InputError(
            f"the model's output has no single tensor {wanted!r}: the model returned {listed}. Give one of these paths "
            f"to fs.Adapter(output=...), or a function.{did_you_mean(str(wanted), found)}"
        )
    return inside[0][1]


def unannotated(parameter: Parameter) -> bool:
    """Tell whether the parameter has no annotation."""
    return parameter.annotation is parameter.empty


def _signature(model: nn.Module) -> dict[str, Parameter]:
    return dict(inspect.signature(unwrap(model).forward).parameters)


def _own(model: nn.Module, keys: Sequence[str]) -> list[Parameter]:
    return [p for p in _signature(model).values() if p.name != "present" or "present" in keys]


def _required(parameter: Parameter) -> bool:
    kinds = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and parameter.kind not in kinds


def _check_order(model: nn.Module, keys: Sequence[str], modalities: Sequence[str]) -> None:
    """Refuse a call by position that would give a modality to the parameter of another one."""
    names = [p.name for p in positions(model, keys)]
    for index, key in enumerate(keys):
        taken = names[index] if index < len(names) else ""
        other = next((name for name in names if name != taken and _alike(name, key)), None)
        if other is not None and not _alike(taken, key):
            hint = f" By position {taken!r} would get {key!r}, which looks meant for {other!r}." if taken else ""
            raise _refusal(
                model, keys, modalities, hint, _matched(names, keys) if list(keys) == list(modalities) else ""
            )


def _alike(one: str, two: str) -> bool:
    short, long = sorted((one.lower(), two.lower()), key=len)
    return short == long or (short != "" and (long.startswith(f"{short}_") or long.endswith(f"_{short}")))


def _matched(names: Sequence[str], keys: Sequence[str]) -> str:
    left = [key for key in keys if not any(_alike(name, key) for name in names)]
    given = []
    for name in names:
        key = next((key for key in keys if _alike(name, key)), None) or (left.pop(0) if left else None)
        given += [f"{name}=inputs[{key!r}]"] if key else []
    return ", ".join(given)


def _refusal(
    model: nn.Module, keys: Sequence[str], modalities: Sequence[str], hint: str, example: str = ""
) -> InputError:
    takes = ", ".join(str(p).split(":")[0] for p in _signature(model).values())
    example = example or ", ".join(f"inputs[{modality!r}]" for modality in modalities)
    return InputError(
        f"{type(unwrap(model)).__name__}.forward({takes}) does not take the batch's {', '.join(keys)}.{hint} "
        "Rename or select the modalities, or say how to call it:\n"
        f"    adapter = fs.Adapter(call=lambda model, inputs: model({example}))\n"
        "    fs.dissect(model, loader, adapter=adapter)"
    )
