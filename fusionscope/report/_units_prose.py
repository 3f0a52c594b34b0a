"""Sentences about units, and about measures of similarity besides CKA."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fusionscope.report._prose import listing, num
from fusionscope.report._semantics import Row, Semantics, numeral, place
from fusionscope.report._semantics_prose import upper


def units(s: Semantics) -> str:
    """Say how many units are dead or saturated, and what the effective ranks are."""
    rows = s.rows("units")
    columns = ("dead", "saturated", "effective_rank", "selectivity_mean")
    if not any(math.isfinite(row[c]) for row in rows for c in columns):
        return f"The units could not be measured: {s.failure(rows, 'effective_rank') or 'no reason given'}."
    parts = []
    total = sum(row["units"] for row in rows if math.isfinite(row["units"]) and math.isfinite(row["dead"]))
    for name in ("dead", "saturated"):
        known = [row for row in rows if math.isfinite(row[name])]
        found = [row for row in known if row[name] > 0]
        where = listing([f"{row[name]:g} in {row['modality']} level {numeral(row['level'])}" for row in found], most=4)
        if known:
            many = f"{sum(row[name] for row in found):g} of {total:g} units are {name}"
            parts.append(f"{many}: {where}" if found else f"no unit is {name}")
    parts += [f"{title} {reach}" for title, c in _RANGES if (reach := _reach(rows, c))]
    return f"{upper('; '.join(parts))}."


_RANGES = (("the effective rank is", "effective_rank"), ("the mean class selectivity index", "selectivity_mean"))


def _reach(rows: Sequence[Row], column: str) -> str:
    known = [row for row in rows if math.isfinite(row[column])]
    if not known:
        return ""
    low, high = min(known, key=lambda r: r[column]), max(known, key=lambda r: r[column])
    where = [f"{num(r[column])} ({r['modality']} level {numeral(r['level'])})" for r in (low, high)]
    return where[0] if low is high else " to ".join(where)


def pairwise(s: Semantics) -> str:
    """Say which other measures of similarity lie inside their null at matched levels."""
    rows = [r for r in matched_pairwise(s) if math.isfinite(r["value"])]
    if not rows:
        return f"No other similarity could be computed: {s.failure(s.rows('pairwise'), 'value') or 'no matched level'}."
    inside = [r for r in rows if not r["value"] > r["null_high"]]
    if not inside:
        return "Every measure lies above its null at every matched level."
    if len(inside) == len(rows):
        return "Every measure lies inside its null at every matched level: none of them shows a similarity."
    groups: dict[str, list[str]] = {}
    for r in inside:
        groups.setdefault(f"{r['modality_a']} and {r['modality_b']} at level {place(r)}", []).append(r["measure"])
    named = [f"{where} ({listing([measure_name(m) for m in names])})" for where, names in groups.items()]
    return f"Inside their null, so no similarity is shown there: {listing(named)}. All others lie above it."


MEASURES = {
    "procrustes": "Procrustes",
    "svcca": "SVCCA",
    "rsa": "RSA",
    "mutual_knn": "mutual k-nearest neighbours",
    "cka_rbf": "CKA with a Gaussian kernel",
}


def measure_name(measure: str) -> str:
    """Write a measure's name as a reader would."""
    return MEASURES.get(measure, measure.replace("_", " "))


def matched_pairwise(s: Semantics) -> list[Row]:
    """Return the rows of equal levels of two modalities, each pair once, by pair and level."""
    names = {m: i for i, m in enumerate(s.view.modalities)}
    found = []
    for row in s.rows("pairwise"):
        a, b = names.get(row["modality_a"], -1), names.get(row["modality_b"], -1)
        if s.match(row) and a < b:
            found.append((a, b, row["level_a"], row))
    return [row for *_, row in sorted(found, key=lambda entry: entry[:3])]
