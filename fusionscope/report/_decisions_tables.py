"""The rows of the tables of the decision instruments, as text. A missing number shows its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fusionscope.report._curves_prose import atom_name
from fusionscope.report._decisions import ATOMS, Decisions, Row, estimate
from fusionscope.report._palette import colour
from fusionscope.report._prose import interval, num
from fusionscope.report._samples_drawing import drawing
from fusionscope.report._semantics_tables import limited
from fusionscope.report._tables import Table
from fusionscope.report._view import Estimate

SUMMARISED = 14
SAMPLES_DRAWN, SAMPLES_HURT, INPUTS_DRAWN = 6, 12, 4


def _written(found: Estimate, unit: str = "") -> str:
    if found.computed:
        return interval(found, 3) + unit
    return f"not computed: {found.reason}" if found.reason else "not computed"


def _number(value: float, digits: int = 3) -> str:
    return num(value, digits) if math.isfinite(value) else ""


def _chance(value: float) -> str:
    return "< 0.001" if value < 0.0005 else _number(value)


def contribution(d: Decisions) -> Table:
    """Return the contribution of each modality on all data, by every metric."""
    body = []
    for metric in d.contributing:
        for m, row in d.contribution_rows(metric).items():
            share = estimate(row, "share", "share_low", "share_high")
            cells = _written(estimate(row, "shapley"), d.unit(metric)), _written(share) if share.computed else ""
            last = estimate(row, "last", "last_low", "last_high")
            steps = _number(row["alone"]), interval(last, 3) if last.computed else ""
            body.append((d.metric_name(metric), m, *cells, *steps))
    head = (
        "Metric",
        "Modality",
        "Contribution φ",
        "Share φ / V(all)",
        "Alone, V(m) − V(none)",
        "Last, V(all) − V(rest)",
    )
    return limited(head, body, {2, 3, 4, 5})


def coalitions(d: Decisions) -> Table:
    """Return V(S) of every subset on all data, by every metric."""
    body = []
    for row in sorted(d.rows("coalitions"), key=lambda r: (d.metrics.index(r["metric"]), -r["n_present"])):
        present = " + ".join(d.view.present(row["subset"])) or "none"
        body.append((d.metric_name(row["metric"]), present, _written(estimate(row), d.unit(row["metric"]))))
    return limited(("Metric", "Present", "V(S)"), body, {2})


NUMBERS = {
    "cooperation": "cooperation C",
    "interaction": "interaction φ_ij",
    "intershap": "InterSHAP index",
    "emap gap": "EMAP gap",
    "emap": "EMAP, additive",
}
COMPACT = 5


def together(d: Decisions, compact: bool = True) -> Table:
    """Return cooperation and interaction, a column per metric; with ``compact`` the largest of many only."""
    body: list[Sequence[str]] = []
    few = compact and len(d.view.modalities) > 3
    for kind, name in NUMBERS.items():
        found = {metric: d.together(kind, metric) for metric in d.metrics}
        sets = list(dict.fromkeys(names for of in found.values() for names in of))
        if few and kind == "emap":
            continue
        if few and kind in ("cooperation", "interaction"):
            sizes = [abs(found[d.main][n].value) if n in found[d.main] else 0.0 for n in sets]
            whole = [len(n) == len(d.view.modalities) for n in sets]
            order = sorted(range(len(sets)), key=lambda i: (not whole[i], -sizes[i] if sizes[i] == sizes[i] else 0.0))
            sets = [sets[i] for i in order[:COMPACT]]
        for names in sets:
            of = d.set_name(d.view.modalities if kind.startswith("emap") and len(d.view.modalities) == 2 else names)
            if kind.startswith("emap") and len(d.view.modalities) > 2:
                of = f"{of} with the rest"
            cells = []
            for metric in d.metrics:
                unit = "" if kind in ("intershap", "cooperation") else d.unit(metric)
                cells.append(_written(found[metric][names], unit) if names in found[metric] else "")
            body.append((name, of, *cells))
    head = ("Number", "Of", *(d.metric_name(metric) for metric in d.metrics))
    return limited(head, body, set(range(2, len(head))))


def perceptual(d: Decisions) -> Table:
    """Return the perceptual scores, a row per metric and modality, a column per way of permuting."""
    kinds = list(dict.fromkeys(row["kind"] for row in d.rows("perceptual")))
    body = [
        (d.metric_name(metric), m, *(_written(of[k]) if k in of else "" for k in kinds))
        for metric in d.metrics
        for m, of in d.perceived(metric).items()
    ]
    head = ("Metric", "Permuted", *({"any": "over all samples"}.get(k, k) for k in kinds))
    return limited(head, body, set(range(2, len(head))))


SHAPE_SOURCE, SHARE = "arXiv:2205.00302", "in units of the metric"
DEFINITIONS = {
    "Contribution φ_m": "Shapley value, the mean gain in V when m joins, over all orders of joining; "
    f"{SHARE}; all add up to V(all) − V(none) (Shapley 1953; the share φ_m / V(all): {SHAPE_SOURCE}).",
    "Cooperation C_A": "Shapley value of A merged into one player minus the sum of its members', over V(all), a share; "
    "above zero they cooperate, below zero they are redundant; none where V(all) is not above zero, as of the "
    f"log-likelihood ({SHAPE_SOURCE}).",
    "Interaction φ_ij": f"Shapley interaction index of a pair, {SHARE}; the InterSHAP index is the share of all "
    "pairs in the sum of the absolute effects, 0 to 1 (arXiv:2412.15828).",
    "EMAP gap": "the model's metric minus that of its best additive approximation (EMAP), "
    f"{SHARE}: what interaction adds (arXiv:2010.06572).",
    "Perceptual score": "(V(all) − V with m permuted over samples) / V(all), a share; "
    "permuted within a class the label's part stays, across classes it goes (arXiv:2110.14375).",
}


def definitions(d: Decisions) -> list[tuple[str, str]]:
    """Return what each number that is shown is, in one line with its unit and source."""
    kinds = {row["kind"] for row in d.rows("cooperation")}
    shown = {
        "Contribution φ_m": bool(d.contributing),
        "Cooperation C_A": "cooperation" in kinds,
        "Interaction φ_ij": bool(kinds & {"interaction", "intershap"}),
        "EMAP gap": bool(kinds & {"emap", "emap gap"}),
        "Perceptual score": bool(d.rows("perceptual")),
    }
    return [(name, text) for name, text in DEFINITIONS.items() if shown[name]]


def classes(d: Decisions) -> Table:
    """Return what each class loses without each modality, and the contributions; those that hurt first."""
    body: list[Sequence[str]] = []
    by_last = d.told_by == "last"
    for metric in d.metrics:
        rows, unit = d.class_rows(metric), d.unit(metric)
        for row in [*d.harm(rows), *(r for r in rows if not r["hurts"])]:
            shapley = estimate(row, "shapley")
            further = [interval(shapley, 3) if shapley.computed else ""] if by_last else []
            place = d.metric_name(metric), row["concept"], row["modality"]
            told = _written(d.on_class(row), unit), _chance(row["q"]), "hurts" if row["hurts"] else ""
            body.append((*place, *told, *further))
    head = ("Metric", "Class", "Modality", "Lost without it" if by_last else "Contribution φ", "q", "")
    return limited((*head, "Contribution φ") if by_last else head, body, {3, 4, 6})


def samples(d: Decisions) -> list[dict[str, Any]]:
    """Return the samples in which a modality hurts most clearly, with their inputs drawn where they were kept."""
    return [_sample(d, row, drawn=True) for row in _drawn(d)[0]]


def _drawn(d: Decisions) -> tuple[list[Row], list[Row]]:
    """Return the rows that are drawn, of each modality that hurts as many, and the others."""
    hurting = {row["modality"] for row in d.harmful_samples if row["hurts"]}
    each = max(min(SAMPLES_HURT // max(len(hurting), 1), SAMPLES_DRAWN), 1)  # a dissection keeps six inputs of each
    shown: list[Row] = []
    left: list[Row] = []
    seen: dict[str, int] = {}
    for row in d.harmful_samples:
        seen[row["modality"]] = seen.get(row["modality"], 0) + 1
        room = seen[row["modality"]] <= each if row["hurts"] else len(shown) < SAMPLES_DRAWN
        (shown if room else left).append(row)
    return shown, left


def further_samples(d: Decisions) -> Table:
    """Return the samples that are not drawn."""
    rows = [_sample(d, row, drawn=False) for row in _drawn(d)[1]]
    fields = ("sample", "label", "predicted", "modality", "effect", "donors", "q", "valuation", "verdict")
    head = ("Sample", "Label", "Predicted", "Modality", "Effect", "Others that did better", "q", "Valuation", "")
    kept = [i for i, field in enumerate(fields) if any(row[field] for row in rows)]
    right = {place for place, i in enumerate(kept) if 4 <= i <= 7}
    return limited([head[i] for i in kept], [[row[fields[i]] for i in kept] for row in rows], right)


def _sample(d: Decisions, row: Row, drawn: bool) -> dict[str, Any]:
    number = f"{row['sample']:.0f}" if math.isfinite(row["sample"]) else "?"
    group = row["group"].removesuffix(".0") if d.grouped else ""
    counted = math.isfinite(row["worse"]) and math.isfinite(row["donors"])
    pictures: list[tuple[str, str, bool]] = []
    named = [m for m in d.view.modalities if m != row["modality"]][: INPUTS_DRAWN - 1]
    for i, m in enumerate(d.view.modalities):
        if not drawn or m not in (row["modality"], *named):
            continue
        given = d.view.arrays.get(f"sample/{number}/{m}")
        picture = drawing(given, colour(i), f"{m} of sample {number}") if given is not None else ""
        if picture:
            pictures.append((m, picture, m == row["modality"]))
    return {
        "sample": f"{number} (group {group})" if group else number,
        "number": number,
        "group": group,
        "pictures": pictures,
        "label": d.class_name(row["label"]),
        "predicted": d.class_name(row["predicted"]),
        "modality": row["modality"],
        "effect": _effect(row),
        "donors": f"{row['worse']:.0f} of {row['donors']:.0f}" if counted else "",
        "q": _chance(row["q"]),
        "valuation": _number(row["valuation"], 2),
        "verdict": "hurts" if row["hurts"] else "",
        "hurts": bool(row["hurts"]),
    }


def _effect(row: Row) -> str:
    if math.isinf(row["effect"]):
        return "−∞" if row["effect"] < 0 else "∞"
    return num(row["effect"]) if math.isfinite(row["effect"]) else f"not computed: {row['reason'] or 'no reason given'}"


def information(d: Decisions) -> Table:
    """Return every part of every decomposition, raw, shuffled and corrected."""
    body = []
    for row in d.rows("information"):
        pair = (row["modality_a"], row["modality_b"], row["estimator"])
        other = d.other(*pair[:2])
        mutual = {"I_a": f"I({pair[0]})", "I_b": f"I({other})", "I_ab": "I(both)"}
        name = atom_name(d, pair, row["atom"]) if row["atom"] in ATOMS else mutual.get(row["atom"], row["atom"])
        place = "inputs" if not row["level"] >= 0 else f"{row['level']:g}"
        found = (num(row["value"], 3), _number(row["shuffled"]), _number(row["shuffled_high"]))
        gap = f"{row['gap']:.0e}".replace("-", "−") if math.isfinite(row["gap"]) else ""
        numbers = (
            *found,
            _written(estimate(row, "corrected")),
            gap,
            _number(row["samples"], 0),
            row["bins"].removesuffix(".0").replace("x", " × "),
        )
        note = row["reason"] if math.isfinite(row["value"]) else ""
        body.append((f"{pair[0]}, {other}", row["estimator"], place, row["about"], name, *numbers, note))
    head = ("Pair", "Estimator", "Level", "About", "Part", "Raw, bits", "Shuffled", "Bound", "Corrected, bits", "Gap")
    if not any(row[-1] for row in body):
        body, last = [row[:-1] for row in body], ()
    else:
        last = ("Note",)
    return limited((*head, "Samples", "Bins", *last), body, set(range(5, 12)))


def robustness(d: Decisions) -> Table:
    """Return every point of every curve."""
    body = []
    for row in d.rows("robustness"):
        drop = estimate(row, "drop", "drop_low", "drop_high")
        ece = estimate(row, "ece", "ece_low", "ece_high")
        cells = [_written(estimate(row)), *(_written(e) if e.computed else "" for e in (drop, ece))]
        place = (row["modality"], row["corruption"], _number(row["severity"], 0), d.metric_name(row["metric"]))
        body.append((*place, *cells, _number(row["ece_floor"])))
    head = ("Modality", "Corruption", "Severity", "Metric", "Value", "Drop", "ECE", "ECE by chance")
    if not _any(d.rows("robustness"), "ece_floor"):
        head, body = head[:-1], [row[:-1] for row in body]
    return limited(head, body, {2, 4, 5, 6, 7})


def robustness_summary(d: Decisions, compact: bool = True) -> Table:
    """Return relative and effective robustness and the corruption error; ``compact``: of many, the means only."""
    rows = d.rows("robustness_summary")
    means = [row for row in rows if row["corruption"] == "mean"]
    if compact and len(rows) > SUMMARISED and means:
        rows = means
    modalities = {m: i for i, m in enumerate(d.view.modalities)}
    rows = sorted(rows, key=lambda r: (modalities.get(r["modality"], 99), r["corruption"] != "mean"))
    against = [name for name in ("effective", "corruption_error", "relative_corruption_error") if _any(rows, name)]
    titles = {"effective": "Effective", "corruption_error": "CE", "relative_corruption_error": "Relative CE"}
    body = []
    for row in rows:
        relative = _written(estimate(row, "relative", "relative_low", "relative_high"))
        name = "mean over its corruptions" if row["corruption"] == "mean" else row["corruption"]
        body.append((row["modality"], name, relative, *(_number(row[column]) for column in against)))
    head = ("Modality", "Corruption", "Relative", *(titles[column] for column in against))
    return limited(head, body, set(range(2, len(head))))


def _any(rows: Sequence[Row], name: str) -> bool:
    return any(math.isfinite(row[name]) for row in rows)


def baseline(d: Decisions) -> str:
    """Return the name of the model that errors are measured against, "" for none."""
    named = next((row["baseline"] for row in d.rows("robustness_summary") if row["baseline"]), "")
    return named or str(d.view.section("parameters").get("baseline") or "")


def imbalance(d: Decisions) -> Table:
    """Return a row per modality, a column per measure."""
    rows = d.rows("imbalance")
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    cells = {(row["modality"], row["measure"]): _written(estimate(row)) for row in rows}
    names = [m for m in d.view.modalities if any((m, measure) in cells for measure in measures)]
    titles = {"alone": "alone, V(m) − V(none)", "probe difference": "joint − solo"}
    body = [(m, *(cells.get((m, measure), "") for measure in measures)) for m in names]
    head = ("Modality", *(titles.get(measure, measure) for measure in measures))
    return limited(head, body, set(range(1, len(head))))
