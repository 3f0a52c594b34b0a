"""Charts as Vega-Lite specifications. Colours are CSS variables, so that one chart serves light, dark and print."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import altair as alt

from fusionscope.report._palette import colour, shape
from fusionscope.report._prose import interval, num
from fusionscope.report._vega import cell, cells_spec, chart, filled, spec_of
from fusionscope.report._view import Estimate, View, number, text


def reason(estimate: Estimate) -> str:
    """Write a value with its interval, or why there is none."""
    return interval(estimate, 3) + (f": {estimate.reason}" if estimate.reason and not estimate.computed else "")


def _verdict(above: bool, bound: float) -> str:
    return "above its null" if above else "inside its null" if math.isfinite(bound) else "no null to compare with"


def similarity(view: View, a: str, b: str) -> dict[str, Any]:
    """Return the heat map of CKA, levels of ``a`` down, levels of ``b`` across."""
    rows: list[dict[str, Any]] = []
    for s in view.similarities(a, b):
        verdict = _verdict(s.cka.value > s.null_high, s.null_high)
        rows.append(
            {
                "y": s.level_a,
                "x": s.level_b,
                "inside": s.inside,
                "Levels": f"{a} {s.level_a} with {b} {s.level_b}",
                "CKA": reason(s.cka),
                "Null, upper bound": "not computed" if math.isnan(s.null_high) else num(s.null_high, 3),
                "Verdict": verdict if s.cka.computed else "not computed",
            }
            | cell(s.cka.value)
        )
    step = level_step(rows)
    spec = cells_spec(step, step, ("Levels", "CKA", "Null, upper bound", "Verdict"))
    return filled(spec, rows, down=f"{a}, level", across=f"{b}, level")


def level_step(rows: list[dict[str, Any]]) -> int:
    """Return the size of a cell of a map of levels."""
    wide = max(len({row["x"] for row in rows}), len({row["y"] for row in rows}), 1)
    return 46 if wide <= 6 else 38 if wide <= 9 else 30


def selectivity(view: View, concept: str, bounds: tuple[float, float]) -> dict[str, Any]:
    """Return epsilon squared of the best unit over the levels, a line per modality, with the null's bound as ticks."""
    table = view.selectivity[view.selectivity["concept"] == concept]
    levels = int(view.selectivity["level"].max()) + 1
    rows: list[dict[str, Any]] = []
    for row in table.to_dict("records"):
        i = view.modalities.index(row["modality"]) if row["modality"] in view.modalities else 0
        rows.append(
            {
                "x": row["level"] + (i - (len(view.modalities) - 1) / 2) * 0.12,
                "y": row["epsilon2"] if math.isfinite(row["epsilon2"]) else None,
                "null": row["null_high"] if math.isfinite(row["null_high"]) else None,
                "m": i,
                "encoded": row["encoded"] is True,
                "Stream": f"{row['modality']}, level {row['level']:g}",
                "Tap": row["tap"],
                "Best unit": text(row["best_unit"]).removesuffix(".0"),
                "ε²": num(row["epsilon2"], 3) + (f": {row['reason']}" if row["reason"] else ""),
                "Null, upper bound": num(row["null_high"], 3),
                "Verdict": _verdict(row["encoded"] is True, row["null_high"]),
            }
        )
        if not math.isfinite(row["epsilon2"]):
            rows[-1]["Verdict"] = "not computed"
    return filled(_selectivity_spec(len(view.modalities), levels, bounds), rows)


@cache
def _selectivity_spec(modalities: int, levels: int, bounds: tuple[float, float]) -> dict[str, Any]:
    many = range(modalities)
    colours = alt.Scale(domain=list(many), range=[colour(i) for i in many])
    shapes = alt.Scale(domain=list(many), range=[shape(i) for i in many])
    ticks = alt.Axis(values=list(range(levels)), format="d", title=None, grid=False, tickSize=3)
    tooltip = ["Stream:N", "Tap:N", "Best unit:N", "ε²:N", "Null, upper bound:N", "Verdict:N"]
    x = alt.X("x:Q", axis=ticks, scale=alt.Scale(domain=[-0.4, levels - 0.6], nice=False))
    base = chart().encode(x=x, color=alt.Color("m:N", scale=colours, legend=None))
    y = alt.Y("y:Q", scale=alt.Scale(domain=list(bounds), nice=False), axis=alt.Axis(title=None, tickCount=3))
    valid = base.transform_filter("isValid(datum.y)")
    lines = valid.mark_line(strokeWidth=1.5, opacity=0.55).encode(y=y, detail="m:N")
    nulls = base.transform_filter("isValid(datum.null)").mark_tick(
        orient="horizontal", thickness=2, size=16, opacity=0.8
    )
    nulls = nulls.encode(y=alt.Y("null:Q"), tooltip=tooltip)
    edge = alt.Stroke("m:N", scale=colours, legend=None)
    filled = alt.condition("datum.encoded", alt.Fill("m:N", scale=colours, legend=None), alt.value("var(--paper)"))
    marks = alt.Shape("m:N", scale=shapes, legend=None)
    dots = chart().transform_filter("isValid(datum.y)").mark_point(size=58, strokeWidth=1.8, opacity=1)
    dots = dots.encode(x=x, y=y, fill=filled, stroke=edge, shape=marks, tooltip=tooltip)
    return spec_of((nulls + lines + dots).properties(width=178, height=104))


def removal(view: View) -> dict[str, Any]:
    """Return V(S) of every subset as bars with intervals, and beside it the drop from V(all)."""
    rows: list[dict[str, Any]] = []
    for row in view.table("removal").to_dict("records"):
        value = Estimate(number(row["value"]), number(row["low"]), number(row["high"]), text(row["reason"]))
        drop = Estimate(number(row["drop"]), number(row["drop_low"]), number(row["drop_high"]), text(row["reason"]))
        present = view.present(row["subset"])
        absent = [m for m in view.modalities if m not in present]
        whole = not absent
        rows.append(
            {
                "S": subset_name(view, row["subset"]),
                "absent": view.modalities.index(absent[0]) if len(absent) == 1 else -1,
                "n": len(present),
                "v": value.value if value.computed else None,
                "vl": value.low if value.has_interval else None,
                "vh": value.high if value.has_interval else None,
                "label": num(value.value) if value.computed else "not computed",
                "d": drop.value if drop.computed and not whole else None,
                "dl": drop.low if drop.has_interval and not whole else None,
                "dh": drop.high if drop.has_interval and not whole else None,
                "clear": drop.positive or drop.negative,
                "Present": subset_name(view, row["subset"]),
                "V(S)": reason(value),
                "Drop": "none, by definition" if whole else reason(drop),
            }
        )
    order = sorted(rows, key=lambda r: (-r["n"], -(r["v"] if r["v"] is not None else -math.inf)))
    domain = [-1, *range(len(view.modalities))]
    colours = alt.Scale(domain=domain, range=["var(--bar)", *(colour(i) for i in domain[1:])])
    base = chart().encode(
        y=alt.Y("S:N", sort=[r["S"] for r in order], title=None, axis=alt.Axis(ticks=False, domain=False)),
        color=alt.Color("absent:N", scale=colours, legend=None),
        tooltip=["Present:N", "V(S):N", "Drop:N"],
    )
    plain = alt.Axis(grid=True, tickCount=5, domain=False, ticks=False)
    bars = base.mark_bar(height={"band": 0.62}, cornerRadiusEnd=3).encode(x=alt.X("v:Q", title=view.metric, axis=plain))
    whiskers = base.transform_filter("isValid(datum.vl)").mark_rule(strokeWidth=2).encode(x="vl:Q", x2="vh:Q")
    whiskers = whiskers.encode(color=alt.value("var(--ink)"))
    reach = base.transform_calculate(end="isValid(datum.vh) ? max(datum.vh, datum.v, 0) : max(datum.v, 0)")
    values = reach.mark_text(align="left", dx=6).encode(x="end:Q", text="label:N", color=alt.value("var(--ink)"))
    height = alt.Step(30 if len(rows) <= 16 else 22)
    left = (bars + whiskers + values).properties(width=300, height=height)
    other = chart().encode(
        y=alt.Y("S:N", sort=[r["S"] for r in order], axis=None, scale=alt.Scale(domain=[r["S"] for r in order])),
        tooltip=["Present:N", "V(S):N", "Drop:N"],
        stroke=alt.Stroke("absent:N", scale=colours, legend=None),
    )
    zero = chart().mark_rule(color="var(--soft)").encode(x=alt.XDatum(0, type="quantitative"))
    spans = other.transform_filter("isValid(datum.dl)").mark_rule(strokeWidth=2.5)
    spans = spans.encode(x=alt.X("dl:Q", title=f"drop in {view.metric}", axis=plain), x2="dh:Q")
    fill = alt.condition("datum.clear", alt.Fill("absent:N", scale=colours, legend=None), alt.value("var(--paper)"))
    points = other.transform_filter("isValid(datum.d)").mark_point(size=70, strokeWidth=2, opacity=1)
    points = points.encode(x=alt.X("d:Q", title=f"drop in {view.metric}", axis=plain), fill=fill)
    right = (zero + spans + points).properties(width=230, height=height)
    return filled(spec_of(alt.hconcat(left, right, spacing=34)), order)


def subset_name(view: View, subset: object) -> str:
    """Name a subset as a reader would: "all", "without depth", "rgb alone", "none"."""
    present = view.present(subset)
    absent = [m for m in view.modalities if m not in present]
    if not present:
        return "none"
    if not absent:
        return f"all {len(present)}" if len(present) > 3 else " + ".join(present)
    if len(absent) == 1:
        return f"without {absent[0]}" + (f" ({present[0]} alone)" if len(present) == 1 else "")
    return " + ".join(present) + (" alone" if len(present) == 1 else "")
