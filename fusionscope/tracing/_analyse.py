"""From the recordings of a trace to its calls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fusionscope.tracing._call import Axes, Call, FusionPoint
from fusionscope.tracing._exchange import Meeting
from fusionscope.tracing._fusion import kind_of, lanes_of, lanes_taken
from fusionscope.tracing._record import CallKey, Record, Recording
from fusionscope.tracing._relation import Base, Relation
from fusionscope.tracing._rows import Entry, weak_effect
from fusionscope.tracing._units import fitting_axis, flattened_axis, taken_axis, unit_axis


def needs_detail(relation: Relation) -> set[CallKey]:
    """The calls with a large tensor whose other axes count: its samples or modalities lie there, or it moves twice."""
    keys = set()
    for key in relation.base.run.calls:
        for side in ("inputs", "outputs"):
            unsteady = relation.base.unsteady(key, side)
            for entry in getattr(relation, side)[key]:
                lost = entry.rows.axis is None and entry.print.shape and entry.rows.pattern == "coupled"
                if not entry.print.full and (lost or len(entry.wired_to) > 1 or entry.place in unsteady):
                    keys.add(key)
    return keys


def find_calls(base: Base, relations: Sequence[Relation]) -> list[Call]:
    """One call per record, output with modalities of its own, and slot."""
    return _Calls(base, relations).all()


def unlisted(run: Recording) -> dict[CallKey, CallKey | None]:
    """The calls that gave no tensor, which are not listed, and the call inside which each ran."""
    return {key: record.parent for key, record in run.calls.items() if record.failed or not record.outputs}


def points_of(meetings: Sequence[Meeting], calls: Sequence[Call]) -> list[FusionPoint]:
    """The meetings as fusion points that hold calls."""
    leaves: dict[CallKey, Call] = {}
    for call in calls:
        best = leaves.get(call.key)
        if call.leaf and (best is None or len(call.wired_to) > len(best.wired_to)):
            leaves[call.key] = call
    return [
        FusionPoint(
            leaves.get(m.key) if m.key is not None else None,
            m.parent,
            m.functional,
            m.kind,
            m.names,
            m.round,
            m.exchange,
            leaves.get(m.mixed_by) if m.mixed_by is not None else None,
        )
        for m in meetings
    ]


class _Calls:
    def __init__(self, base: Base, relations: Sequence[Relation]) -> None:
        self.base, self.relations = base, list(relations)
        self.first = self.relations[0]
        self.records = base.run.calls
        self.takers: dict[tuple[object, ...], list[Record]] = {}
        for record in self.records.values():
            for print_ in record.inputs.values():
                self.takers.setdefault(print_.key, []).append(record)

    def all(self) -> list[Call]:
        found: list[Call] = []
        for record in self.records.values():
            if record.failed or not record.outputs:
                continue
            groups: dict[tuple[object, ...], list[Entry]] = {}
            lanes: dict[tuple[object, ...], tuple[str, int] | None] = {}
            for entry in self.first.outputs[record.key]:
                split = lanes_of(self.relations, record.key, entry)
                for lane, members in split.items():
                    positions = entry.positions if len(split) == 1 else tuple(members)
                    coupled = entry.rows.pattern == "coupled"
                    group = (entry.depends_on, entry.wired_to, lane, positions, coupled)
                    groups.setdefault(group, []).append(replace(entry, positions=positions))
                    lanes[group] = lane
            for group, members_of in groups.items():
                main = next((e for e in members_of if _readable(e)), members_of[0])
                found.append(self._call(record, main, len(groups) > 1, lanes[group]))
        return self._inherit_units(found)

    def _call(self, record: Record, entry: Entry, several: bool, lane: tuple[str, int] | None) -> Call:
        rows, shape = entry.rows, list(entry.print.shape)
        slot = ""
        if rows.axis is not None and entry.positions is not None:
            slot = _slot_name(entry, self.base.size)
            shape[rows.axis] = self.base.size * len(entry.positions)
        unit = unit_axis(record.module, tuple(shape), rows.axis)
        split = several and len({e.place for e in self.first.outputs[record.key]}) > 1
        leaf = record.children == 0
        unsteady = self.base.unsteady(record.key, "outputs")
        sizes = self.first.sizes(record.key, "outputs", entry) if len(entry.wired_to) > 1 or entry.unknown else {}
        # Where nothing moved, and ought to have, the sample axis is a guess.
        sample = rows.axis if not rows.guessed or unsteady else None
        axes = Axes(
            sample, unit, (), rows.per_sample, entry.positions, rows.pattern == "stacked" and rows.per_sample > 1
        )
        return Call(
            path=record.key[0],
            index=record.key[1],
            output=entry.place if split or entry.place else "",
            slot=slot,
            module=type(record.module).__name__,
            shape=tuple(shape),
            axes=axes,
            depends_on=entry.depends_on,
            wired_to=entry.wired_to,
            unknown=entry.unknown,
            effects=sizes,
            weak_below=weak_effect(entry.print.dtype),
            takes=lanes_taken(self.relations, record.key),
            lane=lane[0] if lane else None,
            stretch=lane[1] if lane else None,
            parent=record.parent,
            leaf=leaf,
            fused=leaf and self.first.fused(record.key),
            kind=kind_of(self.first, record.key, entry) if leaf else None,
            parametric=any(True for _ in record.module.parameters(recurse=leaf)),
            floating=entry.print.dtype.is_floating_point,
            deterministic=not unsteady,
            batch_coupled=rows.pattern == "coupled",
            conditional=entry.conditional,
            constant=entry.print.constant,
            finite=entry.print.finite,
            same_as=entry.print.key,
        )

    def _inherit_units(self, calls: list[Call]) -> list[Call]:
        """Give elementwise modules, pools and containers the unit axis of the call their values come from, or go to."""
        known: dict[tuple[object, ...], Call] = {}
        leaves: dict[str, Call] = {}
        by_rank: dict[int, list[Call]] = {}

        def unit_from(sources: list[Call | None], call: Call) -> int | None:
            for source in sources:
                if source is not None and source.axes.unit is not None:
                    size = source.shape[source.axes.unit]
                    return fitting_axis(call.shape, call.axes.sample, source.axes.unit, size)
            return None

        for call in (call for call in calls if call.leaf):
            unit = call.axes.unit
            if unit is None:
                alike = reversed(by_rank.get(len(call.shape), []))
                before = next((c for c in alike if c.wired_to & call.wired_to), None)
                unit = unit_from([*(known.get(e.print.key) for e in self.first.inputs[call.key]), before], call)
            unit = self._taken(call) if unit is None else unit
            unit = self._flattened(call, leaves) if unit is None else unit
            call = replace(call, axes=_with_unit(call, unit))
            leaves[call.id] = call
            by_rank.setdefault(len(call.shape), []).append(call)
            known.setdefault(call.same_as, call)
        result = []
        for call in calls:
            if call.leaf:
                result.append(leaves[call.id])
                continue
            unit = call.axes.unit
            if unit is None:
                alike = reversed(by_rank.get(len(call.shape), []))
                inside = next((c for c in alike if self._within(c, call)), None)
                unit = unit_from([known.get(call.same_as)], call)
                unit = self._taken(call) if unit is None else unit
                unit = unit_from([inside], call) if unit is None else unit
                unit = self._flattened(call, leaves) if unit is None else unit
            result.append(replace(call, axes=_with_unit(call, unit)))
        return result

    def _taken(self, call: Call) -> int | None:
        """The unit axis that the first call of a known type which takes the same tensor tells."""
        return next(
            (
                axis
                for record in self.takers.get(call.same_as, ())
                if (axis := taken_axis(record.module, call.shape, call.axes.sample)) is not None
            ),
            None,
        )

    def _flattened(self, call: Call, leaves: Mapping[str, Call]) -> int | None:
        """The unit axis of a sequence that a map before it was flattened to."""
        maps = (c for c in list(leaves.values())[::-1] if len(c.shape) > 3 and c.axes.unit is not None)
        source = next((c for c in maps if c.wired_to == call.wired_to), None)
        if source is None:
            return None
        return flattened_axis(call.shape, call.axes.sample, math.prod(source.shape[a] for a in source.axes.location))

    def _within(self, inner: Call, outer: Call) -> bool:
        parent = inner.parent
        while parent is not None:
            if parent == outer.key:
                return bool(inner.wired_to & outer.wired_to)
            parent = self.records[parent].parent
        return False


def missing_counts(base: Recording, runs: dict[str, Recording]) -> list[tuple[str, int, str, int]]:
    """``(path, times, modality, times when it changes)`` of modules that another input calls more or less often."""
    counts: dict[str, int] = {}
    for path, _ in base.calls:
        counts[path] = counts.get(path, 0) + 1
    found = []
    for modality, run in runs.items():
        now: dict[str, int] = {}
        for path, _ in run.calls:
            now[path] = now.get(path, 0) + 1
        found += [
            (path, counts.get(path, 0), modality, now.get(path, 0))
            for path in dict.fromkeys([*counts, *now])
            if counts.get(path, 0) != now.get(path, 0)
        ]
    return found


def _readable(entry: Entry) -> bool:
    """A real-valued tensor with one row per sample: what the first such output of a call holds is its result."""
    return entry.print.dtype.is_floating_point and entry.rows.axis is not None and entry.rows.pattern != "coupled"


def _with_unit(call: Call, unit: int | None) -> Axes:
    if unit == call.axes.sample:
        unit = None
    location = tuple(a for a in range(len(call.shape)) if a not in (unit, call.axes.sample))
    return replace(call.axes, unit=unit, location=location)


def _slot_name(entry: Entry, size: int) -> str:
    k, members = entry.rows.per_sample, entry.positions or ()
    if entry.rows.pattern == "stacked":
        runs: list[list[int]] = []
        for j in members:
            if runs and runs[-1][1] == j:
                runs[-1][1] = j + 1
            else:
                runs.append([j, j + 1])
        return "".join(f"[{a * size}:{b * size}]" for a, b in runs)
    if len(members) == 1:
        return f"[{members[0]}::{k}]"
    return f"[{','.join(map(str, members))}::{k}]"
