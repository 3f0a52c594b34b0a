"""Charts of a comparison: scores by condition with every seed, paired differences, curves over severity."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import vl_convert

from fusionscope.report._compare_names import condition_name, metric_name, records
from fusionscope.report._compare_view import ComparisonLike
from fusionscope.report._palette import colour, resolved, shape
from fusionscope.report._vega import CONFIG, chart, filled, spec_of

FONT = "Arial, Helvetica, sans-serif"  # what converters measure must be what viewers have
ROW, GAP, WIDTH, SMALL = 15, 12, 430, 190
SCALE = 2.0
PLAIN: dict[str, Any] = {"grid": True, "tickCount": 5, "labelFlush": False, "domain": False, "ticks": False}


def charts(found: ComparisonLike) -> dict[str, dict[str, Any]]:
    """Return the specifications by the names of their files; without rows there is no chart."""
    made = {"scores": _scores(found), "differences": _differences(found), "robustness": _robustness(found)}
    return {name: spec for name, spec in made.items() if spec}


def rendered(spec: dict[str, Any], kind: str) -> bytes:
    """Return a chart as the bytes of an "svg", "png" or "pdf" file, in the light colours."""
    config = CONFIG | {"background": "#ffffff", "font": FONT}
    whole = json.loads(resolved(json.dumps(spec | {"config": config, "padding": 12})))
    if kind == "svg":
        return vl_convert.vegalite_to_svg(whole).encode()
    if kind == "png":
        return vl_convert.vegalite_to_png(whole, scale=SCALE)
    return vl_convert.vegalite_to_pdf(whole)


def _scores(found: ComparisonLike) -> dict[str, Any]:
    """Every seed as a dot, the mean with its interval; conditions down, variants within."""
    panels, rows = [], []
    for p, data in enumerate(found.data):
        means = found.means[found.means["data"] == data]
        order = _order(means)
        for row in records(means):
            place = {"p": p, "C": condition_name(row.condition, row.modality), "V": row.variant}
            rows.append(place | {"mean": _plain(row.mean), "low": _plain(row.low), "high": _plain(row.high)})
        for row in records(found.conditions[found.conditions["data"] == data]):
            place = {"p": p, "C": condition_name(row.condition, row.modality), "V": row.variant}
            rows.append(place | {"seed": _plain(row.value)})
        base = chart().transform_filter(f"datum.p === {p}").encode(**_down(order, found.variants))
        x = alt.X("seed:Q", title=metric_name(found, data), scale=alt.Scale(zero=False), axis=alt.Axis(**PLAIN))
        dots = base.transform_filter("isValid(datum.seed)").mark_circle(size=16, opacity=0.4).encode(x=x)
        dots = dots.encode(color=_colours(found.variants))
        whiskers = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=1.8)
        whiskers = whiskers.encode(x="low:Q", x2="high:Q", color=_colours(found.variants))
        middle = base.transform_filter("isValid(datum.mean)").mark_point(size=52, filled=True, opacity=1)
        middle = middle.encode(x="mean:Q", color=_colours(found.variants), shape=_shapes(found.variants))
        told = f"dots: seeds; marks: means with {_level(found)} intervals"
        panels.append(_panel(dots + whiskers + middle, _title(data, told), len(order), len(found.variants)))
    return _stacked(panels, rows)


def _differences(found: ComparisonLike) -> dict[str, Any]:
    """Paired differences from the baseline with intervals against zero; filled where one is shown."""
    panels, rows = [], []
    variants = [v for v in found.variants if v != found.baseline]
    for p, data in enumerate(found.data):
        table = found.differences[found.differences["data"] == data]
        order = _order(table)
        if not len(table):
            continue
        for row in records(table):
            place = {"p": p, "C": condition_name(row.condition, row.modality), "V": row.variant}
            numbers = {"d": _plain(row.difference), "low": _plain(row.low), "high": _plain(row.high)}
            rows.append(place | numbers | {"shown": row.verdict != "not shown"})
        title = f"difference in {metric_name(found, data)} from {found.baseline}"
        base = chart().transform_filter(f"datum.p === {p}").encode(**_down(order, variants))
        x = alt.X("d:Q", title=title, axis=alt.Axis(**PLAIN))
        zero = (
            chart()
            .transform_aggregate(n="count()")
            .mark_rule(color="var(--soft)", strokeWidth=1.2)
            .encode(x=alt.XDatum(0, type="quantitative"))
        )
        spans = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=1.8)
        spans = spans.encode(x="low:Q", x2="high:Q", color=_colours(found.variants, variants))
        points = base.transform_filter("isValid(datum.d)").mark_point(size=58, strokeWidth=1.8, opacity=1)
        edge = alt.Stroke("V:N", scale=_scale(found.variants, colour, variants), legend=None)
        inside = alt.condition(
            "datum.shown",
            alt.Fill("V:N", scale=_scale(found.variants, colour, variants), legend=None),
            alt.value("#ffffff"),
        )
        points = points.encode(x=x, stroke=edge, fill=inside, shape=_shapes(found.variants, variants))
        told = f"{_level(found)} intervals; filled: shown after correction for all comparisons; hollow: not shown"
        panels.append(_panel(zero + spans + points, _title(data, told), len(order), len(variants)))
    return _stacked(panels, rows)


def _robustness(found: ComparisonLike) -> dict[str, Any]:
    """The score over severity, a panel per data set and modality; every seed as a dot, a line through the means."""
    rows: list[dict[str, Any]] = []
    lines = []
    for data in found.data:
        here = found.curves[found.curves["data"] == data]
        panels = []
        for modality in dict.fromkeys(here["modality"]):
            p = len(lines) * 100 + len(panels)
            mine = here[here["modality"] == modality]
            for row in records(mine):
                aside = 0.08 * (found.variants.index(row.variant) - (len(found.variants) - 1) / 2)
                rows.append({"p": p, "V": row.variant, "x": row.severity + aside, "seed": _plain(row.value)})
            for (variant, severity), value in mine.groupby(["variant", "severity"], sort=False)["value"].mean().items():
                rows.append({"p": p, "V": variant, "x": severity, "mean": _plain(value)})
            title = f"{data}: {modality + ' corrupted' if modality else 'mean over modalities'}"
            if modality == "" and len(set(here["modality"])) == 1:
                title = f"{data}: corrupted"
            panels.append(_curves(found, data, p, title, first=not panels))
        if panels:
            same = alt.hconcat(*panels, spacing=26).resolve_scale(y="shared")
            lines.append(same)
    return _stacked(lines, rows)


def _curves(found: ComparisonLike, data: str, p: int, title: str, first: bool) -> Any:
    base = chart().transform_filter(f"datum.p === {p}")
    ticks = alt.Axis(values=[0, 1, 2, 3, 4, 5], format="d", grid=False)
    x = alt.X("x:Q", title="severity", axis=ticks, scale=alt.Scale(domain=[-0.2, 5.2], nice=False))
    y = alt.Y("mean:Q", title=metric_name(found, data) if first else None, scale=alt.Scale(zero=False))
    y = y.axis(alt.Axis(tickCount=5, domain=False, ticks=False))
    dots = base.transform_filter("isValid(datum.seed)").mark_circle(size=14, opacity=0.35)
    dots = dots.encode(x=x, y=alt.Y("seed:Q"), color=_colours(found.variants))
    means = base.transform_filter("isValid(datum.mean)")
    path = means.mark_line(strokeWidth=1.8).encode(x=x, y=y, color=_colours(found.variants))
    marks = means.mark_point(size=44, filled=True, opacity=1).encode(x=x, y=y, color=_colours(found.variants))
    marks = marks.encode(shape=_shapes(found.variants))
    return (dots + path + marks).properties(width=SMALL, height=150, title=_title(title))


def _order(table: Any) -> list[str]:
    return list(dict.fromkeys(condition_name(r.condition, r.modality) for r in records(table)))


def _down(order: Sequence[str], variants: Sequence[str]) -> dict[str, Any]:
    axis = alt.Axis(ticks=False, domain=False, labelPadding=8, grid=False)
    scale = alt.Scale(domain=list(order), paddingInner=GAP / (GAP + ROW * len(variants)), paddingOuter=0.1)
    return {
        "y": alt.Y("C:N", title=None, sort=None, axis=axis, scale=scale),
        "yOffset": alt.YOffset("V:N", sort=None, scale=alt.Scale(domain=list(variants), paddingOuter=0.2)),
    }


def _panel(layers: Any, title: Any, conditions: int, variants: int) -> Any:
    return layers.properties(width=WIDTH, height=conditions * (variants * ROW + GAP), title=title)


def _title(text: str, below: str = "") -> Any:
    more: dict[str, Any] = {"subtitle": below, "subtitleFontSize": 11, "subtitleColor": "var(--soft)"} if below else {}
    return alt.TitleParams(text, **more, anchor="start", fontSize=12.5, fontWeight=600, color="var(--ink)", offset=10)


def _scale(variants: Sequence[str], look: Any, shown: Sequence[str] | None = None) -> Any:
    shown = list(variants if shown is None else shown)
    return alt.Scale(domain=shown, range=[look(list(variants).index(v)) for v in shown])


def _legend() -> Any:
    return alt.Legend(orient="top", title=None, columns=6, symbolSize=60, symbolOpacity=1, labelLimit=220)


def _colours(variants: Sequence[str], shown: Sequence[str] | None = None) -> Any:
    return alt.Color("V:N", scale=_scale(variants, colour, shown), legend=_legend())


def _shapes(variants: Sequence[str], shown: Sequence[str] | None = None) -> Any:
    return alt.Shape("V:N", scale=_scale(variants, shape, shown), legend=_legend())


def _stacked(panels: Sequence[Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    if not panels:
        return {}
    whole = alt.vconcat(*panels, spacing=28).resolve_scale(color="shared", shape="shared")
    return filled(spec_of(whole), rows)


def _level(found: ComparisonLike) -> str:
    return f"{100 * (1 - found.alpha):g} %"


def _plain(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
