"""Whose lane goes on from which output of an exchange. Where that cannot be told, the lanes end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fusionscope.tracing._call import Kind
from fusionscope.tracing._record import CallKey, Record, Side, Source
from fusionscope.tracing._relation import Relation
from fusionscope.tracing._rows import Entry, entry_index

CLEARLY = 1.5
FUSED = "(fused)"


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


class Shares:
    """The shares that lanes have in the meetings of one round.

    Three forms are told: one call that gives as many tensors (or slots) as lanes went in; twins, which take the same
    tensors in other roles, as a cross-attention in both directions; and sums in the code of a model, one per lane, each
    of which is mostly its own. Fusion modules side by side are none of these, nor is one that feeds two heads.

    Attributes:
        sources: by lane, the tensors from which it goes on.
        parts: the meetings that are exchanges thereby.
        sure: the lanes need not meet again to be believed.
    """

    def __init__(self, relation: Relation, calls: Mapping[CallKey, Record], found: Sequence[Meeting]) -> None:
        self.relation, self.calls = relation, calls
        self.order = {key: place for place, key in enumerate(calls)}
        self.sources: dict[str, list[Source]] = {}
        self.parts: list[Meeting] = []
        self.sure = False
        inside: dict[CallKey | None, list[Meeting]] = {}
        for meeting in found:
            if meeting.key is not None:
                inside.setdefault(self._container(meeting.key), []).append(meeting)
        single: dict[CallKey, list[Meeting]] = {}
        for container, meetings in inside.items():
            if (container is None or len(meetings) > 1) and self._by_sums(meetings):
                continue
            if container is None:
                continue
            split = self._split(container)
            if split:
                self._take(split, meetings, sure=True)
            else:
                single[container] = meetings
        self._by_twins(single)

    def _take(self, shares: Mapping[str, list[Source]], meetings: Sequence[Meeting], *, sure: bool) -> None:
        for lane, sources in shares.items():
            self.sources.setdefault(lane, []).extend(sources)
        self.parts += meetings
        self.sure |= sure

    def _container(self, key: CallKey) -> CallKey | None:
        """The innermost call around a meeting that takes no fused tensor; None for the model itself."""
        at: CallKey | None = key
        while at is not None and not self.relation.unfused(at):
            at = self.calls[at].parent
        return None if at is None or self.calls[at].parent is None else at

    # ------------------------------------------------------------------- sums

    def _by_sums(self, meetings: Sequence[Meeting]) -> bool:
        """One functional meeting per lane, before modules of one type, each of which continues mostly one lane."""
        kinds: dict[str, list[Meeting]] = {}
        for meeting in meetings:
            if meeting.functional and meeting.key is not None:
                kinds.setdefault(type(self.calls[meeting.key].module).__name__, []).append(meeting)
        done = False
        for alike in kinds.values():
            shares: dict[str, list[Source]] = {}
            for meeting in alike:
                source = self._source(meeting.key, "inputs") if meeting.key is not None else None
                lane = self._mostly(source) if source is not None else None
                if lane is not None and source is not None:
                    shares.setdefault(lane, []).append(source)
            names = frozenset[str]().union(*(m.names for m in alike)) - {FUSED}
            if len(alike) > 1 and set(shares) == names and sum(map(len, shares.values())) == len(alike) == len(names):
                self._take(shares, alike, sure=False)
                done = True
        return done

    def _mostly(self, source: Source) -> str | None:
        """The lane that a fused tensor mostly is, by the module that takes it or by the effects."""
        path = source.key[0].split(".")
        shared: dict[str, float] = {}
        for key, record in self.calls.items():
            if record.children or self.order[key] >= self.order[source.key]:
                continue
            parts = key[0].split(".")
            same = next((i for i, (a, b) in enumerate(zip(path, parts, strict=False)) if a != b), len(parts))
            for entry in self.relation.outputs[key]:
                if len(entry.wired_to) == 1:
                    (lane,) = entry.wired_to
                    shared[lane] = max(shared.get(lane, 0.0), float(same))
        return self._most(shared, 1.0) or self._strongest(source.key, source.side, self._entry(source))

    def _strongest(self, key: CallKey, side: Side, entry: Entry) -> str | None:
        sizes = {m: x for m, x in self.relation.sizes(key, side, entry).items() if m != FUSED and not math.isnan(x)}
        return self._most(sizes, CLEARLY)

    @staticmethod
    def _most(values: Mapping[str, float], clearly: float) -> str | None:
        ranked = sorted(values, key=lambda m: -values[m])
        return ranked[0] if len(ranked) > 1 and values[ranked[0]] > clearly * values[ranked[1]] else None

    # ------------------------------------------------------------------ twins

    def _by_twins(self, single: Mapping[CallKey, list[Meeting]]) -> None:
        """Calls (or calls around them) that take the very same tensors, each of which continues another lane."""
        groups: dict[frozenset[tuple[str, object]], dict[CallKey, CallKey]] = {}
        for container in single:
            around: CallKey | None = container
            while around is not None and self.calls[around].parent is not None and self.relation.unfused(around):
                taken = self._taken(around)
                if len({lane for lane, _ in taken}) > 1:
                    groups.setdefault(frozenset(taken), {}).setdefault(around, container)
                around = self.calls[around].parent
        done: set[CallKey] = set()
        for taken, members in groups.items():
            containers = [c for c in dict.fromkeys(members.values()) if c not in done]
            if len(containers) < 2:
                continue
            shares: dict[str, list[Source]] = {}
            for container in containers:
                source, lane = self._source(container, "outputs"), self._first(container)
                if source is not None and lane is not None:
                    shares.setdefault(lane, []).append(source)
            if set(shares) == {lane for lane, _ in taken}:
                done |= set(containers)
                self._take(shares, [m for container in containers for m in single[container]], sure=True)

    def _taken(self, key: CallKey) -> set[tuple[str, object]]:
        return {
            (lane, e.print.key)
            for e in self._single_lane(key)
            for lane in e.wired_to
            if e.print.dtype.is_floating_point
        }

    def _first(self, key: CallKey) -> str | None:
        """The lane that a call with one output continues: the only one of its shape, else the first argument's."""
        out = next((e for e in self.relation.outputs[key] if len(e.wired_to) > 1), None)
        ins = self._single_lane(key)
        alike = {lane for e in ins for lane in e.wired_to if out is not None and e.print.shape == out.print.shape}
        if len(alike) == 1:
            return alike.pop()
        return next(iter(ins[0].wired_to)) if ins else None

    # -------------------------------------------------------- several outputs

    def _split(self, key: CallKey) -> dict[str, list[Source]]:
        """Outputs of a call that each continue one lane: rows of its slots, or as many tensors as lanes went in."""
        outs = [e for e in self.relation.outputs[key] if len(e.wired_to) > 1 and e.print.dtype.is_floating_point]
        ins = self._single_lane(key)
        lanes = list(dict.fromkeys(lane for e in ins for lane in e.wired_to))
        if len(lanes) < 2 or not outs:
            return {}
        for out in outs:
            slots = self._slots(key, out, ins)
            if slots:
                return slots
        # Attention gives its weights as well: those go on with nothing.
        shapes = {e.print.shape for e in ins}
        ranks = {len(e.print.shape) for e in (*ins, *outs)}
        alike = len({out.print.shape for out in outs}) == 1 and len(ranks) == 1
        outs = outs if alike else [out for out in outs if out.print.shape in shapes]
        if len(outs) != len(lanes):
            return {}
        ways = (self._by_name, self._by_shape, self._by_content, self._by_effect, self._by_place)
        for way in ways:
            owners = [way(key, out, ins) for out in outs]
            if set(owners) == set(lanes):
                return {
                    lane: [Source(key, "outputs", frozenset({out.place}), out.rows.axis or 0)]
                    for lane, out in zip(owners, outs, strict=True)
                    if lane is not None
                }
        return {}

    def _slots(self, key: CallKey, out: Entry, ins: Sequence[Entry]) -> dict[str, list[Source]]:
        slots = {
            lane: e.positions
            for e in ins
            for lane in e.wired_to
            if e.positions is not None and e.rows.per_sample == out.rows.per_sample > 1
        }
        if len(slots) < 2 or out.positions is not None or out.rows.axis is None:
            return {}
        places = out.rows.positions(out.print.shape[out.rows.axis])
        rows = {lane: np.sort(np.concatenate([places[p] for p in chosen])) for lane, chosen in slots.items()}
        return {
            lane: [Source(key, "outputs", frozenset({out.place}), out.rows.axis, tuple(int(i) for i in index))]
            for lane, index in rows.items()
        }

    def _by_name(self, key: CallKey, out: Entry, ins: Sequence[Entry]) -> str | None:
        name = out.place.rpartition(".")[2]
        return self._only(
            {lane for e in ins for lane in e.wired_to if e.place.rpartition(".")[2] == name and not name.isdigit()}
        )

    def _by_shape(self, key: CallKey, out: Entry, ins: Sequence[Entry]) -> str | None:
        return self._only({lane for e in ins for lane in e.wired_to if e.print.shape == out.print.shape})

    def _by_content(self, key: CallKey, out: Entry, ins: Sequence[Entry]) -> str | None:
        """The lane of which some channels (or tokens) are still in their place."""
        same: dict[str, float] = {}
        for e in ins:
            if e.print.shape == out.print.shape:
                pairs = enumerate(zip(e.print.axes, out.print.axes, strict=False))
                count = max((float((x == y).sum()) for a, (x, y) in pairs if a != out.rows.axis), default=0.0)
                (lane,) = e.wired_to
                same[lane] = max(same.get(lane, 0.0), count)
        return self._most(same, 1.0)

    def _by_effect(self, key: CallKey, out: Entry, ins: Sequence[Entry]) -> str | None:
        return self._strongest(key, "outputs", out)

    def _by_place(self, key: CallKey, out: Entry, ins: Sequence[Entry]) -> str | None:
        """A list of tensors goes in, and one of the same shapes comes out."""
        nested = [e for e in ins if "." in e.place]
        own = [e for e in nested if e.place.rpartition(".")[2] == out.place and e.print.shape == out.print.shape]
        one_list = len({e.place.rpartition(".")[0] for e in nested}) == 1
        return self._only({lane for e in own for lane in e.wired_to}) if one_list else None

    # ---------------------------------------------------------------- details

    @staticmethod
    def _only(lanes: set[str]) -> str | None:
        return next(iter(lanes)) if len(lanes) == 1 else None

    def _single_lane(self, key: CallKey) -> list[Entry]:
        """The floating tensors of one lane that a call takes."""
        return [e for e in self.relation.inputs[key] if len(e.wired_to) == 1 and e.print.dtype.is_floating_point]

    def _entry(self, source: Source) -> Entry:
        return next(e for e in getattr(self.relation, source.side)[source.key] if e.place in source.places)

    def _source(self, key: CallKey, side: Side) -> Source | None:
        """The first fused floating tensor that a call takes or gives."""
        for entry in getattr(self.relation, side)[key]:
            if len(entry.wired_to) > 1 and entry.print.dtype.is_floating_point and entry.print.shape:
                index = entry_index(entry)
                chosen = None if index is None else tuple(int(i) for i in index)
                return Source(key, side, frozenset({entry.place}), entry.rows.axis or 0, chosen)
        return None
