"""Synthetic tables of concepts and semantic variance, with solo twins and checkpoints, planted by hand."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import pandas as pd

from tests.report import factory
from tests.report.factory import NAN, Dissected, wobble

NULL, BOUND, FLOOR, HALF, LIMIT, MARGIN = 0.1, 0.14, 0.03, 0.02, 0.06, 0.05
EPOCHS = (0, 3, 9)
Scores = dict[tuple[str, str, int, str], float]


def scores(modalities: list[str], levels: int, owners: dict[str, list[str]], sources: list[str]) -> Scores:
    """Owners tell a concept the better the later the level, from level 1 on; the others not at all.

    Twins tell what the joint model does, but for the first concept that two modalities own: its second owner's twin
    does not tell it at the last level. Checkpoints approach the final state.
    """
    shared = next((c for c, who in owners.items() if len(who) > 1), "")
    found: Scores = {}
    for source in sources:
        share = 1.0
        if source.startswith("epoch"):
            share = {0: 0.0, 3: 0.6, 9: 1.0}[int(source.split()[1])]
        for m in modalities:
            if source.startswith("solo") and source != f"solo {m}":
                continue
            for level in range(levels):
                for c, who in owners.items():
                    s = share * (0.25 * level + 0.02 * wobble(c, m)) if m in who else 0.01 * wobble(c, m, level)
                    lost = c == shared and who[1] == m and level == levels - 1 and source.startswith("solo")
                    found[source, m, level, c] = 0.0 if lost else s
    return found


def tap_id(source: str, modality: str, level: int) -> str:
    plain = f"encoders.{modality}.block{level}.3#0"
    return f"{source}/{plain}" if source else plain


def _side(side: str, source: str, modality: str, level: int) -> dict[str, Any]:
    return {f"tap_{side}": tap_id(source, modality, level), f"source_{side}": source} | {
        f"modality_{side}": modality,
        f"level_{side}": level,
    }


def concepts(found: Scores) -> pd.DataFrame:
    rows = []
    for (source, m, level, c), s in found.items():
        iou = NULL + s * (1 - NULL)
        rows.append(
            {"tap": tap_id(source, m, level), "source": source, "modality": m, "level": level, "concept": c}
            | {"iou": iou, "null_mean": NULL, "null_high": BOUND, "score": s, "low": s - HALF, "high": s + HALF}
            | {"encoded": iou > BOUND, "threshold": 0.4, "prevalence": 0.2, "reason": ""}
        )
    return pd.DataFrame(rows)


def emergence(found: Scores, modalities: list[str], owners: dict[str, list[str]]) -> pd.DataFrame:
    rows = []
    for m in modalities:
        for c in owners:
            mine = {level: s for (source, n, level, d), s in found.items() if (source, n, d) == ("", m, c)}
            told = [level for level, s in mine.items() if NULL + s * (1 - NULL) > BOUND]
            best = max(mine, key=lambda level: mine[level])
            first = min(told) if told else -1
            rows.append(
                {"source": "", "modality": m, "concept": c, "level": first, "tap": tap_id("", m, first) if told else ""}
                | {"best_level": best, "score": mine[best], "prevalence": 0.2}
            )
    return pd.DataFrame(rows)


def variance(found: Scores, owners: dict[str, list[str]]) -> pd.DataFrame:
    taps = list(dict.fromkeys(key[:3] for key in found))
    rows = []
    for a in taps:
        for b in taps:
            one, two = ([found[*tap, c] for c in owners] for tap in (a, b))
            sv = sum(abs(x - y) for x, y in zip(one, two, strict=True)) / len(one)
            shuffled = sum(abs(x - y) for x in one for y in two) / len(one) ** 2
            share = 0.07 * (9 - int(a[0].split()[1])) if a[0].startswith("epoch") else 0.0
            similarity = (
                1.0
                if a == b
                else 0.99 - share
                if a[1:] == b[1:]
                else 0.9 - 0.2 * abs(a[2] - b[2])
                if a[1] == b[1]
                else 0.1 + 0.17 * a[2]
            )
            ratio = sv / shuffled if shuffled else NAN
            rows.append(
                _side("a", *a)
                | _side("b", *b)
                | {"sv": sv, "raw": sv * (1 - NULL), "low": sv - HALF, "high": sv + HALF, "floor": FLOOR}
                | {"shuffled": shuffled, "concepts": len(one), "similarity": similarity, "ratio": ratio}
                | {"consistency": similarity * (1 - ratio), "speciality": (1 - similarity) * ratio, "reason": ""}
            )
    return pd.DataFrame(rows)


def profile(found: Scores, modalities: list[str], levels: int, owners: dict[str, list[str]]) -> pd.DataFrame:
    sources = {key[0] for key in found}
    asked = [("across", "", a, v, "", b, v) for a, b in combinations(modalities, 2) for v in range(levels)]
    asked += [("within", "", m, v + 1, "", m, v) for m in modalities for v in range(levels - 1)]
    if any(s.startswith("solo") for s in sources):
        asked += [("twin", "", m, v, f"solo {m}", m, v) for m in modalities for v in range(levels)]
        pairs = combinations(modalities, 2)
        asked += [("solo", f"solo {a}", a, v, f"solo {b}", b, v) for a, b in pairs for v in range(levels)]
    asked += [
        ("training", s, m, v, "", m, v)
        for s in sources
        if s.startswith("epoch")
        for m in modalities
        for v in range(levels)
    ]
    rows = []
    for question, *ab in asked:
        a, b = ab[:3], ab[3:]
        for c in owners:
            one, two = found[*a, c], found[*b, c]
            d = one - two
            told = [NULL + s * (1 - NULL) > BOUND for s in (one, two)]
            kind = "both" if all(told) else "neither"
            kind = "a" if told[0] and d - LIMIT > MARGIN else "b" if told[1] and d + LIMIT < -MARGIN else kind
            rows.append(
                {"question": question}
                | _side("a", *a)
                | _side("b", *b)
                | {"concept": c, "d": d, "low": d - LIMIT, "high": d + LIMIT, "kind": kind}
            )
    return pd.DataFrame(rows)


def collaboration(found: Scores, modalities: list[str], levels: int, owners: dict[str, list[str]]) -> pd.DataFrame:
    """Joint and solo values as the scores have them; CKA is planted higher by 0.2 in the joint model at level 2."""
    rows = []
    for a, b in combinations(modalities, 2):
        for v in range(levels):
            d = {c: [found["", a, v, c] - found["", b, v, c]] for c in owners}
            for c in owners:
                d[c].append(found[f"solo {a}", a, v, c] - found[f"solo {b}", b, v, c])
            each = [("concept", c, abs(joint), abs(solo)) for c, (joint, solo) in d.items()]
            mean = [sum(values) / len(owners) for values in list(zip(*each, strict=True))[2:]]
            every = [("semantic variance", "", *mean), ("similarity", "", 0.5 if v == 2 else 0.3, 0.3), *each]
            for measure, c, joint, solo in every:
                apart = joint - solo
                nearer = apart > 0 if measure == "similarity" else apart < 0
                pressure = "" if abs(apart) <= LIMIT else "consistency" if nearer else "speciality"
                rows.append(
                    {"measure": measure, "modality_a": a, "modality_b": b, "level": v, "concept": c, "joint": joint}
                    | {"solo": solo, "difference": apart, "low": apart - LIMIT, "high": apart + LIMIT}
                    | {"pressure": pressure}
                )
    return pd.DataFrame(rows)


def units(modalities: list[str], levels: int) -> pd.DataFrame:
    rows = []
    for m in modalities:
        for v in range(levels):
            dead = 3 if (m, v) == (modalities[0], levels - 1) else 0
            rows.append(
                {"tap": tap_id("", m, v), "source": "", "modality": m, "level": v, "units": 8 * 2**v, "dead": dead}
                | {"saturated": 0, "effective_rank": 3.0 + 2 * v + wobble(m, v), "participation": 2.0 + v}
                | {"selectivity_mean": 0.2 + 0.1 * v, "selectivity_max": 0.7, "detectors": NAN}
                | {"concepts_detected": NAN, "reason": ""}
            )
    return pd.DataFrame(rows)


def pairwise(modalities: list[str], levels: int) -> pd.DataFrame:
    """Every measure grows with the level; all but Procrustes lie inside their null at level 0."""
    rows = []
    for n, measure in enumerate(("procrustes", "svcca", "rsa", "mutual_knn", "cka_rbf")):
        for a in modalities:
            for b in modalities:
                for v in range(levels):
                    value = 1.0 if a == b else 0.1 + 0.2 * v + (0.2 if not n else 0)
                    rows.append(
                        {"measure": measure}
                        | _side("a", "", a, v)
                        | _side("b", "", b, v)
                        | {"value": value, "null_mean": 0.1, "null_high": 0.2, "samples": 500, "of": 797, "reason": ""}
                    )
    return pd.DataFrame(rows)


def extended(whole: Dissected, owners: dict[str, list[str]], levels: int, references: bool = True) -> Dissected:
    """Return the dissection with the tables of concepts, and with ``references`` twins and checkpoints."""
    modalities = whole.manifest["modalities"]
    more = [*(f"solo {m}" for m in modalities), *(f"epoch {e}" for e in EPOCHS)] if references else []
    found = scores(modalities, levels, owners, ["", *more])
    tables = dict(whole.tables)
    tables["taps"] = pd.concat(
        [
            tables["taps"].assign(source=s, tap=[f"{s}/{t}" if s else t for t in tables["taps"]["tap"]])
            for s in ["", *more]
        ]
    )
    own = tables["similarity"].assign(source_a="", source_b="")
    tables["similarity"] = pd.concat([own, *(own.assign(source_a=s, source_b=s, cka=0.99) for s in more)])
    tables |= {"concepts": concepts(found), "emergence": emergence(found, modalities, owners)}
    tables |= {"variance": variance(found, owners), "profile": profile(found, modalities, levels, owners)}
    tables |= {"units": units(modalities, levels), "pairwise": pairwise(modalities, levels)}
    if references:
        tables["collaboration"] = collaboration(found, modalities, levels, owners)
    told = whole.manifest | {"references": more}
    told["parameters"] = told["parameters"] | {"margin": MARGIN, "estimator": "net2vec"}
    return Dissected(tables, told, whole.trace)


def scenes(references: bool = True) -> Dissected:
    return extended(factory.scenes(), factory.OWNERS, 4, references)


def nasty() -> Dissected:
    whole = factory.nasty()
    owners = {
        c: [factory.NASTY[i % 3], factory.NASTY[(i + 1) % 3]][: 1 + i % 2]
        for i, c in enumerate(whole.manifest["classes"])
    }
    return extended(whole, owners, 2)


def many() -> Dissected:
    """Five modalities, 100 concepts, no references."""
    whole = factory.many()
    modalities = whole.manifest["modalities"]
    owners = {c: [m for j, m in enumerate(modalities) if wobble(c, j) > 0.6] for c in whole.manifest["classes"]}
    return extended(whole, owners, 6, references=False)


VALUES = {
    "concepts": "iou null_mean null_high score low high",
    "variance": "sv raw low high floor shuffled similarity ratio consistency speciality",
    "profile": "d low high",
    "emergence": "level best_level score",
    "collaboration": "joint solo difference low high",
    "units": "units dead saturated effective_rank participation selectivity_mean selectivity_max",
    "pairwise": "value null_mean null_high",
}


def failed() -> Dissected:
    """Every number of the new tables NaN, with reasons."""
    whole = scenes()
    tables = dict(whole.tables)
    for name, columns in VALUES.items():
        tables[name] = tables[name].copy()
        tables[name][columns.split()] = math.nan
        if "reason" in tables[name]:
            tables[name]["reason"] = f"no {name} <today>"
    tables["concepts"]["encoded"] = False
    tables["profile"]["kind"] = ""
    tables["collaboration"]["pressure"] = ""
    return Dissected(tables, whole.manifest, whole.trace)


def single() -> Dissected:
    """One modality: nothing to compare it with."""
    return extended(factory.single(), {"zero": ["x"], "one": []}, 2, references=False)


def without(name: str, columns: str, every: int = 1) -> Dissected:
    """The scenes with NaN in some columns of every n-th row of a table."""
    whole = scenes()
    table = whole.tables[name].reset_index(drop=True)
    gone = table.index % every == 0
    table.loc[gone, columns.split()] = NAN
    if "reason" in table:
        table["reason"] = ["left out" if g else "" for g in gone]
    return Dissected(whole.tables | {name: table}, whole.manifest, whole.trace)


ODD = {
    "single": single,
    "no CKA": lambda: without("variance", "similarity ratio consistency speciality"),
    "no intervals": lambda: without("variance", "low high"),
    "no limits": lambda: without("profile", "low high"),
    "no pressure limits": lambda: without("collaboration", "low high"),
    "no joint value": lambda: without("collaboration", "joint"),
    "holes in variance": lambda: without("variance", VALUES["variance"], 3),
    "holes in concepts": lambda: without("concepts", VALUES["concepts"], 4),
    "holes in profile": lambda: without("profile", VALUES["profile"], 3),
    "holes in units": lambda: without("units", VALUES["units"], 3),
    "holes in pairwise": lambda: without("pairwise", VALUES["pairwise"], 3),
}
EVERY = {"concepts": scenes, "concepts nasty": nasty, "concepts many": many, "concepts failed": failed}
