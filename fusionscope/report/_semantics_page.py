"""The sections about concepts and semantic variance: which there are, and the charts of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fusionscope.report import _charts, _semantics_charts, _streams_charts
from fusionscope.report._palette import GLYPHS
from fusionscope.report._prose import num
from fusionscope.report._semantics import Row, Semantics

CONCEPTS_DRAWN = 30
PROFILED = 30
PAIRS_DRAWN = 10
Charts = dict[str, dict[str, Any]]

TITLES = {
    "concepts": ("Concepts", "What each stream tells"),
    "variance": ("Semantics", "Semantic variance: where the modalities tell different things"),
    "within": ("Within", "Within a stream: what changes from level to level"),
    "joint": ("Joint picture", "Joint picture: features and semantics together"),
    "collaboration": ("Collaboration", "Collaboration: what joint training did"),
    "units": ("Units", "Units"),
    "pairwise": ("Others", "Other similarities"),
}


def sections(s: Semantics, charts: Charts) -> dict[str, Any]:
    """Return by name the sections that have a table, with their charts, which are added to ``charts``."""
    found = {
        "concepts": _concepts(s, charts) if s.rows("concepts") else None,
        "variance": _variance(s, charts) if s.pairs else None,
        "within": _within(s, charts) if any(map(s.steps, s.view.modalities)) or s.training else None,
        "joint": _joint(s, charts) if s.pairs else None,
        "collaboration": _collaboration(s, charts) if s.rows("collaboration") else None,
        "units": {"computed": not s.failure(s.rows("units"), "dead")} if s.rows("units") else None,
        "pairwise": _pairwise(s) if s.rows("pairwise") and len(s.view.modalities) > 1 else None,
    }
    return {
        name: part | {"nav": TITLES[name][0], "title": TITLES[name][1]}
        for name, part in found.items()
        if part is not None
    }


def _pairwise(s: Semantics) -> dict[str, Any]:
    return {"computed": not s.failure(s.rows("pairwise"), "value")}


def _add(charts: Charts, kind: str, spec: dict[str, Any], caption: str, label: str) -> dict[str, str]:
    name = f"{kind}-{len(charts)}"
    charts[name] = spec
    return {"name": name, "caption": caption, "label": label}


def _concepts(s: Semantics, charts: Charts) -> dict[str, Any]:
    if s.failure(s.rows("concepts"), "score"):
        return {"drawn": [], "left": 0}
    names = telling(s)
    drawn = [
        _add(
            charts,
            "concepts",
            _semantics_charts.concepts(s, m, names),
            m,
            f"Heat map of scores: concepts by levels of {m}.",
        )
        for m in s.streams
    ]
    return {"drawn": drawn, "left": len(s.concepts) - len(names), "shown": len(names)}


def telling(s: Semantics) -> list[str]:
    """Choose concepts in which the streams differ most, then those told best; keep the given order."""
    best: dict[str, dict[str, float]] = {c: {} for c in s.concepts}
    for row in s.rows("concepts"):
        if math.isfinite(row["score"]):
            of = best[row["concept"]]
            of[row["modality"]] = max(of.get(row["modality"], -math.inf), row["score"])

    def interest(concept: str) -> tuple[bool, float]:
        values = best[concept].values()
        spread = max(values, default=0.0) - min(values, default=0.0)
        return 0 < len(s.encoders(concept)) < len(s.streams), spread + max(values, default=0.0)

    kept = set(sorted(s.concepts, key=interest, reverse=True)[:CONCEPTS_DRAWN])
    return [concept for concept in s.concepts if concept in kept]


def _variance(s: Semantics, charts: Charts) -> dict[str, Any]:
    every = [v for found in (s.variances, s.twins) for pair in s.pairs for v in found.get(pair, [])]
    values = [v.sv.value for v in every if v.sv.computed]
    if not values:
        return {"maps": [], "profiles": [], "further": [], "twins": [], "top": "1"}
    top = max(math.ceil(max(values) * 10 - 1e-9) / 10, 0.1)
    maps = []
    for a, b in s.pairs[:PAIRS_DRAWN]:
        label = f"Heat map of semantic variance, levels of {a} with {b}."
        spec = _semantics_charts.variance(s.variances[a, b], a, b, top)
        row = [_add(charts, "variance", spec, f"{a} with {b}: semantic variance", label)]
        if s.view.similarities(a, b):
            label = f"Heat map of CKA, levels of {a} with {b}, again."
            row.append(_add(charts, "variance-cka", _charts.similarity(s.view, a, b), f"{a} with {b}: CKA", label))
        maps.append(row)
    twins = []
    for (a, b), found in list(s.twins.items())[:PAIRS_DRAWN]:
        if any(v.sv.computed for v in found):
            label = f"Heat map of semantic variance, levels of {a} with {b}, between their solo twins."
            spec = _semantics_charts.variance(found, a, b, top)
            twins.append(_add(charts, "variance-solo", spec, f"{a} with {b}: solo twins", label))
    profiles, further = [], []
    for (a, b), rows in list(s.differences("across").items())[:PAIRS_DRAWN]:
        levels = [(level, _most(found)) for level, found in _semantics_charts.at(rows).items()]
        levels = [(level, found) for level, found in levels if found]
        for i, (level, found) in enumerate(levels):
            last = i == len(levels) - 1
            if last or len(s.view.modalities) <= 3:
                spec = _semantics_charts.profile(s, found, f"score({a}) − score({b})")
                label = f"Differences of {a} and {b}, concept by concept, level {level}."
                part = _add(charts, "profile", spec, f"{a} − {b}, level {level}", label)
                (profiles if last else further).append(part)
    return {"maps": maps, "profiles": profiles, "further": further, "twins": twins, "top": num(top, 1)}


def _most(rows: Sequence[Row], value: str = "d") -> list[Row]:
    """Return the rows with the largest values, in the given order."""
    known = [row for row in rows if math.isfinite(row[value])]
    kept = sorted(known, key=lambda row: -abs(row[value]))[:PROFILED]
    return [row for row in known if any(row is one for one in kept)]


def _within(s: Semantics, charts: Charts) -> dict[str, Any]:
    steps, training = [], []
    if any(v.sv.computed for m in s.view.modalities for v in s.steps(m)):
        label = "Semantic variance and CKA of consecutive levels, a line per modality."
        steps.append(_add(charts, "steps", _streams_charts.steps(s), "", label))
    for m, by_level in s.training.items():
        if any(v.sv.computed for epochs in by_level.values() for v in epochs.values()):
            label = f"Semantic variance and CKA of the checkpoints of {m} to the final state, a line per level."
            marks = _streams_charts.level_marks(list(by_level))
            key = [(name, colour, GLYPHS[shape]) for name, colour, shape in marks]
            part = _add(charts, "training", _streams_charts.training(s, m), m, label)
            training.append({**part, "key": key})
    return {"steps": steps, "training": training}


def _joint(s: Semantics, charts: Charts) -> dict[str, Any]:
    spec = _streams_charts.joint(s)
    if not spec:
        return {"drawn": [], "pairs": []}
    label = "Scatter of CKA and 1 − ν of the modalities at equal levels, with four quadrants."
    return {"drawn": [_add(charts, "joint", spec, "", label)], "pairs": [f"{a} and {b}" for a, b in s.pairs]}


def _collaboration(s: Semantics, charts: Charts) -> dict[str, Any]:
    drawn: list[list[dict[str, str]]] = []
    further: list[dict[str, str]] = []
    for (a, b), rows in list(s.collaborations().items())[:PAIRS_DRAWN]:
        part = []
        for measure, title in (("semantic variance", "semantic variance"), ("similarity", "CKA")):
            found = [r for r in rows if r["measure"] == measure and math.isfinite(r["difference"])]
            if found:
                label = f"{title} of {a} and {b} inside the joint model and between the solo twins, per level."
                spec = _semantics_charts.pressure(s, found, title)
                part.append(_add(charts, "pressure", spec, f"{a} and {b}: {title}", label))
        concepts = [r for r in rows if r["measure"] == "concept" and math.isfinite(r["difference"])]
        levels = sorted({r["level"] for r in concepts})
        for level in levels if len(s.view.modalities) <= 3 else levels[-1:]:
            found = _most([r for r in concepts if r["level"] == level], "difference")
            label = f"Joint minus solo difference of {a} and {b}, per concept, at level {level:g}."
            spec = _semantics_charts.pressure_on_concepts(s, sorted(found, key=lambda r: r["difference"]))
            one = _add(charts, "pressure", spec, f"{a} and {b}: concepts at level {level:g}", label)
            (part if level == levels[-1] else further).append(one)
        if part:
            drawn.append(part)
    return {"drawn": drawn, "further": further}
