"""Sentences about how the modalities learned. They give the numbers; within noise nothing is called a difference."""

from __future__ import annotations

import math

from fusionscope.report._dynamics import QUANTITIES, Key, Learning, Point, known
from fusionscope.report._prose import count, listing, num
from fusionscope.report._view import number

MOST = 0.9  # of the epochs, or of a similarity: "nearly all"
GATE_START = 0.881  # sigmoid(2): where instance gates begin
SMALL = 0.1  # a cosine that is called neither agreement nor opposition
ALIKE = 1.25  # ratios within this factor are called even: where no interval is known, a convention
TOLD = 6


def findings(d: Learning) -> list[str]:
    """Return what the tables show, a sentence or two per quantity."""
    said = [*values(d), *norms(d), *cosines(d), *discrepancies(d), *gates(d), *similarities(d)]
    return said or (["No quantity was recorded along this training."] if not d.series else [])


def trained(points: list[Point]) -> list[Point]:
    """Return the points after the start of training that have a value; all with a value if there are no such."""
    return [p for p in known(points) if p.epoch] or known(points)


def _mean(points: list[Point]) -> float:
    return sum(p.mean for p in points) / len(points)


# --- each modality alone ---


def half(points: list[Point]) -> Point:
    """Return the first point past the middle between the first and the last value."""
    start, end = points[0].mean, points[-1].mean
    middle = (start + end) / 2
    return next(p for p in points if (p.mean >= middle if end >= start else p.mean <= middle))


def change(d: Learning, a: Point, b: Point) -> str:
    """Say whether a score rose or fell from ``a`` to ``b``: "rose", "fell", "" (within noise), "?" (noise unknown)."""
    noise = 2 * math.hypot(d.error(a), d.error(b))
    if math.isnan(noise):
        return "?"
    return "rose" if b.mean - a.mean > noise else "fell" if a.mean - b.mean > noise else ""


def values(d: Learning) -> list[str]:
    """Say how the score of each modality alone went, and which was learned first where that is clear."""
    every = {m: known(points) for (m, _), points in d.of("value").items()}
    alone = {m: every[m] for m in d.modalities if m in every}
    said = [_value(d, m, points) for m, points in list(alone.items())[:TOLD]]
    if len(alone) > TOLD:
        said.append(f"{len(alone) - TOLD} more modalities are in the chart.")
    if points := every.get(""):
        said.append(
            f"All together: {num(points[0].mean)} at epoch {points[0].epoch}, {num(points[-1].mean)} at the end."
        )
    if any(math.isnan(d.error(points[-1])) for points in alone.values()):
        said.append(f"Of {d.metric} no interval is known here, so the modalities are not ranked.")
    elif first := learned_first(d, alone):
        said.append(first)
    return [" ".join(said)] if said else []


def _value(d: Learning, m: str, points: list[Point]) -> str:
    start, end = points[0], points[-1]
    if len(points) < 2:
        return f"{m} alone: {d.metric} {num(end.mean)} at epoch {end.epoch}, the only one recorded."
    way = change(d, start, end)
    if not way:
        noise = f"within the noise of {count(end.count, 'sample')}"
        return f"{m} alone did not change beyond noise: {d.metric} {num(start.mean)} to {num(end.mean)}, {noise}."
    verb = way if way != "?" else "went"
    middle = half(points)
    said = f"{m} alone {verb} from {num(start.mean)} to {num(end.mean)} ({d.metric})"
    if middle.epoch not in (start.epoch, end.epoch):
        said += f", half the way by epoch {middle.epoch} ({num(middle.mean)})"
    top = max(points, key=lambda p: p.mean)
    if way != "?" and top.mean - end.mean > 3 * math.hypot(d.error(top), d.error(end)) and top is not start:
        said += f"; it had been higher, {num(top.mean)} at epoch {top.epoch}"
    return said + "."


def learned_first(d: Learning, alone: dict[str, list[Point]]) -> str:
    """Say which modality was learned first: past half its rise while every other is shown to be below half of its."""
    risen = {m: p for m, p in alone.items() if len(p) > 1 and change(d, p[0], p[-1]) == "rose"}
    if len(risen) < 2:
        return ""
    halves = {m: half(points) for m, points in risen.items()}
    first = min(halves, key=lambda m: halves[m].epoch)
    for m, points in risen.items():
        then = next((p for p in reversed(points) if p.epoch <= halves[first].epoch), points[0])
        middle = (points[0].mean + points[-1].mean) / 2
        if m != first and then.mean + 2 * d.error(then) >= middle:
            return "Which was learned first is not told apart."
    rest = [m for m in risen if m != first]
    were = "was" if len(rest) == 1 else "were"
    return f"{first} was learned first: when it was half-way, {listing(rest)} {were} shown to be less than half-way."


# --- gradients ---


def norms(d: Learning) -> list[str]:
    """Say whose own parameters got the larger gradients, in how many epochs and by how much."""
    every = {m: {p.epoch: p.mean for p in known(points)} for (m, _), points in d.of("gradient norm").items()}
    if len(every) < 2:
        return []
    means = {m: sum(of.values()) / len(of) for m, of in every.items()}
    high, low = max(means, key=lambda m: means[m]), min(means, key=lambda m: means[m])
    if means[high] < ALIKE * means[low]:
        said = listing([f"{short(mean)} for {m}" for m, mean in means.items()])
        return [f"The gradients on the modalities' own parameters were about equally large (means {said})."]
    both = [e for e in every[high] if e in every[low]]
    more = sum(every[high][e] > every[low][e] for e in both)
    factor = f", {num(means[high] / means[low], 1)} times as large" if means[low] > 0 else ""
    said = (
        f"The gradient was larger on {high}'s own parameters than on {low}'s in {more} of {count(len(both), 'epoch')}"
    )
    return [f"{said} (means {short(means[high])} and {short(means[low])}{factor})."]


def short(value: float) -> str:
    """Write a number with three digits that count."""
    return (
        f"{value:.3g}".replace("-", "−") if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.1e}".replace("-", "−")
    )


def grouped(verdicts: list[tuple[str, str]]) -> str:
    """Join who is said what of, each verdict once.

    >>> grouped([("rgb (2.0)", "ahead"), ("depth (0.6)", "behind"), ("audio (0.5)", "behind")])
    'ahead: rgb (2.0); behind: depth (0.6) and audio (0.5)'
    """
    by: dict[str, list[str]] = {}
    for who, verdict in verdicts:
        by.setdefault(verdict, []).append(who)
    return "; ".join(f"{verdict}: {listing(names)}" for verdict, names in by.items())


def cosines(d: Learning) -> list[str]:
    """Say of each pair whether its gradients on shared weights agreed."""
    said = []
    for key, given in d.of("gradient cosine").items():
        points = trained(given)
        above, below = (sum(sign * p.mean > 0 for p in points) for sign in (1, -1))
        mean = _mean(points)
        verdict = "now agreed, now opposed"
        if abs(mean) < SMALL:
            verdict = "had little to do with each other"
        elif max(above, below) >= MOST * len(points):
            verdict = "agreed" if above > below else "opposed each other"
        ends = f"; {num(points[0].mean)} at epoch {points[0].epoch}, {num(points[-1].mean)} at the end"
        said.append((f"{d.name(key)} ({num(mean)}{ends if len(d.of('gradient cosine')) <= 3 else ''})", verdict))
    return [f"Gradients on shared weights (mean cosine) {grouped(said)}."] if said else []


def discrepancies(d: Learning) -> list[str]:
    """Say which modality alone gives the right answers clearly more probability than the others."""
    said = []
    for key, given in d.of("discrepancy").items():
        points = trained(given)
        above, below = (sum(p.mean > ALIKE for p in points), sum(p.mean < 1 / ALIKE for p in points))
        verdict = "even" if not above and not below else "even at times"
        if max(above, below) >= MOST * len(points):
            verdict = "clearly better alone than the rest" if above > below else "clearly worse"
        said.append((f"{d.name(key)} ({num(points[-1].mean)} at the end)", verdict))
    return [f"Discrepancy ratio, {grouped(said)}."] if said else []


# --- calibration and features ---


def gates(d: Learning) -> list[str]:
    """Say what calibration does to each modality at the end of training."""
    said = []
    for key, given in d.of("instance gate").items():
        end = known(given)[-1]
        spread = end.std if math.isfinite(end.std) else 0.0
        damped, lifted = end.mean + spread < GATE_START, end.mean - spread > GATE_START
        verdict = "damped" if damped else "lifted" if lifted else "about as it began"
        said.append((f"{d.name(key)} ({num(end.mean)} ± {num(spread)})", verdict))
    found = [f"Calibration at the end (its gate per sample began at 0.88), {grouped(said)}."] if said else []
    spreads = []
    for key, given in d.of("dimension gate").items():
        end = known(given)[-1]
        spreads.append(f"{d.name(key)} {num(end.mean)}" + (f" ± {num(end.std)}" if math.isfinite(end.std) else ""))
    return found + ([f"Gates per dimension at the end (0: untouched): {listing(spreads)}."] if spreads else [])


def settled(points: list[Point]) -> int | None:
    """Return the first epoch from which on the similarity stays at ``MOST`` or above."""
    epoch = None
    for p in reversed(points):
        if p.mean < MOST:
            break
        epoch = p.epoch
    return epoch


def similarities(d: Learning) -> list[str]:
    """Say from which epoch on each stream's features were nearly the final ones."""
    said = []
    for (m, _), given in d.of("similarity to final").items():
        points = known(given)
        epoch = settled(points)
        last = epoch is None or epoch == points[-1].epoch
        said.append(f"{m} only at the end" if last else f"{m} from epoch {epoch} on")
    return [f"CKA of the features with their final state reached {MOST} for good: {listing(said)}."] if said else []


# --- what is missing, and the summary ---


def absent(d: Learning) -> list[str]:
    """Say which quantities have no value, and why."""
    said = []
    for quantity, of in d.missing.items():
        by_reason: dict[str, list[Key]] = {}
        for key, reason in of.items():
            by_reason.setdefault(reason, []).append(key)
        for reason, keys in by_reason.items():
            named = [d.name(k) for k in keys if k[0]]
            who = f" of {listing(named)}" if named and len(keys) < 3 else ""
            said.append(f"No {QUANTITIES_SAID.get(quantity, quantity)}{who}: {reason}.")
    never = [QUANTITIES_SAID[q] for q in QUANTITIES if q not in d.series and q not in d.missing]
    if never and len(never) < len(QUANTITIES):
        said.append(f"Not recorded in this run: {listing(never)}.")
    return said


QUANTITIES_SAID: dict[str, str] = {
    "value": "score of a modality alone",
    "gradient norm": "gradient norm",
    "gradient cosine": "cosine of gradients",
    "discrepancy": "discrepancy ratio",
    "instance gate": "calibration gate per sample",
    "dimension gate": "calibration gate per dimension",
    "similarity to final": "similarity to the final features",
}


def training(d: Learning) -> str:
    """Say how long the run was trained and what it reached."""
    told = d.training
    epochs, best, test = (number(told.get(k)) for k in ("epochs", "best_epoch", "test"))
    said = []
    if math.isfinite(epochs):
        said.append(f"It was trained for {count(int(epochs), 'epoch')}")
    if said and math.isfinite(best):
        said.append(f"the weights of epoch {best:.0f} were kept")
    if said and math.isfinite(test):
        said.append(f"test {d.metric} is {num(test)}")
    return f"{'; '.join(said)}." if said else ""


def unmeasured(d: Learning) -> str:
    """Say, in the report of a training alone, what it does not tell."""
    if d.task == "translation":
        return "What each modality contributes is not measured for models that make images."
    return "What each modality contributes to its answers was not measured; fusionscope dissect does that."
