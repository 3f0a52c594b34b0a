"""The main numbers of a dissection, in a few lines of text."""

from __future__ import annotations

from typing import Any

import pandas as pd


def summary(tables: dict[str, pd.DataFrame], manifest: dict[str, Any]) -> str:
    """A line for what was run and one per instrument, readable in a notebook."""
    data, model = manifest["data"], manifest["model"]
    modalities = manifest["modalities"]
    if "taps" not in tables and "training" in manifest:
        told = manifest["training"]
        score = "" if told.get("test") is None else f"; test {told['metric']} {told['test']:.3f}"
        said = f"{', '.join(modalities)}; {told.get('epochs')} epochs{score}"
        return f"Training of {model['name']} on {_short(data['spec'])}: {said}; nothing was measured afterwards"
    lines = [
        f"Dissection of {model['name']} on {_short(data['spec'])}: {', '.join(modalities)}; {data['samples']} samples, "
        f"{manifest['wall_s']['total']:.1f} s"
    ]
    if "removal" in tables:
        lines += _removal(tables["removal"], modalities)
    if "contribution" in tables:
        lines += _contribution(tables, modalities)
    if "samples" in tables:
        lines += _samples(tables["samples"], modalities)
    if "information" in tables:
        lines += _information(tables["information"])
    if "robustness_summary" in tables:
        lines += _robustness(tables, modalities)
    if "similarity" in tables:
        lines += _similarity(tables["similarity"], modalities)
    if "selectivity" in tables:
        lines += _selectivity(tables["selectivity"], modalities)
    if "profile" in tables:
        lines += _semantics(tables, modalities)
    if "collaboration" in tables:
        lines += _collaboration(tables["collaboration"])
    if "recovery" in tables:
        known = tables["recovery"].dropna(subset=["expected"])
        lines.append(f"  planted truth  {int(known['agrees'].sum())} of {len(known)} statements recovered")
    lines += [f"  note: {message}" for message in manifest["messages"]]
    return "\n".join(lines)


def _short(spec: str) -> str:
    """A data specification without its path and settings."""
    return spec.partition("?")[0].rpartition("/")[2]


def _removal(table: pd.DataFrame, modalities: list[str]) -> list[str]:
    whole = table[table["n_present"] == len(modalities)].iloc[0]
    known = pd.notna(whole["value"])
    value = f"{whole['value']:.3f} with all modalities" if known else f"not computed ({whole['reason']})"
    lines = [f"  removal      {whole['metric']} {value}"]
    for modality in modalities:
        rest = "+".join(m for m in modalities if m != modality)
        found = table[table["subset"] == rest]
        if found.empty or pd.isna(found["value"].iloc[0]):
            why = "not scored" if found.empty else f"not computed ({found['reason'].iloc[0]})"
            lines += [f"               without {modality} {why}"] if known else []
            continue
        row = found.iloc[0]
        interval = "" if pd.isna(row["drop_low"]) else f" [{row['drop_low']:+.3f}, {row['drop_high']:+.3f}]"
        lines.append(f"               without {modality} {row['value']:.3f}, a drop of {row['drop']:+.3f}{interval}")
    return lines


def _similarity(table: pd.DataFrame, modalities: list[str]) -> list[str]:
    lines = []
    if "source_a" in table:
        table = table[(table["source_a"] == "") & (table["source_b"] == "")]
    for i, a in enumerate(modalities):
        for b in modalities[i + 1 :]:
            pair = table[
                (table["modality_a"] == a) & (table["modality_b"] == b) & (table["level_a"] == table["level_b"])
            ].sort_values("level_a")
            values = ", ".join("NaN" if pd.isna(v) else f"{v:.2f}" for v in pair["cka"])
            if len(pair):
                lines.append(
                    f"  similarity   {a} ~ {b}: CKA {values} from early to late "
                    f"(chance below {pair['null_high'].max():.2f})"
                )
    return lines


def _selectivity(table: pd.DataFrame, modalities: list[str]) -> list[str]:
    lines = []
    classes = table[table["concept"] != "overall"]
    for modality in modalities:
        mine = classes[classes["modality"] == modality]
        if len(mine):
            found = mine[mine["encoded"]]["concept"].nunique()
            lines.append(
                f"  selectivity  {modality} encodes {found} of {mine['concept'].nunique()} classes above chance"
            )
    return lines


def _semantics(tables: dict[str, pd.DataFrame], modalities: list[str]) -> list[str]:
    lines = []
    across = tables["profile"][tables["profile"]["question"] == "across"]
    values = tables["variance"].set_index(["tap_a", "tap_b"])
    for i, a in enumerate(modalities):
        for b in modalities[i + 1 :]:
            pair = across[(across["modality_a"] == a) & (across["modality_b"] == b)]
            if pair.empty:
                continue
            taps = pair[["tap_a", "tap_b"]].drop_duplicates().itertuples(index=False)
            rows = [values.loc[(tap.tap_a, tap.tap_b)] for tap in taps]
            shown = ", ".join("NaN" if pd.isna(row["sv"]) else f"{row['sv']:.2f}" for row in rows)
            floor = max((row["floor"] for row in rows if pd.notna(row["floor"])), default=float("nan"))
            lines.append(f"  semantics    {a} ~ {b}: SV {shown} from early to late (refits alone below {floor:.2f})")
            last = pair[pair["tap_a"] == pair["tap_a"].iloc[-1]]
            for kind, who in (("a", f"special to {a}"), ("b", f"special to {b}"), ("both", "told by both")):
                names = list(last[last["kind"] == kind]["concept"])
                if names:
                    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
                    lines.append(f"               {who} at the last level: {', '.join(names[:8])}{more}")
    return lines


def _collaboration(table: pd.DataFrame) -> list[str]:
    lines = []
    for a, b in table[["modality_a", "modality_b"]].drop_duplicates().itertuples(index=False):
        rows = table[(table["modality_a"] == a) & (table["modality_b"] == b)]
        counts = rows["pressure"].value_counts()
        near, far = int(counts.get("consistency", 0)), int(counts.get("speciality", 0))
        rule = "the hybrid rule" if near and far else "consistency pressure" if near else "speciality pressure"
        said = (
            f"{rule} ({near} more alike, {far} less alike than the solo twins)" if near or far else "no pressure told"
        )
        lines.append(f"  joint        {a} ~ {b}: {said}")
    return lines


def _number(value: float, low: float, high: float) -> str:
    if pd.isna(value):
        return "not computed"
    return f"{value:+.3f}" + ("" if pd.isna(low) else f" [{low:+.3f}, {high:+.3f}]")


def _contribution(tables: dict[str, pd.DataFrame], modalities: list[str]) -> list[str]:
    table = tables["contribution"]
    metric = table["metric"].iloc[0]
    whole = table[(table["metric"] == metric) & (table["concept"] == "")]
    parts = [f"{row.modality} {_number(row.shapley, row.low, row.high)}" for row in whole.itertuples()]
    lines = [f"  contribution {', '.join(parts)} of {metric} (Shapley)"]
    bad = table[(table["metric"] == metric) & (table["concept"] != "") & table["hurts"].eq(True)]
    for modality in modalities:
        names = list(bad[bad["modality"] == modality]["concept"])
        if names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            lines.append(f"               {modality} hurts on {', '.join(names[:8])}{more}")
    if "cooperation" in tables and len(modalities) > 1:
        both = tables["cooperation"]
        both = both[
            (both["metric"] == metric) & (both["kind"] == "cooperation") & (both["subset"] == "+".join(modalities))
        ]
        for row in both.itertuples():
            lines.append(f"  cooperation  {_number(row.value, row.low, row.high)} of {metric} with all (SHAPE)")
    return lines


def _samples(table: pd.DataFrame, modalities: list[str]) -> list[str]:
    tested = table[table["p"].notna()]
    found = [f"{m} on {int(tested[tested['modality'] == m]['hurts'].sum())}" for m in modalities]
    return [f"  valuation    hurts: {', '.join(found)} of {len(tested)} tests of single samples"]


def _information(table: pd.DataFrame) -> list[str]:
    lines = []
    first = table[(table["about"] == "label") & ~table["modality_b"].str.contains("+", regex=False)]
    level = first["level_a"].min()
    first = first[first["level_a"] == level]
    where = "inputs" if level < 0 else f"level {level}"
    for (a, b), rows in first.groupby(["modality_a", "modality_b"], sort=False):
        values = {row.atom: row for row in rows.itertuples()}
        names = {"R": "redundancy", "U_a": f"only {a}", "U_b": f"only {b}", "S": "synergy"}
        known = [(name, values[atom]) for atom, name in names.items() if atom in values and pd.notna(values[atom].low)]
        shown = ", ".join(f"{name} {row.low:+.2f} to {row.high:+.2f}" for name, row in known)
        lines.append(f"  information  {a} ~ {b} about the label, {where}, bits: {shown or 'not computed'}")
    return lines


def _robustness(tables: dict[str, pd.DataFrame], modalities: list[str]) -> list[str]:
    lines = []
    table = tables["robustness"]
    hardest = table[(table["severity"] == 5) & table["drop"].notna()].sort_values("drop", ascending=False)
    for modality in modalities:
        for row in hardest[hardest["modality"] == modality].head(1).itertuples():
            drop = _number(row.drop, row.drop_low, row.drop_high)
            lines.append(f"  robustness   {modality}: {row.corruption} costs most at severity 5, a drop of {drop}")
    return lines
