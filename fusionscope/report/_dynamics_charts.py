"""Charts of the dynamics: lines over epochs, and the projected samples of each modality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import altair as alt

from fusionscope.report._dynamics import TOGETHER, Learning, Point, thinned
from fusionscope.report._palette import SHAPES, STEPS, colour, shape
from fusionscope.report._vega import beside, chart, filled, pruned, spec_of
from fusionscope.report._view import number

WIDTH, HEIGHT = 266, 150
MARKED = 7
TICKS = [m * 10.0**e for e in range(-8, 9) for m in (1, 2, 5)]
RULES = {"gradient cosine": 0.0, "discrepancy": 1.0, "instance gate": 0.881, "dimension gate": 0.0}
BANDED = ("gradient norm", "instance gate", "dimension gate")
LABELLED = 10
SPECK = 5  # a panel whose dots take less than a fifth of the width is magnified
POINTS, BYTES = 300, 180_000  # dots of a panel, and what all dots together may take of the page

Mark = tuple[str, str, str]  # name, colour, shape


def marks(d: Learning, quantity: str) -> list[Mark]:
    """Return name, colour and shape of each line: modalities have the page's, pairs the colours that are left."""
    found: list[Mark] = []
    for key in d.of(quantity):
        m, other = key
        if m not in d.modalities:
            found.append((TOGETHER, "var(--ink)", "stroke"))
        elif other in d.modalities:
            place = len(d.modalities) + len(found)
            found.append((d.name(key), colour(place), shape(place)))
        else:  # of several calibrations: the modality's colour, a shape for each
            place = d.modalities.index(m)
            found.append((d.name(key), colour(place), shape(len(found) if other else place)))
    return found


def lines(d: Learning, quantity: str, title: str) -> dict[str, Any]:
    """Return a quantity over the epochs, a line per modality or pair."""
    of = d.of(quantity)
    drawn = thinned([p.epoch for points in of.values() for p in points])
    rows: list[dict[str, Any]] = []
    for key, points in of.items():
        rows += [_row(d, quantity, d.name(key), p) for p in points if p.epoch in drawn]
    return _lines(d, rows, marks(d, quantity), title, _logarithmic(quantity, rows), RULES.get(quantity))


def losses(d: Learning) -> list[tuple[str, str, dict[str, Any], list[Mark]]]:
    """Return caption, label, chart and marks of the training and validation loss, and of the validation score."""
    drawn = thinned([int(row["epoch"]) for row in d.history])
    names = {"train_loss": ("training", "var(--bar)", "square"), "val_loss": ("validation", "var(--ink)", "circle")}
    score = next((c for row in d.history for c in row if c.startswith("val_") and c != "val_loss"), "")
    found = []
    for columns, title in ((list(names), "loss"), ([score] if score else [], d.metric)):
        rows, used = [], []
        for column in columns:
            mark = names.get(column, names["val_loss"])
            points = [Point(int(r["epoch"]), number(r.get(column))) for r in d.history if int(r["epoch"]) in drawn]
            if any(p.known for p in points):
                rows += [_row(d, "", mark[0], p) for p in points]
                used.append(mark)
        if used:
            said = "Loss over the epochs, training and validation." if title == "loss" else f"{title} over the epochs."
            caption = "Loss" if title == "loss" else f"Validation {title}"
            found.append((caption, said, _lines(d, rows, used, title, False, None), used))
    return found


def _row(d: Learning, quantity: str, name: str, p: Point) -> dict[str, Any]:
    row: dict[str, Any] = {"x": p.epoch, "m": name, "y": _short(p.mean) if p.known else None}
    half = p.std if quantity in BANDED else 2 * d.error(p) if quantity == "value" else math.nan
    if p.known and math.isfinite(half):
        row |= {"l": _short(p.mean - half), "h": _short(p.mean + half)}
    return row


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _logarithmic(quantity: str, rows: Sequence[dict[str, Any]]) -> bool:
    """Ratios are drawn on a logarithmic axis, gradients too where they span more than a factor of ten."""
    means = [row["y"] for row in rows if row["y"] is not None]
    if not means or min(means) <= 0:
        return False
    return quantity == "discrepancy" or (quantity == "gradient norm" and max(means) > 10 * min(means))


def _lines(
    d: Learning, rows: list[dict[str, Any]], used: list[Mark], title: str, log: bool, rule: float | None
) -> dict[str, Any]:
    epochs = sorted({row["x"] for row in rows})
    marked = thinned(epochs, MARKED)
    for row in rows:
        row["k"] = row["x"] in marked
    low, high = _reach(rows, rule, log)
    if log:
        for row in (r for r in rows if "l" in r):
            row["l"] = max(row["l"], low)
    first, last = (epochs[0], epochs[-1]) if len(epochs) > 1 else (epochs[0] - 1, epochs[0] + 1)
    if d.kept is not None and first <= d.kept <= last:
        rows.append({"kept": d.kept})
    if rule is not None:
        rows.append({"rule": rule})
    ticks = [t for t in TICKS if low <= t <= high * 1.0001] if log else []
    given: dict[str, Any] = {"names": [n for n, *_ in used], "colours": [c for _, c, _ in used]}
    given |= {
        "shapes": [s for *_, s in used],
        "low": low,
        "high": high,
        "first": float(first),
        "last": float(last),
        "title": title,
    }
    spec = pruned(_lines_spec(log), rows)
    return filled(spec, rows, ticks=ticks, epochs=_round_epochs(first, last), **given)


def _round_epochs(first: int, last: int) -> list[int]:
    """Return whole numbers for an axis, about six."""
    step = next(s for e in range(7) for s in (10**e, 2 * 10**e, 5 * 10**e) if (last - first) / s <= 6)
    return list(range(-(-first // step) * step, last + 1, step))


def _reach(rows: Sequence[dict[str, Any]], rule: float | None, log: bool) -> tuple[float, float]:
    """Return the ends of the vertical axis."""
    held = [row[k] for row in rows for k in ("y", "l", "h") if row.get(k) is not None]
    held += [rule] if rule is not None else []
    if log:
        means = [row["y"] for row in rows if row["y"] is not None]
        # a band may reach below zero: the axis shows it down to half the smallest mean
        low = max(min(held), min(means) / 2) / 1.1
        return min(low, (rule or low) / 2), max(max(held) * 1.1, (rule or 0) * 2)
    low, high = min(held), max(held)
    room = 0.06 * (high - low) or 0.05
    floor = 0.0 if min(row["y"] for row in rows if row["y"] is not None) >= 0 and low - room < 0 and rule != 0 else None
    return _short(low - room if floor is None else floor), _short(high + room)


@cache
def _lines_spec(log: bool) -> dict[str, Any]:
    scale: dict[str, Any] = {"domain": ["@low", "@high"], "nice": False, "clamp": True}
    axis: dict[str, Any] = {"tickCount": 4, "minExtent": 32, "domain": False, "ticks": False}
    if log:
        scale["type"] = "log"
        axis |= {"values": ["@ticks"], "format": "~g"}
    y: dict[str, Any] = {"title": "@title", "scale": alt.Scale(**scale), "axis": alt.Axis(**axis)}
    across = alt.Axis(grid=False, values=["@epochs"], format="d", labelOverlap=True)
    x = alt.X("x:Q", title="epoch", axis=across, scale=alt.Scale(domain=["@first", "@last"], nice=False, padding=6))
    colours = alt.Scale(domain=["@names"], range=["@colours"])
    shapes = alt.Scale(domain=["@names"], range=["@shapes"])
    base = chart().transform_filter("isValid(datum.m)").encode(x=x, detail="m:N")
    bands = base.mark_area(opacity=0.13, invalid="break-paths-filter-domains", clip=True)
    bands = bands.encode(y=alt.Y("l:Q", **y), y2="h:Q", fill=alt.Fill("m:N", scale=colours, legend=None))
    drawn = base.mark_line(strokeWidth=1.7, opacity=0.9, invalid="break-paths-filter-domains")
    drawn = drawn.encode(y=alt.Y("y:Q", **y), color=alt.Color("m:N", scale=colours, legend=None))
    dots = base.transform_filter("isValid(datum.y)").mark_point(size=34, strokeWidth=1.4, filled=False)
    dots = dots.encode(
        y=alt.Y("y:Q", **y),
        stroke=alt.Stroke("m:N", scale=colours, legend=None),
        fill=alt.value("var(--paper)"),
        shape=alt.Shape("m:N", scale=shapes, legend=None),
        opacity=alt.condition("datum.k", alt.value(1), alt.value(0)),
        tooltip=[
            alt.Tooltip("m:N", title="Of"),
            alt.Tooltip("x:Q", title="Epoch"),
            alt.Tooltip("y:Q", title="@title", format=".3~g"),
            alt.Tooltip("l:Q", title="Band from", format=".3~g"),
            alt.Tooltip("h:Q", title="Band to", format=".3~g"),
        ],
    )
    kept = chart().transform_filter("isValid(datum.kept)").mark_rule(strokeDash=[2, 3], strokeWidth=1)
    kept = kept.encode(x=alt.X("kept:Q"), color=alt.value("var(--soft)"))
    level = chart().transform_filter("isValid(datum.rule)").mark_rule(strokeWidth=1)
    level = level.encode(y=alt.Y("rule:Q", **y), color=alt.value("var(--soft)"))
    return spec_of((level + kept + bands + drawn + dots).properties(width=WIDTH, height=HEIGHT))


# --- projections ---


def class_marks(names: Sequence[str]) -> list[Mark]:
    """Return name, colour and shape of each class; past ten, evenly spaced hues."""
    if len(names) > LABELLED:
        return [(n, f"hsl({360 * i // len(names)},58%,52%)", SHAPES[i % len(SHAPES)]) for i, n in enumerate(names)]
    colours = [*(colour(i) for i in range(8)), "var(--ink)", "var(--bar)"]
    return [(n, colours[i], SHAPES[(i + i // len(SHAPES)) % len(SHAPES)]) for i, n in enumerate(names)]


def classes(d: Learning) -> list[str]:
    """Return the labels of the projected samples in the order of the classes; none for numbers, or if all are one."""
    found = set(d.labels.values())
    if len(found) < 2 or d.task == "regression":
        return []
    return sorted(found, key=lambda c: (d.view.classes.index(c) if c in d.view.classes else len(d.view.classes), c))


def chosen(epochs: Sequence[int], most: int = 5) -> list[int]:
    """Return the epochs to draw, the first and the last among them."""
    return sorted(thinned(epochs, most))


def projection(d: Learning, modality: str) -> dict[str, Any]:
    """Return the projected samples of a modality, a panel per chosen epoch, on one scale."""
    epochs = d.projected[modality]
    shown = chosen(list(epochs))
    panels = sum(min(len(of), 5) for of in d.projected.values())
    label = max((len(label) for label in d.labels.values()), default=0)
    most = max(min(POINTS, BYTES // (max(panels, 1) * (48 + label))), 1)
    samples = sorted({int(row["sample"]) for row in epochs[shown[-1]]})
    step = max(math.ceil(len(samples) / most), 1)
    kept = set(samples[::step])
    names = classes(d)
    used = [*class_marks(names), ("", "var(--soft)", "circle")]  # samples without a label
    bounds = _numbers(d)
    rows: list[dict[str, Any]] = []
    for p, epoch in enumerate(shown):
        for row in epochs[epoch]:
            if int(row["sample"]) in kept:
                label = d.labels.get(int(row["sample"]), "")
                point = {"p": p, "x": number(row["x"]), "y": number(row["y"]), "s": int(row["sample"])}
                rows.append(point | ({"c": label} if names else {"c": _step(label, bounds), "v": label}))
    if not names:
        ramp = [(str(i), f"var(--s{i})", "circle") for i in range(2, STEPS)]
        used = ramp if bounds else [("", colour(d.modalities.index(modality)), "circle")]
    titles = {
        f"title{p}": f"epoch {epoch}{_magnified([r for r in rows if r['p'] == p], rows)}"
        for p, epoch in enumerate(shown)
    }
    rows = [row | {"x": _short(row["x"]), "y": _short(row["y"])} for row in rows]
    ends = {f"{k}{i}": v for k in "xy" for i, v in enumerate(_square(rows, k))}
    width = min(238, (1020 - 16 * len(shown)) // len(shown))
    spec = beside(_projection_spec(bool(names), width), len(shown), 16, width)
    given: dict[str, Any] = {"names": [n for n, *_ in used], "colours": [c for _, c, _ in used]}
    return filled(spec, rows, shapes=[s for *_, s in used], **given, **titles, **ends)


def _numbers(d: Learning) -> tuple[float, float] | None:
    values = [v for label in d.labels.values() if math.isfinite(v := number(label))]
    return (min(values), max(values)) if values and d.task == "regression" else None


def numbers(d: Learning) -> tuple[float, float] | None:
    """Return the least and the largest label, where labels are numbers."""
    return _numbers(d)


def _step(label: str, bounds: tuple[float, float] | None) -> str:
    value = number(label)
    if bounds is None or not math.isfinite(value):
        return "" if bounds is None else "2"
    share = (value - bounds[0]) / ((bounds[1] - bounds[0]) or 1.0)
    return str(min(2 + int(share * (STEPS - 2)), STEPS - 1))


def _magnified(panel: list[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> str:
    """Magnify the dots of a panel around their middle where they would be a speck; return what its title says of it."""
    if not panel:
        return ""
    whole = max(max(r[k] for r in rows) - min(r[k] for r in rows) for k in "xy")
    own = max(max(r[k] for r in panel) - min(r[k] for r in panel) for k in "xy")
    if own <= 0 or own * SPECK >= whole:
        return ""
    times = float(f"{whole / own / 2:.1g}")
    for k in "xy":
        middle = (max(r[k] for r in panel) + min(r[k] for r in panel)) / 2
        centre = (max(r[k] for r in rows) + min(r[k] for r in rows)) / 2
        for r in panel:
            r[k] = centre + times * (r[k] - middle)
    return f", magnified {times:g}×"


def _square(rows: Sequence[dict[str, Any]], axis: str) -> tuple[float, float]:
    values = [row[axis] for row in rows]
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 1.0
    return _short(low - room), _short(high + room)


@cache
def _projection_spec(named: bool, width: int) -> dict[str, Any]:
    colours = alt.Scale(domain=["@names"], range=["@colours"])
    shapes = alt.Scale(domain=["@names"], range=["@shapes"])
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=["@x0", "@x1"], nice=False, zero=False))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=["@y0", "@y1"], nice=False, zero=False))
    label = alt.Tooltip("c:N", title="Class") if named else alt.Tooltip("v:N", title="Label")
    dots = chart().transform_filter("datum.p === 0").mark_point(size=20, filled=True, opacity=0.75)
    dots = dots.encode(
        x=x,
        y=y,
        color=alt.Color("c:N", scale=colours, legend=None),
        shape=alt.Shape("c:N", scale=shapes, legend=None),
        tooltip=[label, alt.Tooltip("s:Q", title="Sample")],
    )
    title = alt.TitleParams("@title0", fontSize=11.5, fontWeight=500, color="var(--ink)", anchor="start", offset=4)
    frame = alt.ViewBackground(stroke="var(--line)")
    return spec_of(alt.layer(dots).properties(width=width, height=min(width, 180), title=title, view=frame))
