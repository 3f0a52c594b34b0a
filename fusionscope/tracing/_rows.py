"""Find the sample axis of a tensor, and which modalities each of its rows depends on, by comparing fingerprints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fusionscope.tracing._fingerprint import Fingerprint
from fusionscope.tracing._record import CallKey, Recording

Side = Literal["inputs", "outputs"]
Runs = Mapping[str, Sequence[Recording]]


@dataclass(frozen=True)
class Rows:
    """Where the samples are: ``axis`` holds ``per_sample`` rows of each sample.

    ``pattern``: "plain" (one row each), "interleaved" (rows of a sample side by side), "stacked" (blocks of B rows),
    "coupled" (every row follows every sample), "scalar", or "unmoved" (the single-sample change did not show).
    """

    axis: int | None
    per_sample: int = 1
    pattern: str = "plain"

    def positions(self, length: int) -> list[np.ndarray]:
        """The row indices of each of the ``per_sample`` rows that a sample has."""
        if self.axis is None:
            return [np.arange(length)]
        samples = length // self.per_sample
        if self.pattern == "stacked":
            return [np.arange(j * samples, (j + 1) * samples) for j in range(self.per_sample)]
        return [np.arange(j, length, self.per_sample) for j in range(self.per_sample)]


def find_rows(base: Fingerprint, single: Fingerprint | None, sample: int, size: int) -> Rows:
    """Find the axis on which replacing one ``sample`` of ``size`` changed that sample's indices only."""
    if not base.shape:
        return Rows(None, 1, "scalar")
    changed = None if single is None else base.changed(single)
    if changed is None:
        return Rows(None, 1, "coupled")
    found = _fitting(changed, sample, size)
    if found:
        return found[0]
    return first_axis(base, size) if not any(mask.any() for mask in changed) else Rows(None, 1, "coupled")


def _fitting(changed: list[np.ndarray], sample: int, size: int) -> list[Rows]:
    """The rows that agree with what moved, the likeliest first; several that are as likely as that one."""
    best: list[tuple[tuple[int, int], Rows]] = []
    for axis, mask in enumerate(changed):
        if len(mask) % size or not len(mask) or not mask.any():
            continue
        k = len(mask) // size
        hit = set(np.flatnonzero(mask).tolist())
        patterns = {"plain": {sample}} if k == 1 else {}
        if k > 1:
            patterns = {
                "stacked": {sample + j * size for j in range(k)},
                "interleaved": set(range(sample * k, (sample + 1) * k)),
            }
        for pattern, expected in patterns.items():
            missing = len(expected - hit)
            if hit <= expected:
                best.append(((missing, axis), Rows(axis, k, pattern)))
    best.sort(key=lambda one: one[0])
    return [rows for order, rows in best if order == best[0][0]]


def find_among(base: Fingerprint, singles: Sequence[tuple[Fingerprint, Fingerprint]], sample: int, size: int,
               moved: Sequence[tuple[Fingerprint, Fingerprint]]) -> Rows:
    """:func:`find_rows` from several pairs of runs; where blocks and neighbours fit alike, by what else moved."""
    best = find_rows(base, singles[0][1], sample, size) if singles else Rows(None, 1, "coupled")
    masks = [m for m in (a.changed(b) for a, b in singles) if m is not None]
    if best.pattern == "coupled" or best.pattern == "scalar" or not masks or any(len(m) != len(masks[0]) for m in masks):
        return best
    union = [np.logical_or.reduce(axis) for axis in zip(*masks, strict=True)]
    if best.pattern == "unmoved":
        found = _fitting(union, sample, size)
        if not found and any(mask.any() for mask in union):
            return best
        found = found or [Rows(best.axis, best.per_sample, p) for p in ("stacked", "interleaved")]
    else:
        found = _fitting([m if i == best.axis else m & False for i, m in enumerate(union)], sample, size)
        found = found or _fitting(masks[0], sample, size)
    if len(found) == 1 or found[0].axis is None or found[0].per_sample == 1:
        return found[0] if best.pattern != "unmoved" or found[0].per_sample > 1 or len(found) == 1 else best
    others = [m[found[0].axis] for a, b in moved if (m := a.changed(b)) is not None and len(m) > found[0].axis]

    def mixed(rows: Rows) -> float:
        length = base.shape[rows.axis or 0]
        shares = [mask[index].mean() for mask in others for index in rows.positions(length)]
        return sum(min(share, 1 - share) for share in shares)

    return min(found, key=mixed)


def first_axis(base: Fingerprint, size: int) -> Rows:
    """The first axis that can hold ``size`` samples, where nothing was seen to move along any."""
    axis = next((a for a, n in enumerate(base.shape) if n and n % size == 0), None)
    return Rows(axis, 1 if axis is None else base.shape[axis] // size, "unmoved")


@dataclass(frozen=True)
class Entry:
    """The rows of one tensor that depend on the same modalities.

    ``positions`` are the rows of each sample it takes (None = all of them); ``joined`` is the axis on which its
    modalities still lie side by side, or None; ``wired_to`` counts what all-zero parameters hide.
    """

    place: str
    print: Fingerprint
    rows: Rows
    depends_on: frozenset[str]
    wired_to: frozenset[str]
    positions: tuple[int, ...] | None
    joined: int | None
    conditional: bool
    unknown: frozenset[str] = frozenset()
    effects: Mapping[str, float] = field(default_factory=dict)


@dataclass
class World:
    """An unchanged run and, for each modality, the runs in which it was changed."""

    base: Recording
    runs: Runs


@dataclass
class _Moved:
    """How one tensor moved in the runs of one world."""

    sets: list[set[str]]
    masks: dict[str, list[np.ndarray] | None]
    slots: list[dict[str, list[np.ndarray] | None]]
    conditional: bool = False


def _moved(key: CallKey, side: Side, place: str, rows: Rows, world: World) -> _Moved | None:
    record = world.base.calls.get(key)
    base = getattr(record, side).get(place) if record else None
    if base is None:
        return None
    length = base.shape[rows.axis] if rows.axis is not None else 1
    positions = rows.positions(length)
    moved = _Moved([set() for _ in positions], {}, [{} for _ in positions])
    for modality, recordings in world.runs.items():
        for recording in recordings:
            record = recording.calls.get(key)
            print_ = getattr(record, side).get(place) if record else None
            changed = None if print_ is None else base.changed(print_)
            if changed is None:
                moved.conditional |= print_ is None
                moved.masks[modality] = None
                for one in moved.sets:
                    one.add(modality)
                continue
            if rows.axis is None or rows.axis >= len(changed):
                if any(mask.any() for mask in changed):
                    for one in moved.sets:
                        one.add(modality)
            else:
                for one, index in zip(moved.sets, positions, strict=True):
                    if changed[rows.axis][index].any():
                        one.add(modality)
            moved.masks[modality] = _either(moved.masks.get(modality, []), changed)
            for position, slot in enumerate(moved.slots if rows.axis == 0 and len(positions) > 1 else ()):
                slot[modality] = _either(slot.get(modality, []), base.changed_slot(print_, rows.pattern, position))
    return moved


def entries(
    key: CallKey, side: Side, base: Recording, rows: Mapping[str, Rows], plain: World, wired: World | None = None
) -> list[Entry]:
    """Split the tensors on one ``side`` of a call of ``base`` into entries; ``rows`` says where their samples are."""
    found: list[Entry] = []
    for place, print_ in getattr(base.calls[key], side).items():
        where = rows[place]
        moved = _moved(key, side, place, where, plain)
        if moved is None:
            continue
        other = _moved(key, side, place, where, wired) if wired is not None else None
        if other is None or len(other.sets) != len(moved.sets):
            other = moved
        groups: dict[tuple[frozenset[str], frozenset[str]], list[int]] = {}
        for position, (one, two) in enumerate(zip(moved.sets, other.sets, strict=True)):
            groups.setdefault((frozenset(one), frozenset(one | two)), []).append(position)
        for (depends_on, wired_to), members in groups.items():
            joined = None
            if len(wired_to) > 1:
                pairs = [(moved.slots[j], other.slots[j]) for j in members] if moved.slots[0] else []
                pairs = pairs or [(moved.masks, other.masks)]
                masks = [{m: _either(one.get(m, []), two.get(m, [])) for m in wired_to} for one, two in pairs]
                axes = {_joined_axis(each, where, wired_to) for each in masks}
                joined = axes.pop() if len(axes) == 1 else None
            split = tuple(members) if len(groups) > 1 else None
            found.append(
                Entry(place, print_, where, depends_on, wired_to, split, joined, moved.conditional | other.conditional)
            )
    return found


def effects(key: CallKey, side: Side, entry: Entry, world: World) -> dict[str, float]:
    """The relative effect of changing each modality on the rows of ``entry``; NaN where it was not measured."""
    index = entry_index(entry)
    index = index if entry.rows.axis == 0 else None
    sizes: dict[str, float] = {}
    for modality, recordings in world.runs.items():
        found = []
        for recording in recordings:
            record = recording.calls.get(key)
            other = getattr(record, side).get(entry.place) if record else None
            found.append(entry.print.effect(other, index) if other is not None else math.nan)
        sizes[modality] = max((x for x in found if not math.isnan(x)), default=math.nan)
    return sizes


def entry_index(entry: Entry) -> np.ndarray | None:
    """The indices along the sample axis that belong to the entry; None stands for all."""
    if entry.positions is None or entry.rows.axis is None:
        return None
    places = entry.rows.positions(entry.print.shape[entry.rows.axis])
    return np.sort(np.concatenate([places[p] for p in entry.positions]))


def _either(one: list[np.ndarray] | None, two: list[np.ndarray] | None) -> list[np.ndarray] | None:
    if one is None or two is None:
        return None
    if not one or not two:
        return one or two
    return [a | b for a, b in zip(one, two, strict=False)]


def _joined_axis(masks: Mapping[str, list[np.ndarray] | None], rows: Rows, names: frozenset[str]) -> int | None:
    """The axis on which every index belongs to one modality at most, if there is one."""
    chosen = [masks[modality] for modality in names]
    if any(not mask for mask in chosen):
        return None
    axes = min(len(mask or ()) for mask in chosen)
    for axis in range(axes):
        if axis == rows.axis:
            continue
        stacked = np.stack([mask[axis] for mask in chosen if mask is not None])
        if (stacked.sum(0) <= 1).all() and (stacked.any(1)).all():
            return axis
    return None
