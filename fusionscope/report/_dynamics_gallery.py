"""Galleries: the inputs that activate single units most, at the first and the last chosen epoch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from fusionscope.report._dynamics import Learning
from fusionscope.report._palette import colour
from fusionscope.report._prose import num
from fusionscope.report._samples_drawing import figure
from fusionscope.report._view import number

UNITS, PLACES = 6, 5
SIDES = (64, 48, 40, 32, 24, 16)
BUDGET = 160_000  # bytes of all pictures together
SHOWN = 52


def galleries(d: Learning) -> list[dict[str, Any]]:
    """Return per modality the halves (epochs) of its gallery, with the pictures as symbols that the cells refer to."""
    drawn = [m for m in d.gallery if d.pictures(m)]
    for side in SIDES:
        found = [_gallery(d, m, f"g{i}", side) for i, m in enumerate(drawn)]
        if sum(len(g["sprites"]) for g in found) <= BUDGET:
            break
    return [g for g in found if g["halves"]] if drawn else []


def _gallery(d: Learning, modality: str, prefix: str, side: int) -> dict[str, Any]:
    epochs, given = d.gallery[modality], d.pictures(modality)
    ends = list(dict.fromkeys((min(epochs), max(epochs))))
    last = list(epochs[ends[-1]])
    shown = {epoch: _rows(epochs[epoch], last) for epoch in ends}
    samples = {int(row["sample"]) for units in shown.values() for rows in units.values() for row in rows}
    drawn = {s: figure(shrunk(given[s], side), colour(d.modalities.index(modality))) for s in samples if s in given}
    symbols = [
        Markup(f'<symbol id="{prefix}-{s}" viewBox="0 0 {part[1]} {part[2]}">{part[0]}</symbol>')
        for s, part in sorted(drawn.items())
        if part is not None
    ]
    halves = []
    for epoch, units in shown.items():
        rows = []
        for unit, top in units.items():
            cells = [_cell(d, f"{prefix}-{int(row['sample'])}", row, drawn.get(int(row["sample"]))) for row in top]
            rows.append({"unit": unit, "cells": cells, "mostly": _mostly(d, top)})
        halves.append({"epoch": epoch, "rows": rows})
    return {"modality": modality, "halves": halves if symbols else [], "sprites": Markup("").join(symbols)}


def _rows(units: dict[int, list[dict[str, Any]]], last: list[int]) -> dict[int, list[dict[str, Any]]]:
    """Return the units to show with their first samples, in the order of the last epoch, so that halves match."""
    named = [u for u in last if u in units] + [u for u in units if u not in last]
    return {unit: units[unit][:PLACES] for unit in named[:UNITS]}


def _cell(d: Learning, name: str, row: dict[str, Any], part: tuple[Markup, int, int] | None) -> Markup:
    sample = int(row["sample"])
    label = d.labels.get(sample, "")
    said = f"sample {sample}{f', {label}' if label else ''}, activation {num(number(row['activation']))}"
    if part is None:
        return Markup(f'<span title="{escape(said)}">–</span>')
    _, width, height = part
    scale = min(SHOWN / height, 1.3 * SHOWN / width)
    box = f'width="{round(width * scale)}" height="{round(height * scale)}" role="img" aria-label="{escape(said)}"'
    return Markup(f'<svg {box}><title>{escape(said)}</title><use href="#{name}"/></svg>')


def _mostly(d: Learning, rows: list[dict[str, Any]]) -> str:
    """Say which label most of the samples have, where labels are classes and one has more than half."""
    labels = [d.labels.get(int(row["sample"]), "") for row in rows]
    if d.task == "regression" or not all(labels) or len(labels) < 3 or len(set(d.labels.values())) < 2:
        return ""
    label, times = Counter(labels).most_common(1)[0]
    return f"{times} of {len(labels)}: {label}" if times > len(labels) / 2 else "mixed"


def shrunk(given: np.ndarray, side: int) -> np.ndarray:
    """Return an image with at most ``side`` pixels a side, by block means, in fewer shades; of a sequence at most
    ``side`` steps of four channels, of a vector the largest entries of ``side / 2`` stretches."""
    values = np.asarray(given)
    if values.ndim == 1 and len(values) > side // 2:
        return np.array([part[np.abs(part).argmax()] for part in np.array_split(values, side // 2)])
    if values.ndim == 2 and values.dtype != np.uint8:
        steps = np.linspace(0, len(values) - 1, min(len(values), side)).round().astype(int)
        return values[steps][:, :4]
    if values.dtype != np.uint8 or values.ndim != 3:
        return values
    height, width = values.shape[:2]
    if max(height, width) > side:
        scale = side / max(height, width)
        for axis, size in enumerate((max(round(height * scale), 1), max(round(width * scale), 1))):
            edges = np.linspace(0, values.shape[axis], size + 1).round().astype(int)
            sums = np.add.reduceat(values.astype(np.float64), edges[:-1], axis=axis)
            shape = [1, 1, 1]
            shape[axis] = size
            values = sums / np.diff(edges).reshape(shape)
    return (np.clip(np.round(values / 4), 0, 63) * (255 / 63)).astype(np.uint8)
