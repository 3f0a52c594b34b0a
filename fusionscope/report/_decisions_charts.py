"""Charts of the decision instruments as Vega-Lite specifications."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import altair as alt

from fusionscope.report._charts import reason
from fusionscope.report._curves_prose import atom_name
from fusionscope.report._decisions import ATOMS, Atom, Decisions, Pair, estimate
from fusionscope.report._palette import SHAPES, colour, shape
from fusionscope.report._prose import num
from fusionscope.report._vega import beside, chart, filled, pruned, spec_of
from fusionscope.report._view import Estimate

PLAIN: dict[str, Any] = {"grid": True, "tickCount": 4, "domain": False, "ticks": False}
REDUNDANCY, SYNERGY = "var(--s5)", "var(--s9)"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def spread(e: Estimate) -> dict[str, Any]:
    """Return the fields of a dot with its interval."""
    low, high = (e.low, e.high) if e.has_interval and e.computed else (math.nan, math.nan)
    clear = e.computed and (e.positive or e.negative)
    return {"d": _finite(e.value), "low": _finite(low), "high": _finite(high), "clear": clear}


# --- dots around zero ---


@cache
def _panel_spec(marks: tuple[tuple[str, str], ...], step: int, tooltip: tuple[str, ...]) -> dict[str, Any]:
    return spec_of(_forest(marks, "datum.p === 0", 200, step, tooltip))


def _forest(
    marks: tuple[tuple[str, str], ...],
    where: str,
    width: int,
    step: int,
    tooltip: tuple[str, ...],
    reach: tuple[str, str] | None = None,
) -> Any:
    """Dots with intervals around zero, names down; ``c`` is the mark."""
    domain = list(range(len(marks)))
    colours = alt.Scale(domain=domain, range=[c for c, _ in marks])
    shapes = alt.Scale(domain=domain, range=[s for _, s in marks])
    names = alt.Axis(ticks=False, domain=False)
    y = alt.Y("y:N", title=None, sort=None, scale=alt.Scale(domain=["@order"]), axis=names)
    few: dict[str, Any] = PLAIN | {"tickCount": 3 if reach else 4}
    bound: dict[str, Any] = {"scale": alt.Scale(domain=list(reach), nice=False)} if reach else {}
    x: dict[str, Any] = {"title": "@title0", "axis": alt.Axis(**few)} | bound
    base = chart().transform_filter(where).encode(y=y, tooltip=[f"{name}:N" for name in tooltip])
    zero = chart().transform_aggregate(n="count()").mark_rule(color="var(--soft)")
    zero = zero.encode(x=alt.XDatum(0, type="quantitative"))
    stroke = alt.Stroke("c:N", scale=colours, legend=None)
    spans = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2)
    spans = spans.encode(x=alt.X("low:Q", **x), x2="high:Q", stroke=stroke)
    fill = alt.condition("datum.clear", alt.Fill("c:N", scale=colours, legend=None), alt.value("var(--paper)"))
    dots = base.transform_filter("isValid(datum.d)").mark_point(size=58, strokeWidth=1.8, opacity=1)
    dots = dots.encode(x=alt.X("d:Q", **x), fill=fill, stroke=stroke)
    dots = dots.encode(shape=alt.Shape("c:N", scale=shapes, legend=None))
    return (zero + spans + dots).properties(width=width, height=alt.Step(step))


def _filled_forest(
    spec: dict[str, Any], rows: list[dict[str, Any]], order: list[str], titles: Sequence[str]
) -> dict[str, Any]:
    kept = pruned(spec, rows)
    return filled(kept, rows, order=order, **{f"title{i}": title for i, title in enumerate(titles)})


def modality_marks(d: Decisions) -> tuple[tuple[str, str], ...]:
    """Return colour and shape of each modality, and of eight at least: one specification serves most models."""
    return tuple((colour(i), shape(i)) for i in range(max(len(d.view.modalities), 8)))


def _place(d: Decisions, modality: str) -> int:
    return d.view.modalities.index(modality) if modality in d.view.modalities else 0


# --- contribution ---


def contribution(d: Decisions) -> dict[str, Any]:
    """Return the Shapley value of each modality with its interval, a panel per metric."""
    rows: list[dict[str, Any]] = []
    shown = [m for m in d.contributing if any(e.computed for e in d.contributions(m).values())][:2]
    for panel, metric in enumerate(shown):
        for m, row in d.contribution_rows(metric).items():
            e = estimate(row, "shapley")
            share = estimate(row, "share", "share_low", "share_high")
            rows.append(
                {"y": m, "p": panel, "c": _place(d, m)}
                | spread(e)
                | {
                    "label": num(e.value) if e.computed else "not computed",
                    "end": max([v for v in (e.value, e.high, 0.0) if math.isfinite(v)]),
                    "Modality": m,
                    "Contribution": reason(e) + d.unit(metric),
                    "Share of V(all)": reason(share),
                    "Alone": num(row["alone"], 3),
                    "Last": num(row["last"], 3),
                }
            )
    order = list(dict.fromkeys(row["y"] for row in rows))
    titles = [f"contribution to {d.metric_name(m)}" + (f",{d.unit(m)}" if d.unit(m) else "") for m in shown]
    spec = pruned(beside(_bars_spec(max(len(d.view.modalities), 8)), len(shown), 40, 230), rows)
    return filled(spec, rows, order=order, **{f"title{i}": title for i, title in enumerate(titles)})


@cache
def _bars_spec(modalities: int) -> dict[str, Any]:
    many = list(range(modalities))
    colours = alt.Scale(domain=many, range=[colour(i) for i in many])
    names = alt.Axis(ticks=False, domain=False)
    y = alt.Y("y:N", title=None, sort=None, scale=alt.Scale(domain=["@order"]), axis=names)
    tooltip = [f"{n}:N" for n in ("Modality", "Contribution", "Share of V(all)", "Alone", "Last")]
    base = chart().transform_filter("datum.p === 0").encode(y=y, tooltip=tooltip)
    x = alt.X("d:Q", title="@title0", axis=alt.Axis(**PLAIN))
    bars = base.transform_filter("isValid(datum.d)").mark_bar(height={"band": 0.6}, cornerRadiusEnd=3)
    bars = bars.encode(x=x, fill=alt.Fill("c:N", scale=colours, legend=None))
    bars = bars.encode(fillOpacity=alt.condition("datum.clear", alt.value(1), alt.value(0.3)))
    whiskers = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2, color="var(--ink)")
    whiskers = whiskers.encode(x=alt.X("low:Q", title="@title0"), x2="high:Q")
    words = base.mark_text(align="left", dx=6, fill="var(--ink)")
    words = words.encode(x=alt.X("end:Q", title="@title0"), text="label:N")
    return spec_of((bars + whiskers + words).properties(width=230, height=alt.Step(30)))


def waterfall(d: Decisions, metric: str) -> dict[str, Any]:
    """Return the way from V(none) to V(all), a step per modality; empty where the steps do not lead there."""
    none, whole = d.coalition(metric, []), d.coalition(metric, d.view.modalities)
    found = d.contributions(metric)
    values = [none.value, whole.value, *(e.value for e in found.values())]
    if len(found) < 2 or not all(map(math.isfinite, values)):
        return {}
    gap = abs(none.value + sum(e.value for e in found.values()) - whole.value)
    if gap > 0.01 * max(map(abs, values)):
        return {}
    rows: list[dict[str, Any]] = [_step("V(none)", 0.0, none.value, num(none.value), reason(none), -1)]
    at = none.value
    for m, e in found.items():
        signed = num(e.value) if e.value < 0 else f"+{num(e.value)}"
        rows.append(_step(m, at, at + e.value, signed, reason(e), _place(d, m)))
        at += e.value
    rows.append(_step("V(all)", 0.0, whole.value, num(whole.value), reason(whole), -1))
    for row, after in pairwise(rows):
        row |= {"next": after["y"], "at": row["to"]}
    order = [row["y"] for row in rows]
    return filled(_waterfall_spec(max(len(d.view.modalities), 8)), rows, order=order, value=d.metric_name(metric))


def _step(name: str, start: float, to: float, label: str, said: str, c: int) -> dict[str, Any]:
    right = max(start, to)
    return {"y": name, "from": start, "to": to, "c": c, "label": label, "end": right, "Step": name, "Value": said}


@cache
def _waterfall_spec(modalities: int) -> dict[str, Any]:
    domain = list(range(-1, modalities))
    colours = alt.Scale(domain=domain, range=["var(--bar)", *(colour(i) for i in domain[1:])])
    y = alt.Y(
        "y:N", title=None, sort=None, scale=alt.Scale(domain=["@order"]), axis=alt.Axis(ticks=False, domain=False)
    )
    base = chart().encode(y=y, tooltip=["Step:N", "Value:N"])
    x = alt.X("from:Q", title="@value", axis=alt.Axis(**PLAIN))
    bars = base.mark_bar(height={"band": 0.66}, cornerRadius=2)
    bars = bars.encode(x=x, x2="to:Q", fill=alt.Fill("c:N", scale=colours, legend=None))
    links = chart().transform_filter("isValid(datum.next)").mark_rule(color="var(--soft)", strokeDash=[2, 2])
    links = links.encode(x=alt.X("at:Q", title="@value"), y=y, y2="next:N")
    words = base.mark_text(align="left", dx=6, fill="var(--ink)").encode(x=alt.X("end:Q", title="@value"))
    return spec_of((links + bars + words.encode(text="label:N")).properties(width=300, height=alt.Step(28)))


def together(d: Decisions, sets: Sequence[tuple[str, ...]], metrics: Sequence[str]) -> dict[str, Any]:
    """Return the cooperation of sets of modalities around zero, a panel per metric."""
    rows: list[dict[str, Any]] = []
    for panel, metric in enumerate(metrics):
        found = d.together("cooperation", metric)
        for names in sets:
            e = found.get(names, Estimate(math.nan, reason="not measured"))
            verdict = "cooperation" if e.positive else "redundancy" if e.negative else "inside its interval"
            said = {"Of": d.set_name(names), "Cooperation": reason(e), "Verdict": verdict if e.computed else ""}
            rows.append({"y": d.set_name(names), "p": panel, "c": 0} | spread(e) | said)
    spec = _panel_spec((("var(--ink)", "circle"),), 24, ("Of", "Cooperation", "Verdict"))
    spec = beside(spec, len(metrics), 22, 190)
    return _filled_forest(spec, rows, [d.set_name(n) for n in sets], [f"C in {d.metric_name(m)}" for m in metrics])


KINDS = {"any": "circle", "within class": "square", "across classes": "triangle-up"}


def perceptual(d: Decisions, metric: str) -> dict[str, Any]:
    """Return the perceptual scores of each modality, a row per way of permuting."""
    rows: list[dict[str, Any]] = []
    names = tuple(dict.fromkeys([*KINDS, *(kind for kinds in d.perceived(metric).values() for kind in kinds)]))
    for m, kinds in d.perceived(metric).items():
        for kind in names:
            if kind in kinds:
                said = {"Modality": m, "Permuted": kind, "Score": reason(kinds[kind])}
                rows.append({"y": f"{m}, {kind}", "p": 0, "c": _place(d, m)} | spread(kinds[kind]) | said)
    spec = beside(_panel_spec(modality_marks(d), 20, ("Modality", "Permuted", "Score")), 1, 22, 240)
    return _filled_forest(spec, rows, [row["y"] for row in rows], [f"perceptual score, {d.metric_name(metric)}"])


def classes(d: Decisions, names: Sequence[str], modalities: Sequence[str]) -> dict[str, Any]:
    """Return what the classes lose without a modality, a panel each; filled where the interval leaves out zero."""
    rows: list[dict[str, Any]] = []
    for c in names:
        for m, row in d.contribution_rows(d.class_metric, c).items():
            if m in modalities:
                e = d.on_class(row)
                verdict = "hurts" if row["hurts"] else "not shown to hurt" if e.computed else "not computed"
                said = {"Class": c, "Modality": m, "Value": reason(e), "q": num(row["q"], 3), "Verdict": verdict}
                rows.append({"y": c, "p": modalities.index(m), "c": _place(d, m)} | spread(e) | said)
    shown = [m for i, m in enumerate(modalities) if any(r["p"] == i and r["d"] is not None for r in rows)]
    tooltip = ("Class", "Modality", "Value", "q", "Verdict")
    width = {1: 420, 2: 330, 3: 230}.get(len(modalities), 190)
    spec = beside(_panel_spec(modality_marks(d), 18, tooltip), len(modalities), 22, width, same=True)
    if len(shown) < len(modalities):
        return classes(d, names, shown) if shown else {}
    return _filled_forest(
        spec,
        rows,
        list(names),
        [f"lost without {m}" if d.told_by == "last" else f"{m}: contribution" for m in modalities],
    )


# --- information ---


def atom_marks(d: Decisions, pair: Pair) -> tuple[tuple[str, str], ...]:
    """Return colour and shape of R, U_a, U_b and S: the modalities' own for what is unique to them."""
    a, b, _ = pair
    others = d.view.present(b)
    rest = (colour(_place(d, others[0])), shape(_place(d, others[0]))) if len(others) == 1 else ("var(--bar)", "cross")
    own = (colour(_place(d, a)), shape(_place(d, a)))
    free = [name for name in reversed(SHAPES) if name not in (own[1], rest[1])]
    return (REDUNDANCY, free[0]), own, rest, (SYNERGY, free[1])


MARKS = tuple((f"@c{i}", f"@s{i}") for i in range(len(ATOMS)))  # one specification for all pairs


def marked(d: Decisions, pair: Pair) -> dict[str, str]:
    """Return what takes the place of ``MARKS`` in the charts of a pair."""
    marks = enumerate(atom_marks(d, pair))
    return {name: value for i, (c, s) in marks for name, value in ((f"c{i}", c), (f"s{i}", s))}


def held(*bounds: tuple[float, float]) -> dict[str, float]:
    """Return what takes the place of the ends of scales, ``@low0`` and ``@high0`` and so on."""
    return {f"{end}{i}": of[side] for i, of in enumerate(bounds) for side, end in enumerate(("low", "high"))}


def decomposition(
    d: Decisions, pair: Pair, atoms: dict[str, Atom], bounds: tuple[float, float], reach: tuple[float, float]
) -> dict[str, Any]:
    """Return stacked bars (raw, with shuffled labels, corrected), and beside them each corrected part."""
    rows: list[dict[str, Any]] = []
    stacks = {"raw": "raw", "shuffled labels": "shuffled", "corrected": "corrected"}
    for name, field in stacks.items():
        ends = {True: 0.0, False: 0.0}
        for i, atom in enumerate(ATOMS):
            if atom not in atoms:
                continue
            found = atoms[atom]
            value = found.corrected.value if field == "corrected" else getattr(found, field)
            if not math.isfinite(value):
                continue
            start = ends[value > 0]
            ends[value > 0] = start + value
            wide = abs(value) / max(bounds[1] - bounds[0], 1e-9) > 0.14
            said = {"Part": atom_name(d, pair, atom), "Estimate": name, "Bits": num(value, 3)}
            place = {"from": start, "to": start + value, "mid": start + value / 2, "label": num(value) if wide else ""}
            rows.append({"s": name, "c": i} | place | said)
    order = []
    for i, atom in enumerate(ATOMS):
        if atom in atoms:
            found = atoms[atom]
            order.append(atom_name(d, pair, atom))
            said = {"Part": order[-1], "Estimate": "corrected", "Bits": reason(found.corrected)}
            rows.append({"y": order[-1], "p": 0, "c": i} | spread(found.corrected) | {"clear": found.clear} | said)
    spec = pruned(_decomposition_spec(), rows)
    if not any(a.corrected.computed for a in atoms.values()):
        spec["hconcat"] = spec["hconcat"][:1]
    given = marked(d, pair) | held(bounds, reach)
    return filled(spec, rows, order=order, title0="corrected, bits", **given)


@cache
def _decomposition_spec() -> dict[str, Any]:
    domain = list(range(len(MARKS)))
    colours = alt.Scale(domain=domain, range=[c for c, _ in MARKS])
    inks = alt.Scale(domain=domain, range=["var(--on-low)", "var(--paper)", "var(--paper)", "var(--on-high)"])
    y = alt.Y("s:N", title=None, sort=["raw", "shuffled labels", "corrected"], axis=alt.Axis(ticks=False, domain=False))
    x = alt.X("from:Q", title="bits", axis=alt.Axis(**PLAIN), scale=alt.Scale(domain=["@low0", "@high0"], nice=False))
    base = chart().transform_filter("isValid(datum.s)").encode(y=y, tooltip=["Part:N", "Estimate:N", "Bits:N"])
    bars = base.mark_bar(height={"band": 0.7}, stroke="var(--paper)", strokeWidth=1)
    bars = bars.encode(x=x, x2="to:Q", fill=alt.Fill("c:N", scale=colours, legend=None))
    words = base.mark_text(fontSize=10).encode(x=alt.X("mid:Q", title="bits"), text="label:N")
    words = words.encode(color=alt.Color("c:N", scale=inks, legend=None))
    left = (bars + words).resolve_scale(color="independent").properties(width=165, height=alt.Step(28))
    right = _forest(MARKS, "isValid(datum.y)", 100, 21, ("Part", "Bits"), ("@low1", "@high1"))
    return spec_of(alt.hconcat(left, right, spacing=24).resolve_scale(y="independent", fill="independent"))
