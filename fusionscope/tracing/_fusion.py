"""Where modalities meet, and the lanes that go on after they exchanged something."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from fusionscope.tracing._call import Kind
from fusionscope.tracing._record import CallKey, Recording, Side, Source
from fusionscope.tracing._relation import Base, Relation
from fusionscope.tracing._rows import Entry, World, entry_index

RESTARTS = 32
ROUNDS = 32
MOST_RESTARTS = 160
CLEARLY = 1.5
Restart = Callable[[Source], Recording | None]


@dataclass
class Meeting:
    """A fused call none of whose inputs is fused, or (``key`` None) the model's own code after its last call.

    ``after``: the calls whose input follows this one's output; ``exchange``: lanes go on from it.
    """

    key: CallKey | None
    parent: str
    functional: bool
    kind: Kind
    names: frozenset[str]
    round: int
    after: set[CallKey] = field(default_factory=set)
    mixed_by: CallKey | None = None
    exchange: bool = False


class Fusion:
    """Finds meetings round by round.

    The first round is about modalities. Where they exchange and go on, one lane's share of the exchange is disturbed at
    a time, the others held, and the next round is about what follows each lane.

    Attributes:
        relations: one per round.
        meetings: of all rounds.
        messages: what could not be followed, in words.
    """

    def __init__(self, base: Base, first: Relation, world: World, restart: Restart) -> None:
        self.base, self.world = base, world
        self.calls = base.run.calls
        self.order = {key: place for place, key in enumerate(self.calls)}
        self.relations = [first]
        self.meetings: list[Meeting] = []
        self.messages: list[str] = []
        self._restart, self._done, self._spent = restart, {}, 0
        while len(self.relations) <= ROUNDS:
            found = self._meet(self.relations[-1], len(self.relations) - 1)
            self.meetings += found
            following = self._follow(self.relations[-1], found)
            if following is None:
                break
            self.relations.append(following)

    # --------------------------------------------------------------- meetings

    def _meet(self, relation: Relation, round: int) -> list[Meeting]:
        """Find the fused calls none of whose inputs is already fused.

        Whether an input is already fused is measured: the output of each such call is disturbed, and the calls whose
        input then changes come after it. That costs one forward each.
        """
        leaves = [key for key, record in self.calls.items() if not record.children and self._fused(relation, key)]
        # What gives nothing that depends on them (a table of positions) is named only where no other call takes them.
        idle = {key: all(len(e.wired_to) < 2 for e in relation.outputs[key]) for key in leaves}
        after: set[CallKey] = set()
        seen: set[tuple[object, ...]] = set()
        found: list[Meeting] = []
        taken: dict[tuple[object, ...], Meeting] = {}
        for key in sorted(leaves, key=lambda key: idle[key]):
            if key in after:
                continue
            if len(found) == RESTARTS or self._spent >= MOST_RESTARTS:
                self.messages.append(f"more than {len(found)} fusion points; the rest is not listed")
                break
            fused_in = [e for e in relation.inputs[key] if len(e.wired_to) > 1]
            fused_out = [e for e in relation.outputs[key] if len(e.wired_to) > 1]
            prints = {e.print.key for e in fused_in}
            repeated = bool(prints) and prints <= seen
            seen |= prints
            changed = self._after(key, {e.place for e in fused_out})
            after |= changed
            if repeated:
                for print_ in prints & set(taken):
                    taken[print_].after |= changed | {key}
                continue
            if fused_in:
                entry = max(fused_in, key=lambda e: len(e.wired_to))
                kind: Kind = "join" if entry.joined is not None else "mix"
                meeting = Meeting(
                    key, self._fusing_parent(relation, key, prints), True, kind, entry.wired_to, round, changed | {key}
                )
            else:
                entry = max(fused_out, key=lambda e: len(e.wired_to))
                parent = self.calls[key].parent
                kind = kind_of(relation, key, entry) or "mix"
                meeting = Meeting(key, parent[0] if parent else "", False, kind, entry.wired_to, round, changed | {key})
            found.append(meeting)
            taken |= dict.fromkeys(prints, meeting)
        found.sort(key=lambda meeting: self.order[meeting.key] if meeting.key is not None else -1)
        root = next(iter(self.calls), None)
        if root is not None and not found:
            fused_out = [e for e in relation.outputs[root] if len(e.wired_to) > 1]
            if fused_out:
                entry = max(fused_out, key=lambda e: len(e.wired_to))
                parent_path = self._fusing_parent(relation, root, {entry.print.key}, output=True)
                kind = "join" if entry.joined is not None else "mix"
                found.append(Meeting(None, parent_path, True, kind, entry.wired_to, round))
        mixes = [key for key in leaves if any(len(e.wired_to) > 1 and e.joined is None for e in relation.outputs[key])]
        for meeting in found:
            if meeting.kind == "join":
                meeting.mixed_by = next((key for key in mixes if key in meeting.after), None)
        return found

    def _fused(self, relation: Relation, key: CallKey) -> bool:
        record = self.calls[key]
        return not record.failed and bool(record.outputs) and relation.fused(key)

    def _after(self, key: CallKey, places: set[str]) -> set[CallKey]:
        """The calls whose input follows some outputs of a call; all later ones if that cannot be run."""
        later = list(self.calls)[self.order[key] + 1 :]
        if not places:
            return set()
        changed = self._run(Source(key, "outputs", frozenset(places)))
        if changed is None:
            self.messages.append(
                f"{key[0]}#{key[1]}: the model fails on other outputs of it; what follows counts as after it"
            )
            return set(later)
        after: set[CallKey] = set()
        for other in later:
            now, usual = changed.calls.get(other), self.world.base.calls.get(other)
            before = usual.inputs if usual is not None else {}
            if now is None or any(p not in now.inputs or now.inputs[p].key != before[p].key for p in before):
                after.add(other)
        return after

    def _fusing_parent(
        self, relation: Relation, key: CallKey, prints: set[tuple[object, ...]], output: bool = False
    ) -> str:
        """The module in whose forward the functional fusion happens."""
        for other, record in self.calls.items():
            if other == key and not output:
                break
            made_here = record.children > 0 and any(p.key in prints for p in record.outputs.values())
            if made_here and relation.unfused(other):
                inner = [k for k, r in self.calls.items() if r.parent == other and r.children > 0]
                if not any(p.key in prints for k in inner for p in self.calls[k].outputs.values()):
                    return other[0]
        parent = self.calls[key].parent
        while parent is not None and not relation.unfused(parent):
            parent = self.calls[parent].parent
        return parent[0] if parent else ""

    # ------------------------------------------------------------------ lanes

    def _follow(self, relation: Relation, found: list[Meeting]) -> Relation | None:
        """The relation after an exchange; None if no two lanes go on."""
        shares, parts, sure = self._shares(relation, found)
        if len(shares) < 2:
            return None
        runs: dict[str, list[Recording]] = {}
        for lane, sources in shares.items():
            done = [run for run in map(self._run, sources) if run is not None]
            if len(done) < len(sources):
                return None
            runs[lane] = done
        met = frozenset[str]().union(*(m.names for m in found))
        held = relation.wired or relation.plain
        runs |= {m: list(r) for m, r in held.runs.items() if m not in met}
        following = Relation(self.base, World(self.world.base, runs), failed=relation.failed, lanes=frozenset(shares))
        first = min(self.order[source.key] for sources in shares.values() for source in sources)
        own = {
            lane: any(
                record.children == 0 and self.order[key] >= first and {lane} == set(e.wired_to)
                for key, record in self.calls.items()
                for e in following.outputs[key]
            )
            for lane in shares
        }
        meets = any(len(e.wired_to) > 1 for given in following.outputs.values() for e in given)
        if sum(own.values()) < 2 or not (sure or meets):
            return None
        for meeting in parts:
            meeting.exchange = True
        return following

    def _shares(self, relation: Relation, found: list[Meeting]) -> tuple[dict[str, list[Source]], list[Meeting], bool]:
        """Whose lane goes on from which tensors, which meetings that makes exchanges, and whether it is sure although
        the lanes should not meet again.
        """
        sure = False
        parts: list[Meeting] = []
        shares: dict[str, list[Source]] = {}
        inside: dict[CallKey | None, list[Meeting]] = {}
        for meeting in found:
            if meeting.key is not None:
                inside.setdefault(self._container(relation, meeting.key), []).append(meeting)
        twins: dict[tuple[str, str], list[tuple[str, Source, Meeting]]] = {}
        for container, meetings in inside.items():
            split = self._split(relation, container) if container is not None else {}
            if split:
                sure = True
                parts += meetings
                for lane, sources in split.items():
                    shares.setdefault(lane, []).extend(sources)
                continue
            if container is not None and len(meetings) == 1:
                sure = True
                singles = [(container, self._source(relation, container, "outputs"), "call", meetings[0])]
            else:
                singles = [
                    (m.key, self._source(relation, m.key, "inputs" if m.functional else "outputs"), m.kind, m)
                    for m in meetings
                    if m.key is not None
                ]
            for key, source, kind, meeting in singles:
                lane = self._owner(relation, key, source) if source is not None else None
                if lane is not None and source is not None:
                    name = type(self.calls[key].module).__name__
                    twins.setdefault((name, kind), []).append((lane, source, meeting))
        for same in twins.values():
            if len({lane for lane, _, _ in same}) > 1:
                for lane, source, meeting in same:
                    shares.setdefault(lane, []).append(source)
                    parts.append(meeting)
        return shares, parts, sure

    def _container(self, relation: Relation, key: CallKey) -> CallKey | None:
        """The innermost call around a meeting that takes no fused tensor; None for the model itself."""
        at: CallKey | None = key
        while at is not None and not relation.unfused(at):
            at = self.calls[at].parent
        return None if at is None or self.calls[at].parent is None else at

    def _split(self, relation: Relation, key: CallKey) -> dict[str, list[Source]]:
        """Outputs of a call that each continue one lane: rows of its slots, or as many tensors as lanes went in."""
        outs = [e for e in relation.outputs[key] if len(e.wired_to) > 1 and e.print.dtype.is_floating_point]
        ins = [e for e in relation.inputs[key] if len(e.wired_to) == 1 and e.print.dtype.is_floating_point]
        lanes = list(dict.fromkeys(next(iter(e.wired_to)) for e in ins))
        if len(lanes) < 2 or not outs:
            return {}
        for out in outs:
            slots = {
                lane: e.positions
                for e in ins
                for lane in e.wired_to
                if e.positions is not None and e.rows.per_sample == out.rows.per_sample > 1
            }
            if len(slots) > 1 and out.positions is None and out.rows.axis is not None:
                places = out.rows.positions(out.print.shape[out.rows.axis])
                return {
                    lane: [
                        Source(
                            key,
                            "outputs",
                            frozenset({out.place}),
                            out.rows.axis,
                            tuple(int(i) for i in np.sort(np.concatenate([places[p] for p in chosen]))),
                        )
                    ]
                    for lane, chosen in slots.items()
                }
        if len(outs) != len(lanes):
            return {}
        shapes = [out.print.shape for out in outs]
        fitting = all(
            any(e.print.shape == shape and lane in e.wired_to for e in ins)
            for lane, shape in zip(lanes, shapes, strict=True)
        )
        if not fitting and len(set(shapes)) > 1:
            return {}
        return {
            lane: [Source(key, "outputs", frozenset({out.place}), out.rows.axis or 0)]
            for lane, out in zip(lanes, outs, strict=True)
        }

    def _source(self, relation: Relation, key: CallKey, side: Side) -> Source | None:
        """The one fused floating tensor that a call takes or gives."""
        found = [
            e
            for e in getattr(relation, side)[key]
            if len(e.wired_to) > 1 and e.print.dtype.is_floating_point and e.print.shape
        ]
        if not found:
            return None
        index = entry_index(found[0])
        chosen = None if index is None else tuple(int(i) for i in index)
        return Source(key, side, frozenset({found[0].place}), found[0].rows.axis or 0, chosen)

    def _owner(self, relation: Relation, key: CallKey, source: Source) -> str | None:
        """Whose lane a fused tensor continues: by shape, the module's place, the effects, or the order of arguments."""
        entry = next(e for e in getattr(relation, source.side)[key] if e.place in source.places)
        ins = [e for e in relation.inputs[key] if len(e.wired_to) == 1 and e.print.dtype.is_floating_point]
        alike = {lane for e in ins for lane in e.wired_to if e.print.shape == entry.print.shape}
        if len(alike) == 1:
            return next(iter(alike))
        near = self._nearest(relation, key)
        if near is not None:
            return near
        sizes = {m: x for m, x in relation.sizes(key, source.side, entry).items() if not math.isnan(x)}
        ranked = sorted(sizes, key=lambda m: -sizes[m])
        if len(ranked) > 1 and sizes[ranked[0]] > CLEARLY * sizes[ranked[1]]:
            return ranked[0]
        return next(iter(ins[0].wired_to)) if ins else None

    def _nearest(self, relation: Relation, key: CallKey) -> str | None:
        """The lane whose modules share the longest path with the call's, if one does."""
        path = key[0].split(".")
        shared: dict[str, int] = {}
        for other, record in self.calls.items():
            if record.children or self.order[other] >= self.order[key]:
                continue
            for e in relation.outputs[other]:
                if len(e.wired_to) == 1:
                    parts = other[0].split(".")
                    same = next((i for i, (a, b) in enumerate(zip(path, parts, strict=False)) if a != b), len(parts))
                    lane = next(iter(e.wired_to))
                    shared[lane] = max(shared.get(lane, 0), same)
        ranked = sorted(shared, key=lambda m: -shared[m])
        return ranked[0] if len(ranked) > 1 and shared[ranked[0]] > shared[ranked[1]] else None

    def _run(self, source: Source) -> Recording | None:
        if source not in self._done:
            self._spent += 1
            self._done[source] = self._restart(source)
        return self._done[source]


def kind_of(relation: Relation, key: CallKey, entry: Entry) -> Kind | None:
    """Whether modalities meet in the call that gives this entry, side by side or mixed."""
    if len(entry.wired_to) < 2:
        return None
    carried = [e for e in relation.inputs[key] if entry.wired_to <= e.wired_to]
    if entry.joined is not None:
        return None if carried else "join"
    return None if any(e.joined is None for e in carried) else "mix"


def lane_at(
    relations: list[Relation], key: CallKey, place: str, position: int, side: Side = "outputs"
) -> tuple[str, int] | None:
    """The lane and stretch of one row per sample of a tensor: by the last exchange that it follows."""
    for number in range(len(relations) - 1, -1, -1):
        for entry in getattr(relations[number], side)[key]:
            mine = entry.place == place and (entry.positions is None or position in entry.positions)
            if mine and entry.wired_to:
                one = len(entry.wired_to) == 1 and not entry.unknown
                if one and number and not entry.wired_to <= relations[number].lanes:
                    continue  # a lane that took no part in this exchange
                return (next(iter(entry.wired_to)), number) if one else None
    return None


def lanes_taken(relations: list[Relation], key: CallKey) -> frozenset[str]:
    """The lanes of the tensors that a call takes."""
    found = (
        lane_at(relations, key, entry.place, position, "inputs")
        for entry in relations[0].inputs[key]
        for position in (entry.positions or (0,))
    )
    return frozenset(lane[0] for lane in found if lane is not None)


def lanes_of(relations: list[Relation], key: CallKey, entry: Entry) -> Mapping[tuple[str, int] | None, list[int]]:
    """Group the rows per sample of an entry by lane and stretch."""
    positions = entry.positions if entry.positions is not None else tuple(range(entry.rows.per_sample))
    groups: dict[tuple[str, int] | None, list[int]] = {}
    for position in positions:
        groups.setdefault(lane_at(relations, key, entry.place, position), []).append(position)
    return groups
