"""The sections of the decision instruments: which there are, and the charts of each."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from fusionscope.report import _curves_charts
from fusionscope.report import _decisions_charts as charts_of
from fusionscope.report._curves_prose import atom_name, doubted, pair_name, where
from fusionscope.report._decisions import ATOMS, Atom, Decisions
from fusionscope.report._palette import GLYPHS
from fusionscope.report._prose import listing
from fusionscope.report._view import Estimate

Charts = dict[str, dict[str, Any]]
CLASSES_DRAWN, SETS_DRAWN, PAIRS_OPEN, PAIRS_DRAWN, PANELS, CURVES_OPEN = 24, 10, 3, 12, 4, 4

TITLES = {
    "contribution": ("Contribution", "What each modality contributes"),
    "hurts": ("Harm", "Where a modality hurts"),
    "information": ("Information", "What the modalities tell together: redundancy, uniqueness, synergy"),
    "robustness": ("Robustness", "What corruption of each modality costs"),
    "imbalance": ("Imbalance", "Which modality the model has learnt from"),
}


def sections(d: Decisions, charts: Charts) -> dict[str, dict[str, Any]]:
    """Return by name the sections that have a table, with their charts, which are added to ``charts``."""
    measured = d.contributing or d.rows("cooperation") or d.rows("perceptual")
    found = {
        "contribution": _contribution(d, charts) if measured else None,
        "hurts": _hurts(d, charts) if d.classes or len(d.view.whole("samples")) else None,
        "information": _information(d, charts) if d.decompositions else None,
        "robustness": _robustness(d, charts) if d.rows("robustness") or d.rows("robustness_summary") else None,
        "imbalance": {} if d.rows("imbalance") else None,
    }
    return {
        name: part | {"nav": TITLES[name][0], "title": TITLES[name][1]}
        for name, part in found.items()
        if part is not None
    }


def _add(charts: Charts, kind: str, spec: dict[str, Any], caption: str, label: str) -> list[dict[str, str]]:
    """Add a chart unless it is empty; return it as a list of one or none."""
    if not spec:
        return []
    name = f"{kind}-{len(charts)}"
    charts[name] = spec
    return [{"name": name, "caption": caption, "label": label}]


def _contribution(d: Decisions, charts: Charts) -> dict[str, Any]:
    drawn, joint = [], []
    if any(e.computed for metric in d.contributing for e in d.contributions(metric).values()):
        caption = "Contribution of each modality"
        label = f"Bars of the contributions of {listing(d.view.modalities)}, with intervals."
        drawn += _add(charts, "contribution", charts_of.contribution(d), caption, label)
    for metric in d.contributing[:1]:
        caption = f"From V(none) to V(all), {d.metric_name(metric)}"
        label = f"Steps from V(none) to V(all) in {d.metric_name(metric)}, one per modality."
        drawn += _add(charts, "waterfall", charts_of.waterfall(d, metric), caption, label)
    metrics = [m for m in d.metrics if any(e.computed for e in d.together("cooperation", m).values())][:2]
    if metrics:
        sets = _sets(d, metrics)
        label = "Cooperation of sets of modalities, with intervals around zero."
        joint += _add(charts, "cooperation", charts_of.together(d, sets, metrics), "Cooperation", label)
    for metric in d.metrics[:1]:
        if any(e.computed for kinds in d.perceived(metric).values() for e in kinds.values()):
            label = "Perceptual scores of each modality, by the way it was permuted."
            joint += _add(charts, "perceptual", charts_of.perceptual(d, metric), "Perceptual score", label)
    known = any(math.isfinite(row["value"]) for row in d.rows("cooperation"))
    return {"drawn": drawn, "joint": joint, "computed": known}


def _sets(d: Decisions, metrics: list[str]) -> list[tuple[str, ...]]:
    """Return the set of all, then the sets with the largest cooperation; in the order of the table."""
    found: dict[tuple[str, ...], float] = {}
    for metric in metrics:
        for names, e in d.together("cooperation", metric).items():
            if e.computed:
                found.setdefault(names, math.inf if len(names) == len(d.view.modalities) else abs(e.value))
    kept = set(sorted(found, key=lambda names: -found[names])[:SETS_DRAWN])
    return [names for names in found if names in kept]


def _hurts(d: Decisions, charts: Charts) -> dict[str, Any]:
    names = _telling(d)
    drawn = []
    modalities = [m for m in d.view.modalities if any(m in d.contribution_rows(d.class_metric, c) for c in names)]
    rows = -(-len(modalities) // PANELS)
    for i in range(rows):
        part = modalities[len(modalities) * i // rows : len(modalities) * (i + 1) // rows]
        label = f"What each class loses without {listing(part, 'or')}, with intervals around zero."
        drawn += _add(charts, "classes", charts_of.classes(d, names, part), "", label)
    return {"drawn": drawn, "shown": len(names), "left": len(d.classes) - len(names)}


def _telling(d: Decisions) -> list[str]:
    """Choose for each modality the classes it hurts and helps most; the worst first."""
    values: dict[str, dict[str, float]] = {m: {} for m in d.view.modalities}
    for row in d.class_rows(d.class_metric):
        if (e := d.on_class(row)).computed:
            values.setdefault(row["modality"], {})[row["concept"]] = e.value
    worst = {c: min((of[c] for of in values.values() if c in of), default=math.inf) for c in d.classes}
    known = [c for c in d.classes if math.isfinite(worst[c])]
    if len(known) > CLASSES_DRAWN:
        each = max(CLASSES_DRAWN // (2 * len(d.view.modalities)), 1)
        kept: dict[str, None] = {}
        for of in values.values():
            order = sorted(of, key=lambda c: of[c])
            kept |= dict.fromkeys([*order[:each], *order[-each:]])
        for c in sorted(known, key=lambda c: worst[c]):
            if len(kept) < CLASSES_DRAWN:
                kept[c] = None
        known = list(kept)[:CLASSES_DRAWN]
    return sorted(known, key=lambda c: worst[c])


def _information(d: Decisions, charts: Charts) -> dict[str, Any]:
    pairs, lines = [], []
    shown = list(d.decompositions)[:PAIRS_DRAWN]
    told = {pair: {a: d.told(a, levels) for a, levels in d.decompositions[pair].items()} for pair in shown}
    bounds = _stacked(atoms for abouts in told.values() for _, atoms in abouts.values())
    every = [d.decompositions[pair][about] for pair in shown for about in d.decompositions[pair]]
    corrected = [a.corrected for levels in every for atoms in levels.values() for a in atoms.values()]
    reach = _bounds([Estimate(0.0), *corrected])
    for pair in shown:
        name, figures, along = pair_name(d, pair), [], []
        for about, (level, atoms) in told[pair].items():
            if any(a.corrected.computed or math.isfinite(a.raw) for a in atoms.values()):
                place = f"about the {about}, {where(level, d.decompositions[pair][about])}"
                label = f"Decomposition of what {name} tell {place}."
                spec = charts_of.decomposition(d, pair, atoms, bounds, reach)
                doubt = "; see the note" if doubted(atoms) else ""
                figures += _add(charts, "information", spec, f"{name}, {place}{doubt}", label)
        for about, levels in d.decompositions[pair].items():
            known = [n for n, atoms in levels.items() if any(a.corrected.computed for a in atoms.values())]
            if len(known) > 1:
                label = f"Parts of what {name} tell about the {about}, along the levels."
                spec = _curves_charts.levels(d, pair, about, reach)
                along += _add(charts, "levels", spec, f"{name}, about the {about}", label)
        key = [
            (atom_name(d, pair, atom), c, GLYPHS[s])
            for atom, (c, s) in zip(ATOMS, charts_of.atom_marks(d, pair), strict=True)
        ]
        pairs += [{"key": key, "figures": figures}] if figures else []
        lines += [{"key": key, "figures": along}] if along else []
    return {
        "open": pairs[:PAIRS_OPEN],
        "further": pairs[PAIRS_OPEN:],
        "levels": lines[:PAIRS_OPEN],
        "levels_further": lines[PAIRS_OPEN:],
        "left": len(d.decompositions) - len(shown),
    }


def _stacked(every: Iterable[dict[str, Atom]]) -> tuple[float, float]:
    """Return common bounds of all stacked bars."""
    low, high = 0.0, 0.05
    for atoms in every:
        for values in zip(*((a.raw, a.shuffled, a.corrected.value) for a in atoms.values()), strict=True):
            known = [v for v in values if math.isfinite(v)]
            low = min(low, sum(v for v in known if v < 0))
            high = max(high, sum(v for v in known if v > 0))
    room = 0.03 * (high - low)
    return round(low - (room if low < 0 else 0), 4), round(high + room, 4)


def _robustness(d: Decisions, charts: Charts) -> dict[str, Any]:
    every = [p.value for of in d.curves.values() for points in of.values() for p in points if p.value.computed]
    drawn: list[dict[str, Any]] = []
    if every:
        points = [p for of in d.curves.values() for points in of.values() for p in points]
        ece = [e for p in points if p.ece.computed for e in (p.ece, Estimate(p.floor))]
        bounds = (_bounds(every), _bounds([Estimate(0.0), *ece]) if ece else (0.0, 1.0))
        for m in d.curves:
            if any(p.value.computed for points in d.curves[m].values() for p in points):
                label = f"Curves of {d.metric_name(d.robust_metric)} and ECE under corruption of {m}, by severity."
                key = [(name, c, GLYPHS[s]) for name, (c, s) in _curves_charts.curve_marks(d, m).items()]
                figures = _add(charts, "robustness", _curves_charts.curves(d, m, bounds), m, label)
                drawn += [{"key": key, "figures": figures}]
    chance = any(math.isfinite(row["ece_floor"]) for row in d.rows("robustness"))
    return {"drawn": drawn[:CURVES_OPEN], "further": drawn[CURVES_OPEN:], "chance": chance}


def _bounds(every: list[Estimate]) -> tuple[float, float]:
    values = [v for e in every for v in (e.value, e.low, e.high) if math.isfinite(v)]
    room = 0.04 * (max(values) - min(values)) or 0.02
    return round(min(values) - room, 4), round(max(values) + room, 4)
