"""From the instruments' results to tidy tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fusionscope.dissection._questions import Spot, name, placed
from fusionscope.measures import (
    CKAResult,
    DetectorResult,
    EtaResult,
    PairwiseResult,
    StatisticsResult,
    TapStatistics,
)
from fusionscope.tracing import Tap

# A unit saturates if more than this share of its activations lies within 1 % of its own largest (or smallest) one.
SATURATED = 0.5


def taps(spots: Sequence[Spot]) -> pd.DataFrame:
    """One row per tap: where it is and what it holds."""
    rows = [
        {
            "tap": source.spot(tap),
            "source": source.name,
            "modality": tap.modality,
            "level": tap.level,
            "depth": tap.depth,
            "path": tap.call.path,
            "index": tap.call.index,
            "slot": tap.call.slot,
            "module": tap.call.module,
            "units": tap.units,
            "locations": "x".join(map(str, tap.locations)),
        }
        for source, tap in spots
    ]
    columns = ["tap", "source", "modality", "level", "depth", "path", "index", "slot", "module", "units", "locations"]
    return pd.DataFrame(rows, columns=columns)


def similarity(result: CKAResult, spots: Sequence[Spot]) -> pd.DataFrame:
    """One row per ordered pair of taps."""
    rows = []
    for i, a in enumerate(spots):
        for j, b in enumerate(spots):
            row = placed(a, b) | {"cka": float(result.matrix[i, j])}
            for field in ("low", "high", "null_mean", "null_high"):
                row[field] = float(getattr(result, field)[i, j])
            rows.append(row | {"reason": str(result.reason[i, j])})
    return pd.DataFrame(rows)


def selectivity(
    result: EtaResult, chosen: Sequence[Tap], classes: Sequence[str]
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """One row per tap and concept ("overall" first), and the full arrays of every unit."""
    rows = []
    arrays: dict[str, np.ndarray] = {}
    for tap in chosen:
        eta = result.taps[tap.id]
        arrays[f"eta2/{tap.id}"], arrays[f"epsilon2/{tap.id}"] = eta.eta2, eta.epsilon2
        for cell, concept in enumerate(["overall", *classes]):
            unit = int(eta.best_unit[cell])
            rows.append(
                {
                    "tap": tap.id,
                    "modality": tap.modality,
                    "level": tap.level,
                    "concept": concept,
                    "best_unit": unit,
                    "eta2": float(eta.eta2[cell, unit]) if unit >= 0 else float("nan"),
                    "epsilon2": float(eta.best_epsilon2[cell]),
                    "mean_epsilon2": float(eta.mean_epsilon2[cell]),
                    "null_mean": float(eta.null_mean[cell]),
                    "null_high": float(eta.null_high[cell]),
                    "encoded": bool(eta.encoded[cell]),
                    "reason": str(eta.reason[cell]),
                }
            )
    return pd.DataFrame(rows), arrays


def units(statistics: StatisticsResult | None, detectors: DetectorResult | None, spots: Sequence[Spot]) -> pd.DataFrame:
    """One row per tap: how many units are dead or saturate, how many directions it uses, what single units detect."""
    nan = float("nan")
    rows = []
    for spot in spots:
        row: dict[str, Any] = {
            "tap": name(spot),
            "source": spot[0].name,
            "modality": spot[1].modality,
            "level": spot[1].level,
            "units": spot[1].units,
        }
        stats = statistics.taps[name(spot)] if statistics is not None else None
        csi = stats.selectivity[np.isfinite(stats.selectivity)] if stats is not None else np.zeros(0)
        near = saturation(stats) if stats is not None else np.zeros(0)
        row |= {
            "dead": float(stats.dead.sum()) if stats is not None else nan,
            "saturated": float((near > SATURATED).sum()) if np.isfinite(near).any() else nan,
            "effective_rank": stats.effective_rank if stats is not None else nan,
            "participation": stats.participation_ratio if stats is not None else nan,
            "selectivity_mean": float(csi.mean()) if len(csi) else nan,
            "selectivity_max": float(csi.max()) if len(csi) else nan,
        }
        found = detectors.taps[name(spot)] if detectors is not None else None
        row |= {
            "detectors": float(found.detectors) if found is not None else nan,
            "concepts_detected": float(found.concepts) if found is not None else nan,
        }
        reasons = [stats.rank_reason, *stats.reason] if stats is not None else []
        rows.append(row | {"reason": next((str(r) for r in reasons if r), "")})
    return pd.DataFrame(rows)


def saturation(stats: TapStatistics) -> np.ndarray:
    """Return each unit's share of activations at its largest or smallest value; the zeros of a ReLU do not count."""
    return np.maximum(stats.near_largest, np.where(stats.smallest == 0, 0.0, stats.near_smallest))


def pairwise(result: PairwiseResult, spots: Sequence[Spot]) -> pd.DataFrame:
    """One row per measure and ordered pair of taps, on the subsample that the result names."""
    rows = []
    for measure, found in result.measures.items():
        for i, a in enumerate(spots):
            for j, b in enumerate(spots):
                rows.append(
                    {
                        "measure": measure,
                        **placed(a, b),
                        "value": float(found.matrix[i, j]),
                        "null_mean": float(found.null_mean[i, j]),
                        "null_high": float(found.null_high[i, j]),
                        "samples": result.used,
                        "of": result.samples,
                        "reason": str(found.reason[i, j]),
                    }
                )
    return pd.DataFrame(rows)


def recovery(table: pd.DataFrame, truth: Mapping[str, Mapping[str, Any]], modalities: Sequence[str]) -> pd.DataFrame:
    """Planted truth beside what was found: per class and modality the tap that stands out most from its null.

    A class whose type says which single modalities can tell it has ``expected`` True or False for each modality;
    background and classes that need several modalities have none.
    """
    rows = []
    for concept, entry in truth.items():
        for modality in modalities:
            mine = table[(table["concept"] == concept) & (table["modality"] == modality)]
            mine = mine.dropna(subset=["epsilon2", "null_high"])
            if mine.empty:
                continue
            best = mine.loc[(mine["epsilon2"] - mine["null_high"]).idxmax()]
            says = entry["planted"] not in ("both", "none")
            expected = modality in entry["modalities"] if says else pd.NA
            rows.append(
                {
                    "concept": concept,
                    "planted": entry["planted"],
                    "modality": modality,
                    "expected": expected,
                    "best_tap": best["tap"],
                    "epsilon2": float(best["epsilon2"]),
                    "null_high": float(best["null_high"]),
                    "encoded": bool(best["encoded"]),
                    "agrees": bool(best["encoded"]) == expected if says else pd.NA,
                }
            )
    columns = ["concept", "planted", "modality", "expected", "best_tap", "epsilon2", "null_high", "encoded", "agrees"]
    return pd.DataFrame(rows, columns=columns).astype({"expected": "boolean", "agrees": "boolean"})
