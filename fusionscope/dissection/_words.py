"""The main numbers of a dissection, in a few lines of text."""

from __future__ import annotations

from typing import Any

import pandas as pd


def summary(tables: dict[str, pd.DataFrame], manifest: dict[str, Any]) -> str:
    """A line for what was run and one per instrument, readable in a notebook."""
    data, model = manifest["data"], manifest["model"]
    modalities = manifest["modalities"]
    lines = [
        f"Dissection of {model['name']} on {_short(data['spec'])}: {', '.join(modalities)}; {data['samples']} samples, "
        f"{manifest['wall_s']['total']:.1f} s"
    ]
    if "removal" in tables:
        lines += _removal(tables["removal"], modalities)
    if "similarity" in tables:
        lines += _similarity(tables["similarity"], modalities)
    if "selectivity" in tables:
        lines += _selectivity(tables["selectivity"], modalities)
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
    lines = [f"  removal      {whole['metric']} {whole['value']:.3f} with all modalities"]
    for modality in modalities:
        rest = "+".join(m for m in modalities if m != modality)
        row = table[table["subset"] == rest].iloc[0]
        interval = "" if pd.isna(row["drop_low"]) else f" [{row['drop_low']:+.3f}, {row['drop_high']:+.3f}]"
        lines.append(f"               without {modality} {row['value']:.3f}, a drop of {row['drop']:+.3f}{interval}")
    return lines


def _similarity(table: pd.DataFrame, modalities: list[str]) -> list[str]:
    lines = []
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
