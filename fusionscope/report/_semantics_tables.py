"""The rows of the tables about concepts, semantic variance, units and other similarities."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fusionscope.report._prose import interval, num
from fusionscope.report._semantics import Row, Semantics, Variance, estimate, numeral, place
from fusionscope.report._semantics_charts import kind_of
from fusionscope.report._tables import Table
from fusionscope.report._units_prose import matched_pairwise, measure_name

LISTED = 600


def limited(head: Sequence[str], body: Sequence[Sequence[str]], right: set[int]) -> Table:
    """Return a table of at most ``LISTED`` rows, which says how many more there are; ``right``: columns of numbers."""
    note = f"{len(body) - LISTED:,} further rows are in the saved dissection." if len(body) > LISTED else ""
    return Table(head, body[:LISTED], frozenset(right), note)


def _value(row: Row, name: str) -> str:
    found = estimate(row, name)
    return interval(found, 3) if found.computed or not found.reason else f"not computed: {found.reason}"


def _yes(value: bool | None) -> str:
    return {True: "yes", False: "no", None: ""}[value]


def concepts(s: Semantics) -> Table:
    """Return every concept in every own tap."""
    names = {c: i for i, c in enumerate(s.concepts)}
    streams = {m: i for i, m in enumerate(s.streams)}
    rows = [r for r in s.rows("concepts") if r["modality"] in streams]
    body = [
        (
            *(r["concept"], r["modality"], numeral(r["level"]), num(r["iou"], 3), num(r["null_high"], 3)),
            *(_value(r, "score"), _yes(r["encoded"]) if math.isfinite(r["score"]) else ""),
        )
        for r in sorted(rows, key=lambda r: (names[r["concept"]], streams[r["modality"]], r["level"]))
    ]
    head = ("Concept", "Stream", "Level", "IoU", "Null, upper bound", "Score", "Encoded")
    return limited(head, list(body), {2, 3, 4, 5})


def emergence(s: Semantics) -> Table:
    """Return the level at which each stream first encodes each concept."""
    best = {(r["modality"], r["concept"]): r for r in s.rows("emergence")}
    body = []
    for concept in s.concepts:
        cells = []
        for m in s.streams:
            level = s.emergence(m, concept)
            row = best.get((m, concept))
            where = "not computed" if math.isnan(level) else "nowhere" if level < 0 else f"level {numeral(level)}"
            known = row is not None and math.isfinite(row["score"])
            cells.append(f"{where}; best {num(row['score'])} at level {numeral(row['best_level'])}" if known else where)
        body.append((concept, *cells))
    return limited(("Concept", *s.streams), body, set())


def _variances(found: Sequence[tuple[str, str, Variance]], head: tuple[str, str]) -> Table:
    body = [
        (
            *(a, b, _value(v.row, "sv"), num(v.floor, 3)),
            "not clear of its floor" if v.sv.computed and not v.told_apart else "",
            *(num(v.similarity, 3), num(1 - v.ratio, 3), num(v.row["consistency"], 3), num(v.row["speciality"], 3)),
        )
        for a, b, v in found
    ]
    columns = (*head, "Semantic variance", "Floor", "", "CKA", "1 − ν", "Consistency", "Speciality")
    return limited(columns, list(body), {2, 3, 5, 6, 7, 8})


def variance(s: Semantics) -> Table:
    """Return the semantic variance between modalities, each pair of levels once."""
    found = [
        (f"{a}, level {numeral(v.a)}", f"{b}, level {numeral(v.b)}", v) for a, b in s.pairs for v in s.variances[a, b]
    ]
    return _variances(found, ("", ""))


def within(s: Semantics) -> Table:
    """Return the steps within each stream."""
    found = [(m, f"{numeral(v.b)} → {numeral(v.a)}", v) for m in s.view.modalities for v in s.steps(m)]
    return _variances(found, ("Stream", "Step"))


def training(s: Semantics) -> Table:
    """Return each checkpoint against the final state."""
    found = [
        (f"{m}, level {numeral(level)}", f"{epoch:g}", v)
        for m, by_level in s.training.items()
        for level, epochs in by_level.items()
        for epoch, v in epochs.items()
    ]
    return _variances(found, ("Stream", "Epoch"))


def profile(s: Semantics, question: str) -> Table:
    """Return the differences concept by concept of one question, the largest first within a level."""
    body = []
    for (a, b), rows in s.differences(question).items():
        pair = a if a == b else f"{a} − {b}"
        rows = sorted(rows, key=lambda r: (r["level_b"], r["level_a"], -abs(r["d"]) if math.isfinite(r["d"]) else 0))
        body += [(pair, place(r), r["concept"], interval(estimate(r, "d"), 3), kind_of(r)) for r in rows]
    return limited(("Streams", "Level", "Concept", "Difference of scores", ""), body, {1, 3})


def collaboration(s: Semantics) -> Table:
    """Return joint and solo values with their differences, those with a pressure first."""
    body = []
    for (a, b), rows in s.collaborations().items():
        for r in sorted(rows, key=lambda r: (not r["pressure"], r["measure"] == "concept", r["measure"], r["level"])):
            measure = {"similarity": "CKA", "concept": "|d|"}.get(r["measure"], r["measure"])
            verdict = f"{r['pressure']} pressure" if r["pressure"] else "inside the noise"
            body.append(
                (
                    *(f"{a} and {b}", measure, numeral(r["level"]), r["concept"] or "all"),
                    *(num(r["joint"], 3), num(r["solo"], 3), interval(estimate(r, "difference"), 3)),
                    verdict if math.isfinite(r["difference"]) else "",
                )
            )
    head = ("Streams", "Measure", "Level", "Concept", "Joint", "Solo", "Difference", "")
    return limited(head, body, {2, 4, 5, 6})


def units(s: Semantics) -> Table:
    """Return one row per tap about its units; columns without any value are left out."""
    columns = (
        ("units", "Units", 0),
        ("dead", "Dead", 0),
        ("saturated", "Saturated", 0),
        ("effective_rank", "Effective rank", 1),
        ("participation", "Participation", 1),
        ("selectivity_mean", "Selectivity, mean", 2),
        ("selectivity_max", "largest", 2),
        ("detectors", "Detectors", 0),
        ("concepts_detected", "Concepts detected", 0),
    )
    rows = s.rows("units")
    shown = [(name, head, digits) for name, head, digits in columns if any(math.isfinite(r[name]) for r in rows)]
    order = {m: i for i, m in enumerate(s.view.modalities)}
    body = []
    for r in sorted(rows, key=lambda r: (order.get(r["modality"], -1), r["level"])):
        cells = [num(r[name], digits) if math.isfinite(r[name]) else "–" for name, _, digits in shown]
        body.append((r["modality"], numeral(r["level"]), r["tap"], *cells, *([r["reason"]] if _reasons(rows) else [])))
    head = ("Stream", "Level", "Tap", *(title for _, title, _ in shown), *([""] if _reasons(rows) else []))
    return limited(head, body, {1, *range(3, 3 + len(shown))})


def _reasons(rows: Sequence[Row]) -> bool:
    return any(row["reason"] for row in rows)


def pairwise(s: Semantics) -> Table:
    """Return the other measures of similarity at matched levels, a column each."""
    rows = matched_pairwise(s)
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    found: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        found.setdefault((row["modality_a"], row["modality_b"], place(row)), {})[row["measure"]] = row
    body = []
    for (a, b, level), by_measure in found.items():
        cells = [_measured(by_measure[m]) if m in by_measure else "–" for m in measures]
        body.append((f"{a} and {b}", level, *cells))
    head = ("Streams", "Level", *(measure_name(m) for m in measures))
    return limited(head, body, set(range(1, len(head))))


def _measured(row: Row) -> str:
    if not math.isfinite(row["value"]):
        return f"not computed: {row['reason']}" if row["reason"] else "not computed"
    if not math.isfinite(row["null_high"]):
        return f"{num(row['value'])} (no null)"
    inside = ", inside" if row["value"] <= row["null_high"] else ""
    return f"{num(row['value'])} (null {num(row['null_high'])}{inside})"


def samples(s: Semantics) -> str:
    """Say on how many samples the other similarities were computed."""
    known = [r for r in s.rows("pairwise") if math.isfinite(r["samples"]) and math.isfinite(r["of"])]
    if not known:
        return ""
    row = min(known, key=lambda r: r["samples"])
    if row["samples"] >= row["of"]:
        return f"All {row['of']:,.0f} samples were used."
    return f"Each used {row['samples']:,.0f} of the {row['of']:,.0f} samples, chosen by a hash of their numbers."
