"""Where modalities meet, and the lanes that go on after they exchanged something."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fusionscope.tracing._call import Kind
from fusionscope.tracing._exchange import FUSED, Meeting, Shares
from fusionscope.tracing._record import CallKey, Recording, Side, Source
from fusionscope.tracing._relation import Base, Relation
from fusionscope.tracing._rows import Entry, World

RESTARTS = 32
ROUNDS = 32
MOST_RESTARTS = 160
Restart = Callable[[Source], Recording | None]


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
            if FUSED in meeting.names:
                meeting.names = meeting.names - {FUSED} | relation.outside
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
                found.append(Meeting(None, parent_path, True, kind, entry.wired_to - {FUSED}, round))
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
        shares = Shares(relation, self.calls, found)
        if len(shares.sources) < 2:
            return None
        runs: dict[str, list[Recording]] = {}
        for lane, sources in shares.sources.items():
            done = [run for run in map(self._run, sources) if run is not None]
            if len(done) < len(sources):
                self.messages.append(f"the lanes cannot go on after {sources[0].key[0]}: the model fails there")
                return None
            runs[lane] = done
        met = frozenset[str]().union(*(m.names for m in found))
        held = relation.wired or relation.plain
        runs |= {m: list(r) for m, r in held.runs.items() if m not in met and m != FUSED}
        # What other meetings gave is no lane's own either.
        others = [m for m in found if m not in shares.parts and m.key is not None]
        given = [run for m in others if m.key is not None and (run := self._disturbed(relation, m.key)) is not None]
        runs |= {FUSED: given} if given else {}
        following = Relation(
            self.base,
            World(self.world.base, runs),
            failed=relation.failed,
            lanes=frozenset(shares.sources),
            outside=frozenset[str]().union(relation.outside, *(m.names for m in others)),
        )
        first = min(self.order[source.key] for sources in shares.sources.values() for source in sources)
        own = [
            any(
                record.children == 0 and self.order[key] >= first and {lane} == set(e.wired_to)
                for key, record in self.calls.items()
                for e in following.outputs[key]
            )
            for lane in shares.sources
        ]
        meets = any(len(e.wired_to) > 1 for entries in following.outputs.values() for e in entries)
        if sum(own) < 2 or not (shares.sure or meets):
            return None
        for meeting in shares.parts:
            meeting.exchange = True
        return following

    def _disturbed(self, relation: Relation, key: CallKey) -> Recording | None:
        places = frozenset(e.place for e in relation.outputs[key] if len(e.wired_to) > 1)
        return self._run(Source(key, "outputs", places)) if places else None

    def _run(self, source: Source) -> Recording | None:
        """The run in which the source was disturbed; where a tensor cannot be written, what the call makes of it."""
        if source not in self._done:
            self._spent += 1
            found = self._restart(source)
            if found is None and source.side == "inputs":
                places = frozenset(self.calls[source.key].outputs)
                found = self._restart(Source(source.key, "outputs", places))
            self._done[source] = found
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
