"""Charts of concepts and semantic variance as Vega-Lite specifications."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import altair as alt

from fusionscope.report._charts import level_step, reason
from fusionscope.report._palette import colour
from fusionscope.report._prose import num
from fusionscope.report._semantics import Row, Semantics, Variance, estimate, numeral, place
from fusionscope.report._vega import cell, cells_spec, chart, filled, pruned, spec_of

KINDS = {"both": "consistent", "neither": "neither", "": "not computed"}


def kind_of(row: Row) -> str:
    """Write a row's kind, naming the modality (or the side) it is special to."""
    sides = {"a": row["modality_a"], "b": row["modality_b"]}
    if row["question"] == "twin":
        sides = {"a": "the joint model", "b": "the solo twin"}
    elif row["question"] == "within":
        sides = {side: f"level {numeral(row[f'level_{side}'])}" for side in "ab"}
    return f"special to {sides[row['kind']]}" if row["kind"] in sides else KINDS.get(row["kind"], row["kind"])


def concepts(s: Semantics, modality: str, names: list[str]) -> dict[str, Any]:
    """Return the scores of one stream: concepts down, levels across."""
    rows: list[dict[str, Any]] = []
    for row in s.rows("concepts"):
        if row["modality"] != modality or row["concept"] not in names:
            continue
        computed = math.isfinite(row["score"])
        verdict = "encoded" if row["encoded"] else "inside its null, not encoded" if computed else "not computed"
        rows.append(
            {
                "y": row["concept"],
                "x": numeral(row["level"]),
                "inside": computed and not row["encoded"],
                "Concept": row["concept"],
                "Stream": f"{modality}, level {numeral(row['level'])}",
                "Score": reason(estimate(row, "score")),
                "IoU": num(row["iou"], 3),
                "Null, upper bound": num(row["null_high"], 3),
                "Verdict": verdict,
            }
            | cell(row["score"])
        )
    spec = cells_spec(42, 24, ("Concept", "Stream", "Score", "IoU", "Null, upper bound", "Verdict"), ordered=True)
    return filled(spec, rows, order=names, across=f"{modality}, level")


def variance(found: Sequence[Variance], a: str, b: str, top: float) -> dict[str, Any]:
    """Return the map of semantic variance, levels of ``a`` down, levels of ``b`` across, coloured from 0 to ``top``."""
    rows: list[dict[str, Any]] = []
    for v in found:
        verdict = "clear of its floor" if v.told_apart else "not clear of its floor"
        rows.append(
            {
                "y": int(v.a),
                "x": int(v.b),
                "inside": v.sv.computed and not v.told_apart,
                "Levels": f"{a} {numeral(v.a)} with {b} {numeral(v.b)}",
                "Semantic variance": reason(v.sv),
                "Floor": num(v.floor, 3),
                "Verdict": verdict if v.sv.computed else "not computed",
            }
            | cell(v.sv.value, top)
        )
    step = level_step(rows)
    spec = cells_spec(step, step, ("Levels", "Semantic variance", "Floor", "Verdict"))
    return filled(spec, rows, down=f"{a}, level", across=f"{b}, level")


def profile(s: Semantics, given: Sequence[Row], title: str) -> dict[str, Any]:
    """Return a dot per concept with its limits around zero: to the right what side a tells better."""
    known = sorted((r for r in given if math.isfinite(r["d"])), key=lambda r: -r["d"])
    rows: list[dict[str, Any]] = []
    for row in known:
        sides = {"a": row["modality_a"], "b": row["modality_b"]}
        named = sides.get(row["kind"], "")
        rows.append(
            {
                "y": row["concept"],
                "d": row["d"],
                "low": row["low"] if math.isfinite(row["low"]) else None,
                "high": row["high"] if math.isfinite(row["high"]) else None,
                "m": s.view.modalities.index(named) if named in s.view.modalities else -1,
                "clear": row["kind"] in sides,
                "Concept": row["concept"],
                "Difference": reason(estimate(row, "d")),
                "Verdict": kind_of(row),
            }
        )
    spec = _zero_spec(len(s.view.modalities), 20, 240, ("Concept", "Difference", "Verdict"), s.margin)
    return filled(pruned(spec, rows), rows, order=[row["y"] for row in rows], across=title)


def _pressures(given: Sequence[Row], name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for row in given:
        rows.append(
            {
                "y": row["concept"] if name == "concept" else f"level {numeral(row['level'])}",
                "d": row["difference"],
                "low": row["low"] if math.isfinite(row["low"]) else None,
                "high": row["high"] if math.isfinite(row["high"]) else None,
                "joint": row["joint"] if math.isfinite(row["joint"]) else None,
                "solo": row["solo"] if math.isfinite(row["solo"]) else None,
                "m": -1,
                "clear": bool(row["pressure"]),
                "Of": row["concept"] or f"level {numeral(row['level'])}",
                "Joint": num(row["joint"], 3),
                "Solo": num(row["solo"], 3),
                "Difference": reason(estimate(row, "difference")),
                "Verdict": f"{row['pressure']} pressure" if row["pressure"] else "inside the noise",
            }
        )
    return rows


PRESSURE = ("Of", "Joint", "Solo", "Difference", "Verdict")


def pressure(s: Semantics, given: Sequence[Row], title: str) -> dict[str, Any]:
    """Return, per level, the value inside the joint model and between the solo twins, and beside it the difference."""
    rows = _pressures(given, "level")
    order = list(dict.fromkeys(row["y"] for row in rows))
    spec = pruned(_pressure_spec(s.margin if title != "CKA" else 0.0), rows)
    return filled(spec, rows, order=order, across="joint − solo", value=title)


def pressure_on_concepts(s: Semantics, given: Sequence[Row]) -> dict[str, Any]:
    """Return the difference of joint and solo |d|, a row per concept."""
    rows = _pressures(given, "concept")
    spec = _zero_spec(len(s.view.modalities), 20, 240, PRESSURE, s.margin)
    return filled(pruned(spec, rows), rows, order=[row["y"] for row in rows], across="|d|: joint − solo")


@cache
def _pressure_spec(margin: float) -> dict[str, Any]:
    names = alt.Axis(ticks=False, domain=False, labelPadding=9)
    y = alt.Y("y:N", title=None, sort=None, scale=alt.Scale(domain=["@order"]), axis=names)
    axis = alt.Axis(grid=True, tickCount=4, domain=False, ticks=False)
    base = chart().encode(y=y, tooltip=[f"{name}:N" for name in PRESSURE])
    span = base.transform_filter("isValid(datum.joint) && isValid(datum.solo)").mark_rule(color="var(--soft)")
    layers = [span.encode(x=alt.X("joint:Q", title="@value", axis=axis), x2="solo:Q")]
    for name, fill in (("solo", "var(--paper)"), ("joint", "var(--ink)")):
        dots = base.transform_filter(f"isValid(datum.{name})").mark_point(
            size=60, strokeWidth=1.8, opacity=1, fill=fill, stroke="var(--ink)"
        )
        layers.append(dots.encode(x=alt.X(f"{name}:Q", title="@value", axis=axis)))
    left = alt.layer(*layers).properties(width=190, height=alt.Step(24))
    right = _zero_chart(1, 24, 190, PRESSURE, margin, labels=False)
    return spec_of(alt.hconcat(left, right, spacing=26))


@cache
def _zero_spec(modalities: int, height: int, width: int, tooltip: tuple[str, ...], margin: float) -> dict[str, Any]:
    return spec_of(_zero_chart(modalities, height, width, tooltip, margin))


def _zero_chart(
    modalities: int, height: int, width: int, tooltip: tuple[str, ...], margin: float, labels: bool = True
) -> Any:
    """Dots with limits around a zero line; a filled dot is clear of ``margin``, ``m`` its colour (-1: ink)."""
    domain = list(range(-1, modalities))
    colours = alt.Scale(domain=domain, range=["var(--ink)", *(colour(i) for i in domain[1:])])
    names = alt.Axis(ticks=False, domain=False) if labels else None
    y = alt.Y("y:N", title=None, sort=None, scale=alt.Scale(domain=["@order"]), axis=names)
    axis = alt.Axis(grid=True, tickCount=5, domain=False, ticks=False)
    base = chart().encode(y=y, tooltip=[f"{name}:N" for name in tooltip])
    once = chart().transform_aggregate(n="count()")
    zero = once.mark_rule(color="var(--soft)").encode(x=alt.XDatum(0, type="quantitative"))
    if math.isfinite(margin) and margin > 0:
        band = once.mark_rect(fill="var(--line)", opacity=0.45)
        zero = band.encode(x=alt.XDatum(-margin, type="quantitative"), x2=alt.X2Datum(margin)) + zero
    dim = alt.condition("datum.clear", alt.value(1), alt.value(0.5))
    stroke = alt.Stroke("m:N", scale=colours, legend=None)
    limits = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2)
    limits = limits.encode(x=alt.X("low:Q", title="@across", axis=axis), x2="high:Q", stroke=stroke, opacity=dim)
    fill = alt.condition("datum.clear", alt.Fill("m:N", scale=colours, legend=None), alt.value("var(--paper)"))
    dots = base.transform_filter("isValid(datum.d)").mark_point(size=60, strokeWidth=1.8, opacity=1)
    dots = dots.encode(x=alt.X("d:Q", title="@across", axis=axis), fill=fill, stroke=stroke)
    return (zero + limits + dots).properties(width=width, height=alt.Step(height))


def at(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return rows by the level (or levels) they are about, in order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(place(row), []).append(row)
    return found
