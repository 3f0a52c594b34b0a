"""Synthetic tables of the decision instruments, with numbers planted by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from tests.report import factory
from tests.report.factory import NAN, wobble

METRICS = ("accuracy", "loglik")
DONORS = 20
TRAP = "green mug"  # the class that the majority predictor names


@dataclass(frozen=True)
class Kept(factory.Dissected):
    """A dissection that kept some inputs."""

    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class Truth:
    """What is planted: phi of each modality, cooperation of all, half the width of intervals, and by class what hurts.

    In a class that a modality hurts ``last`` is below zero and the Shapley value above; in the last class that is named
    ``TRAP`` it is the other way round, as on the class that a majority predictor names.
    """

    worth: dict[str, float]
    together: float = 0.25
    half: float = 0.03
    hurts: dict[str, list[str]] | None = None


def _spread(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def coalitions(truth: Truth, classes: list[str]) -> pd.DataFrame:
    rows = []
    modalities = list(truth.worth)
    for metric, scale, none in (("accuracy", 1.0, 0.1), ("loglik", 2.0, -2.3)):
        for concept in ["", *classes[:2]]:
            for n in range(len(modalities), -1, -1):
                for subset in combinations(modalities, n):
                    value = none + scale * sum(truth.worth[m] for m in subset)
                    place = {"metric": metric, "concept": concept, "subset": "+".join(subset), "n_present": n}
                    rows.append(place | _spread(value, truth.half * scale) | {"reason": ""})
    return pd.DataFrame(rows)


def contribution(truth: Truth, classes: list[str]) -> pd.DataFrame:
    rows = []
    whole = 0.1 + sum(truth.worth.values())
    for metric, scale in zip(METRICS, (1.0, 2.0), strict=True):
        for concept in ["", *classes]:
            for m, worth in truth.worth.items():
                bad = concept in (truth.hurts or {}).get(m, [])
                phi = scale * (worth if not concept else worth * (0.4 + wobble(concept, m)))
                phi, last = -0.7 if concept == TRAP else phi, -0.2 * scale if bad else abs(phi) + 0.02
                half = truth.half * scale * (1 if not concept else 2)
                row = {"metric": metric, "concept": concept, "modality": m, "shapley": phi}
                row |= {"low": phi - half, "high": phi + half, "share": phi / whole}
                row |= {"share_low": (phi - half) / whole, "share_high": (phi + half) / whole}
                row |= {"alone": phi - 0.02, "last": last, "last_low": last - half, "last_high": last + half}
                row |= {"p": 0.0001 if bad else 0.6}
                rows.append(row | {"q": 0.004 if bad else 0.9, "hurts": bad, "reason": ""})
    return pd.DataFrame(rows)


def cooperation(truth: Truth) -> pd.DataFrame:
    """Cooperation is a share of V(all), so there is none of the log-likelihood; EMAP is of the chosen metric only."""
    rows: list[dict[str, Any]] = []
    modalities = list(truth.worth)
    for metric, scale in zip(METRICS, (1.0, 0.5), strict=True):

        def add(kind: str, subset: Any, value: float, reason: str = "", metric: str = metric) -> None:
            row = {"metric": metric, "kind": kind, "subset": "+".join(subset)}
            rows.append(row | _spread(NAN if reason else value, truth.half) | {"reason": reason})

        for n in range(2, len(modalities) + 1):
            for subset in combinations(modalities, n):
                value = truth.together if n == len(modalities) else truth.together * (wobble(subset) - 0.4)
                below = "" if metric == "accuracy" else "no share: V of all modalities is not above 0"
                add("cooperation", subset, value, below)
        for pair in combinations(modalities, 2):
            share = 1.0 if len(modalities) == 2 else 0.5 + wobble(pair)
            add("interaction", pair, scale * truth.together * share)
        if len(modalities) > 1:
            add("intershap", modalities, min(abs(truth.together), 1.0))
            for m in modalities if metric == "accuracy" else []:
                add("emap gap", [m], max(truth.together, 0) / 2)
                add("emap", [m], 0.6)
    return pd.DataFrame(rows)


def perceptual(truth: Truth) -> pd.DataFrame:
    factors = {"any": 1.0, "within class": 0.3, "across classes": 1.1}
    return pd.DataFrame(
        [
            {"metric": metric, "modality": m, "kind": kind}
            | _spread(worth * f, truth.half)
            | {"sd": 0.01, "repeats": 10, "reason": ""}
            for metric in METRICS[:1]
            for m, worth in truth.worth.items()
            for kind, f in factors.items()
        ]
    )


def samples(modalities: list[str], classes: list[str], tested: int = 40, hurt: int = 3, of: int = 60) -> pd.DataFrame:
    """The last modality hurts in the first samples; those past ``tested`` have a valuation only."""
    rows = []
    for i in range(of):
        for j, m in enumerate(modalities):
            known, bad = i < tested, i < hurt and j == len(modalities) - 1
            effect = -1.5 + 0.1 * i if bad else 0.8 - 1.1 * wobble(i, m)
            row = {"sample": 7 * i, "group": i // 3, "label": i % len(classes), "predicted": (i + bad) % len(classes)}
            row |= {"modality": m, "effect": effect if known else NAN, "worse": 19 if bad else 6, "donors": DONORS}
            row |= {"p": (0.0001 if bad else 0.5) if known else NAN, "q": (0.004 if bad else 0.8) if known else NAN}
            row |= {"hurts": bad, "valuation": 0.9 - 0.8 * j, "reason": "" if known else "not among the tested samples"}
            rows.append(row)
    return pd.DataFrame(rows)


ATOMS = {"R": 0.05, "U_a": 0.3, "U_b": 0.02, "S": 0.8}


def information(modalities: list[str], levels: tuple[int, ...] = (-1, 0, 1, 2), rest: bool = True) -> pd.DataFrame:
    """Synergy dominates about the label, redundancy about the prediction; little remains of the rest."""
    pairs = list(combinations(modalities, 2))
    if rest and len(modalities) > 2:
        pairs += [(m, "+".join(o for o in modalities if o != m)) for m in modalities]
    rows = []
    for a, b in pairs:
        for level in levels:
            for about in ("label", "prediction"):
                for atom, worth in ATOMS.items():
                    value = worth if about == "label" else {"R": 0.7}.get(atom, 0.06)
                    value = value * (1 - 0.1 * (level + 1)) + 0.04 - (0.06 if atom == "U_b" else 0)
                    row = {
                        "modality_a": a,
                        "modality_b": b,
                        "level_a": level,
                        "level_b": level,
                        "tap_a": f"{a}{level}",
                        "tap_b": f"{b}{level}",
                    }
                    row |= {"about": about, "estimator": "cvx", "atom": atom, "value": value, "shuffled": 0.04}
                    row |= {"shuffled_high": 0.07, "corrected": value - 0.04, "low": value - 0.08, "high": value}
                    rows.append(row | {"gap": 3e-9, "samples": 797, "bins": "20x18", "reason": ""})
                for atom in ("I_a", "I_b", "I_ab"):
                    rows.append(rows[-1] | {"atom": atom, "value": 0.9})
    return pd.DataFrame(rows)


CORRUPTIONS = {"noise": 0.09, "blur": 0.05, "brightness": 0.01, "occlusion": 0.03}


def robustness(modalities: list[str], severities: int = 6, corruptions: dict[str, float] | None = None) -> pd.DataFrame:
    """Each severity costs its corruption's slope, less in later modalities; noise breaks confidence calibration."""
    rows = []
    for j, m in enumerate(modalities):
        for name, slope in (corruptions or CORRUPTIONS).items():
            for s in range(severities):
                drop = slope * s / (1 + j) * 5 / (severities - 1)
                ece = 0.04 + (0.05 * s if name == "noise" and s > 1 else 0.0)
                row = {"modality": m, "corruption": name, "severity": s, "metric": "accuracy"}
                row |= _spread(0.8 - drop, 0.02) | {"drop": drop, "drop_low": drop - 0.02, "drop_high": drop + 0.02}
                if s == 0:
                    row |= {"drop_low": 0.0, "drop_high": 0.0}
                row |= {"ece": ece, "ece_low": ece - 0.015, "ece_high": ece + 0.015, "ece_floor": 0.02 + 0.001 * s}
                rows.append(row | {"reason": ""})
    return pd.DataFrame(rows)


def robustness_summary(modalities: list[str], baseline: str = "late fusion") -> pd.DataFrame:
    known = 1.0 if baseline else NAN
    return pd.DataFrame(
        [
            {"modality": m, "corruption": name, "relative": 0.3 + 0.01 * i, "relative_low": 0.28, "relative_high": 0.36}
            | {"effective": 0.12 * known, "corruption_error": 0.8 * known, "relative_corruption_error": 0.7 * known}
            | {"baseline": baseline, "reason": ""}
            for m in modalities
            for i, name in enumerate(["mean", *CORRUPTIONS])
        ]
    )


def imbalance(modalities: list[str]) -> pd.DataFrame:
    planted = {"discrepancy ratio": 2.0, "alone": 0.5, "probe joint": 0.6, "probe solo": 0.7, "probe difference": -0.1}
    rows = []
    for j, m in enumerate(modalities):
        for measure, value in planted.items():
            if measure == "discrepancy ratio":
                value = 2.0 if j == 0 else 0.5
            if measure == "probe difference":
                value = -0.1 * j
            rows.append({"measure": measure, "modality": m} | _spread(value, 0.03) | {"reason": ""})
    return pd.DataFrame(rows)


def pictures(modalities: list[str], numbers: list[int]) -> dict[str, np.ndarray]:
    """An image, a sequence and a vector in turn."""
    found: dict[str, np.ndarray] = {}
    for n in numbers:
        seed = np.random.default_rng(n)
        for j, m in enumerate(modalities):
            ramp = np.linspace(0, 255, 96)
            image = np.stack([np.outer(ramp, ramp) / 255, np.tile(ramp, (96, 1)), np.full((96, 96), 37.0 + n)], axis=2)
            sequence = np.cumsum(seed.normal(size=(113, 6)), axis=0)
            given = (image.astype(np.uint8), sequence.astype(np.float32), seed.normal(size=83).astype(np.float32))
            found[f"sample/{n}/{m}"] = given[j % 3]
    return found


def extended(whole: factory.Dissected, truth: Truth, levels: tuple[int, ...] = (-1, 0, 1, 2)) -> Kept:
    """Return the dissection with every table of the decision instruments."""
    modalities, classes = list(truth.worth), whole.manifest["classes"]
    drawn = samples(modalities, classes)
    tables = dict(whole.tables) | {
        "coalitions": coalitions(truth, classes),
        "contribution": contribution(truth, classes),
        "cooperation": cooperation(truth),
        "perceptual": perceptual(truth),
        "samples": drawn,
        "robustness": robustness(modalities),
        "robustness_summary": robustness_summary(modalities),
        "imbalance": imbalance(modalities),
    }
    if len(modalities) > 1:
        tables["information"] = information(modalities, levels)
    named = {"donors": DONORS, "baseline": "late fusion", "measures": ["removal", "robustness"], "estimator": ""}
    named |= {"kinds": dict(zip(modalities, ["image", "sequence", "vector"], strict=False))}
    told = whole.manifest | {"parameters": whole.manifest["parameters"] | named}
    numbers = sorted({int(n) for n in drawn["sample"]})
    return Kept(tables, told, whole.trace, pictures(modalities, numbers))


HURT = {"depth": ["camouflaged ball", "poster"]}


def scenes(**changes: Any) -> Kept:
    """rgb contributes .5, depth .2; they cooperate; depth hurts in two classes and three samples."""
    return extended(factory.scenes(), Truth(**({"worth": {"rgb": 0.5, "depth": 0.2}, "hurts": HURT} | changes)))


def many() -> Kept:
    """Five modalities, 100 classes with long names, nine corruptions with curves of 16 points."""
    whole = factory.Dissected({}, factory.manifest(["rgb", "depth", "thermal", "audio", "lidar"], []), {})
    worth = {"rgb": 0.3, "depth": 0.28, "thermal": 0.1, "audio": 0.01, "lidar": -0.06}
    classes = [f"class {i} of the very long-named kind, with a remark {i}" for i in range(100)]
    truth = Truth(worth, hurts={"lidar": classes[3:40:6], "audio": classes[50:52]})
    made = extended(factory.Dissected({}, whole.manifest | {"classes": classes}, {}), truth)
    named = {f"corruption number {i}": 0.01 * i for i in range(9)}
    return Kept(made.tables | {"robustness": robustness(list(worth), 16, named)}, made.manifest, {}, made.arrays)


def eight() -> Kept:
    """Eight modalities."""
    modalities = [f"sensor {chr(97 + i)}" for i in range(8)]
    whole = factory.Dissected({}, factory.manifest(modalities, [f"c{i}" for i in range(11)]), {})
    return extended(whole, Truth({m: 0.1 * (1 - i / 10) for i, m in enumerate(modalities)}), (0,))


def single() -> Kept:
    return extended(factory.single(), Truth({"x": 0.7}))


def nasty() -> Kept:
    whole = factory.nasty()
    classes = whole.manifest["classes"]
    worth = {factory.NASTY[0]: 0.4, factory.NASTY[1]: 0.2, factory.NASTY[2]: 0.01}
    made = extended(whole, Truth(worth, hurts={factory.NASTY[1]: classes[:2]}))
    tables = dict(made.tables)
    tables["robustness"] = robustness(
        list(worth), corruptions={"<img src=x onerror=console.error(2)>": 0.1, "{{ 1 }}": 0.01}
    )
    tables["robustness_summary"] = robustness_summary(list(worth), "<b>base</b>")
    return Kept(tables, made.manifest, made.trace, made.arrays)


VALUES = {
    "coalitions": "value low high",
    "contribution": "shapley low high share share_low share_high alone last last_low last_high p q",
    "cooperation": "value low high",
    "perceptual": "value sd low high",
    "samples": "effect worse p q valuation",
    "information": "value shuffled shuffled_high corrected low high gap",
    "robustness": "value low high drop drop_low drop_high ece ece_low ece_high ece_floor",
    "robustness_summary": "relative relative_low relative_high effective corruption_error relative_corruption_error",
    "imbalance": "value low high",
}


def alone() -> Kept:
    """The scenes with the tables of the decision instruments only."""
    whole = scenes()
    return Kept({name: whole.tables[name] for name in VALUES}, whole.manifest, {}, whole.arrays)


def blanked(name: str, columns: str, every: int = 1, whole: Kept | None = None) -> Kept:
    """Return the scenes with NaN in some columns of every n-th row of a table, with a reason."""
    whole = whole or alone()
    table = whole.tables[name].reset_index(drop=True).copy()
    gone = table.index % every == 0
    table.loc[gone, columns.split()] = math.nan
    if "hurts" in table:
        table.loc[gone, "hurts"] = False
    table.loc[gone, "reason"] = f"no {name} <today>"
    return Kept(whole.tables | {name: table}, whole.manifest, whole.trace, whole.arrays)


def failed() -> Kept:
    """Every number NaN, with reasons."""
    whole = scenes()
    for name, columns in VALUES.items():
        whole = blanked(name, columns, whole=whole)
    return whole


def only(name: str) -> factory.Dissected:
    """The manifest and one table; no arrays at all."""
    whole = scenes()
    return factory.Dissected({name: whole.tables[name]}, whole.manifest, {})


def bare() -> Kept:
    """The tables of the decision instruments, each without some of its columns."""
    whole = alone()
    tables = {name: whole.tables[name].drop(columns=columns.split()) for name, columns in MISSING.items()}
    return Kept(tables, whole.manifest, whole.trace, whole.arrays)


def holes(every: int) -> Kept:
    """The tables of the decision instruments, each with NaN in every n-th row."""
    whole = alone()
    for name, columns in VALUES.items():
        whole = blanked(name, columns, every, whole)
    return whole


MISSING = {
    "coalitions": "low high",
    "contribution": "low high share share_low share_high last_low last_high p q hurts",
    "cooperation": "low high reason",
    "perceptual": "low high sd",
    "samples": "q worse group",
    "information": "low high shuffled shuffled_high corrected",
    "robustness": "low high drop drop_low drop_high ece ece_low ece_high ece_floor",
    "robustness_summary": "relative_low relative_high baseline effective",
    "imbalance": "low high reason",
}
ODD = {
    "holes": lambda: holes(2),
    "columns missing": bare,
    "no intervals": lambda: blanked("contribution", "low high last_low last_high p q"),
    **{f"only {name}": (lambda n=name: only(n)) for name in VALUES},
}
EVERY = {
    "decisions": scenes,
    "decisions many": many,
    "decisions single": single,
    "decisions nasty": nasty,
    "decisions failed": failed,
}
