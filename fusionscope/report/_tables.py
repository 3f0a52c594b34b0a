"""The rows of the page's tables, as text. A missing number shows its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fusionscope.report._calls import full_name, remarks
from fusionscope.report._charts import subset_name
from fusionscope.report._prose import interval, num
from fusionscope.report._view import Estimate, View, number, text, truth

CALLS_LISTED = 400
SIMILARITIES_LISTED = 600


@dataclass(frozen=True)
class Table:
    """Head and body of a table; ``right`` are the columns of numbers; ``note`` says what is left out."""

    head: Sequence[str]
    body: Sequence[Sequence[str]]
    right: frozenset[int] = frozenset()
    note: str = ""


def _value(row: dict[str, Any], name: str, low: str = "", high: str = "", digits: int = 3) -> str:
    estimate = Estimate(number(row[name]), number(row.get(low)), number(row.get(high)))
    if estimate.computed:
        return interval(estimate, digits)
    return f"not computed: {reason}" if (reason := text(row.get("reason"))) else "not computed"


def removal(view: View) -> Table:
    """Return V(S) and the drop of every subset."""
    body = []
    for row in sorted(view.table("removal").to_dict("records"), key=lambda r: -number(r["n_present"])):
        whole = len(view.present(row["subset"])) == len(view.modalities)
        drop = "–" if whole else _value(row, "drop", "drop_low", "drop_high")
        body.append((subset_name(view, row["subset"]), _value(row, "value", "low", "high"), drop))
    return Table(("Present", f"V(S), {view.metric}", "Drop from all"), body, frozenset({1, 2}))


def similarity(view: View) -> Table:
    """Return CKA of all pairs of levels, each pair once."""
    body, left = [], 0
    for row in view.table("similarity").to_dict("records"):
        place = [view.modalities.index(str(m)) for m in (row["modality_a"], row["modality_b"]) if m in view.modalities]
        if len(place) < 2 or (place[0], row["level_a"]) >= (place[1], row["level_b"]):
            continue
        if len(body) == SIMILARITIES_LISTED:
            left += 1
            continue
        inside = number(row["cka"]) <= number(row["null_high"])
        a, b = (f"{row[f'modality_{s}']}, level {row[f'level_{s}']}" for s in "ab")
        cka = _value(row, "cka", "low", "high")
        body.append((a, b, cka, num(number(row["null_high"]), 3), "inside its null" if inside else ""))
    note = f"{left:,} further pairs are in the saved dissection." if left else ""
    return Table(("", "", "CKA", "Null, upper bound", ""), body, frozenset({2, 3}), note)


def selectivity(view: View) -> Table:
    """Return for every concept and modality the tap with the largest margin over its null."""
    body = []
    for concept in ["overall", *view.concepts]:
        for modality in view.measured:
            if row := view.best.get((concept, modality)):
                cells = _value(row, "epsilon2"), num(row["null_high"], 3), "yes" if row["encoded_anywhere"] else "no"
                level = f"{row['level']:g}" if math.isfinite(row["level"]) else ""
                body.append((concept, modality, level, row["tap"], *cells))
    head = ("Concept", "Stream", "Level", "Tap", "ε² of the best unit", "Null, upper bound", "Encoded")
    return Table(head, body, frozenset({2, 4, 5}))


def taps(view: View) -> Table:
    """Return the taps with their levels."""
    body = [
        tuple(text(row[c]).removesuffix(".0") for c in ("modality", "level", "tap", "module", "units", "locations"))
        for row in view.table("taps").to_dict("records")
    ]
    return Table(("Stream", "Level", "Tap", "Module", "Units", "Locations"), body, frozenset({1, 4}))


def calls(view: View) -> Table:
    """Return the leaf calls in the order of execution."""
    leaves = [c for c in view.trace.get("calls") or [] if c.get("leaf")]
    body = []
    for call in leaves[:CALLS_LISTED]:
        depends = "; ".join([", ".join(map(str, call.get("depends_on") or [])) or "no modality", *remarks(call)])
        shape = call.get("shape")
        shown = "×".join(map(str, shape)) if isinstance(shape, (list, tuple)) else str(shape or "")
        meets = (call.get("kind") or "fused") if call.get("fused") else ""
        body.append((full_name(call), str(call.get("module") or ""), shown, depends, str(meets)))
    left = len(leaves) - len(body)
    note = f"{left:,} further calls are in the saved dissection." if left else ""
    return Table(("Call", "Module", "Output", "Depends on", "Fused"), body, frozenset(), note)


def recovery(view: View) -> list[dict[str, Any]]:
    """Return one row per concept with, for each modality, what was planted beside what was found."""
    rows: dict[str, dict[str, Any]] = {}
    words = {True: "yes", False: "no", None: "–"}
    for row in view.table("recovery").to_dict("records"):
        entry = rows.setdefault(str(row["concept"]), {"planted": text(row["planted"]), "cells": {}})
        found = truth(row["encoded"])
        value = num(number(row["epsilon2"]), 3)
        entry["cells"][str(row["modality"])] = {
            "expected": words[truth(row["expected"])],
            "found": words[found] if math.isfinite(number(row["epsilon2"])) else "not computed",
            "numbers": f"ε² {value}, null {num(number(row['null_high']), 3)}",
            "agrees": truth(row["agrees"]) if truth(row["expected"]) is not None else None,
        }
    return [{"concept": concept, **entry} for concept, entry in rows.items()]


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {said}" for k, v in value.items() if (said := _plain(v)))
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def facts(view: View) -> list[tuple[str, str]]:
    """Return what was run, as pairs of a name and a value."""
    model, data = view.section("model"), view.section("data")
    parameters, versions, wall = view.section("parameters"), view.section("versions"), view.section("wall_s")
    known = ("fill", "empty", "metric", "measures", "kinds")
    others = (f"{k.replace('_', ' ')} {said}" for k, v in parameters.items() if k not in known and (said := _plain(v)))
    size = number(model.get("parameters"))
    forwards = view.manifest.get("forwards")
    pairs = [
        ("Model", _join(model.get("name"), f"{size:,.0f} parameters" if math.isfinite(size) else "")),
        ("Model fingerprint", model.get("fingerprint")),
        ("Data", _join(data.get("spec"), f"{data['split']} split" if data.get("split") else "")),
        ("Samples", _join(data.get("samples"), f"{data['batches']} batches" if data.get("batches") else "")),
        ("Data fingerprint", data.get("fingerprint")),
        ("Modalities", ", ".join(view.modalities)),
        ("Kinds of their values", _plain(parameters.get("kinds"))),
        ("Task", _join(view.manifest.get("task"), f"{len(view.classes)} classes" if view.classes else "")),
        ("Metric", parameters.get("metric")),
        ("Fill-in of absent modalities", parameters.get("fill")),
        ("V(∅), none present", parameters.get("empty")),
        ("Measures", _plain(parameters.get("measures"))),
        ("Other parameters", "; ".join(others)),
        ("Versions", ", ".join(f"{k} {v}" for k, v in versions.items())),
        ("Wall time", ", ".join(f"{k} {num(number(v), 1)} s" for k, v in wall.items())),
        ("Forward passes", _join(*_counted(forwards))),
        ("Made", text(view.manifest.get("created"))[:19].replace("T", " ")),
    ]
    return [(name, str(value)) for name, value in pairs if value not in (None, "")]


def _counted(forwards: object) -> list[object]:
    return [f"{k} {v}" for k, v in forwards.items()] if isinstance(forwards, dict) else [forwards]


def _join(*values: object) -> str:
    return ", ".join(f"{v:,}" if isinstance(v, int) else str(v) for v in values if v not in (None, ""))
