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
    epochs = d.gallery[modality]
    given = d.pictures(modality)
    ends = list(dict.fromkeys((min(epochs), max(epochs))))
    order = list(epochs[ends[-1]])[:UNITS]
    used: dict[int, tuple[int, int]] = {}
    symbols: list[Markup] = []
    halves = []
    for epoch in ends:
        units = epochs[epoch]
        named = [u for u in order if u in units]
        named += [u for u in units if u not in named][: UNITS - len(named)]
        rows = []
        for unit in named:
            cells = []
            for row in units[unit][:PLACES]:
                sample = int(row["sample"])
                if sample not in used and sample in given:
                    body = figure(shrunk(given[sample], side), colour(d.modalities.index(modality)))
                    if body is not None:
                        markup, *used[sample] = body  # ty: ignore[invalid-assignment]
                        box = f'viewBox="0 0 {used[sample][0]} {used[sample][1]}"'
                        symbols.append(Markup(f'<symbol id="{prefix}-{sample}" {box}>{markup}</symbol>'))
                cells.append(_cell(d, prefix, sample, number(row["activation"]), used.get(sample)))
            rows.append({"unit": unit, "cells": cells, "mostly": _mostly(d, units[unit][:PLACES])})
        halves.append({"epoch": epoch, "rows": rows})
    return {"modality": modality, "halves": halves if symbols else [], "sprites": Markup("").join(symbols)}


def _cell(d: Learning, prefix: str, sample: int, activation: float, size: tuple[int, int] | None) -> Markup:
    label = d.labels.get(sample, "")
    said = f"sample {sample}{f', {label}' if label else ''}, activation {num(activation)}"
    if size is None:
        return Markup(f'<span title="{escape(said)}">–</span>')
    scale = min(SHOWN / size[1], 1.3 * SHOWN / size[0])
    box = f'width="{round(size[0] * scale)}" height="{round(size[1] * scale)}" role="img" aria-label="{escape(said)}"'
    return Markup(f'<svg {box}><title>{escape(said)}</title><use href="#{prefix}-{sample}"/></svg>')


def _mostly(d: Learning, rows: list[dict[str, Any]]) -> str:
    """Say which label most of the samples have, where labels are classes and one has more than half."""
    labels = [d.labels.get(int(row["sample"]), "") for row in rows]
    if d.task == "regression" or not all(labels) or len(labels) < 3:
        return ""
    label, times = Counter(labels).most_common(1)[0]
    return f"{times} of {len(labels)}: {label}" if times > len(labels) / 2 else "mixed"


def shrunk(given: np.ndarray, side: int) -> np.ndarray:
    """Return an image with at most ``side`` pixels a side, by block means, in fewer shades; of a sequence at most
    ``side`` steps of four channels; others as they are."""
    values = np.asarray(given)
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
