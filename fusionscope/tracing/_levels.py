"""Default taps and levels: which calls of each modality's stream are worth measuring."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fusionscope.errors import InputError, did_you_mean
from fusionscope.tracing._call import Axes, Call
from fusionscope.tracing._units import is_folded

if TYPE_CHECKING:
    from fusionscope.tracing._trace import Trace

MOST = 12
OPEN_SHARE = 0.6


@dataclass(frozen=True)
class Tap:
    """A call chosen for measuring.

    Attributes:
        modality: whose stream it lies on.
        level: its position along the stream, from 0.
        depth: the share of the stream's calls with parameters that have run by then, in (0, 1].
        call: the call whose output is measured.
    """

    modality: str
    level: int
    depth: float
    call: Call

    @property
    def id(self) -> str:
        """The call's name, which is unique within a trace."""
        return self.call.id

    @property
    def locations(self) -> tuple[int, ...]:
        """The sizes of the location axes, as (height, width) or (time,)."""
        return tuple(self.call.shape[a] for a in self.call.axes.location)

    @property
    def units(self) -> int:
        """The number of units."""
        unit = self.call.axes.unit
        return self.call.shape[unit] if unit is not None else 0

    def __repr__(self) -> str:
        return f"Tap({self.modality} level {self.level}: {self.id} {list(self.call.shape)})"


def default_taps(trace: Trace) -> dict[str, list[Tap]]:
    """Choose taps for every modality.

    The largest calls of its lane, outside the containers in which lanes meet; one that holds 60 % or more of the lane's
    calls with parameters is opened, unless the others already show three resolutions; a norm, activation or dropout is
    measured in place of the call before it; above twelve, the last per resolution, else evenly spaced.
    """
    children: dict[tuple[str, int] | None, list[Call]] = {}
    for call in trace.calls:
        parent = call.parent
        while parent is not None and parent in trace.unlisted:
            parent = trace.unlisted[parent]
        children.setdefault(parent, []).append(call)
    found = {}
    for modality in trace.modalities:
        parametric = [c for stretch in trace.lanes[modality] for c in stretch if c.parametric]
        lane = _Lane(modality, children, len(parametric))
        chosen = _fold(lane.opened(lane.largest(None)))
        chosen = [c for c in chosen if usable(c) and c.same_as != trace.prediction]
        chosen = _thin(_without_pooled(list({c.same_as: c for c in chosen}.values())))
        order = {c.id: i for i, c in enumerate(trace.calls)}
        found[modality] = [
            Tap(modality, level, _depth(call, parametric, children, order), call) for level, call in enumerate(chosen)
        ]
    return found


def usable(call: Call) -> bool:
    """Features per sample can be read from the call's output."""
    return call.floating and not call.constant and not call.batch_coupled and call.axes.sample is not None


@dataclass(frozen=True)
class _Lane:
    """The calls of one modality's lane, as a tree; ``total`` of its leaves have parameters."""

    modality: str
    children: Mapping[tuple[str, int] | None, Sequence[Call]]
    total: int

    def own(self, call: Call, siblings: Sequence[Call]) -> bool:
        """The call gives a tensor of this lane, and not as a by-product of a fused one."""
        first = next((c for c in siblings if c.key == call.key and c.floating), call)
        return call.lane == self.modality and call.floating and not (first.lane is None and len(first.wired_to) > 1)

    def largest(self, parent: tuple[str, int] | None) -> list[Call]:
        """The outermost calls that belong to the lane, in order.

        A container in which lanes meet is not looked into (queries and keys would leak out of it), unless it holds most
        of this lane.
        """
        chosen: list[Call] = []
        done: set[tuple[str, int]] = set()
        inner = self.children.get(parent, ())
        for call in inner:
            if call.key in done:
                continue
            if self.own(call, inner) and call.parent is not None:
                done.add(call.key)
                chosen.append(call)
            elif call.parent is None or not any(self.own(c, inner) for c in inner if c.key == call.key):
                done.add(call.key)
                if call.parent is None or len(call.takes) < 2 or self.weight(call) >= OPEN_SHARE * self.total:
                    chosen += self.largest(call.key)
        return chosen

    def opened(self, chosen: list[Call]) -> list[Call]:
        """Replace a call that holds most of the lane by what runs inside it."""
        for number, call in enumerate(chosen):
            inner = self.largest(call.key)
            others = chosen[:number] + chosen[number + 1 :]
            heavy = self.total > 0 and self.weight(call) >= OPEN_SHARE * self.total
            several = len(inner) > 1 and _resolutions([c for c in others if self.weight(c)]) < 3
            if heavy and (several or (len(inner) == 1 and self.weight(inner[0]) > 1)):
                return self.opened(chosen[:number] + inner + chosen[number + 1 :])
        return chosen

    def weight(self, call: Call) -> int:
        """How many leaf calls with parameters run inside, in this lane."""
        if call.leaf:
            return int(call.parametric)
        inside = [c for c in self.children.get(call.key, ()) if not c.leaf or c.lane == self.modality]
        return sum(self.weight(c) for c in {c.key: c for c in inside}.values())


def _resolutions(chosen: Sequence[Call]) -> int:
    """How many clearly different numbers of locations there are; a class token more or less is the same."""
    counts = sorted({math.prod(_resolution(c)) for c in chosen if c.axes.location and c.axes.unit is not None})
    return sum(i == 0 or count >= 1.5 * counts[i - 1] for i, count in enumerate(counts))


def _without_pooled(chosen: list[Call]) -> list[Call]:
    """Leave out vectors between maps or sequences: side branches that pool for another purpose."""
    located = [i for i, c in enumerate(chosen) if c.axes.location]
    return [c for i, c in enumerate(chosen) if not located or not located[0] < i < located[-1] or c.axes.location]


def _fold(chosen: list[Call]) -> list[Call]:
    """Measure a norm, activation or dropout in place of the call before it; leave out pools and reshapes."""
    folded: list[Call] = []
    for call in chosen:
        if folded and call.leaf and is_folded(call.module) and call.shape == folded[-1].shape:
            folded[-1] = call
        elif call.parametric or not call.leaf:
            folded.append(call)
    return folded or chosen


def _thin(chosen: list[Call]) -> list[Call]:
    if len(chosen) <= MOST:
        return chosen
    last = list({_resolution(c): c for c in chosen}.values())
    if 3 <= len(last) <= MOST:
        return last
    return [chosen[round(i * (len(chosen) - 1) / (MOST - 1))] for i in range(MOST)]


def _resolution(call: Call) -> tuple[int, ...]:
    return tuple(call.shape[a] for a in call.axes.location)


def _depth(call: Call, parametric: Sequence[Call], children: Mapping, order: Mapping[str, int]) -> float:
    last, stack = order[call.id], [call]
    while stack:
        one = stack.pop()
        last = max(last, order.get(one.id, 0))
        stack += children.get(one.key, [])
    before = sum(order[c.id] <= last for c in parametric)
    return before / max(len(parametric), 1)


def levels(taps: Mapping[str, Sequence[Tap]], n: int) -> list[dict[str, Tap]]:
    """Pair the taps of all modalities at ``n`` positions from early to late."""
    if n < 1:
        raise InputError(f"the number of levels must be 1 or more, not {n}")
    empty = [modality for modality, found in taps.items() if not found]
    if empty:
        raise InputError(f"no call depends on {', '.join(empty)} alone, so there are no levels to compare")

    def at(found: Sequence[Tap], i: int) -> Tap:
        return found[round(i * (len(found) - 1) / (n - 1))] if n > 1 else found[-1]

    return [{modality: at(found, i) for modality, found in taps.items()} for i in range(n)]


def find_call(calls: Iterable[Call], id: str) -> Call:
    """Return the call with this id, or the only one of this path.

    Raises:
        InputError: if there is none, or several of that path.
    """
    calls = list(calls)
    exact = [call for call in calls if call.id == id]
    if exact:
        return exact[0]
    same = [call for call in calls if call.path == id]
    if len(same) == 1:
        return same[0]
    if same:
        raise InputError(f"{id!r} is called several times; choose one of {', '.join(call.id for call in same)}")
    names = [call.id for call in calls] + [call.path for call in calls]
    raise InputError(f"no call {id!r} in this trace.{did_you_mean(id, names)}")


def with_layouts(calls: list[Call], layouts: Mapping[str, str]) -> list[Call]:
    """Set the axes of the calls named in ``layouts``: N is the sample axis, C the units, the rest are locations."""
    done = list(calls)
    for name, layout in layouts.items():
        matching = [i for i, call in enumerate(done) if name in (call.path, call.id)]
        if not matching:
            find_call(calls, name)
        for i in matching:
            call = done[i]
            if len(layout) != len(call.shape) or layout.count("N") != 1 or layout.count("C") != 1:
                raise InputError(
                    f"the layout {layout!r} of {name!r} must have one letter for each of its {len(call.shape)} axes "
                    f"{list(call.shape)}, with one N (samples) and one C (units), as 'NCHW' or 'NTC'"
                )
            sample, unit = layout.index("N"), layout.index("C")
            location = tuple(a for a in range(len(layout)) if a not in (sample, unit))
            axes = Axes(sample, unit, location, call.axes.per_sample, call.axes.positions, call.axes.stacked)
            done[i] = replace(call, axes=axes)
    return done
