"""What every tensor of a run depends on: on modalities, or on the lanes that a restart changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fusionscope.tracing._fingerprint import Fingerprint
from fusionscope.tracing._record import CallKey, Recording, Side
from fusionscope.tracing._rows import Entry, Rows, World, effects, entries, find_rows, first_axis

NOISE = 10.0
NONE: frozenset[str] = frozenset()


@dataclass
class Base:
    """The unchanged runs: where the samples lie in every tensor, and which tensors repeat.

    ``singles`` and ``moved`` are pairs of an unchanged run and one with a single sample, or one modality, replaced.
    """

    run: Recording
    repeat: Recording
    singles: list[tuple[Recording, Recording]]
    moved: list[tuple[Recording, Recording]]
    sample: int
    size: int
    _rows: dict[tuple[CallKey, Side], dict[str, Rows]] = field(default_factory=dict)

    def unsteady(self, key: CallKey, side: Side) -> set[str]:
        """The places of tensors that two unchanged runs gave different values."""
        again = self.repeat.calls.get(key)
        mine = getattr(self.run.calls[key], side)
        theirs = getattr(again, side) if again is not None else {}
        return {place for place, print_ in mine.items() if place not in theirs or theirs[place].key != print_.key}

    def rows(self, key: CallKey, side: Side) -> dict[str, Rows]:
        """Where the samples are, by the place of a tensor."""
        if (key, side) not in self._rows:
            unsteady = self.unsteady(key, side)
            found = {}
            for place, print_ in getattr(self.run.calls[key], side).items():
                singles = _pairs(self.singles, key, side, place)
                if place in unsteady:
                    found[place] = first_axis(print_, self.size)
                elif singles and singles[0][0] is not print_:
                    found[place] = Rows(None, 1, "coupled")
                else:
                    moved = _pairs(self.moved, key, side, place)
                    found[place] = find_rows(print_, singles, self.sample, self.size, moved)
            self._rows[key, side] = found
        return self._rows[key, side]

    def forget_rows(self) -> None:
        """Find the rows again, after large tensors were hashed in full."""
        self._rows.clear()


def _pairs(
    runs: Sequence[tuple[Recording, Recording]], key: CallKey, side: Side, place: str
) -> list[tuple[Fingerprint, Fingerprint]]:
    found = []
    for run in runs:
        records = [recording.calls.get(key) for recording in run]
        prints = [getattr(record, side).get(place) for record in records if record is not None]
        if len(prints) == 2 and None not in prints:
            found.append((prints[0], prints[1]))
    return found


class Relation:
    """The entries of what every call takes (``inputs``) and gives (``outputs``).

    ``failed`` modalities could not be changed: whether something depends on them is unknown. ``lanes`` go on from the
    exchange that this is about; ``outside`` are the modalities that met elsewhere.
    """

    def __init__(
        self,
        base: Base,
        plain: World,
        wired: World | None = None,
        failed: frozenset[str] = NONE,
        lanes: frozenset[str] = NONE,
        outside: frozenset[str] = NONE,
    ) -> None:
        self.base, self.plain, self.wired, self.failed, self.lanes = base, plain, wired, failed, lanes
        self.outside = outside
        self.inputs: dict[CallKey, list[Entry]] = {}
        self.outputs: dict[CallKey, list[Entry]] = {}
        made: dict[tuple[object, ...], Entry] = {}
        for key in base.run.calls:
            unsteady = base.unsteady(key, "inputs")
            self.inputs[key] = [
                self._traced_back(key, e, made) if e.place in unsteady else e for e in self._entries(key, "inputs")
            ]
            unsteady = base.unsteady(key, "outputs")
            self.outputs[key] = [
                self._from_inputs(key, e) if e.place in unsteady else e for e in self._entries(key, "outputs")
            ]
            for entry in self.outputs[key]:
                if entry.place in unsteady:
                    made.setdefault(entry.print.key, entry)

    def fused(self, key: CallKey) -> bool:
        """A tensor that goes in or comes out depends, in the same rows, on two or more."""
        return any(len(e.wired_to) > 1 for e in (*self.inputs[key], *self.outputs[key]))

    def unfused(self, key: CallKey) -> bool:
        """No tensor that goes in depends on two or more."""
        return all(len(e.wired_to) < 2 for e in self.inputs[key])

    def _entries(self, key: CallKey, side: Side) -> list[Entry]:
        found = entries(key, side, self.base.run, self.base.rows(key, side), self.plain, self.wired)
        return [replace(e, unknown=self.failed - e.wired_to) if self.failed - e.wired_to else e for e in found]

    def sizes(self, key: CallKey, side: Side, entry: Entry) -> dict[str, float]:
        """The relative effects on an entry, of what it depends on; for what all-zero parameters hide, with noise."""
        found = {m: x for m, x in effects(key, side, entry, self.plain).items() if m in entry.depends_on}
        if self.wired is not None and entry.wired_to - entry.depends_on:
            hidden = effects(key, side, entry, self.wired)
            found |= {m: hidden[m] for m in entry.wired_to - entry.depends_on if m in hidden}
        return found

    def _from_inputs(self, key: CallKey, entry: Entry) -> Entry:
        """An output that does not repeat depends on what the call takes."""
        given = self.inputs[key]
        if not given:
            return self._by_noise(key, "outputs", entry)
        sets = (NONE.union(*(getattr(e, name) for e in given)) for name in ("depends_on", "wired_to", "unknown"))
        depends_on, wired_to, unknown = sets
        return replace(
            entry,
            depends_on=depends_on,
            wired_to=wired_to,
            unknown=unknown - wired_to,
            joined=None,
        )

    def _traced_back(self, key: CallKey, entry: Entry, made: dict[tuple[object, ...], Entry]) -> Entry:
        """An input that does not repeat: what made it is known, or the effects must exceed the noise."""
        origin = made.get(entry.print.key)
        if origin is None:
            return self._by_noise(key, "inputs", entry)
        return replace(
            entry,
            depends_on=origin.depends_on,
            wired_to=origin.wired_to,
            unknown=origin.unknown,
            joined=None,
        )

    def _by_noise(self, key: CallKey, side: Side, entry: Entry) -> Entry:
        again = self.base.repeat.calls.get(key)
        twin = getattr(again, side).get(entry.place) if again else None
        noise = entry.print.effect(twin) if twin is not None else math.nan
        sizes = effects(key, side, entry, self.plain)
        sure = frozenset(m for m, size in sizes.items() if size > NOISE * noise)
        names = frozenset(self.plain.runs) | self.failed
        return replace(entry, depends_on=sure, wired_to=sure, unknown=names - sure, joined=None, conditional=False)
