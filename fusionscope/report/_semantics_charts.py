"""Charts of concepts and semantic variance as Vega-Lite specifications."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import altair as alt

from fusionscope.report._charts import level_step, reason
from fusionscope.report._palette import SHAPES, STEPS, colour, shape
from fusionscope.report._prose import num
from fusionscope.report._semantics import Row, Semantics, estimate, numeral, place
from fusionscope.report._semantics_prose import quadrant
from fusionscope.report._vega import cell, cells_spec, chart, filled, spec_of

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


def variance(s: Semantics, a: str, b: str, top: float) -> dict[str, Any]:
    """Return the map of semantic variance, levels of ``a`` down, levels of ``b`` across, coloured from 0 to ``top``."""
    rows: list[dict[str, Any]] = []
    for v in s.variances[a, b]:
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
    spec = _zero_spec(len(s.view.modalities), 20, 300, ("Concept", "Difference", "Verdict"))
    return filled(spec, rows, order=[row["y"] for row in rows], across=title)


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
    return filled(_pressure_spec(), rows, order=order, across="joint − solo", value=title)


def pressure_on_concepts(s: Semantics, given: Sequence[Row]) -> dict[str, Any]:
    """Return the difference of joint and solo |d|, a row per concept."""
    rows = _pressures(given, "concept")
    spec = _zero_spec(len(s.view.modalities), 20, 300, PRESSURE)
    return filled(spec, rows, order=[row["y"] for row in rows], across="|d|: joint − solo")


@cache
def _pressure_spec() -> dict[str, Any]:
    y = alt.Y(
        "y:N", title=None, sort=None, scale=alt.Scale(domain=["@order"]), axis=alt.Axis(ticks=False, domain=False)
    )
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
    right = _zero_chart(1, 24, 190, PRESSURE, labels=False)
    return spec_of(alt.hconcat(left, right, spacing=26))


@cache
def _zero_spec(modalities: int, height: int, width: int, tooltip: tuple[str, ...]) -> dict[str, Any]:
    return spec_of(_zero_chart(modalities, height, width, tooltip))


def _zero_chart(modalities: int, height: int, width: int, tooltip: tuple[str, ...], labels: bool = True) -> Any:
    """Dots with limits around a zero line; a filled dot is clear of zero, ``m`` its colour (-1: ink)."""
    domain = list(range(-1, modalities))
    colours = alt.Scale(domain=domain, range=["var(--ink)", *(colour(i) for i in domain[1:])])
    names = alt.Axis(ticks=False, domain=False) if labels else None
    y = alt.Y("y:N", title=None, sort=None, scale=alt.Scale(domain=["@order"]), axis=names)
    axis = alt.Axis(grid=True, tickCount=5, domain=False, ticks=False)
    base = chart().encode(y=y, tooltip=[f"{name}:N" for name in tooltip])
    zero = chart().mark_rule(color="var(--soft)").encode(x=alt.XDatum(0, type="quantitative"))
    dim = alt.condition("datum.clear", alt.value(1), alt.value(0.5))
    stroke = alt.Stroke("m:N", scale=colours, legend=None)
    limits = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2)
    limits = limits.encode(x=alt.X("low:Q", title="@across", axis=axis), x2="high:Q", stroke=stroke, opacity=dim)
    fill = alt.condition("datum.clear", alt.Fill("m:N", scale=colours, legend=None), alt.value("var(--paper)"))
    dots = base.transform_filter("isValid(datum.d)").mark_point(size=60, strokeWidth=1.8, opacity=1)
    dots = dots.encode(x=alt.X("d:Q", title="@across", axis=axis), fill=fill, stroke=stroke)
    return (zero + limits + dots).properties(width=width, height=alt.Step(height))


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
    spec = _steps_spec(len(s.view.modalities), len(places))
    written = filled(spec, rows)
    for panel in written["hconcat"]:
        for layer in panel["layer"]:
            axis = layer["encoding"]["x"]["axis"]
            axis["labelExpr"] = f"{_js(places)}[datum.value]"
    return written


def _js(names: list[str]) -> str:
    """Write labels that hold only digits, arrows and spaces as a Vega expression."""
    return "[" + ",".join(f"'{name}'" for name in names) + "]"


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


@cache
def _steps_spec(modalities: int, places: int) -> dict[str, Any]:
    many = list(range(modalities))
    colours = alt.Scale(domain=many, range=[colour(i) for i in many])
    shapes = alt.Scale(domain=many, range=[shape(i) for i in many])
    axis = alt.Axis(values=list(range(places)), title="step between levels", grid=False, labelAngle=0, tickSize=3)
    x = alt.X("x:Q", axis=axis, scale=alt.Scale(domain=[-0.5, places - 0.5], nice=False))
    tooltip = ["Stream:N", "Step:N", "Value:N", "Floor:N"]
    colours_of = alt.Color("m:N", scale=colours, legend=None)
    panels = []
    for panel, title in ((0, "semantic variance"), (1, "CKA")):
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
    return filled(_training_spec(tuple(level_marks(list(by_level)))), rows)


def level_marks(levels: Sequence[float]) -> list[tuple[str, str, str]]:
    """Return name, colour and shape of each level, from light to dark."""
    spread = [4 + round(i * (STEPS - 5) / max(len(levels) - 1, 1)) for i in range(len(levels))]
    named = zip(levels, spread, strict=True)
    return [(numeral(level), f"var(--s{place})", SHAPES[i % len(SHAPES)]) for i, (level, place) in enumerate(named)]


@cache
def _training_spec(marks: tuple[tuple[str, str, str], ...]) -> dict[str, Any]:
    names = [name for name, _, _ in marks]
    colours = alt.Scale(domain=names, range=[c for _, c, _ in marks])
    shapes = alt.Scale(domain=names, range=[glyph for _, _, glyph in marks])
    panels = []
    for panel, title in ((0, "semantic variance to the final"), (1, "CKA with the final")):
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
                    "label": numeral(v.a),
                    "clear": v.told_apart,
                    "Pair": f"{a} and {b}, level {numeral(v.a)}",
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
        {"tx": 1 + BORDER, "ty": low[1], "name": "similar geometry,", "more": "different readable semantics"},
    ]
    return filled(_joint_spec(len(s.pairs), low), rows + corners)


BORDER = 0.14  # room for the quadrants' names


@cache
def _joint_spec(pairs: int, low: tuple[float, float]) -> dict[str, Any]:
    many = list(range(pairs))
    scale, upright = (alt.Scale(domain=[end, 1 + BORDER], nice=False) for end in low)
    values = [[v / 4 for v in range(math.ceil((end + BORDER - 1e-9) * 4), 5)] for end in low]
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
            of = words.transform_filter(
                f"datum.tx {'<' if side == 'left' else '>'} 0.5 && datum.ty {'>' if top else '<'} 0.5"
            )
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
    frame = alt.layer(*layers, path, dots, names).properties(width=380, height=380)
    return spec_of(frame.properties(view={"stroke": "var(--line)"}))


def at(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return rows by the level (or levels) they are about, in order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(place(row), []).append(row)
    return found
