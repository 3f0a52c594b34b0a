"""From the recordings of a trace to calls, fusion points and messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from fusionscope.tracing._call import Axes, Call, FusionPoint, Kind
from fusionscope.tracing._record import CallKey, Record, Recording
from fusionscope.tracing._rows import Entry, Runs, entries
from fusionscope.tracing._units import fitting_axis, unit_axis

RESTARTS = 32


@dataclass
class Analysis:
    """The runs of one trace and what follows from them."""

    base: Recording
    repeat: Recording
    single: Recording
    runs: Runs
    sample: int
    size: int
    modalities: tuple[str, ...]
    inputs: dict[CallKey, list[Entry]] = field(default_factory=dict)
    outputs: dict[CallKey, list[Entry]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, record in self.base.calls.items():
            for side, store in (("inputs", self.inputs), ("outputs", self.outputs)):
                prints = getattr(record, side)
                store[key] = entries(key, prints, side, self.single, self.runs, self.sample, self.size)
            if not self.deterministic(record):
                known = frozenset[str]().union(*(e.depends_on for e in self.inputs[key]))
                self.outputs[key] = [
                    replace(e, depends_on=known or frozenset(self.modalities), joined=None) for e in self.outputs[key]
                ]

    def deterministic(self, record: Record) -> bool:
        """Two unchanged runs gave this call the same output."""
        again = self.repeat.calls.get(record.key)
        if again is None or set(again.outputs) != set(record.outputs):
            return False
        return all(print_.key == again.outputs[place].key for place, print_ in record.outputs.items())

    # ------------------------------------------------------------------ calls

    def calls(self) -> list[Call]:
        """One call per record, output with a modality set of its own, and slot."""
        found: list[Call] = []
        for record in self.base.calls.values():
            if record.failed or not record.outputs:
                continue
            groups: dict[tuple[frozenset[str], tuple[int, ...] | None], list[Entry]] = {}
            for entry in self.outputs[record.key]:
                groups.setdefault((entry.depends_on, entry.positions), []).append(entry)
            for members in groups.values():
                main = next((e for e in members if _readable(e)), members[0])
                found.append(self._call(record, main, len(groups) > 1))
        return self._inherit_units(found)

    def _call(self, record: Record, entry: Entry, several: bool) -> Call:
        rows, shape = entry.rows, list(entry.print.shape)
        slot = ""
        if rows.axis is not None and entry.positions is not None:
            slot = _slot_name(entry, self.size)
            shape[rows.axis] = self.size * len(entry.positions)
        unit = unit_axis(record.module, tuple(shape), rows.axis)
        split = several and len({e.place for e in self.outputs[record.key]}) > 1
        leaf = record.children == 0
        return Call(
            path=record.key[0],
            index=record.key[1],
            output=entry.place if split or entry.place else "",
            slot=slot,
            module=type(record.module).__name__,
            shape=tuple(shape),
            axes=Axes(
                rows.axis, unit, (), rows.per_sample, entry.positions, rows.pattern == "stacked" and rows.per_sample > 1
            ),
            depends_on=entry.depends_on,
            parent=record.parent,
            leaf=leaf,
            fused=leaf and self.is_fused(record.key),
            kind=self._kind(record.key, entry) if leaf else None,
            parametric=any(True for _ in record.module.parameters(recurse=leaf)),
            floating=entry.print.dtype.is_floating_point,
            deterministic=self.deterministic(record),
            batch_coupled=rows.pattern == "coupled",
            conditional=entry.conditional,
            constant=entry.print.constant,
            finite=entry.print.finite,
            same_as=entry.print.key,
        )

    def _inherit_units(self, calls: list[Call]) -> list[Call]:
        """Give elementwise modules, pools and containers the unit axis of the call their values come from."""
        known: dict[tuple[object, ...], Call] = {}
        leaves: dict[str, Call] = {}

        def unit_from(sources: list[Call | None], call: Call) -> int | None:
            for source in sources:
                if source is not None and source.axes.unit is not None:
                    size = source.shape[source.axes.unit]
                    return fitting_axis(call.shape, call.axes.sample, source.axes.unit, size)
            return None

        for call in (call for call in calls if call.leaf):
            unit = call.axes.unit
            if unit is None:
                before = [
                    c for c in leaves.values() if len(c.shape) == len(call.shape) and c.depends_on & call.depends_on
                ]
                unit = unit_from([*(known.get(e.print.key) for e in self.inputs[call.key]), *before[-1:]], call)
            call = replace(call, axes=_with_unit(call, unit))
            leaves[call.id] = call
            known.setdefault(call.same_as, call)
        result = []
        for call in calls:
            if call.leaf:
                result.append(leaves[call.id])
                continue
            unit = call.axes.unit
            if unit is None:
                inside = [c for c in leaves.values() if len(c.shape) == len(call.shape) and self._within(c, call)]
                unit = unit_from([known.get(call.same_as), *inside[-1:]], call)
            result.append(replace(call, axes=_with_unit(call, unit)))
        return result

    def _within(self, inner: Call, outer: Call) -> bool:
        parent: CallKey | None = inner.parent
        while parent is not None:
            if parent == outer.key:
                return bool(inner.depends_on & outer.depends_on)
            parent = self.base.calls[parent].parent
        return False

    # ----------------------------------------------------------------- fusion

    def is_fused(self, key: CallKey) -> bool:
        """A tensor that goes in or comes out depends, in the same rows, on two modalities or more."""
        return any(len(e.depends_on) > 1 for e in (*self.inputs[key], *self.outputs[key]))

    def _kind(self, key: CallKey, entry: Entry) -> Kind | None:
        if len(entry.depends_on) < 2:
            return None
        carried = [e for e in self.inputs[key] if entry.depends_on <= e.depends_on]
        if entry.joined is not None:
            return None if carried else "join"
        return None if any(e.joined is None for e in carried) else "mix"

    def fusion_points(
        self, calls: list[Call], restart: Callable[[CallKey, set[str]], Recording | None]
    ) -> tuple[list[FusionPoint], list[str]]:
        """Find the fused calls none of whose inputs is already fused.

        Whether an input is already fused is measured: the output of each point is changed by a hook, and the calls
        whose input then changes come after it. That costs one forward per point.
        """
        leaves = [call for call in calls if call.leaf and call.fused]
        downstream: dict[CallKey, int] = {}
        seen_inputs: set[tuple[object, ...]] = set()
        found: list[tuple[FusionPoint, set[CallKey]]] = []
        messages: list[str] = []
        for key in dict.fromkeys(call.key for call in leaves):
            if key in downstream:
                continue
            if len(found) == RESTARTS:
                messages.append(f"more than {RESTARTS} fusion points; the rest is not listed")
                break
            mine = [call for call in leaves if call.key == key]
            fused_in = [e for e in self.inputs[key] if len(e.depends_on) > 1]
            prints = {e.print.key for e in fused_in}
            repeated = bool(prints) and prints <= seen_inputs
            seen_inputs |= prints
            places = {e.place for e in self.outputs[key] if len(e.depends_on) > 1}
            again = restart(key, places) if places else self.base
            if again is None:
                messages.append(
                    f"{key[0]}#{key[1]}: the model fails on other outputs of it; what follows counts as after it"
                )
            changed = self._after(key, again)
            downstream |= dict.fromkeys(changed, len(found))
            if repeated:
                continue
            best = max(mine, key=lambda c: len(c.depends_on))
            if fused_in:
                entry = max(fused_in, key=lambda e: len(e.depends_on))
                kind: Kind = "join" if entry.joined is not None else "mix"
                point = FusionPoint(best, self._fusing_parent(key, prints), True, kind, entry.depends_on)
            else:
                names = frozenset[str]().union(*(e.depends_on for e in self.outputs[key]))
                point = FusionPoint(best, _parent_path(best), False, best.kind or "mix", names)
            found.append((point, changed | {key}))
        root = next(iter(self.base.calls), None)
        if root is not None and not found:
            fused_out = [e for e in self.outputs[root] if len(e.depends_on) > 1]
            if fused_out:
                entry = max(fused_out, key=lambda e: len(e.depends_on))
                parent = self._fusing_parent(root, {entry.print.key}, output=True)
                kind = "join" if entry.joined is not None else "mix"
                found.append((FusionPoint(None, parent, True, kind, entry.depends_on), set()))
        mixes = [call for call in leaves if call.kind == "mix"]
        points = []
        for point, reach in found:
            later = next((call for call in mixes if call.key in reach), None) if point.kind == "join" else None
            points.append(replace(point, mixed_by=later))
        return points, messages

    def _after(self, key: CallKey, changed: Recording | None) -> set[CallKey]:
        """The calls whose input changed; all later ones if that run failed."""
        order = list(self.base.calls)
        if changed is None:
            return set(order[order.index(key) + 1 :])
        after: set[CallKey] = set()
        for other in order[order.index(key) + 1 :]:
            now, before = changed.calls.get(other), self.base.calls[other].inputs
            if now is None or any(p not in now.inputs or now.inputs[p].key != before[p].key for p in before):
                after.add(other)
        return after

    def _fusing_parent(self, key: CallKey, prints: set[tuple[object, ...]], output: bool = False) -> str:
        """The module in whose forward the functional fusion happens."""
        for other, record in self.base.calls.items():
            if other == key and not output:
                break
            made_here = record.children > 0 and any(p.key in prints for p in record.outputs.values())
            if made_here and not any(len(e.depends_on) > 1 for e in self.inputs[other]):
                inner = [k for k, r in self.base.calls.items() if r.parent == other and r.children > 0]
                if not any(p.key in prints for k in inner for p in self.base.calls[k].outputs.values()):
                    return other[0]
        parent = self.base.calls[key].parent
        while parent is not None and any(len(e.depends_on) > 1 for e in self.inputs[parent]):
            parent = self.base.calls[parent].parent
        return parent[0] if parent else ""

    # --------------------------------------------------------------- messages

    def messages(self, calls: list[Call]) -> list[str]:
        """What a user should know, in words."""
        told: list[str] = []
        root = self.outputs[next(iter(self.base.calls))]
        reached = frozenset[str]().union(*(e.depends_on for e in root))
        told += [f"{m} reaches no output in this batch" for m in self.modalities if m not in reached]
        leaves = [call for call in calls if call.leaf]

        def tell(chosen: list[Call], text: str) -> None:
            if chosen:
                names = ", ".join(dict.fromkeys(call.id for call in chosen[:3]))
                told.append(f"{names}{f' and {len(chosen) - 3} more' if len(chosen) > 3 else ''}: {text}")

        slots = [call for call in calls if call.slot]
        if slots:
            first = [call for call in slots if call.key == slots[0].key]
            rows = ", ".join(f"{c.slot} {'+'.join(sorted(c.depends_on)) or 'no modality'}" for c in first)
            told.append(f"modalities are stacked along the batch axis of {slots[0].path or 'the model'}: rows {rows}")
        tell([c for c in leaves if not c.finite], "non-finite values")
        tell([c for c in leaves if c.constant and c.depends_on], "constant here: dead or saturated")
        tell(
            [c for c in calls if c.batch_coupled and c.deterministic],
            "rows interact: per-sample features are not defined here",
        )
        tell([c for c in leaves if c.conditional], "called or skipped depending on the input")
        tell(
            [c for c in leaves if not c.deterministic],
            "not deterministic: two equal runs differ, so what it depends on is taken from its inputs",
        )
        return told


def _readable(entry: Entry) -> bool:
    """A real-valued tensor with one row per sample: what the first such output of a call holds is its result."""
    return entry.print.dtype.is_floating_point and entry.rows.axis is not None and entry.rows.pattern != "coupled"


def _parent_path(call: Call) -> str:
    return call.parent[0] if call.parent else ""


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
