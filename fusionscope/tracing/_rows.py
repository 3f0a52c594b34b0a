"""Find the sample axis of a tensor, and which modalities each of its rows depends on, by comparing fingerprints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from fusionscope.tracing._fingerprint import Fingerprint
from fusionscope.tracing._record import CallKey, Recording, Side

ROUNDING = 2.5
Runs = Mapping[str, Sequence[Recording]]


@dataclass(frozen=True)
class Rows:
    """Where the samples are: ``axis`` holds ``per_sample`` rows of each sample.

    ``pattern``: "plain" (one row each), "interleaved" (rows of a sample side by side), "stacked" (blocks of B rows),
    "coupled" (every row follows every sample), "ragged" (samples have several rows each, as in a packed sequence, or
    one sample changes the shape), "scalar", or "unmoved" (the single-sample change did not show).
    """

    axis: int | None
    per_sample: int = 1
    pattern: str = "plain"
    guessed: bool = False

    def positions(self, length: int) -> list[np.ndarray]:
        """The row indices of each of the ``per_sample`` rows that a sample has."""
        if self.axis is None:
            return [np.arange(length)]
        samples = length // self.per_sample
        if self.pattern == "stacked":
            return [np.arange(j * samples, (j + 1) * samples) for j in range(self.per_sample)]
        return [np.arange(j, length, self.per_sample) for j in range(self.per_sample)]


Pair = tuple[Fingerprint, Fingerprint]


def find_rows(base: Fingerprint, singles: Sequence[Pair], sample: int, size: int, moved: Sequence[Pair] = ()) -> Rows:
    """Find the axis on which replacing one ``sample`` of ``size`` changed that sample's indices only.

    ``singles`` are the tensor before and after that, in the model as it is and, if there is one, in the wired copy;
    ``moved`` the same for other changes, which decide where blocks and neighbours fit alike.
    """
    if not base.shape:
        return Rows(None, 1, "scalar")
    masks = [one.changed(other) for one, other in singles]
    masks = [_clearly(mask, *pair, sample, size) for mask, pair in zip(masks, singles, strict=True)]
    if not masks or masks[0] is None:
        return Rows(None, 1, "ragged" if masks else "coupled")
    alike = [mask for mask in masks if mask is not None and len(mask) == len(masks[0])]
    union = [np.logical_or.reduce(axis) for axis in zip(*alike, strict=True)]
    found = _fitting(union, sample, size) or _fitting(masks[0], sample, size)
    if not found and any(mask.any() for mask in masks[0]):
        ragged = not any(n and n % size == 0 for n in base.shape) and not masks[0][0].all()
        return Rows(None, 1, "ragged" if ragged else "coupled")
    if not found:
        found = [first_axis(base, size)]
        if found[0].per_sample > 1:
            found = [replace(found[0], pattern=pattern) for pattern in ("interleaved", "stacked")]
    if len(found) == 1:
        return found[0]
    changes = [mask for one, other in moved if (mask := one.changed(other)) is not None]
    return min(found, key=lambda rows: _undecided(rows, base, changes))


def _undecided(rows: Rows, base: Fingerprint, changes: list[list[np.ndarray]]) -> float:
    """How many rows of one position moved while others of it did not."""
    axis = rows.axis or 0
    shares = [m[axis][i].mean() for m in changes if len(m) > axis for i in rows.positions(base.shape[axis])]
    return float(sum(min(share, 1 - share) for share in shares))


def _clearly(
    masks: list[np.ndarray] | None, one: Fingerprint, other: Fingerprint, sample: int, size: int
) -> list[np.ndarray] | None:
    """Without the samples that moved by rounding errors only while the ``sample`` moved: a product of another shape."""
    if masks is None or not one.dtype.is_floating_point:
        return masks
    found = list(masks)
    for axis, mask in enumerate(masks):
        if axis not in one.sketches or axis not in other.sketches or len(mask) != size or not mask[sample]:
            continue
        length = np.linalg.norm(one.sketches[axis], axis=1)
        moved = np.linalg.norm(other.sketches[axis] - one.sketches[axis], axis=1)
        far = moved > ROUNDING * torch.finfo(one.dtype).eps * length.max()
        found[axis] = mask & far if far[sample] else mask
    return found


def weak_effect(dtype: torch.dtype) -> float:
    """An effect below this share of a tensor's size is weak: 1e-6 in float32, ten rounding errors otherwise."""
    if not dtype.is_floating_point:
        return 0.0
    return 1e-6 if dtype == torch.float32 else 10 * torch.finfo(dtype).eps


def _fitting(changed: list[np.ndarray], sample: int, size: int) -> list[Rows]:
    """The rows that agree with what moved, the likeliest first; several where they are as likely."""
    found: list[tuple[tuple[int, int], Rows]] = []
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
            if hit <= expected:
                found.append(((len(expected - hit), axis), Rows(axis, k, pattern)))
    found.sort(key=lambda one: one[0])
    return [rows for order, rows in found if order == found[0][0]]


def first_axis(base: Fingerprint, size: int) -> Rows:
    """The first axis that can hold ``size`` samples, where nothing was seen to move along any."""
    axis = next((a for a, n in enumerate(base.shape) if n and n % size == 0), None)
    return Rows(axis, 1 if axis is None else base.shape[axis] // size, "unmoved", guessed=True)


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
                seen = any(modality in one for one in moved.sets)  # in a run that hashed this axis as well
                if any(mask.any() for mask in changed) and not (seen and rows.axis is not None):
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
                pairs = [(moved.slots[j], other.slots[j]) for j in members] if print_.slots and moved.slots[0] else []
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
    usual = world.base.calls.get(key)
    base = getattr(usual, side).get(entry.place) if usual else None
    sizes: dict[str, float] = {}
    for modality, recordings in world.runs.items():
        found = []
        for recording in recordings:
            record = recording.calls.get(key)
            other = getattr(record, side).get(entry.place) if record else None
            found.append(base.effect(other, index) if base is not None and other is not None else math.nan)
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
