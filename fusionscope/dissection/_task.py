"""What a model is asked to do, told from its output and the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fusionscope.batch import shape
from fusionscope.dissection._ranks import gathered
from fusionscope.errors import InputError


@dataclass(frozen=True)
class Task:
    """``kind`` is "classification", "dense", "multilabel", "regression", or "none" (no target).

    ``single_logit``: two classes from one logit; ``channels_last``: the classes lie on the output's last axis.
    """

    kind: str
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    single_logit: bool = False
    channels_last: bool = False

    def prediction(self, output: Tensor, target: Any) -> Tensor:
        """Bring the output to the form the scores take: logits ``[B, K, *target's locations]``, or values."""
        if self.channels_last:
            output = output.movedim(-1, 1)
        if self.single_logit:
            logit = output.unsqueeze(1) if output.ndim == target.ndim else output
            output = torch.cat([torch.zeros_like(logit), logit], 1)
        if self.kind == "dense" and output.shape[2:] != target.shape[1:]:
            mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[output.ndim - 2]
            size = tuple(target.shape[1:])
            return torch.nn.functional.interpolate(output.float(), size=size, mode=mode, align_corners=False)
        return output


class ClassOrder:
    """Notices a loader that is sorted by class.

    Nulls permute labels within a batch and ``resample`` takes values from the same batch, so both need batches that mix
    the classes.
    """

    def __init__(self) -> None:
        self.batches: list[Tensor] = []

    def add(self, target: Tensor) -> None:
        """Note the labels of one batch."""
        self.batches.append(target.detach().cpu().flatten())

    def notes(self) -> list[str]:
        """Return a warning if a batch holds less than half the classes that a random one of its size would."""
        batches = gathered(self.batches)
        if len(batches) < 2:
            return []
        _, counts = torch.cat(batches).unique(return_counts=True)
        share = counts.double() / counts.sum()
        found = sum(len(batch.unique()) for batch in batches) / len(batches)
        wanted = sum(float((1 - (1 - share) ** len(batch)).sum()) for batch in batches) / len(batches)
        if found >= wanted / 2:
            return []
        return [
            f"the loader seems sorted by class: a batch holds {found:.1f} classes on average, a random one would hold "
            f"{wanted:.1f}. Nulls come out too wide and resampled modalities come from the same class: shuffle once "
            "with a fixed seed"
        ]


def infer_task(output: Tensor | Callable[[], Tensor], target: Any, classes: Sequence[str] | None = None) -> Task:
    """Tell the task from one batch; a function that gives the output is called only if there is a target to score.

    Integer targets ``[B]`` with logits ``[B, K]`` are classification, integer targets ``[B, ...]`` with logits
    ``[B, K, ...]`` dense prediction, targets ``[B, K]`` of 0 and 1 with logits ``[B, K]`` several labels per sample
    ("multilabel"; negative integers and NaN are unknown), other real-valued targets regression.

    Raises:
        InputError: if output and target fit none of these, or ``classes`` has another length than the logits.

    >>> infer_task(torch.zeros(5, 3), torch.zeros(5, dtype=torch.long)).kind
    'classification'
    """
    if not isinstance(target, Tensor):
        note = () if target is None else (f"the target is a {type(target).__name__}, not a tensor: it is not used",)
        return Task("none", tuple(classes or ()), note)
    if target.is_floating_point() and not _flags(target):
        return Task("regression", (), _binary(target))
    output = output if isinstance(output, Tensor) else output()
    if _flags(target) and output.shape == target.shape and output.is_floating_point():
        return _multilabel(target, classes)
    if target.is_floating_point():
        return Task("regression")
    places = tuple(target.shape[1:])
    single = output.ndim == target.ndim or (output.ndim == target.ndim + 1 and output.shape[1] == 1)
    last = (
        output.ndim == target.ndim + 1 > 2 and tuple(output.shape[1:-1]) == places and tuple(output.shape[2:]) != places
    )
    flat = output.ndim == target.ndim == 2
    if not output.is_floating_point() or flat or not (single or output.ndim == target.ndim + 1):
        advice = "choose the prediction with fs.Adapter(output=...)"
        if 1 in places:
            advice = "squeeze the target's axis of size 1"
        elif flat:
            advice = "several labels per sample are a target [B, K] of 0 and 1, one class per sample a target [B]"
        raise InputError(
            f"cannot score an output {shape(output)} against a target {shape(target)}: expected logits [B, K] with "
            "integer targets [B], logits [B, K, ...] with integer targets [B, ...], or real-valued targets; "
            f"{advice}, or leave the target out"
        )
    kind = "classification" if target.ndim == 1 else "dense"
    count = 2 if single else output.shape[-1] if last else output.shape[1]
    if classes is not None and len(classes) != count:
        raise InputError(f"{len(classes)} class names were given, but the model's output has {count} classes")
    largest = int(target.max()) if target.numel() else 0
    if largest >= count:
        raise InputError(
            f"the target holds class {largest}, but the model's output has {count} classes (0 to {count - 1}); mark "
            "what is to be ignored with a negative label"
        )
    names = tuple(classes) if classes is not None else tuple(str(i) for i in range(count))
    return Task(kind, names, (), single, last and not single)


def _flags(target: Tensor) -> bool:
    """Whether a target holds 0 and 1 (or unknown) for several labels of each sample."""
    if target.ndim != 2 or target.shape[1] < 2:
        return False
    known = target[~target.isnan()] if target.is_floating_point() else target[target >= 0]
    return bool(known.numel()) and bool(((known == 0) | (known == 1)).all())


def _binary(target: Tensor) -> tuple[str, ...]:
    """A note on numbers that look like two classes."""
    known = target[~target.isnan()]
    if target.numel() > len(target) or known.unique().tolist() != [0.0, 1.0]:
        return ()
    return (
        "the target holds the real numbers 0 and 1 only and is scored as a regression; if they are two classes, give "
        "integers [B]: target.long().flatten()",
    )


def _multilabel(target: Tensor, classes: Sequence[str] | None) -> Task:
    count = target.shape[1]
    if classes is not None and len(classes) != count:
        raise InputError(f"{len(classes)} class names were given, but the target has {count} labels")
    names = tuple(classes) if classes is not None else tuple(str(i) for i in range(count))
    single = bool((target == 1).sum(1).eq(1).all())
    note = "every sample of the first batch has exactly one label: if they are classes, give target.argmax(1) instead"
    return Task("multilabel", names, (note,) if single else ())
