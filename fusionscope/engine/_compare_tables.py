"""From the scores of runs to what is compared: conditions per run, means over seeds, paired differences, curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fusionscope.measures.functional import (
    effective_robustness,
    holm,
    mean_corruption_error,
    mean_interval,
    paired_difference,
    relative_corruption_error,
)

from ._compare_read import CELL, MAIN_FILL, groups

CONDITIONS = ("clean", "removal", "corruption")
LOWER_IS_BETTER = frozenset({"loss", "mae", "mse", "rmse", "ece", "brier", "nll"})
SHARES = frozenset({"accuracy", "balanced_accuracy", "miou", "pixel_accuracy", "f1", "macro_f1", "acc2", "acc7"})
PLACE = ["data", "condition", "modality", "metric"]


def conditions_of(scores: pd.DataFrame, metric: Mapping[str, str]) -> pd.DataFrame:
    """Return one row per run and condition shown: columns ``data, variant, seed, condition, modality, metric, value``.

    Corruption of a modality is the mean over its kinds and severities, those that every run has which has the modality;
    modality "" is the mean over all modalities. With one modality there is no row for it beside the mean.
    """
    rows: list[dict[str, Any]] = []
    for data, found in groups(scores, "data"):
        name = metric[str(data)]
        mine = found[found["metric"] == name]
        for run, clean in groups(mine[mine["condition"] == "clean"], CELL):
            rows.append(_row(run, "clean", "", name, float(clean["value"].iloc[0])))
        for condition in CONDITIONS[1:]:
            by_modality = _by_modality(rows_of(mine, condition))
            whole = pd.DataFrame(by_modality)
            if whole.empty:
                continue
            overall = whole.mean(axis=1, skipna=False)
            if len(by_modality) == 1:
                by_modality = {}
            for modality, values in {"": overall, **by_modality}.items():
                rows += [_row(run, condition, modality, name, float(value)) for run, value in values.items()]
    return pd.DataFrame(rows, columns=[*CELL, "condition", "modality", "metric", "value"])


def _row(run: Any, condition: str, modality: str, metric: str, value: float) -> dict[str, Any]:
    place = dict(zip(CELL, run, strict=True))
    return place | {"condition": condition, "modality": modality, "metric": metric, "value": value}


def rows_of(scores: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Return the rows of a condition; of removal those of the main stand-in."""
    found = scores[scores["condition"] == condition]
    return found[found["kind"] == MAIN_FILL] if condition == "removal" else found


def _by_modality(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """Return per modality a series over the runs, NaN where a run has no value."""
    found: dict[str, pd.Series] = {}
    runs = pd.MultiIndex.from_frame(rows[CELL].drop_duplicates())
    for modality, part in groups(rows, "modality"):
        cells = _common(part)
        found[str(modality)] = cells.mean(axis=1).reindex(runs) if cells.shape[1] else pd.Series(math.nan, index=runs)
    return found


def _common(rows: pd.DataFrame) -> pd.DataFrame:
    """Return runs x (kind, severity) of one modality, with those cells only that all its runs have."""
    table = rows.assign(severity=rows["severity"].fillna(0)).pivot_table(
        index=CELL, columns=["kind", "severity"], values="value", aggfunc="first", dropna=False
    )
    table = table.dropna(how="all")
    return table.dropna(axis=1)


def means_of(
    conditions: pd.DataFrame, variants: Sequence[str], expected: Mapping[str, Sequence[int]], **settings: Any
) -> pd.DataFrame:
    """Return mean, standard deviation and bootstrap interval over seeds, per data set, condition and variant."""
    rows = []
    for place, found in groups(conditions, PLACE):
        known = {run: value for run, value in _values(found).items() if math.isfinite(value)}
        for variant in variants:
            values = np.array([value for (name, _), value in known.items() if name == variant])
            n = len(values)
            low, high = mean_interval(values, **settings)
            missing = [seed for seed in expected[place[0]] if (variant, seed) not in known]
            rows.append(
                dict(zip(PLACE, place, strict=True))
                | {
                    "variant": variant,
                    "mean": values.mean() if n else math.nan,
                    "sd": values.std(ddof=1) if n > 1 else math.nan,
                    "n": n,
                    "low": low,
                    "high": high,
                    "missing": ", ".join(map(str, missing)),
                    "reason": "" if n > 1 else "one run says nothing about the spread" if n else "no run has a value",
                }
            )
    columns = [*PLACE, "variant", "mean", "sd", "n", "low", "high", "missing", "reason"]
    return _ordered(pd.DataFrame(rows, columns=columns))


def differences_of(
    conditions: pd.DataFrame,
    variants: Sequence[str],
    baseline: str,
    expected: Mapping[str, Sequence[int]],
    *,
    alpha: float,
    **settings: Any,
) -> pd.DataFrame:
    """Return each variant's paired difference from the baseline, with p-values corrected over the whole table."""
    rows = []
    for place, found in groups(conditions, PLACE):
        values = _values(found)
        for variant in variants:
            if variant == baseline:
                continue
            seeds = expected[place[0]]
            pair = np.array([[values.get((v, seed), math.nan) for seed in seeds] for v in (variant, baseline)])
            got = paired_difference(pair[0], pair[1], alpha=alpha, **settings)
            lacking = [str(s) for i, s in enumerate(seeds) if not np.isfinite(pair[:, i]).all()]
            rows.append(
                dict(zip(PLACE, place, strict=True))
                | {
                    "variant": variant,
                    "baseline": baseline,
                    "difference": got.mean,
                    "sd": got.sd,
                    "n": got.n,
                    "low": got.low,
                    "high": got.high,
                    "t_low": got.t_low,
                    "t_high": got.t_high,
                    "p": got.p,
                    "p_sign_flip": got.p_sign_flip,
                    "missing": ", ".join(lacking),
                    "reason": got.reason,
                }
            )
    names = ["difference", "sd", "n", "low", "high", "t_low", "t_high", "p", "p_sign_flip", "missing", "reason"]
    table = _ordered(pd.DataFrame(rows, columns=[*PLACE, "variant", "baseline", *names]))
    corrected = holm(table["p"].to_numpy(np.float64))
    table.insert(list(table).index("p_sign_flip"), "p_corrected", corrected)
    signs = np.where(table["metric"].isin(LOWER_IS_BETTER), -1.0, 1.0) * np.sign(table["difference"].to_numpy(float))
    words = np.where(signs > 0, "better", "worse")
    table.insert(list(table).index("missing"), "verdict", np.where(corrected <= alpha, words, "not shown"))
    return table


def _values(rows: pd.DataFrame) -> dict[tuple[str, int], float]:
    """Return the values of one condition by variant and seed."""
    return dict(zip(zip(rows["variant"], rows["seed"], strict=True), rows["value"], strict=True))


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Sort by data set and condition as they came first, modality "" (the mean) before the single ones."""
    place = table["condition"].map({c: i for i, c in enumerate(CONDITIONS)})
    first = {d: i for i, d in enumerate(dict.fromkeys(table["data"]))}
    keys = pd.DataFrame({"d": table["data"].map(first), "c": place, "m": table["modality"] != ""})
    return table.loc[keys.sort_values(["d", "c", "m"], kind="stable").index].reset_index(drop=True)


def curves_of(scores: pd.DataFrame, metric: Mapping[str, str]) -> pd.DataFrame:
    """Return each run's score by severity, the mean over kinds, per modality and ("") over modalities; 0 is clean."""
    rows: list[dict[str, Any]] = []
    for data, found in groups(scores, "data"):
        mine = found[found["metric"] == metric[str(data)]]
        clean = mine[mine["condition"] == "clean"].groupby(CELL, sort=False)["value"].first()
        by_modality: dict[str, pd.DataFrame] = {}
        for modality, part in rows_of(mine, "corruption").groupby("modality", sort=False):
            cells = _common(part)
            if cells.shape[1]:
                by_modality[str(modality)] = cells.T.groupby(level="severity").mean().T
        if not by_modality:
            continue
        parts = list(by_modality.values())
        overall = sum(parts[1:], parts[0]) / len(parts)  # aligned: NaN where a run lacks a modality or a severity
        shown = {"": overall, **(by_modality if len(parts) > 1 else {})}
        for modality, table in shown.items():
            table = table.dropna(how="all").dropna(axis=1, how="all")
            table.insert(0, 0.0, clean.reindex(table.index))
            for run, values in zip(table.index.to_list(), table.to_numpy(np.float64), strict=True):
                place = dict(zip(CELL, run, strict=True)) | {"modality": modality, "metric": metric[str(data)]}
                levels = zip(table.columns.to_list(), values, strict=True)
                rows += [place | {"severity": int(s), "value": float(v)} for s, v in levels]
    return pd.DataFrame(rows, columns=[*CELL, "modality", "metric", "severity", "value"])


def robustness_of(
    scores: pd.DataFrame, curves: pd.DataFrame, metric: Mapping[str, str], variants: Sequence[str], baseline: str
) -> pd.DataFrame:
    """Return how much of the score corruption leaves, per data set and variant.

    ``relative``: area under the curve of mean scores over severities, scaled to 0..1 (arXiv:2107.07502), mean and
    standard deviation over seeds. ``effective``: what a variant keeps beyond a baseline that started at the same clean
    score (likewise). ``mce`` and ``relative_mce``: errors, means over seeds, in units of the baseline's
    (arXiv:1903.12261); for metrics from 0 to 1, whose error is 1 - score.
    """
    rows = []
    for data, found in groups(curves[curves["modality"] == ""], "data"):
        by_seed = found.pivot_table(index=["variant", "seed"], columns="severity", values="value")
        levels = by_seed.columns.to_numpy(np.float64)
        middle = by_seed.groupby(level="variant").mean()
        errors = _errors(scores[scores["data"] == data], metric[str(data)])
        for variant in variants:
            if variant not in middle.index:
                continue
            areas = np.trapezoid(by_seed.loc[variant].to_numpy(), levels / levels[-1], axis=1)
            row: dict[str, Any] = {"data": data, "variant": variant, "baseline": baseline, "metric": metric[str(data)]}
            row |= {"relative": areas.mean(), "sd": areas.std(ddof=1) if len(areas) > 1 else math.nan, "n": len(areas)}
            row |= {"effective": math.nan, "mce": math.nan, "relative_mce": math.nan}
            if baseline in middle.index:
                sign = -1.0 if row["metric"] in LOWER_IS_BETTER else 1.0
                curve, reference = (sign * middle.loc[v].to_numpy() for v in (variant, baseline))
                row["effective"] = float(effective_robustness(curve, reference))
            if variant in errors and baseline in errors:
                (mine, clean), (theirs, reference_clean) = errors[variant], errors[baseline]
                if mine.keys() == theirs.keys():
                    row["mce"] = float(mean_corruption_error(mine, theirs))
                    row["relative_mce"] = float(relative_corruption_error(mine, clean, theirs, reference_clean))
            row["reason"] = "" if row["metric"] in SHARES else f"no mCE: {row['metric']} has no error 1 - score"
            rows.append(row)
    names = ["data", "variant", "baseline", "metric", "relative", "sd", "n", "effective", "mce", "relative_mce"]
    return pd.DataFrame(rows, columns=[*names, "reason"])


def _errors(scores: pd.DataFrame, metric: str) -> dict[str, tuple[dict[str, list[float]], float]]:
    """Return per variant the mean errors of each corruption over severities, and the clean error."""
    if metric not in SHARES:
        return {}
    mine = scores[scores["metric"] == metric]
    found: dict[str, tuple[dict[str, list[float]], float]] = {}
    cells = pd.concat(
        [
            pd.concat({str(m): _common(part)}, axis=1)
            for m, part in rows_of(mine, "corruption").groupby("modality", sort=False)
        ],
        axis=1,
    )
    cells = (1 - cells).groupby(level="variant").mean().dropna()
    clean = (1 - mine[mine["condition"] == "clean"].groupby("variant")["value"].mean()).to_dict()
    for variant, row in cells.iterrows():
        kinds: dict[str, list[float]] = {}
        for (modality, kind, _), value in row.items():
            kinds.setdefault(f"{modality} {kind}", []).append(float(value))
        found[str(variant)] = kinds, float(clean[variant])
    return found
