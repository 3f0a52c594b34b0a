"""Sentences about contribution, cooperation, harm, information, robustness and imbalance: no more than is shown."""

from __future__ import annotations

import math

from fusionscope.report._curves_prose import why, worst
from fusionscope.report._decisions import SMOOTH, Decisions, estimate, leaders
from fusionscope.report._prose import count, interval, listing, num
from fusionscope.report._view import Estimate

# --- contribution ---


def summary(d: Decisions) -> str:
    """Return what the opening paragraph says: who contributes, whether together, and the worst corruption."""
    parts = []
    if len(d.view.modalities) > 1:
        if d.contributing and any(e.computed for e in d.contributions(d.contributing[0]).values()):
            parts.append(most(d, d.contributing[0]))
        parts.append(together(d))
    parts.append(worst(d))
    return " ".join(part for part in parts if part)


def most(d: Decisions, metric: str) -> str:
    """Say which modality contributes most, or which cannot be told apart."""
    found = d.contributions(metric)
    known = {m: e for m, e in found.items() if e.computed}
    name, unit = d.metric_name(metric), d.unit(metric)
    if not known:
        return f"The contributions to {name} could not be computed: {why(found.values())}."
    if len(d.view.modalities) < 2:
        m, e = next(iter(known.items()))
        return f"{m} is the only modality: its contribution is all of V(all) − V(none), {interval(e)}{unit}."
    first, *rivals = leaders(known) or [None]
    if first is None:
        if not any(e.has_interval for e in known.values()):
            m = max(known, key=lambda m: known[m].value)
            return f"The largest contribution to {name} is {num(known[m].value)}{unit}, of {m}: a point, no interval."
        return f"No modality is shown to contribute to {name}: no contribution's interval lies above zero."
    if rivals:
        values = listing([f"{interval(known[m])}{unit}" for m in (first, *rivals)])
        return (
            f"{listing([first, *rivals])} are not told apart in what they contribute to {name}: {values}, "
            "and the intervals overlap."
        )
    among = "Of the modalities with a value, " if len(known) < len(found) else ""
    return f"{among}{first} contributes most to {name}: {interval(known[first])}{unit}."


def contribution(d: Decisions) -> list[str]:
    """Say what each modality contributes between V(none) and V(all), by the chosen metric and by the smooth one."""
    if not d.contributing:
        return ["No contribution was measured in this dissection."]
    said = []
    for metric in d.contributing:
        found = d.contributions(metric)
        parts = [most(d, metric)]
        known = {m: e for m, e in found.items() if e.computed}
        if len(d.view.modalities) > 1 and known:
            named = leaders(known)
            unit = d.unit(metric)
            ranked = sorted(known.items(), key=lambda item: -item[1].value)
            further = [f"{m} {interval(e)}{unit}" for m, e in ranked if e.positive and m not in named]
            below = [f"{m} {interval(e)}{unit}" for m, e in known.items() if e.negative]
            open_ = [f"{m} {interval(e)}{unit}" for m, e in known.items() if _holds_zero(e) and m not in named]
            if further:
                parts.append(f"Then {listing(further)}.")
            if below:
                parts.append(f"Below zero on average over the orders of joining: {listing(below)}.")
            if open_:
                parts.append(f"Not told apart from no contribution: {listing(open_)}.")
            failed = [f"{m} ({e.reason or 'no reason given'})" for m, e in found.items() if m not in known]
            if failed:
                parts.append(f"Not computed: {listing(failed)}.")
        none, whole = d.coalition(metric, []), d.coalition(metric, d.view.modalities)
        if known and none.computed and whole.computed and metric == d.main:
            unit = d.unit(metric)
            parts.append(f"V(none) is {num(none.value)}{unit}, V(all) {interval(whole)}{unit}.")
        said.append(" ".join(parts))
    return said


def _holds_zero(e: Estimate) -> bool:
    return e.has_interval and not e.positive and not e.negative


def together(d: Decisions, metric: str = "") -> str:
    """Say whether the modalities cooperate, are redundant, or add up."""
    metric = metric or next((m for m in d.metrics if d.together("cooperation", m)), "")
    found = d.together("cooperation", metric)
    whole = next((e for names, e in found.items() if len(names) == len(d.view.modalities)), None)
    if whole is None:
        return ""
    name = d.metric_name(metric)
    of = f" of V(all) in {name}"
    if metric in SMOOTH and not whole.computed:
        # A share of a V below zero says nothing; of two modalities the interaction is the same, undivided.
        pair = d.together("interaction", metric) if len(d.view.modalities) == 2 else {}
        whole = next(iter(pair.values()), Estimate(math.nan))
        of = f"{d.unit(metric)} in {name}"
        if not whole.computed:
            return ""
    if not whole.computed:
        return f"Cooperation in {name} could not be computed: {whole.reason or 'no reason given'}."
    if whole.positive:
        return f"The modalities cooperate: together they gain {interval(whole)}{of} more than apart."
    if whole.negative:
        return f"The modalities are redundant: cooperation is {interval(whole)}{of}, below zero."
    if not whole.has_interval:
        return f"Cooperation is {num(whole.value)}{of}: a point, no interval."
    return f"The modalities add up: cooperation, {interval(whole)}{of}, is not told apart from zero."


def cooperation(d: Decisions) -> list[str]:
    """Say what the modalities do together: cooperation, interaction and the additive approximation."""
    if len(d.view.modalities) < 2:
        return []
    said = []
    for metric in d.metrics:
        parts = [together(d, metric), *_sets(d, metric), _gaps(d, metric)]
        if any(parts):
            said.append(" ".join(part for part in parts if part))
    return said + _index(d)


def _sets(d: Decisions, metric: str) -> list[str]:
    """Name the pairs (of three modalities and more) whose cooperation is clear of zero, by the chosen metric."""
    if len(d.view.modalities) < 3 or metric != d.main:
        return []
    said = []
    for sign, word in ((1, "Pairs that cooperate"), (-1, "Pairs that are redundant")):
        found = d.together("cooperation", metric).items()
        clear = [(n, e) for n, e in found if len(n) == 2 and (e.positive if sign > 0 else e.negative)]
        clear.sort(key=lambda item: -abs(item[1].value))
        if clear:
            said.append(f"{word}: {listing([f'{d.set_name(n)} {interval(e)}' for n, e in clear], most=4)}.")
    return said


def _gaps(d: Decisions, metric: str) -> str:
    """Say what interaction adds to the best additive approximation."""
    known = {names: e for names, e in d.together("emap gap", metric).items() if e.computed}
    above = [(" + ".join(names), e) for names, e in known.items() if e.positive]
    unit = d.unit(metric)
    if above and len(d.view.modalities) == 2:
        return f"The best additive approximation loses {interval(above[0][1])}{unit}: interaction adds that."
    if above:
        said = listing([f"{name} {interval(e)}{unit}" for name, e in above])
        return f"Interaction with the rest, lost by the best additive approximation: {said}."
    if known and all(_holds_zero(e) or e.negative for e in known.values()):
        return "The best additive approximation is not shown to lose anything: no interaction is shown."
    return ""


def _index(d: Decisions) -> list[str]:
    for metric in reversed(d.metrics):
        for e in d.together("intershap", metric).values():
            if e.computed:
                none = ", not told apart from none" if e.has_interval and e.low <= 0 else ""
                name = d.metric_name(metric)
                return [f"InterSHAP, the interactions' share of all effects in {name}: {interval(e)}{none}."]
    return []


# --- harm ---


def harm_in_classes(d: Decisions) -> list[str]:
    """Say in which classes a modality hurts, by each metric, and how many tests that was chosen from."""
    metrics = [d.class_metric, *(m for m in d.metrics if m != d.class_metric)]
    return [said for metric in metrics if (said := _harm_in_classes(d, metric))]


def _harm_in_classes(d: Decisions, metric: str) -> str:
    rows = d.class_rows(metric)
    values = {(row["concept"], row["modality"]): d.on_class(row) for row in rows}
    chief, name = metric == d.class_metric, d.metric_name(metric)
    tests, hurt = d.tests(rows), d.harm(rows)
    if not rows or (not chief and not tests and not hurt):
        return ""
    if chief and not any(e.computed for e in values.values()):
        return f"What the classes lose could not be computed: {why(values.values())}."
    among = f"{count(len(d.classes), 'class')} × {count(len({r['modality'] for r in rows}), 'modality')}"
    among += f", {len(rows) - tests:,} not tested" if tests < len(rows) else ""
    if not tests and not hurt:
        reason = next((f": {row['reason']}" for row in rows if row["reason"]), "")
        return f"The classes were not tested, so none is said to be hurt{reason}."
    control = f"False discoveries are controlled at {d.alpha} over {count(tests, 'test')} ({among})."
    control = control if tests else "How many tests were made is not recorded."
    if not hurt:
        return f"By {name} no modality is shown to hurt in any class. {control}"
    said, unit = [], d.unit(metric)
    for m in dict.fromkeys([*d.view.modalities, *(row["modality"] for row in hurt)]):
        of = [row["concept"] for row in hurt if row["modality"] == m]
        names = listing([f"{c} {interval(values[c, m])}{unit}" for c in of], most=4)
        if of and d.told_by == "last":
            better = "told better without it; what is lost by its removal: "
            said.append(f"By {name} {m} hurts in {count(len(of), 'class')}, {better}{names}.")
        elif of:
            said.append(f"By {name} {m} hurts in {count(len(of), 'class')}: {names}.")
    return " ".join([*said, control])


def harm_in_samples(d: Decisions) -> list[str]:
    """Say for how many samples a modality is worse than not knowing it, and which were tested."""
    rows = d.rows("samples")
    whole = d.view.whole("samples")
    if whole.empty:
        return []
    if not rows:
        reason = next((str(r) for r in whole["reason"].dropna() if str(r)), "no reason given")
        return [f"No sample was tested for harm: {reason}."]
    tested = len({row["sample"] for row in rows})
    tests = d.tests(rows)
    made = f"{count(tests, 'test')}, with false discoveries controlled at {d.alpha} over all of them"
    control = (
        f"Tested were {count(tested, 'sample')}, of each batch the eighth to whose truth the model gives least "
        f"probability: {made if tests else 'how many tests were made is not recorded'}. "
        "Samples that the model tells well were not tested, so this is no census."
    )
    hurt = [row for row in rows if row["hurts"]]
    if not hurt:
        return [f"For no tested sample is a modality shown to be worse than not knowing it. {control}"]
    each = [(m, sum(row["modality"] == m for row in hurt)) for m in d.view.modalities]
    told = listing([f"{m} for {count(n, 'sample')}" for m, n in each if n])
    said = [
        f"Worse than not knowing it: {told}. There the truth gets more probability with other samples' values, on "
        f"average, than with its own. {control}"
    ]
    worth = d.contributions(d.contributing[0]) if d.contributing else {}
    idle = [m for m, n in each if n and m in worth and worth[m].has_interval and worth[m].low <= 0 <= worth[m].high]
    if idle:
        said.append(
            f"What {listing(idle)} contributes over all is not told from zero: a modality that moves the answer "
            "without telling anything is worse than not knowing it on some samples, and better on others."
        )
    return said


# --- imbalance ---


def imbalance(d: Decisions) -> list[str]:
    """Say which modality dominates the head, and whose encoder learnt less than alone."""
    rows = d.rows("imbalance")
    if not rows:
        return []
    if reason := d.failure(rows):
        return [f"Imbalance could not be computed: {reason}."]
    said = []
    ratios = {r["modality"]: estimate(r) for r in rows if r["measure"] == "discrepancy ratio"}
    known = {m: e for m, e in ratios.items() if e.has_interval and e.computed}
    over = [f"{m} {interval(e)}" for m, e in known.items() if e.low > 1]
    if over:
        said.append(f"Discrepancy ratio above 1, so dominant in the head: {listing(over)}.")
    elif known:
        said.append("No modality dominates the head: no discrepancy ratio is shown to lie above 1.")
    probes = {r["modality"]: estimate(r) for r in rows if r["measure"] == "probe difference"}
    less = [f"{m} {interval(e)}" for m, e in probes.items() if e.negative]
    more = [f"{m} {interval(e)}" for m, e in probes.items() if e.positive]
    if less:
        said.append(f"Probes read less from the joint encoder than from the solo one: {listing(less)}.")
    if more:
        said.append(f"Probes read more from the joint encoder than from the solo one: {listing(more)}.")
    if probes and all(map(_holds_zero, probes.values())):
        said.append("Probes do not tell the joint encoders from the solo ones: every difference's interval holds zero.")
    alone = {r["modality"]: estimate(r) for r in rows if r["measure"] == "alone"}
    ranked = leaders(alone)
    if not ratios and len(ranked) == 1 and len(alone) > 1:
        said.append(f"Alone {ranked[0]} adds most to V(none), {interval(alone[ranked[0]])}.")
    elif not ratios and len(ranked) > 1:
        said.append(f"Alone {listing(ranked)} are not told apart in what they add to V(none).")
    return said
