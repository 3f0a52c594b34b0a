"""Charts along severities and along levels: lines with bands, a panel per measure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import altair as alt

from fusionscope.report._charts import reason
from fusionscope.report._curves_prose import atom_name
from fusionscope.report._decisions import ATOMS, Decisions, Pair
from fusionscope.report._decisions_charts import MARKS, held, marked, spread
from fusionscope.report._palette import SHAPES, colour
from fusionscope.report._vega import chart, filled, pruned, spec_of

DASHES = ([1, 0], [5, 3], [2, 2])


def levels(d: Decisions, pair: Pair, about: str, reach: tuple[float, float]) -> dict[str, Any]:
    """Return each corrected part along the levels, a line per part, with its interval as a band."""
    rows = []
    for level, atoms in d.decompositions[pair][about].items():
        for i, atom in enumerate(ATOMS):
            if atom in atoms:
                found = atoms[atom]
                name = atom_name(d, pair, atom)
                said = {
                    "Of": name,
                    "At": "inputs" if level < 0 else f"level {level:g}",
                    "Value": reason(found.corrected),
                }
                rows.append({"x": level, "p": 0, "c": i} | spread(found.corrected) | {"clear": found.clear} | said)
    spec = pruned(_curves_spec(MARKS, ("@title",), "level", 290, _dotted(rows)), rows)
    return filled(spec, rows, title=f"bits about the {about}", **marked(d, pair), **held(reach))


def curve_marks(d: Decisions, modality: str) -> dict[str, tuple[str, str]]:
    """Return colour and shape of each corruption of a modality."""
    names = list(d.curves[modality])
    return dict(zip(names, _marks(len(names)), strict=False))


def _marks(count: int) -> tuple[tuple[str, str], ...]:
    """Return marks for ``count`` lines, and for eight at least; past eight colour and shape pair anew."""
    return tuple((colour(i), SHAPES[(i + i // len(SHAPES)) % len(SHAPES)]) for i in range(max(count, len(SHAPES))))


def curves(d: Decisions, modality: str, bounds: tuple[tuple[float, float], ...]) -> dict[str, Any]:
    """Return the curves of one modality, a line per corruption, and beside them ECE."""
    rows: list[dict[str, Any]] = []
    for i, (name, points) in enumerate(d.curves[modality].items()):
        broken = d.miscalibrated(points)
        measured = any(p.ece.computed for p in points)
        for p in points:
            common = {"x": p.severity, "c": i, "Of": name, "At": f"severity {p.severity:g}"}
            clear = p.drop.positive or p.drop.negative
            said = f"{reason(p.value)}, drop {reason(p.drop)}" if p.severity else f"{reason(p.value)}, clean"
            rows.append(common | {"p": 0} | spread(p.value) | {"clear": clear, "Value": said})
            if measured:
                worse = p.severity in broken
                rows.append(common | {"p": 1} | spread(p.ece) | {"clear": worse, "Value": f"ECE {reason(p.ece)}"})
    floors: dict[float, float] = {}
    for p in (p for points in d.curves[modality].values() for p in points if math.isfinite(p.floor)):
        floors[p.severity] = max(p.floor, floors.get(p.severity, 0.0))
    rows += [{"x": severity, "p": 2, "chance": floor} for severity, floor in floors.items()]
    titles = (d.metric_name(d.robust_metric), "ECE")[: 1 + any(row["p"] == 1 for row in rows)]
    spec = _curves_spec(_marks(len(d.curves[modality])), titles, "severity", 330, _dotted(rows))
    return filled(pruned(spec, rows), rows, **held(*bounds))


def _dotted(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether the points of a curve are few enough for marks of the usual size."""
    return len({row["x"] for row in rows}) <= 12


@cache
def _curves_spec(
    marks: tuple[tuple[str, str], ...],
    titles: tuple[str, ...],
    across: str,
    width: int,
    dotted: bool,
) -> dict[str, Any]:
    domain = list(range(len(marks)))
    colours = alt.Scale(domain=domain, range=[c for c, _ in marks])
    shapes = alt.Scale(domain=domain, range=[s for _, s in marks])
    dashes = alt.Scale(domain=domain, range=[DASHES[i // len(SHAPES) % 3] for i in domain])
    axis = alt.Axis(grid=False, tickMinStep=1, tickCount=6, labelExpr="datum.value < 0 ? 'inputs' : datum.label")
    x = alt.X("x:Q", title=across, axis=axis, scale=alt.Scale(nice=False, padding=10))
    panels = []
    for p, title in enumerate(titles):
        y: dict[str, Any] = {
            "title": title,
            "scale": alt.Scale(domain=[f"@low{p}", f"@high{p}"], nice=False),
            "axis": alt.Axis(tickCount=5, domain=False, ticks=False),
        }
        base = chart().transform_filter(f"datum.p === {p}").encode(x=x, detail="c:N")
        band = base.mark_area(opacity=0.08, invalid="break-paths-filter-domains")
        band = band.encode(y=alt.Y("low:Q", **y), y2="high:Q", fill=alt.Fill("c:N", scale=colours, legend=None))
        lines = base.mark_line(strokeWidth=1.6, opacity=0.85, invalid="break-paths-filter-domains").encode(
            y=alt.Y("d:Q", **y)
        )
        lines = lines.encode(color=alt.Color("c:N", scale=colours, legend=None))
        lines = lines.encode(strokeDash=alt.StrokeDash("c:N", scale=dashes, legend=None))
        fill = alt.condition("datum.clear", alt.Fill("c:N", scale=colours, legend=None), alt.value("var(--paper)"))
        dots = (
            base.transform_filter("isValid(datum.d)")
            .mark_point(size=42 if dotted else 12, strokeWidth=1.5 if dotted else 0.8, opacity=1)
            .encode(y=alt.Y("d:Q", **y), fill=fill)
        )
        dots = dots.encode(
            stroke=alt.Stroke("c:N", scale=colours, legend=None), shape=alt.Shape("c:N", scale=shapes, legend=None)
        )
        dots = dots.encode(tooltip=["Of:N", "At:N", "Value:N"])
        chance = chart().transform_filter("datum.p === 2").mark_line(strokeWidth=1, strokeDash=[4, 3])
        chance = chance.encode(x=x, y=alt.Y("chance:Q", **y), color=alt.value("var(--soft)"))
        panels.append(
            ((band + chance + lines if p else band + lines) + dots).properties(
                width=width if p == 0 else width * 2 // 3, height=180
            )
        )
    return spec_of(alt.hconcat(*panels, spacing=34))
