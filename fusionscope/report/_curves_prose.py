"""Sentences about information and robustness. What lies inside its interval or null is not called a difference."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fusionscope.report._decisions import ATOMS, Atom, Decisions, Pair, apart, leaders
from fusionscope.report._prose import interval, listing, num
from fusionscope.report._view import Estimate

PAIRS_TOLD = 3


def why(found: Iterable[Estimate]) -> str:
    """Return the first reason."""
    return next((e.reason for e in found if e.reason), "no reason given")


# --- information ---


def information(d: Decisions) -> list[str]:
    """Say for each pair which part of the information dominates, or that nothing is shown."""
    pairs = list(d.decompositions)
    left = len(pairs) - PAIRS_TOLD
    further = [f"{left} further {'pairs are' if left > 1 else 'pair is'} below."] if left > 0 else []
    return [_pair(d, pair) for pair in pairs[:PAIRS_TOLD]] + further


def pair_name(d: Decisions, pair: Pair) -> str:
    a, b, estimator = pair
    several = len({of for *_, of in d.decompositions}) > 1
    return f"{a} and {d.other(a, b)}" + (f" ({estimator.upper()})" if several and estimator else "")


def where(level: float, levels: Iterable[float] = ()) -> str:
    """Say which level, and of those that were compared whether it is the last."""
    last = level >= 0 and level == max(levels, default=-1)
    return "at the inputs" if level < 0 else f"at the last level ({level:g})" if last else f"at level {level:g}"


def doubted(atoms: dict[str, Atom]) -> str:
    """Return why only the intervals say something, "" for no such reason."""
    return next((a.doubt for a in atoms.values() if a.doubt), "")


def doubts(d: Decisions) -> str:
    """Say once why of some decompositions only the intervals say something."""
    found: list[tuple[str, str]] = []
    for pair, abouts in d.decompositions.items():
        for about, levels in abouts.items():
            for level, atoms in levels.items():
                if reason := doubted(atoms):
                    found.append((reason, f"{pair_name(d, pair)}, about the {about}, {where(level)}"))
    if not found:
        return ""
    further = len(found) - 1
    more = f", and likewise of {further:,} more, which the table marks" if further else ""
    return f"Note on {found[0][1]}{more}: {found[0][0]}."


def atom_name(d: Decisions, pair: Pair, atom: str) -> str:
    """Name a part of the decomposition in words."""
    a, b, _ = pair
    owner = {"U_a": a, "U_b": d.other(a, b)}
    return f"uniqueness of {owner[atom]}" if atom in owner else {"R": "redundancy", "S": "synergy"}[atom]


def _pair(d: Decisions, pair: Pair) -> str:
    parts = []
    for about, levels in d.decompositions[pair].items():
        level, atoms = d.told(about, levels)
        parts.append(f"about the {about}, {where(level, levels)}, {dominant(d, pair, atoms)}")
    return f"{pair_name(d, pair)}: {'; '.join(parts)}."


def dominant(d: Decisions, pair: Pair, atoms: dict[str, Atom]) -> str:
    """Say which atom lies beyond its interval and null and above the others; "nothing" where none does."""
    known = {name: atom.corrected for name, atom in atoms.items() if atom.corrected.computed}
    if not known:
        return f"not computed: {why(a.corrected for a in atoms.values())}"
    if not any(e.has_interval for e in known.values()):
        largest = max(known, key=lambda name: known[name].value)
        value = num(known[largest].value)
        return f"the largest part is {atom_name(d, pair, largest)}, {value} bits, a point without interval"
    clear = [name for name in known if atoms[name].clear]
    if not clear:
        most = max(e.value for e in known.values())
        return f"nothing beyond the intervals (at most {num(most)} bits)"
    if doubted(atoms):
        names = listing([f"{atom_name(d, pair, n)} {interval(known[n])} bits" for n in clear])
        compared = ", which are not compared" if len(clear) > 1 else ""
        return f"shown above zero: {names}{compared} (see the note)"
    first = max(clear, key=lambda name: known[name].value)
    top = known[first]
    rivals = [name for name, e in known.items() if name != first and (e.value > top.value or not apart(e, top))]
    if rivals:
        names = listing([f"{atom_name(d, pair, n)} {interval(known[n])} bits" for n in (first, *rivals)])
        return f"no part stands out: {names} are not told apart"
    missing = [atom_name(d, pair, name) for name in ATOMS if name not in known]
    if missing:
        return f"{atom_name(d, pair, first)} {interval(top)} bits; not computed: {listing(missing)}"
    return f"{atom_name(d, pair, first)} dominates, {interval(top)} bits"


# --- robustness ---


def _drops(d: Decisions, m: str) -> tuple[float, dict[str, Estimate]]:
    top, drops = d.hardest(m)
    return top, {c: e for c, e in drops.items() if e.computed}


def robustness(d: Decisions) -> list[str]:
    """Say for each modality which corruption does most damage, and where confidence calibration breaks."""
    rows = d.rows("robustness")
    if not rows:
        return []
    if reason := d.failure(rows):
        return [f"The curves under corruption could not be computed: {reason}."]
    told = {m: calibration(d, m) for m in d.curves}
    said = [" ".join(filter(None, (damage(d, m), told[m]))) for m in d.curves]
    calm = [m for m in d.curves if told[m] == "" and _has_ece(d, m)]
    if calm:
        said.append(f"ECE is nowhere shown to rise above the clean one under corruption of {listing(calm, 'or')}.")
    return said + list(filter(None, [clean_ece(d)]))


def clean_ece(d: Decisions) -> str:
    """Say whether the clean ECE is more than chance gives; "" where its floor is not known."""
    every = [p for of in d.curves.values() for points in of.values() for p in points if p.severity == 0]
    clean = next((p for p in every if p.ece.computed and math.isfinite(p.floor)), None)
    if clean is None:
        return ""
    least = clean.ece.low if clean.ece.has_interval else clean.ece.value
    chance = f"{num(clean.floor, 3)}, what a calibrated model as confident would show by chance with so few samples"
    if least > clean.floor:
        dense = "; but places of one sample are not independent, so chance gives more" if d.dense else ""
        return f"The clean ECE, {interval(clean.ece, 3)}, lies above {chance}{dense}."
    return f"The clean ECE, {interval(clean.ece, 3)}, is not told apart from {chance}: no miscalibration is shown."


def damage(d: Decisions, m: str) -> str:
    """Say which corruption of a modality costs most at the highest severity."""
    top, known = _drops(d, m)
    name = d.metric_name(d.robust_metric)
    at = f"At severity {top:g}"
    if not known:
        return f"{m}: the drop at severity {top:g} could not be computed: {why(d.hardest(m)[1].values())}."
    if not any(e.has_interval for e in known.values()):
        c = max(known, key=lambda c: known[c].value)
        return f"{at} the largest drop under corrupted {m} is {num(known[c].value)}, {c}: a point without interval."
    first, *rivals = leaders(known) or [None]
    if first is None:
        return f"{at} no corruption of {m} is shown to lower {name}."
    if rivals:
        said = listing([f"{c} {interval(known[c])}" for c in (first, *rivals)], most=3)
        return f"{at} the worst for {m} are not told apart: drop in {name} {said}."
    missing = [c for c in d.curves[m] if c not in known]
    unknown = f" No value there: {listing(missing)}." if missing else ""
    return f"{at} {first} does most damage to {m}: {name} falls by {interval(known[first])}.{unknown}"


def _has_ece(d: Decisions, m: str) -> bool:
    """Whether some curve has both a clean and a corrupted ECE with intervals."""
    every = ([(p.severity > 0) for p in points if p.ece.has_interval] for points in d.curves[m].values())
    return any(True in of and False in of for of in every)


def calibration(d: Decisions, m: str) -> str:
    """Say under which corruptions ECE rises above the clean one, and from which severity on; "" for none."""
    curves = d.curves[m]
    broken = []
    for c, points in curves.items():
        found = d.miscalibrated(points)
        if not found:
            continue
        known = [p.severity for p in points if p.ece.computed and p.severity > 0]
        tail = found == [s for s in known if s >= found[0]]
        severities = [f"{s:g}" for s in found]
        broken.append(f"{c} ({f'from {severities[0]} on' if tail else f'at {listing(severities)}'})")
    return f"Confidence calibration breaks (ECE above the clean one) by severity: {listing(broken)}." if broken else ""


def worst(d: Decisions) -> str:
    """Say which corruption of all does most damage (one sentence, for the summary)."""
    found: dict[tuple[str, str], Estimate] = {}
    tops = set()
    for m in d.curves:
        top, drops = _drops(d, m)
        tops.add(top)
        found |= {(m, c): e for c, e in drops.items()}
    named = leaders(found)
    if not named:
        return ""
    at = f"at severity {tops.pop():g}" if len(tops) == 1 else "at the highest severities"
    name = d.metric_name(d.robust_metric)
    said = [f"{c} on {m}" for m, c in named]
    if len(said) > 1:
        return f"The most damaging corruptions {at} are not told apart: {listing(said, most=3)}."
    every = sum(len(of) for of in d.curves.values())
    among = ", of those with a value," if len(found) < every else ""
    return f"The most damaging corruption {at}{among} is {said[0]}: {name} falls by {interval(found[named[0]])}."
