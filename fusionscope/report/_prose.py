"""Sentences made from the numbers. What lies inside its null, or inside its interval, is not called a difference."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fusionscope.report._lanes import arrange
from fusionscope.report._view import Estimate, Similarity, View, number, truth

LISTED = 6


def num(value: float, digits: int = 2) -> str:
    """Write a number with a real minus sign; never "-0.00".

    >>> num(-0.128), num(-0.001), num(float("nan"))
    ('−0.13', '0.00', 'not computed')
    """
    if not math.isfinite(value):
        return "not computed"
    written = f"{value:.{digits}f}"
    return f"{0:.{digits}f}" if float(written) == 0 else written.replace("-", "−")


def interval(estimate: Estimate, digits: int = 2) -> str:
    """Write a value with its interval, as "0.41 (0.36 to 0.46)".

    >>> interval(Estimate(0.41, 0.36, 0.46))
    '0.41 (0.36 to 0.46)'
    """
    written = num(estimate.value, digits)
    if estimate.computed and estimate.has_interval:
        written += f" ({num(estimate.low, digits)} to {num(estimate.high, digits)})"
    return written


def listing(names: Sequence[str], word: str = "and", most: int = LISTED) -> str:
    """Join names as a person would.

    >>> listing(["rgb", "depth", "audio"]), listing(list("abcdefghij"), most=3)
    ('rgb, depth and audio', 'a, b, c and 7 more')
    """
    names = list(names)
    if len(names) > most + 1:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return f"{', '.join(names[:-1])} {word} {names[-1]}" if len(names) > 1 else "".join(names)


def count(n: int, noun: str) -> str:
    """Write a count with its noun, for the nouns used here.

    >>> count(1, "level"), count(5, "class")
    ('1 level', '5 classes')
    """
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + ("es" if noun.endswith("s") else "s")
    return f"{n:,} {noun if n == 1 else plural}"


# --- removal ---


def dearest(view: View) -> str:
    """Say which modality's removal costs most, or that none is shown to."""
    costs = {m: c for m, c in view.costs.items() if c.computed}
    if len(view.modalities) < 2:
        return "There is one modality only, so no removal is compared with another."
    if not costs:
        reason = next((c.reason for c in view.costs.values() if c.reason), "")
        return f"What removing a modality costs could not be computed{f': {reason}' if reason else ''}."
    clear = [m for m, c in costs.items() if c.positive]
    if not clear:
        if not any(c.has_interval for c in costs.values()):
            m, cost = next(iter(costs.items()))
            return f"The largest drop is {num(cost.value)}, without {m}; without an interval it is only a point."
        if any(c.negative for c in costs.values()):
            return f"No modality's removal is shown to lower {view.metric}."
        return (
            f"No modality's removal costs more than its interval: every drop in {view.metric} is compatible with none."
        )
    first, *rest = clear
    rivals = [m for m in rest if costs[m].overlaps(costs[first])]
    if rivals:
        drops = listing([f"{interval(costs[m])} for {m}" for m in (first, *rivals)])
        return (
            f"Removing {listing([first, *rivals], 'or')} costs about equally much: {view.metric} falls by {drops}, "
            "and the intervals overlap."
        )
    return f"Removing {first} costs most: {view.metric} falls by {interval(costs[first])}."


def removal(view: View) -> str:
    """Say what removing each modality costs and what each keeps alone."""
    if view.table("removal").empty:
        return "No subset of modalities was evaluated in this dissection."
    parts = []
    whole = view.value(view.modalities)
    if whole.computed:
        parts.append(f"With every modality present {view.metric} is {interval(whole)}.")
    parts.append(dearest(view))
    if len(view.modalities) >= 2:
        computed = {m: c for m, c in view.costs.items() if c.computed}
        clear = [m for m, c in computed.items() if c.positive]
        named = clear[:1] if clear else []
        if len(clear) > 1:
            named += [m for m in clear[1:] if computed[m].overlaps(computed[clear[0]])]
        further = [m for m in clear if m not in named]
        if further:
            parts.append(f"The drop is {listing([f'{interval(computed[m])} without {m}' for m in further])}.")
        for m, cost in computed.items():
            if cost.negative:
                parts.append(f"Without {m} {view.metric} is higher, by {interval(_flipped(cost))}: {m} does harm here.")
        unclear = [m for m, c in computed.items() if c.has_interval and not c.positive and not c.negative]
        if unclear and clear:
            drops = listing([f"{interval(computed[m])} without {m}" for m in unclear])
            parts.append(f"No measurable cost, since the interval holds zero: {drops}.")
        elif unclear:
            parts.append(f"The drops: {listing([f'{interval(computed[m])} without {m}' for m in unclear])}.")
        for m, cost in view.costs.items():
            if not cost.computed and cost.reason and computed:
                parts.append(f"The cost of removing {m} could not be computed: {cost.reason}.")
        alone = [(m, view.value([m])) for m in view.modalities] if len(view.modalities) > 2 else []
        kept = [f"{m} {num(v.value)}" for m, v in alone if v.computed]
        if kept:
            parts.append(f"Alone they reach {listing(kept)}.")
    nothing = view.value([])
    if nothing.computed:
        parts.append(f"With none present V is {num(nothing.value)}.")
    return " ".join(parts)


def _flipped(estimate: Estimate) -> Estimate:
    return Estimate(-estimate.value, -estimate.high, -estimate.low)


# --- similarity ---


def pair(view: View, a: str, b: str) -> str:
    """Say at which level two modalities are most and least alike."""
    rows = view.aligned(a, b)
    computed = [s for s in rows if s.cka.computed]
    if not rows:
        return f"{a} and {b} have no level in common."
    if not computed:
        reason = next((s.cka.reason for s in rows if s.cka.reason), "no reason given")
        return f"The similarity of {a} and {b} could not be computed: {reason}."
    inside = [s for s in computed if s.inside]
    if len(inside) == len(computed):
        top = max(s.cka.value for s in computed)
        where = f"at every compared level CKA lies inside its null (at most {num(top)})"
        return f"{a} and {b} share nothing measurable: {where}."
    strongest = max(computed, key=lambda s: s.cka.value)
    weakest = min(computed, key=lambda s: s.cka.value)
    if len(computed) == 1:
        return f"At level {strongest.level_a}, the only one compared, CKA of {a} and {b} is {interval(strongest.cka)}."
    if strongest.cka.overlaps(weakest.cka):
        reach = f"CKA {num(weakest.cka.value)} to {num(strongest.cka.value)}"
        why = "the intervals overlap" if _bounded(strongest, weakest) else "there are no intervals to part them"
        return f"{a} and {b} are about equally alike at every compared level ({reach}; {why})." + _inside(
            inside, computed
        )
    said = (
        f"{a} and {b} are most alike at level {strongest.level_a}, CKA {interval(strongest.cka)}, "
        f"and least at level {weakest.level_a}, {interval(weakest.cka)}"
    )
    if weakest.inside:
        said += ", which is inside its null"
        inside = [s for s in inside if s is not weakest]
    return f"{said}." + _inside(inside, computed)


def _bounded(*rows: Similarity) -> bool:
    return all(s.cka.has_interval for s in rows)


def _inside(inside: list[Similarity], computed: list[Similarity]) -> str:
    if not inside or len(inside) == len(computed):
        return ""
    levels = listing([str(s.level_a) for s in inside])
    return (
        f" Also inside {'its' if len(inside) == 1 else 'their'} null: level{'' if len(inside) == 1 else 's'} {levels}."
    )


def extremes(view: View) -> str:
    """Say, over all pairs, where streams are most and least alike (one sentence, for the summary)."""
    if len(view.modalities) < 2:
        return ""
    if len(view.pairs) == 1:
        return pair(view, *view.pairs[0])
    found = [(a, b, s) for a, b in view.pairs for s in view.aligned(a, b) if s.cka.computed]
    if not found:
        return "No cross-modal similarity was computed."
    if all(s.inside for _, _, s in found):
        return "At every compared level the similarity of every pair of modalities lies inside its null."
    a, b, top = max(found, key=lambda item: item[2].cka.value)
    c, d, low = min(found, key=lambda item: item[2].cka.value)
    if top.cka.overlaps(low.cka):
        return (
            f"The pairs are about equally alike at every level (CKA {num(low.cka.value)} to {num(top.cka.value)}; "
            "the intervals overlap)."
        )
    null = ", inside its null" if low.inside else ""
    return (
        f"The most alike are {a} and {b} at level {top.level_a}, CKA {interval(top.cka)}; "
        f"the least are {c} and {d} at level {low.level_a}, {interval(low.cka)}{null}."
    )


def similarity(view: View) -> list[str]:
    """Return one sentence for each pair of modalities."""
    if view.table("similarity").empty:
        return ["No similarity was measured in this dissection."]
    if len(view.modalities) < 2 or not view.pairs:
        return ["There is no second modality to compare with; the map shows how the levels resemble each other."]
    if len(view.pairs) > LISTED:
        return [extremes(view)]
    return [pair(view, a, b) for a, b in view.pairs]


# --- selectivity ---


def counts(view: View) -> str:
    """Say how many classes each stream encodes."""
    total = len(view.concepts)
    if not total or not view.measured:
        return ""
    if not any(view.encoders(c) for c in view.concepts):
        return f"No stream encodes any of the {count(total, 'class')}: every best unit lies inside its null."
    said = [f"{m} encodes {sum(m in view.encoders(c) for c in view.concepts)}" for m in view.measured]
    return f"Of {count(total, 'class')}, {listing(said)}."


def selectivity(view: View) -> str:
    """Say which classes only one stream encodes, which several do, and which none does."""
    if view.selectivity.empty:
        return "No class selectivity was measured in this dissection."
    failed = view.selectivity[~view.selectivity["epsilon2"].map(math.isfinite)]
    if len(failed) == len(view.selectivity):
        reason = next((r for r in failed["reason"] if r), "no reason given")
        return f"Class selectivity could not be computed: {reason}."
    if not view.concepts:
        said = [m for m in view.measured if view.encoders("overall") == [m] or m in view.encoders("overall")]
        return (
            f"The target as a whole is encoded by {listing(said)}." if said else "Every best unit lies inside its null."
        )
    parts = [counts(view)]
    owners = {c: view.encoders(c) for c in view.concepts}
    if any(owners.values()) and len(view.measured) > 1:
        for m in view.measured:
            only = [c for c, who in owners.items() if who == [m]]
            if only:
                parts.append(f"Only {m}: {listing(only)}.")
        several = [c for c, who in owners.items() if len(who) == len(view.measured)]
        if several:
            parts.append(f"{'Both' if len(view.measured) == 2 else 'All'}: {listing(several)}.")
        if len(view.measured) > 2:
            some = [c for c, who in owners.items() if 1 < len(who) < len(view.measured)]
            if some:
                parts.append(f"More than one, not all: {listing(some)}.")
    none = [c for c, who in owners.items() if not who]
    if none and len(none) < len(owners):
        parts.append(f"Inside the null everywhere: {listing(none)}.")
    return " ".join(part for part in parts if part)


def recovery(view: View) -> str:
    """Say how much of the planted truth was found."""
    judged = [row for row in view.table("recovery").to_dict("records") if truth(row["expected"]) is not None]
    if not judged:
        return "No class of this data has a planted type that names one modality."
    wrong = [f"{row['concept']} in {row['modality']}" for row in judged if truth(row["agrees"]) is not True]
    if not wrong:
        return f"All {len(judged)} planted facts (a class and a modality) were found as planted."
    return f"{len(judged) - len(wrong)} of {len(judged)} planted facts were found as planted; not so: {listing(wrong)}."


# --- summary and trace ---


def summary(view: View) -> str:
    """Return the opening paragraph."""
    return " ".join(part for part in (opening(view), alike(view)) if part)


def alike(view: View) -> str:
    """Say where the streams are alike and what they encode."""
    return " ".join(part for part in (extremes(view), counts(view)) if part)


def opening(view: View, effects: str = "") -> str:
    """Say what was measured, and what the modalities do to the answer: ``effects``, or else what removals cost."""
    model, data = view.section("model"), view.section("data")
    size = number(model.get("parameters"))
    said = f"{model.get('name') or 'The model'}"
    if math.isfinite(size):
        said += f", {count(int(size), 'parameter')},"
    said += f" takes {count(len(view.modalities), 'modality')}"
    said += f" ({listing(view.modalities)})" if view.modalities else ""
    samples = number(data.get("samples"))
    if math.isfinite(samples):
        said += f" and was measured on {count(int(samples), 'sample')}"
        said += f" of the {data['split']} split" if data.get("split") else ""
    whole = view.value(view.modalities)
    said += f", where {view.metric} is {interval(whole)}." if whole.computed else "."
    return " ".join(part for part in (said, effects or (dearest(view) if len(view.table("removal")) else "")) if part)


def trace(view: View) -> str:
    """Say where the lanes meet, and which modality reaches nothing."""
    calls = view.trace.get("calls") or []
    points = [str(p.get("text") or p.get("call") or p.get("parent")) for p in view.trace.get("fusion_points") or []]
    if not calls:
        return "No trace was saved with this dissection."
    layout = arrange(view.trace)
    if len(layout.lanes) > 1:
        lanes = listing([f"{m} {lane.calls}" for m, lane in layout.lanes.items()])
        parts = [f"{'Calls of each lane' if layout.exchanges else 'Calls that see one modality only'}: {lanes}."]
    else:
        parts = [f"{m} runs through {count(lane.calls, 'call')}." for m, lane in layout.lanes.items()]
    if layout.exchanges:
        parts.append(f"After {count(layout.exchanges, 'exchange')} the lanes go on.")
    if points:
        more = f", and {count(len(points) - 3, 'further point')}" if len(points) > 3 else ""
        noun = "Fusion point" if len(points) == 1 else f"{len(points)} fusion points"
        parts.append(f"{noun}: {'; '.join(points[:3])}{more}.")
    elif len(layout.modalities) > 1:
        parts.append("No fusion point was found: no call depends on two modalities.")
    dead = [m for m, lane in layout.lanes.items() if lane.dead]
    parts += [f"{m} reaches no output in the traced batch: the model's answer does not depend on it." for m in dead]
    return " ".join(parts)
