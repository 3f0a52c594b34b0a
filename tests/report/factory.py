"""Synthetic dissections with numbers planted by hand."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd

NAN = math.nan


@dataclass(frozen=True)
class Dissected:
    tables: dict[str, pd.DataFrame]
    manifest: dict[str, Any]
    trace: dict[str, Any]


def wobble(*key: object) -> float:
    """A fixed number in [0, 1) for a key."""
    return zlib.crc32(repr(key).encode()) / 2**32


def call(path: str, depends: list[str], module: str = "Conv2d", shape: list[int] | None = None, **more: Any) -> dict:
    index, slot = more.get("index", 0), more.get("slot", "")
    base = {
        "id": f"{path or 'model'}#{index}{slot}",
        "path": path,
        "index": index,
        "output": "",
        "slot": slot,
        "module": module,
        "shape": [8, 16, 32, 32] if shape is None else shape,
        "axes": {"sample": 0, "unit": 1, "location": [2, 3]},
        "parent": "model#0" if path else None,
        "leaf": bool(path),
        "depends_on": depends,
        "fused": len(depends) > 1,
        "kind": None,
        "tap": False,
    }
    return base | more


def encoder(modality: str, blocks: int, layers: int = 4) -> list[dict]:
    """Blocks of conv, norm, act (and more); the last call of each block is a tap."""
    kinds = ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d"]
    calls = []
    for b in range(blocks):
        for k in range(layers):
            path = f"encoders.{modality}.block{b}.{k}"
            calls.append(call(path, [modality], kinds[k % 4], [8, 8 * 2**b, 32 // 2**b, 32 // 2**b]))
        calls[-1]["tap"] = True
    return calls


def trace(modalities: list[str], blocks: int = 4, layers: int = 4, dead: str | None = None) -> dict:
    alive = [m for m in modalities if m != dead]
    calls = [c for m in modalities for c in encoder(m, blocks, layers)]
    points = []
    if len(alive) > 1:
        calls.append(call("fuse.reduce", alive, "Conv2d", [8, 32, 4, 4], kind="mix"))
        calls.append(call("fuse.act", alive, "ReLU", [8, 32, 4, 4]))
        text = (
            f"{', '.join(sorted(alive))} joined: functional, in fuse, before fuse.reduce#0 (Conv2d), which mixes them"
        )
        points.append(
            {"call": "fuse.reduce#0", "parent": "fuse", "functional": True, "kind": "join", "modalities": sorted(alive)}
            | {"text": text}
        )
    calls.append(call("head", alive, "Linear", [8, 10]))
    calls.append(call("", alive, "FusionNet", [8, 10]))
    return {
        "model": "FusionNet",
        "modalities": modalities,
        "calls": calls,
        "fusion_points": points,
        "messages": [f"{dead} reaches no output in this batch"] if dead else [],
        "unused": ["aux.classifier"] if dead else [],
    }


def taps(modalities: list[str], levels: int, layers: int = 4) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "tap": f"encoders.{m}.block{v}.{layers - 1}#0",
                "modality": m,
                "level": v,
                "depth": v / max(levels - 1, 1),
                "path": f"encoders.{m}.block{v}.{layers - 1}",
                "index": 0,
                "slot": "",
                "module": "Conv2d",
                "units": 8 * 2**v,
                "locations": f"{32 // 2**v}x{32 // 2**v}",
                "rows": 797 * (32 // 2**v) ** 2,
            }
            for m in modalities
            for v in range(levels)
        ]
    )


def similarity(table: pd.DataFrame, aligned: dict[int, float] | None = None, half: float = 0.03) -> pd.DataFrame:
    """All ordered pairs; ``aligned`` plants CKA of equal levels between modalities."""
    rows = []
    for a in table.to_dict("records"):
        for b in table.to_dict("records"):
            apart = abs(a["level"] - b["level"])
            if a["modality"] == b["modality"]:
                cka = 1.0 if not apart else max(0.9 - 0.22 * apart, 0.1)
            else:
                first, second = sorted([a["tap"], b["tap"]])
                cka = 0.05 + 0.14 * min(a["level"], b["level"]) - 0.02 * apart + 0.02 * wobble(first, second)
                if aligned is not None and not apart:
                    cka = aligned[a["level"]]
            known = math.isfinite(cka)
            rows.append(
                {"tap_a": a["tap"], "tap_b": b["tap"]}
                | {
                    "modality_a": a["modality"],
                    "level_a": a["level"],
                    "modality_b": b["modality"],
                    "level_b": b["level"],
                }
                | {"cka": cka, "low": cka - half, "high": cka + half, "null_mean": 0.01, "null_high": 0.08}
                | {"reason": "" if known else "HSIC of a constant tap is zero"}
            )
    return pd.DataFrame(rows)


def selectivity(table: pd.DataFrame, owners: dict[str, list[str]]) -> pd.DataFrame:
    """``owners`` says which modalities encode a class; the others stay inside their null."""
    rows = []
    for t in table.to_dict("records"):
        for concept in ["overall", *owners]:
            mine = concept == "overall" or t["modality"] in owners[concept]
            grown = (0.06 + 0.5 * t["depth"]) * (0.6 + 0.7 * wobble(concept, t["modality"]))
            value = grown if mine else 0.004 + 0.02 * wobble(concept, t["tap"])
            bound = 0.03 + 0.01 * wobble("null", t["tap"], concept)
            rows.append(
                {"tap": t["tap"], "modality": t["modality"], "level": t["level"], "concept": concept}
                | {"best_unit": int(7 * wobble(concept)), "eta2": value + 0.004, "epsilon2": value}
                | {"mean_epsilon2": value / 3, "null_mean": bound / 2, "null_high": bound}
                | {"encoded": value > bound, "reason": ""}
            )
    return pd.DataFrame(rows)


def removal(modalities: list[str], worth: dict[str, float], chance: float = 0.1, half: float = 0.03) -> pd.DataFrame:
    """V(S) = chance + the worth of who is present."""
    whole = chance + sum(worth.values())
    rows = []
    for n in range(len(modalities), -1, -1):
        for subset in combinations(modalities, n):
            value = chance + sum(worth[m] for m in subset)
            full = n == len(modalities)
            drop = 0.0 if full else whole - value
            rows.append(
                {"subset": "+".join(subset), "n_present": n, "metric": "accuracy", "value": value}
                | {"low": value - half, "high": value + half, "drop": drop}
                | {"drop_low": 0.0 if full else drop - half, "drop_high": 0.0 if full else drop + half, "reason": ""}
            )
    return pd.DataFrame(rows)


def recovery(owners: dict[str, list[str]], planted: dict[str, str], table: pd.DataFrame, modalities: list[str]):
    expects = {"colour": "rgb", "geometry": "depth"}
    rows = []
    for concept, kind in planted.items():
        for m in modalities:
            found = table[(table["concept"] == concept) & (table["modality"] == m)]
            best = found.loc[(found["epsilon2"] - found["null_high"]).idxmax()]
            expected = pd.NA if kind in ("both", "none", "either") else expects[kind] == m
            rows.append(
                {"concept": concept, "planted": kind, "modality": m, "expected": expected, "best_tap": best["tap"]}
                | {"epsilon2": best["epsilon2"], "null_high": best["null_high"], "encoded": best["encoded"]}
                | {"agrees": pd.NA if expected is pd.NA else expected == best["encoded"]}
            )
    return pd.DataFrame(rows)


def manifest(modalities: list[str], classes: list[str], **more: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "created": "2026-03-05T21:14:03+00:00",
        "model": {"name": "FusionNet", "parameters": 214_731, "fingerprint": "9f31c0de77a1"},
        "data": {
            "spec": "scenes?train=2000",
            "split": "test",
            "samples": 797,
            "batches": 13,
            "fingerprint": "51ce90aa",
        },
        "modalities": modalities,
        "classes": classes,
        "task": "dense",
        "parameters": {"fill": "resample", "empty": "majority", "metric": "accuracy", "permutations": 200}
        | {"alpha": 0.05, "seed": 0, "batch_size": 64},
        "versions": {"fusionscope": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6", "python": "3.11.7"},
        "wall_s": {"trace": 1.93, "stream": 7.41, "total": 9.34},
        "forwards": {"trace": 7, "stream": 52},
        "messages": [],
    } | more


OWNERS = {
    "red mug": ["rgb"],
    "green mug": ["rgb"],
    "poster": ["rgb"],
    "flat board": ["depth"],
    "camouflaged ball": ["depth"],
    "camouflaged box": ["depth"],
    "chair": ["rgb", "depth"],
    "odd one": [],
}
PLANTED = {
    "red mug": "colour",
    "green mug": "colour",
    "poster": "colour",
    "flat board": "geometry",
    "camouflaged ball": "geometry",
    "camouflaged box": "geometry",
    "chair": "either",
    "odd one": "both",
}


def scenes(
    worth: dict[str, float] | None = None, half: float = 0.03, aligned: dict[int, float] | None = None
) -> Dissected:
    """Two modalities, dense, with planted truth: rgb costs 0.5, depth 0.2; alike at level 3, not at level 0."""
    modalities = ["rgb", "depth"]
    tapped = taps(modalities, 4)
    found = selectivity(tapped, OWNERS)
    tables = {
        "taps": tapped,
        "similarity": similarity(tapped, aligned or {0: 0.05, 1: 0.2, 2: 0.37, 3: 0.61}),
        "selectivity": found,
        "removal": removal(modalities, worth or {"rgb": 0.5, "depth": 0.2}, half=half),
        "recovery": recovery(OWNERS, PLANTED, found, modalities),
    }
    return Dissected(tables, manifest(modalities, list(OWNERS)), trace(modalities))


def actions(n: int = 27) -> Dissected:
    """Three modalities, ``n`` classes, one modality dead."""
    modalities = ["inertial", "skeleton", "depth"]
    owners = {f"action {i:02d}": [m for j, m in enumerate(modalities[:2]) if (i >> j) & 1] for i in range(n)}
    tapped = taps(modalities, 5, layers=13)
    tables = {
        "taps": tapped,
        "similarity": similarity(tapped),
        "selectivity": selectivity(tapped, owners),
        "removal": removal(modalities, {"inertial": 0.11, "skeleton": 0.62, "depth": 0.0}, chance=0.04),
    }
    told = manifest(modalities, list(owners), task="classification", messages=["rows interact in norm0"])
    return Dissected(tables, told, trace(modalities, 5, 13, dead="depth"))


def single() -> Dissected:
    modalities = ["x"]
    owners = {"zero": ["x"], "one": []}
    tapped = taps(modalities, 2)
    tables = {
        "taps": tapped,
        "similarity": similarity(tapped),
        "selectivity": selectivity(tapped, owners),
        "removal": removal(modalities, {"x": 0.7}),
    }
    return Dissected(tables, manifest(modalities, list(owners)), trace(modalities, 2))


NASTY = ["<b>x</b>", "a+b", "</script><script>console.error('escaped')</script>"]


def nasty() -> Dissected:
    """Names that break out of text, attributes, scripts and the subset syntax."""
    owners = {
        "</script>": [NASTY[0]],
        '"><img src=http://fusionscope.invalid/x onerror=console.error(1)>': [NASTY[1]],
        "{{ 7 * 7 }} <!-- & \u2028": NASTY[:2],
        "datum['x']": [],
    }
    tapped = taps(NASTY, 2)
    tables = {
        "taps": tapped,
        "similarity": similarity(tapped),
        "selectivity": selectivity(tapped, owners),
        "removal": removal(NASTY, {NASTY[0]: 0.4, NASTY[1]: 0.2, NASTY[2]: 0.01}),
    }
    told = manifest(NASTY, list(owners), messages=["<i>message</i>"])
    told["model"]["name"] = "<u>Net</u>"
    return Dissected(tables, told, trace(NASTY, 2))


def failed() -> Dissected:
    """Everything NaN, with reasons."""
    whole = scenes()
    tables = {name: table.copy() for name, table in whole.tables.items() if name != "recovery"}
    tables["similarity"][["cka", "low", "high", "null_mean", "null_high"]] = NAN
    tables["similarity"]["reason"] = "fewer than 4 samples in every batch"
    tables["selectivity"][["eta2", "epsilon2", "mean_epsilon2", "null_mean", "null_high"]] = NAN
    tables["selectivity"]["encoded"] = False
    tables["selectivity"]["reason"] = "one class only"
    tables["removal"][["value", "low", "high", "drop", "drop_low", "drop_high"]] = NAN
    tables["removal"]["reason"] = "no labelled sample"
    return Dissected(tables, whole.manifest, whole.trace)


def empty() -> Dissected:
    return Dissected({}, manifest(["rgb", "depth"], []), {})


def many() -> Dissected:
    """Five modalities, two of which meet first; long lanes; 100 classes."""
    modalities = ["rgb", "depth", "thermal", "audio", "lidar"]
    owners = {f"class {i}": [m for j, m in enumerate(modalities) if wobble(i, j) > 0.6] for i in range(100)}
    tapped = taps(modalities, 6, layers=33)
    tables = {
        "taps": tapped,
        "similarity": similarity(tapped),
        "selectivity": selectivity(tapped, owners),
        "removal": removal(modalities, {"rgb": 0.3, "depth": 0.28, "thermal": 0.1, "audio": 0.01, "lidar": -0.06}),
    }
    drawn = trace(modalities, 6, 33)
    first = call("pair.mix", ["rgb", "depth"], "Conv2d", kind="mix")
    place = next(i for i, c in enumerate(drawn["calls"]) if c["path"].startswith("encoders.thermal"))
    drawn["calls"].insert(place, first)
    text = "depth, rgb mixed by pair.mix#0 (Conv2d)"
    point = {"call": "pair.mix#0", "parent": "pair", "functional": False, "kind": "mix", "modalities": ["depth", "rgb"]}
    drawn["fusion_points"] = [point | {"text": text}]
    return Dissected(tables, manifest(modalities, list(owners)), drawn)


EVERY = {
    "scenes": scenes,
    "actions": actions,
    "single": single,
    "nasty": nasty,
    "failed": failed,
    "empty": empty,
    "many": many,
}
