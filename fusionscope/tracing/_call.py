"""What a trace holds: calls with their axes, and fusion points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["join", "mix"]


@dataclass(frozen=True)
class Axes:
    """The axes of a call's output: which holds the samples, which the units; the others are locations.

    ``per_sample`` rows of each sample lie on the sample axis, ``positions`` of them belong to this call's slot (None =
    all), in blocks of B rows where ``stacked``, else side by side. None stands for an axis that could not be told.
    """

    sample: int | None
    unit: int | None
    location: tuple[int, ...] = ()
    per_sample: int = 1
    positions: tuple[int, ...] | None = None
    stacked: bool = False


@dataclass(frozen=True)
class Call:
    """One execution of one submodule in one forward; where modalities share it, the part of one slot or output.

    Attributes:
        path: the module's path in the model; "" is the model itself.
        index: how many times this module ran before, in this forward.
        output: the place of the tensor in the module's output ("" = the output is the tensor).
        slot: the rows of this call where modalities are stacked along the batch axis, as ``"[0:8]"``, else "".
        module: the module's type.
        shape: the shape of the output (of the slot's rows).
        axes: sample, unit and location axes of the output.
        depends_on: the modalities that the output depends on, as measured.
        parent: ``(path, index)`` of the call inside which this one ran.
        leaf: True if no other module ran inside it.
        fused: True for a leaf whose inputs or outputs depend on two modalities or more.
        kind: "join" or "mix" where modalities meet in this call, else None.
        parametric: the module owns parameters.
        deterministic: two unchanged runs gave the same output.
        batch_coupled: rows influence each other, so that features per sample are not defined here.
        conditional: another input can make the model skip this call or take another path.
        constant: all values of the output are equal.
        finite: the output holds no NaN and no infinity.
    """

    path: str
    index: int
    output: str
    slot: str
    module: str
    shape: tuple[int, ...]
    axes: Axes
    depends_on: frozenset[str]
    parent: tuple[str, int] | None
    leaf: bool
    fused: bool
    kind: Kind | None
    parametric: bool
    floating: bool = True
    deterministic: bool = True
    batch_coupled: bool = False
    conditional: bool = False
    constant: bool = False
    finite: bool = True
    same_as: tuple[object, ...] = ()

    @property
    def key(self) -> tuple[str, int]:
        """``(path, index)``."""
        return self.path, self.index

    @property
    def id(self) -> str:
        """A name that is unique within a trace, as ``"encoder.conv1#1"`` or ``"encoder.conv1#0[8:16]"``."""
        return f"{self.path or 'model'}#{self.index}" + (f":{self.output}" if self.output else "") + self.slot

    def __repr__(self) -> str:
        seen = "+".join(sorted(self.depends_on)) or "no modality"
        return f"Call({self.id} {self.module} {list(self.shape)} <- {seen})"


@dataclass(frozen=True)
class FusionPoint:
    """Where modalities first meet.

    Attributes:
        call: the fused call, or None where the model's own code fuses after the last call.
        parent: the path of the module in whose forward it happens.
        functional: True if a function (``torch.cat``, ``+``) fuses before ``call``.
        kind: "join" where the modalities come to lie side by side, "mix" where they are combined.
        modalities: the modalities that meet.
        mixed_by: for a join, the first later call that mixes them, if any.
    """

    call: Call | None
    parent: str
    functional: bool
    kind: Kind
    modalities: frozenset[str]
    mixed_by: Call | None = None

    def __str__(self) -> str:
        names = ", ".join(sorted(self.modalities))
        verb = {"join": "joined", "mix": "mixed"}[self.kind]
        where = f"in {self.parent or 'the model'}"
        if self.functional:
            before = f"before {self.call.id} ({self.call.module})" if self.call else "before its output"
            text = f"{names} {verb}: functional, {where}, {before}"
        else:
            text = f"{names} {verb} by {self.call.id} ({self.call.module})" if self.call else f"{names} {verb} {where}"
        if self.mixed_by is not None and self.mixed_by is not self.call:
            text += f"; mixed by {self.mixed_by.id} ({self.mixed_by.module})"
        elif self.mixed_by is not None and self.functional:
            text += ", which mixes them"
        return text
