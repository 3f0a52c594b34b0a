"""Charts along a stream, along training, and of features and semantics together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import altair as alt

from fusionscope.report._charts import reason
from fusionscope.report._palette import SHAPES, STEPS, colour, shape
from fusionscope.report._prose import num
from fusionscope.report._semantics import Semantics, numeral
from fusionscope.report._semantics_prose import quadrant
from fusionscope.report._vega import chart, filled, pruned, spec_of

# --- along a stream, and along training ---


def steps(s: Semantics) -> dict[str, Any]:
    """Return, per step from one level to the next, the semantic variance with its floor, and beside it the CKA."""
    rows: list[dict[str, Any]] = []
    places: list[str] = []
    for i, m in enumerate(s.view.modalities):
        for v in s.steps(m):
            step = f"{numeral(v.b)} → {numeral(v.a)}"
            if step not in places:
                places.append(step)
            common = {"m": i, "x": places.index(step) + (i - (len(s.view.modalities) - 1) / 2) * 0.2, "Stream": m}
            common |= {"Step": step, "clear": v.told_apart}
            value: dict[str, Any] = {"y": v.sv.value, "low": v.sv.low, "high": v.sv.high, "floor": v.floor, "panel": 0}
            value |= {"Value": f"semantic variance {reason(v.sv)}", "Floor": num(v.floor, 3)}
            alike: dict[str, Any] = {
                "y": v.similarity,
                "panel": 1,
                "clear": True,
                "Value": f"CKA {num(v.similarity, 3)}",
                "Floor": "",
            }
            rows += [common | _finite(value), common | _finite(alike)]
    spec = _steps_spec(len(s.view.modalities), len(places), _panels(rows))
    written = filled(pruned(spec, rows), rows)
    for panel in written["hconcat"]:
        for layer in panel["layer"]:
            axis = layer["encoding"]["x"]["axis"]
            axis["labelExpr"] = f"{_js(places)}[datum.value]"
    return written


def _panels(rows: list[dict[str, Any]]) -> tuple[int, ...]:
    """Return the panels that have a value."""
    return tuple(sorted({row["panel"] for row in rows if row["y"] is not None}))


def _js(names: list[str]) -> str:
    """Write labels that hold only digits, arrows and spaces as a Vega expression."""
    return "[" + ",".join(f"'{name}'" for name in names) + "]"


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


@cache
def _steps_spec(modalities: int, places: int, shown: tuple[int, ...]) -> dict[str, Any]:
    many = list(range(modalities))
    colours = alt.Scale(domain=many, range=[colour(i) for i in many])
    shapes = alt.Scale(domain=many, range=[shape(i) for i in many])
    axis = alt.Axis(values=list(range(places)), title="step between levels", grid=False, labelAngle=0, tickSize=3)
    x = alt.X("x:Q", axis=axis, scale=alt.Scale(domain=[-0.5, places - 0.5], nice=False))
    tooltip = ["Stream:N", "Step:N", "Value:N", "Floor:N"]
    colours_of = alt.Color("m:N", scale=colours, legend=None)
    panels = []
    for panel in shown:
        title = ("semantic variance", "CKA")[panel]
        y = alt.Y("y:Q", title=title, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=4, domain=False, ticks=False))
        base = chart().transform_filter(f"datum.panel === {panel}").encode(x=x, color=colours_of, tooltip=tooltip)
        valid = base.transform_filter("isValid(datum.y)")
        lines = valid.mark_line(strokeWidth=1.5, opacity=0.5).encode(y=y, detail="m:N")
        spans = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2).encode(y="low:Q", y2="high:Q")
        floors = base.transform_filter("isValid(datum.floor)").mark_tick(orient="horizontal", thickness=2, size=14)
        fill = alt.condition("datum.clear", alt.Fill("m:N", scale=colours, legend=None), alt.value("var(--paper)"))
        dots = chart().transform_filter(f"datum.panel === {panel} && isValid(datum.y)")
        dots = dots.mark_point(size=60, strokeWidth=1.8, opacity=1).encode(
            x=x, y=y, fill=fill, stroke=alt.Stroke("m:N", scale=colours, legend=None), tooltip=tooltip
        )
        dots = dots.encode(shape=alt.Shape("m:N", scale=shapes, legend=None))
        layers = [lines, spans, floors.encode(y="floor:Q"), dots] if panel == 0 else [lines, dots]
        panels.append(alt.layer(*layers).properties(width=max(150, 62 * places), height=130))
    return spec_of(alt.hconcat(*panels, spacing=34))


def training(s: Semantics, modality: str) -> dict[str, Any]:
    """Return how far each checkpoint of one stream is from the final state, a line per level, over epochs."""
    rows: list[dict[str, Any]] = []
    by_level = s.training[modality]
    for i, (level, epochs) in enumerate(by_level.items()):
        for epoch, v in epochs.items():
            common = {"x": epoch, "n": i, "level": numeral(level), "Level": numeral(level), "Epoch": f"{epoch:g}"}
            sv: dict[str, Any] = {
                "y": v.sv.value,
                "panel": 0,
                "clear": v.told_apart,
                "Value": f"semantic variance {reason(v.sv)}",
            }
            alike: dict[str, Any] = {
                "y": v.similarity,
                "panel": 1,
                "clear": True,
                "Value": f"CKA {num(v.similarity, 3)}",
            }
            rows += [common | _finite(sv), common | _finite(alike)]
    return filled(_training_spec(tuple(level_marks(list(by_level))), _panels(rows)), rows)


def level_marks(levels: Sequence[float]) -> list[tuple[str, str, str]]:
    """Return name, colour and shape of each level, from light to dark."""
    spread = [4 + round(i * (STEPS - 5) / max(len(levels) - 1, 1)) for i in range(len(levels))]
    named = zip(levels, spread, strict=True)
    return [(numeral(level), f"var(--s{place})", SHAPES[i % len(SHAPES)]) for i, (level, place) in enumerate(named)]


@cache
def _training_spec(marks: tuple[tuple[str, str, str], ...], shown: tuple[int, ...]) -> dict[str, Any]:
    names = [name for name, _, _ in marks]
    colours = alt.Scale(domain=names, range=[c for _, c, _ in marks])
    shapes = alt.Scale(domain=names, range=[glyph for _, _, glyph in marks])
    panels = []
    for panel in shown:
        title = ("semantic variance to the final", "CKA with the final")[panel]
        axis = alt.Axis(grid=False, tickMinStep=1, tickCount=5)
        x = alt.X("x:Q", title="epoch", axis=axis, scale=alt.Scale(nice=False, padding=8))
        y = alt.Y("y:Q", title=title, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=4, domain=False, ticks=False))
        base = chart().transform_filter(f"datum.panel === {panel} && isValid(datum.y)").encode(x=x, y=y)
        lines = base.mark_line(strokeWidth=1.5, opacity=0.7)
        lines = lines.encode(color=alt.Color("level:N", scale=colours, sort=None, legend=None), detail="level:N")
        fill = alt.condition(
            "datum.clear", alt.Fill("level:N", scale=colours, sort=None, legend=None), alt.value("var(--paper)")
        )
        dots = base.mark_point(size=50, strokeWidth=1.6, opacity=1).encode(
            fill=fill,
            stroke=alt.Stroke("level:N", scale=colours, sort=None, legend=None),
            shape=alt.Shape("level:N", scale=shapes, sort=None, legend=None),
            tooltip=["Level:N", "Epoch:N", "Value:N"],
        )
        panels.append((lines + dots).properties(width=250, height=130))
    return spec_of(alt.hconcat(*panels, spacing=34))


# --- joint picture ---


def joint(s: Semantics) -> dict[str, Any]:
    """Return the scatter of CKA and 1 - ν of modalities at equal levels; empty where nothing has both."""
    rows: list[dict[str, Any]] = []
    for i, (a, b) in enumerate(s.pairs):
        for v in s.matched(a, b):
            if not (math.isfinite(v.similarity) and math.isfinite(v.ratio)):
                continue
            rows.append(
                {
                    "x": v.similarity,
                    "y": 1 - v.ratio,
                    "p": i,
                    "label": v.at,
                    "clear": v.told_apart,
                    "Pair": f"{a} and {b}, level {v.at}",
                    "CKA": num(v.similarity, 3),
                    "1 − ν": num(1 - v.ratio, 3),
                    "Consistency": num(v.row["consistency"], 3),
                    "Speciality": num(v.row["speciality"], 3),
                    "Quadrant": quadrant(v),
                    "Floor": "clear of it" if v.told_apart else "semantic variance not clear of its floor",
                }
            )
    if not rows:
        return {}
    low = tuple(math.floor(min(0.0, *(row[axis] for row in rows)) * 10) / 10 - BORDER for axis in "xy")
    corners = [
        {"tx": low[0], "ty": 1 + BORDER, "name": "same semantics", "more": "from different features"},
        {"tx": 1 + BORDER, "ty": 1 + BORDER, "name": "same features,", "more": "same semantics"},
        {"tx": low[0], "ty": low[1], "name": "", "more": "fully special"},
        {"tx": 1 + BORDER, "ty": low[1], "name": "similar geometry,", "more": "different semantics"},
    ]
    return filled(_joint_spec(len(s.pairs), low), rows + corners)


BORDER = 0.14  # room for the quadrants' names


@cache
def _joint_spec(pairs: int, low: tuple[float, float]) -> dict[str, Any]:
    many = list(range(pairs))
    scale, upright = (alt.Scale(domain=[end, 1 + BORDER], nice=False) for end in low)
    values = [[v / 2 for v in range(math.ceil((end + BORDER - 1e-9) * 2), 3)] for end in low]
    plain, up = (alt.Axis(values=v, grid=False, domain=False, ticks=False) for v in values)
    across, down = "CKA: more alike in features →", "1 − ν: more alike in semantics →"
    x = alt.X("x:Q", title=across, scale=scale, axis=plain)
    y = alt.Y("y:Q", title=down, scale=upright, axis=up)
    points = chart().transform_filter("isValid(datum.x)").encode(x=x, y=y)
    half = chart().mark_rule(color="var(--soft)", strokeDash=[4, 4])
    layers = [half.encode(x=alt.XDatum(0.5, type="quantitative")), half.encode(y=alt.YDatum(0.5, type="quantitative"))]
    words = (
        chart()
        .transform_filter("isValid(datum.tx)")
        .encode(
            x=alt.X("tx:Q", title=across, scale=scale, axis=plain), y=alt.Y("ty:Q", title=down, scale=upright, axis=up)
        )
    )
    for side, sign in (("left", 1), ("right", -1)):
        for top in (True, False):
            corner = f"datum.tx {'<' if side == 'left' else '>'} 0.5 && datum.ty {'>' if top else '<'} 0.5"
            of = words.transform_filter(corner)
            for line, name in enumerate(("name", "more")):
                dy = 10 + 14 * line if top else -22 + 14 * line
                mark = of.mark_text(align=side, dx=6 * sign, dy=dy, fill="var(--soft)", fontSize=10.5)
                layers.append(mark.encode(text=f"{name}:N"))
    shapes = alt.Scale(domain=many, range=[SHAPES[i % len(SHAPES)] for i in many])
    path = points.mark_line(strokeWidth=1, opacity=0.35).encode(
        detail="p:N", order="label:Q", color=alt.value("var(--ink)")
    )
    fill = alt.condition("datum.clear", alt.value("var(--ink)"), alt.value("var(--paper)"))
    tooltip = [f"{n}:N" for n in ("Pair", "CKA", "1 − ν", "Consistency", "Speciality", "Quadrant", "Floor")]
    dots = points.mark_point(size=75, strokeWidth=1.8, opacity=1).encode(
        fill=fill,
        stroke=alt.value("var(--ink)"),
        shape=alt.Shape("p:N", scale=shapes, legend=None),
        tooltip=tooltip,
    )
    names = points.mark_text(dx=11, dy=-8, fontSize=11).encode(text="label:N")
    frame = alt.layer(*layers, path, dots, names).properties(width=310, height=310)
    return spec_of(frame.properties(view={"stroke": "var(--line)"}))
