"""Sentences about concepts and semantic variance. What lies inside its null, floor or limits is no difference."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fusionscope.report._prose import LISTED, count, interval, listing, num
from fusionscope.report._semantics import Row, Semantics, Variance, estimate, numeral

NAMED, PAIRS = 3, 15  # pairs of modalities whose concepts are named, and whose sets are counted


def levels(names: Sequence[str]) -> str:
    """Write levels, runs of three and more as a range.

    >>> levels(["0", "1", "2", "3"]), levels(["0", "2"]), levels(["5"])
    ('levels 0 to 3', 'levels 0 and 2', 'level 5')
    """
    names = list(dict.fromkeys(names))
    if len(names) > 2 and all(n.isdecimal() for n in names):
        places = [int(n) for n in names]
        if places == list(range(places[0], places[-1] + 1)):
            return f"levels {places[0]} to {places[-1]}"
    return f"level{'' if len(names) == 1 else 's'} {listing(names)}"


def at_levels(found: dict[str, list[str]]) -> str:
    """Name concepts with their levels, those of the same levels together.

    >>> at_levels({"mug": ["1"], "cup": ["1"], "chair": ["0", "1"]})
    'mug and cup (level 1); chair (levels 0 and 1)'
    """
    groups: dict[str, list[str]] = {}
    for concept, where in found.items():
        groups.setdefault(levels(where), []).append(concept)
    said = [f"{listing(names)} ({where})" for where, names in groups.items()]
    left = sum(len(names) for names in list(groups.values())[LISTED:])
    return "; ".join(said[:LISTED]) + (f"; and {left} more" if left else "")


def margin(s: Semantics) -> str:
    """Write the margin, "" where there is none."""
    return num(s.margin) if math.isfinite(s.margin) and s.margin > 0 else ""


# --- what each stream tells ---


def concepts(s: Semantics) -> list[str]:
    """Say what each stream tells, what is special to whom and what is shared, and where concepts emerge."""
    rows = s.rows("concepts")
    if reason := s.failure(rows, "score"):
        return [f"What each stream tells could not be computed: {reason}."]
    total = len(s.concepts)
    each = {m: sum(m in s.encoders(c) for c in s.concepts) for m in s.streams}
    if not any(each.values()):
        return [f"No stream encodes any of the {count(total, 'concept')}: every IoU lies inside its null."]
    encoded = listing([f"{m} encodes {n}" for m, n in each.items()])
    said = [f"Of {count(total, 'concept')}, {encoded} at one level at least."]
    pairs = s.differences("across")
    if len(pairs) > NAMED:
        said += [_counts(a, b, rows, s) for (a, b), rows in list(pairs.items())[:PAIRS]]
        return [*said, "Which they are, and the levels at which the concepts emerge, is in the tables."]
    said += [sets(a, b, rows, s) for (a, b), rows in pairs.items()]
    return said + [line for m in s.streams if (line := emergence(s, m))]


def _counts(a: str, b: str, rows: list[Row], s: Semantics) -> str:
    kinds = s.kinds(rows)
    either = kinds.get("a", {}).keys() | kinds.get("b", {}).keys()
    both = [c for c in kinds.get("both", {}) if c not in either]
    special = [len(kinds.get(side, {})) for side in "ab"]
    return f"{a} against {b}: {special[0]} special to {a}, {special[1]} to {b}, {len(both)} consistent."


def sets(a: str, b: str, rows: list[Row], s: Semantics) -> str:
    """Name the concepts that are special to either of two modalities, encoded in both, or in neither."""
    kinds = s.kinds(rows)
    special = {side: kinds.get(side, {}) for side in ("a", "b")}
    parts = [f"special to {m}: {at_levels(special[side])}" for side, m in (("a", a), ("b", b)) if special[side]]
    either = special["a"].keys() | special["b"].keys()
    both = [c for c in kinds.get("both", {}) if c not in either]
    neither = [c for c in kinds.get("neither", {}) if c not in either and c not in both]
    if both:
        parts.append(f"consistent, encoded in both and special to neither: {listing(both)}")
    if neither:
        parts.append(f"neither consistent nor special at any level: {listing(neither)}")
    told = {*either, *both, *neither}
    unknown = [c for c in kinds.get("", {}) if c not in told]
    if unknown:
        parts.append(f"without a value: {listing(unknown)}")
    if not told:
        return f"{a} and {b} could not be compared concept by concept at any level."
    if not either:
        parts.insert(0, "no concept is special to either, no difference is clear of its limits")
    return f"{a} against {b}, at matched levels: {'. '.join(upper(p) if i else p for i, p in enumerate(parts))}."


def emergence(s: Semantics, modality: str) -> str:
    """Say at which level the concepts emerge in one stream."""
    groups: dict[float, list[str]] = {}
    for concept in s.concepts:
        level = s.emergence(modality, concept)
        if math.isfinite(level):
            groups.setdefault(level, []).append(concept)
    found = [f"at level {numeral(level)} {listing(groups[level])}" for level in sorted(groups) if level >= 0]
    if not found:
        return ""
    nowhere = [c for level, names in groups.items() if level < 0 for c in names]
    said = f"In {modality} there emerge {'; '.join(found)}"
    return f"{said}; nowhere {listing(nowhere)}." if nowhere else f"{said}."


# --- semantic variance ---


def variance(s: Semantics) -> list[str]:
    """Say for each pair of modalities where they differ most, and where no more than refits alone would."""
    if len(s.view.modalities) < 2 or not s.pairs:
        return ["There is no second modality to compare with."]
    return [_pair(s, a, b) for a, b in s.pairs[:LISTED]]


def _pair(s: Semantics, a: str, b: str) -> str:
    rows = s.matched(a, b)
    known = [v for v in rows if v.sv.computed]
    if not rows:
        return f"{a} and {b} have no level in common."
    if not known:
        reason = next((v.sv.reason for v in rows if v.sv.reason), "no reason given")
        return f"The semantic variance of {a} and {b} could not be computed: {reason}."
    apart = [v for v in known if v.told_apart]
    if not apart:
        top = max(v.sv.value for v in known)
        return (
            f"{a} and {b} are not told apart at any matched level: the semantic variance (at most {num(top)}) is not "
            f"clear of its floor{_floors(known)}."
        )
    most = max(apart, key=lambda v: v.sv.value)
    least = _least(known)
    floored = [v.at for v in known if not v.told_apart]
    if len(known) == 1:
        said = f"At level {most.at} the semantic variance of {a} and {b} is {interval(most.sv)}"
    elif most.sv.overlaps(least.sv) and floored:
        where = levels([v.at for v in apart])
        said = f"{a} and {b} are told apart at {where}, semantic variance {_reach(_least(apart), most)}"
    elif most.sv.overlaps(least.sv):
        reach = f"semantic variance {_reach(least, most)}; the intervals overlap"
        said = f"{a} and {b} differ about equally in what they tell at every matched level ({reach})"
    else:
        top, bottom = _ranked(known, most, least)
        said = f"{a} and {b} differ most in what they tell at {_at(top)}, and least at {_at(bottom, '')}"
    said += f"; refits alone give{_floors(known, bare=True)}."
    return f"{said} Not clear of the floor, so no difference: {levels(floored)}." if floored else said


def _floors(known: Sequence[Variance], bare: bool = False) -> str:
    floors = sorted(v.floor for v in known if math.isfinite(v.floor))
    if not floors:
        return " an unknown floor" if bare else ", which could not be computed"
    low, high = (num(floor, 2 if floor >= 0.01 else 3) for floor in (floors[0], floors[-1]))
    written = low if low == high else f"{low} to {high}"
    return f" {written}" if bare else f" ({written})"


# --- within a stream ---


def within(s: Semantics) -> list[str]:
    """Say at which step each stream changes most in what it tells, and which concepts it gains and loses."""
    said = []
    gained = s.differences("within")
    for m in s.view.modalities:
        known = [v for v in s.steps(m) if v.sv.computed]
        clear = [v for v in known if v.told_apart]
        if not known:
            reason = next((v.sv.reason for v in s.steps(m) if v.sv.reason), "")
            if reason:
                said.append(f"The steps within {m} could not be computed: {reason}.")
            continue
        if not clear:
            line = f"No step of {m} changes what it tells by more than refits alone do{_floors(known)}."
        else:
            most, least = max(clear, key=lambda v: v.sv.value), _least(known)
            floored = [v for v in known if not v.told_apart]
            if floored and most.sv.overlaps(least.sv):
                where = listing([_step(v) for v in clear])
                line = f"{m} changes {where}, semantic variance {_reach(_least(clear), most)}."
            elif len(known) > 1 and most.sv.overlaps(least.sv):
                reach = f"{_reach(least, most)}; the intervals overlap"
                line = f"{m} changes about equally at every step (semantic variance {reach})."
            else:
                top, _ = _ranked(known, most, least)
                much = " most" if len(known) > 1 else ""
                line = f"{m} changes{much} {listing([_step(v) for v in top])}, semantic variance {_values(top)}."
            if floored:
                line += f" No change beyond the floor {listing([_step(v) for v in floored])}."
        said.append(" ".join([line, *_gains(gained.get((m, m), []))]))
    return said


def _least(found: Sequence[Variance]) -> Variance:
    return min(found, key=lambda v: v.sv.value)


def _ranked(known: Sequence[Variance], most: Variance, least: Variance) -> tuple[list[Variance], list[Variance]]:
    """Return what cannot be told from the largest, and from the smallest; what is near both is in neither."""
    top = [v for v in known if v is most or (v.sv.overlaps(most.sv) and not v.sv.overlaps(least.sv))]
    return top, [v for v in known if v is least or (v.sv.overlaps(least.sv) and not v.sv.overlaps(most.sv))]


def _at(found: Sequence[Variance], noun: str = "semantic variance ") -> str:
    return f"{levels([v.at for v in found])}, {noun}{_values(found)}"


def _values(found: Sequence[Variance]) -> str:
    if len(found) == 1:
        return interval(found[0].sv, _digits(found[0]))
    return f"{_reach(_least(found), max(found, key=lambda v: v.sv.value))} (the intervals overlap)"


def _reach(least: Variance, most: Variance) -> str:
    low, high = num(least.sv.value, _digits(most)), num(most.sv.value, _digits(most))
    return low if low == high else f"{low} to {high}"


def _digits(v: Variance) -> int:
    return 2 if abs(v.sv.value) >= 0.1 else 3


def _step(v: Variance) -> str:
    return f"from level {numeral(v.b)} to {numeral(v.a)}"


def _gains(rows: Sequence[Row]) -> list[str]:
    said = []
    for kind, verb in (("a", "Told better"), ("b", "Told less well")):
        found: dict[str, list[str]] = {}
        for row in rows:
            if row["kind"] == kind:
                found.setdefault(row["concept"], []).append(numeral(row["level_a"]))
        if found:
            said.append(f"{verb} than one level before: {at_levels(found)}.")
    return said


def training(s: Semantics) -> list[str]:
    """Say from which checkpoint on each level tells what it tells in the end."""
    said = []
    for m, by_level in s.training.items():
        settled: dict[str, list[str]] = {}
        for level, epochs in by_level.items():
            known = {epoch: v for epoch, v in epochs.items() if v.sv.computed and math.isfinite(v.floor)}
            if not known:
                continue
            late = [epoch for epoch, v in known.items() if v.told_apart]
            after = [epoch for epoch in known if not late or epoch > late[-1]]
            when = f"from epoch {after[0]:g} on" if after else "at none of the checkpoints"
            if len(after) == 1 < len(known):
                when = f"only at the last checkpoint, epoch {after[0]:g}"
            settled.setdefault(when, []).append(numeral(level))
        if not settled:
            rows = [v.row for epochs in by_level.values() for v in epochs.values()]
            said.append(f"The checkpoints of {m} could not be compared: {s.failure(rows, 'sv') or 'no floor'}.")
        else:
            parts = "; ".join(f"{levels(names)} {when}" for when, names in settled.items())
            said.append(f"{m} is not told apart from its final state: {parts}.")
    return said


# --- joint picture ---

QUADRANTS = {
    (True, True): "same features, same semantics",
    (False, True): "same semantics from different features",
    (True, False): "similar geometry, but different readable semantics",
    (False, False): "fully special",
}


def quadrant(v: Variance) -> str:
    """Name the quadrant of a pair of taps; the lines at 0.5 are a convention."""
    return QUADRANTS[v.similarity >= 0.5, 1 - v.ratio >= 0.5]


def joint(s: Semantics) -> list[str]:
    """Say in which quadrant each pair of modalities lies, level by level."""
    said = []
    for a, b in s.pairs[:LISTED]:
        found: dict[str, list[str]] = {}
        alike: list[str] = []
        for v in s.matched(a, b):
            if math.isfinite(v.similarity) and math.isfinite(v.ratio):
                unclear = not v.told_apart and v.ratio > 0.5
                (alike if unclear else found.setdefault(quadrant(v), [])).append(v.at)
        parts = [f"{name} at {levels(where)}" for name, where in found.items() if where]
        if alike:
            parts.append(f"no difference in semantics clear of the floor at {levels(alike)}")
        if parts:
            said.append(f"{a} and {b}: {'; '.join(parts)}.")
    if not said:
        rows = [v.row for pair in s.pairs for v in s.matched(*pair)]
        reason = next((r["reason"] for r in rows if r["reason"]), "no pair of levels has both numbers")
        return [f"The joint picture could not be drawn: {reason}."]
    return said


# --- collaboration ---


def verdict(rows: Sequence[Row]) -> str:
    """Say which pressure survives its limits: the hybrid rule where both do."""
    kinds = {row["pressure"] for row in rows}
    if {"consistency", "speciality"} <= kinds:
        return "Pressure in both directions is clear of the limits: the hybrid rule."
    if "consistency" in kinds:
        return (
            "Only consistency pressure is clear of the limits: where joint and solo differ, the modalities are more "
            "alike inside the joint model."
        )
    if "speciality" in kinds:
        return (
            "Only speciality pressure is clear of the limits: where joint and solo differ, the modalities are less "
            "alike inside the joint model."
        )
    return "Nothing lies beyond the noise: no pressure of joint training is shown."


def collaboration(s: Semantics) -> list[str]:
    """Say what joint training did, against the solo twins."""
    said = []
    for (a, b), rows in list(s.collaborations().items())[:LISTED]:
        if not any(math.isfinite(row["difference"]) for row in rows):
            said.append(f"Joint and solo {a} and {b} could not be compared: no difference was computed.")
            continue
        found = verdict(rows)
        parts = [f"{a} and {b}: {found[:1].lower()}{found[1:]}"]
        for measure in ("semantic variance", "similarity"):
            for row in rows:
                if row["measure"] == measure and row["pressure"]:
                    name = "CKA" if measure == "similarity" else measure
                    joint, solo, apart = num(row["joint"]), num(row["solo"]), interval(estimate(row, "difference"))
                    parts.append(
                        f"At level {numeral(row['level'])} the {name} is {joint} inside the joint model and {solo} "
                        f"between the solo twins, difference {apart}: {row['pressure']} pressure."
                    )
        for kind, effect in (("consistency", "Told more alike"), ("speciality", "Told less alike")):
            told: dict[str, list[str]] = {}
            for row in rows:
                if row["measure"] == "concept" and row["pressure"] == kind:
                    told.setdefault(row["concept"], []).append(numeral(row["level"]))
            if told:
                parts.append(f"{effect} than by the solo twins ({kind} pressure): {at_levels(told)}.")
        said.append(" ".join(parts))
    return said + _twins(s)


def _twins(s: Semantics) -> list[str]:
    said = []
    for (m, _), rows in s.differences("twin").items():
        kinds = s.kinds(rows)
        sides = (("a", "better in the joint model"), ("b", "better in the solo twin"))
        parts = [f"{effect}: {at_levels(kinds[kind])}" for kind, effect in sides if kind in kinds]
        if parts:
            said.append(f"{m} inside the joint model against its solo twin, told {'; told '.join(parts)}.")
        elif any(math.isfinite(row["d"]) for row in rows):
            said.append(f"{m} inside the joint model tells no concept measurably better or worse than its solo twin.")
    return said


# --- summary ---


def summary(s: Semantics) -> str:
    """Return what the opening paragraph says about concepts: special sets and pressure, in counts."""
    parts = []
    for (a, b), rows in s.differences("across").items():
        kinds = s.kinds(rows)
        counts = [f"{len(kinds[side])} to {m}" for side, m in (("a", a), ("b", b)) if side in kinds]
        pairs = len(s.differences("across"))
        if counts and pairs <= 3:
            of = count(len({row["concept"] for row in rows}), "concept")
            between = f"Between {a} and {b}, of" if pairs > 1 else "Of"
            parts.append(f"{between} {of}, special at some level: {listing(counts)}.")
    rows = s.rows("collaboration")
    if any(math.isfinite(row["difference"]) for row in rows):
        parts.append(verdict(rows))
    return " ".join(parts)


def upper(said: str) -> str:
    """Return a sentence that begins with a capital."""
    return said[:1].upper() + said[1:]
