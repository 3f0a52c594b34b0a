"""What all charts share: the configuration, the script that draws them, and how a specification gets its rows."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import altair as alt
import vl_convert

from fusionscope.report._palette import STEPS
from fusionscope.report._prose import num

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--soft)",
        "titleColor": "var(--ink)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "gridColor": "var(--line)",
        "labelFontSize": 11,
        "titleFontSize": 11.5,
        "titleFontWeight": 500,
        "labelLimit": 190,
        "titleLimit": 240,
    },
    "legend": {"labelColor": "var(--soft)", "titleColor": "var(--ink)", "labelFontSize": 11, "titleFontSize": 11.5},
    "text": {"color": "var(--ink)", "fontSize": 11},
}
DIAGONAL = "M-1,1L1,-1"


@cache
def vega_bundle() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script that asks the network for nothing."""
    return (
        vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
        .replace("</script", "<\\/script")
        .replace("<!--", "<\\!--")
    )


def chart() -> Any:
    """Return a chart of named rows; Any, since altair's mark methods are typed in a way that type checkers lose."""
    return alt.Chart(alt.NamedData("rows"))


def filled(spec: dict[str, Any], rows: list[dict[str, Any]], **titles: str | float | list[Any]) -> dict[str, Any]:
    """Return a copy of a specification with its rows, and ``@name`` replaced by a title or number wherever it stands.

    A list takes the place of ``["@name"]``, such as the domain of a scale.

    Altair checks a specification at length; a page has dozens that differ in these things only.
    """
    written = json.dumps(spec)
    for name, title in titles.items():
        held = f'["@{name}"]' if isinstance(title, list) else f'"@{name}"'
        written = written.replace(held, json.dumps(title))
    return json.loads(written) | {"datasets": {"rows": rows}}


def pruned(spec: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a specification without the layers that have no value in any row: Vega would warn of infinite extents."""
    kept = dict(spec)
    for parts in ("layer", "hconcat"):
        if parts in kept:
            alive = [pruned(part, rows) for part in kept[parts] if _has_values(part, rows)]
            kept[parts] = alive or kept[parts]
    return kept


def beside(panel: dict[str, Any], count: int, spacing: int, width: int, same: bool = False) -> dict[str, Any]:
    """Return copies of a panel of layers side by side, the first with names; ``same``: on one horizontal scale.

    Panel ``p`` shows the rows that have this ``p`` and bears ``@titleP``; ``panel`` is written for ``p`` 0.
    """
    written = json.dumps({key: part for key, part in panel.items() if key != "$schema"})
    shown = []
    for p in range(count):
        part = json.loads(written.replace("datum.p === 0", f"datum.p === {p}").replace("@title0", f"@title{p}"))
        for layer in part["layer"]:
            if p and "y" in layer["encoding"]:
                layer["encoding"]["y"]["axis"] = None
        shown.append(part | {"width": width})
    scale = {"resolve": {"scale": {"x": "shared"}}} if same else {}
    return {"$schema": panel["$schema"], "hconcat": shown, "spacing": spacing} | scale


def _has_values(layer: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    places = [layer.get("encoding", {}).get(channel, {}) for channel in ("x", "y", "x2", "y2")]
    fields = [place["field"] for place in places if "field" in place]
    return all(any(row.get(field) is not None for row in rows) for field in fields)


def spec_of(chart: Any) -> dict[str, Any]:
    spec = chart.to_dict()
    spec.pop("config", None)
    return spec


@cache
def cells_spec(width: int, height: int, tooltip: tuple[str, ...], ordered: bool = False) -> dict[str, Any]:
    """Return a map of cells; rows hold ``x``, ``y``, ``step`` (of the ramp), ``label``, ``inside`` and ``computed``.

    A cell that is ``inside`` its null gets a diagonal stroke, one that is not computed a dashed outline. With
    ``ordered``, ``y`` are names in the order given as ``order``; else both axes are levels.
    """
    down = (
        alt.Y(
            "y:N", title=None, sort=None, scale=alt.Scale(domain=["@order"]), axis=alt.Axis(ticks=False, domain=False)
        )
        if ordered
        else alt.Y("y:O", title="@down", axis=alt.Axis(ticks=False, domain=False))
    )
    base = chart().encode(
        x=alt.X("x:O", title="@across", axis=alt.Axis(labelAngle=0, ticks=False, domain=False, orient="bottom")),
        y=down,
        tooltip=[f"{name}:N" for name in tooltip],
    )
    steps = alt.Scale(domain=list(range(STEPS)), range=[f"var(--s{i})" for i in range(STEPS)])
    cells = (
        base.transform_filter("datum.computed")
        .mark_rect(stroke="var(--paper)", strokeWidth=2, cornerRadius=3)
        .encode(color=alt.Color("step:N", scale=steps, legend=None))
    )
    missing = base.transform_filter("!datum.computed").mark_rect(
        fill="transparent", stroke="var(--line)", strokeDash=[3, 3]
    )
    marks = base.transform_filter("datum.inside").mark_point(
        shape=DIAGONAL, size=height * height * 0.55, stroke="var(--soft)", strokeWidth=1.2, opacity=0.8, tooltip=True
    )
    ink = alt.condition("datum.step > 5", alt.value("var(--on-high)"), alt.value("var(--on-low)"))
    labels = base.mark_text(fontSize=11 if width > 30 else 9).encode(text="label:N", color=ink)
    return spec_of((cells + missing + marks + labels).properties(width=alt.Step(width), height=alt.Step(height)))


def cell(value: float, top: float = 1.0) -> dict[str, Any]:
    """Return step, label and ``computed`` of a cell whose colour runs from 0 to ``top``."""
    if value != value:
        return {"step": None, "label": "–", "computed": False}
    written = num(value, 1) if abs(value) >= 0.995 else num(value).replace("0.", ".", 1)
    return {"step": min(max(int(value / top * STEPS), 0), STEPS - 1), "label": written, "computed": True}
