"""What a trace holds: calls with their axes, and fusion points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["join", "mix"]
State = Literal["yes", "weak", "wired", "unknown", "no"]


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
        wired_to: those it depends on once parameters that are all zero hold small noise: a gate or a last layer that
            starts at zero hides a modality, which is then "wired, inactive".
        unknown: the modalities for which it cannot be told.
        effects: how far the output moves when a modality changes, ``|changed - unchanged| / |unchanged|`` (estimated
            within about 20 %), for calls that two modalities or more are wired to.
        takes: the lanes of the tensors that go in.
        lane: the modality to whose lane the call belongs: the only one it is wired to or, after an exchange, the one
            whose share of the exchange it follows alone.
        stretch: how many exchanges that lane has passed before; None where ``lane`` is.
        parent: ``(path, index)`` of the call inside which this one ran.
        leaf: True if no other module ran inside it.
        fused: True for a leaf whose inputs or outputs two modalities or more are wired to.
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
    wired_to: frozenset[str]
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
    unknown: frozenset[str] = frozenset()
    effects: Mapping[str, float] = field(default_factory=dict)
    takes: frozenset[str] = frozenset()
    lane: str | None = None
    stretch: int | None = None
    weak_below: float = 1e-6
    same_as: tuple[object, ...] = ()

    @property
    def key(self) -> tuple[str, int]:
        """``(path, index)``."""
        return self.path, self.index

    @property
    def id(self) -> str:
        """A name that is unique within a trace, as ``"encoder.conv1#1"`` or ``"encoder.conv1#0[8:16]"``."""
        return f"{self.path or 'model'}#{self.index}" + (f":{self.output}" if self.output else "") + self.slot

    def state(self, modality: str) -> State:
        """Whether the output depends on a modality.

        "weak": yes, by less than 10^-6 of its size (float32; ten rounding errors of other types), which may be the echo
        of a mask rather than use; "wired": not now, but it would once all-zero parameters are trained; "unknown": it
        could not be told, which is never a no.
        """
        if modality in self.depends_on:
            return "weak" if self.effects.get(modality, 1.0) < self.weak_below else "yes"
        if modality in self.wired_to:
            return "wired"
        return "unknown" if modality in self.unknown else "no"

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
        round: 0 where modalities first meet; n where lanes meet that went on after the n-th exchange.
        exchange: the lanes of the modalities go on from here.
        mixed_by: for a join, the first later call that mixes them, if any.
    """

    call: Call | None
    parent: str
    functional: bool
    kind: Kind
    modalities: frozenset[str]
    round: int = 0
    exchange: bool = False
    mixed_by: Call | None = None

    def __str__(self) -> str:
        names = ", ".join(sorted(self.modalities))
        verb = {"join": "joined", "mix": "mixed"}[self.kind]
        where = f"in {self.parent or 'the model'}"
        if self.functional:
            text = f"{names} {verb}: functional, {where}, before {_told(self.call) if self.call else 'its output'}"
        else:
            text = f"{names} {verb} by {_told(self.call)}" if self.call else f"{names} {verb} {where}"
        same = self.mixed_by is not None and self.call is not None and self.mixed_by.key == self.call.key
        if self.mixed_by is not None and not same:
            text += f"; mixed by {_told(self.mixed_by)}"
        elif same and self.functional:
            text += ", which mixes them"
        return text


def _told(call: Call) -> str:
    return f"{call.path or 'model'}#{call.index} ({call.module})"
