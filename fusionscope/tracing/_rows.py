"""Find the sample axis of a tensor, and which modalities each of its rows depends on, by comparing fingerprints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fusionscope.tracing._fingerprint import Fingerprint
from fusionscope.tracing._record import CallKey, Recording


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
    best: tuple[tuple[int, int], Rows] | None = None
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
            if hit <= expected and (best is None or (missing, axis) < best[0]):
                best = (missing, axis), Rows(axis, k, pattern)
    if best is not None:
        return best[1]
    if not any(mask.any() for mask in changed):
        axis = next((a for a, n in enumerate(base.shape) if n and n % size == 0), None)
        k = 1 if axis is None else base.shape[axis] // size
        return Rows(axis, k, "unmoved")
    return Rows(None, 1, "coupled")


@dataclass(frozen=True)
class Entry:
    """The rows of one tensor that depend on the same modalities.

    ``positions`` are the rows of each sample it takes (None = all of them); ``joined`` is the axis on which its
    modalities still lie side by side, or None.
    """

    place: str
    print: Fingerprint
    rows: Rows
    depends_on: frozenset[str]
    positions: tuple[int, ...] | None
    joined: int | None
    conditional: bool


Runs = Mapping[str, Sequence[Recording]]


def entries(
    key: CallKey, prints: Mapping[str, Fingerprint], side: str, single: Recording, runs: Runs, sample: int, size: int
) -> list[Entry]:
    """Split the tensors on one ``side`` ("inputs" or "outputs") of a call into entries."""
    found: list[Entry] = []
    for place, base in prints.items():
        other = single.calls.get(key)
        rows = find_rows(base, getattr(other, side).get(place) if other else None, sample, size)
        length = base.shape[rows.axis] if rows.axis is not None else 1
        positions = rows.positions(length)
        sets: list[set[str]] = [set() for _ in positions]
        masks: dict[str, list[np.ndarray] | None] = {}
        conditional = False
        for modality, recordings in runs.items():
            for recording in recordings:
                record = recording.calls.get(key)
                print_ = getattr(record, side).get(place) if record else None
                changed = None if print_ is None else base.changed(print_)
                if changed is None:
                    conditional |= print_ is None
                    masks[modality] = None
                    for one in sets:
                        one.add(modality)
                    continue
                if rows.axis is None:
                    if any(mask.any() for mask in changed):
                        sets[0].add(modality)
                else:
                    for one, index in zip(sets, positions, strict=True):
                        if changed[rows.axis][index].any():
                            one.add(modality)
                so_far = masks.get(modality, [np.zeros(len(mask), bool) for mask in changed])
                masks[modality] = None if so_far is None else [a | b for a, b in zip(so_far, changed, strict=True)]
        groups: dict[frozenset[str], list[int]] = {}
        for position, one in enumerate(sets):
            groups.setdefault(frozenset(one), []).append(position)
        for depends_on, members in groups.items():
            joined = _joined_axis(masks, rows, depends_on) if len(depends_on) > 1 else None
            split = tuple(members) if len(groups) > 1 else None
            found.append(Entry(place, base, rows, depends_on, split, joined, conditional))
    return found


def _joined_axis(masks: Mapping[str, list[np.ndarray] | None], rows: Rows, depends_on: frozenset[str]) -> int | None:
    """The axis on which every index belongs to one modality at most, if there is one."""
    chosen = [masks[modality] for modality in depends_on]
    if any(mask is None for mask in chosen):
        return None
    axes = len(chosen[0] or ())
    for axis in range(axes):
        if axis == rows.axis:
            continue
        stacked = np.stack([mask[axis] for mask in chosen if mask is not None])
        if (stacked.sum(0) <= 1).all() and (stacked.any(1)).all():
            return axis
    return None
