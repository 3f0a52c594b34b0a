"""From the decision instruments' results to tidy tables; their columns are the fields of the results' rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from fusionscope.measures import EmapResult, RemovalResult, contributions, valuations
from fusionscope.measures.functional import percentile_interval

SAMPLES = ["sample", "group", "label", "predicted", "modality", "effect", "worse", "donors", "p", "q", "hurts"]
SAMPLES += ["valuation", "reason"]


def joined(names: Iterable[str], modalities: Sequence[str]) -> str:
    """Write a set of modalities as "a+b", in the model's order."""
    chosen = set(names)
    return "+".join(m for m in modalities if m in chosen)


def frame(rows: Iterable[Any], modalities: Sequence[str]) -> pd.DataFrame:
    """Return result rows (dataclasses) as a table, sets of modalities written as words."""
    said = []
    for row in rows:
        fields = {k: joined(v, modalities) if isinstance(v, (frozenset, tuple)) else v for k, v in asdict(row).items()}
        said.append(fields)
    return pd.DataFrame(said)


def removal(result: RemovalResult, modalities: Sequence[str], metric: str) -> pd.DataFrame:
    """One row per subset of modalities, the full set first."""
    rows = []
    for row in result.rows:
        rows.append(
            {
                "subset": joined(row.subset, modalities),
                "n_present": row.n_present,
                "metric": metric,
                "value": row.value,
                "low": row.low,
                "high": row.high,
                "drop": row.drop,
                "drop_low": row.drop_low,
                "drop_high": row.drop_high,
                "reason": row.reason,
            }
        )
    return pd.DataFrame(rows)


def coalitions(results: Mapping[str, RemovalResult], modalities: Sequence[str], classes: Sequence[str]) -> pd.DataFrame:
    """One row per metric, class (first "", all data) and subset."""
    rows = []
    for metric, result in results.items():
        by_class = result.paired.classes
        for s, row in enumerate(result.rows):
            shared = {"metric": metric, "subset": joined(row.subset, modalities), "n_present": row.n_present}
            whole = {"value": row.value, "low": row.low, "high": row.high, "reason": row.reason}
            rows.append(shared | {"concept": ""} | whole)
            if by_class is None:
                continue
            for c in range(len(by_class)):
                name = str(classes[c]) if c < len(classes) else str(c)
                found = {k: float(getattr(by_class, k + "s" * (k == "value"))[s, c]) for k in ("value", "low", "high")}
                rows.append(shared | {"concept": name} | found | {"reason": str(by_class.reason[s, c])})
    columns = ["metric", "concept", "subset", "n_present", "value", "low", "high", "reason"]
    return pd.DataFrame(rows, columns=columns).sort_values(["metric", "concept"], kind="stable", ignore_index=True)


def contribution(results: Iterable[RemovalResult], modalities: Sequence[str], classes: Sequence[str]) -> pd.DataFrame:
    """One row per metric, class (first "", all data) and modality."""
    table = frame((row for result in results for row in contributions(result).rows), modalities)
    names = {str(i): str(name) for i, name in enumerate(classes)}
    return table.assign(concept=[names.get(concept, concept) for concept in table["concept"]])


def alone(result: RemovalResult) -> list[dict[str, Any]]:
    """What each modality adds to none: ``V({m}) - V(none)``, with its paired interval."""
    place = {row.subset: s for s, row in enumerate(result.rows)}
    nan, rows = float("nan"), []
    for modality in result.modalities:
        one, none = place.get((modality,)), place.get(())
        value = low = high = nan
        reason = "V of it alone or V of none was not scored"
        if one is not None and none is not None:
            value = result.rows[one].value - result.rows[none].value
            low, high = map(float, percentile_interval(result.draws[:, one] - result.draws[:, none], result.alpha))
            reason = result.rows[one].reason or result.rows[none].reason
        rows.append({"modality": modality, "value": value, "low": low, "high": high, "reason": reason})
    return rows


def valued(result: RemovalResult) -> pd.DataFrame:
    """One row per sample and modality: the sample-level valuation, in units of modalities."""
    found = valuations(result)
    M = len(found.modalities)
    columns: dict[str, Any] = {
        "sample": np.repeat(found.sample, M),
        "modality": np.tile(found.modalities, len(found.sample)),
    }
    if found.group is not None:
        columns["group"] = np.repeat(found.group, M).astype(str)
    return pd.DataFrame(columns | {"valuation": found.values.T.ravel()})


def emap(found: Iterable[tuple[str, EmapResult | str]], metric: str) -> pd.DataFrame:
    """Two rows per modality: the metric of the additive approximation, and the gap of the model's metric to it."""
    nan, rows = float("nan"), []
    for modality, one in found:
        shared = {"metric": metric, "subset": modality}
        if isinstance(one, str):
            empty = {"value": nan, "low": nan, "high": nan, "reason": one}
            rows += [shared | {"kind": kind} | empty for kind in ("emap gap", "emap")]
            continue
        gap = {"value": one.gap, "low": one.gap_low, "high": one.gap_high}
        value = {"value": one.value, "low": one.low, "high": one.high}
        rows += [shared | {"kind": "emap gap"} | gap | {"reason": one.reason}]
        rows += [shared | {"kind": "emap"} | value | {"reason": one.reason}]
    return pd.DataFrame(rows, columns=["metric", "kind", "subset", "value", "low", "high", "reason"])


def samples(tested: pd.DataFrame, values: pd.DataFrame | None) -> pd.DataFrame:
    """One row per sample and modality that has a valuation or was tested."""
    table = tested
    if values is not None:
        both = ["sample", "modality"]
        table = values.merge(table, "outer", both, suffixes=("", "_of_test"))
        if "group_of_test" in table:
            table["group"] = table.pop("group_of_test").where(table["group"].isna(), table["group"])
    for name in ("group", "label", "predicted", "reason"):
        table[name] = table[name].fillna("").astype(str) if name in table else ""
    for name in ("effect", "worse", "donors", "p", "q", "valuation"):
        table[name] = table[name].astype(float) if name in table else float("nan")
    table["hurts"] = table["hurts"].eq(True)
    return table[SAMPLES].astype({"sample": "int64"}).sort_values("sample", kind="stable", ignore_index=True)
