"""The verdicts of a comparison in words."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from ._compare_read import groups, records


def condition_name(condition: str, modality: str) -> str:
    """Name a condition.

    >>> condition_name("clean", ""), condition_name("removal", ""), condition_name("removal", "depth")
    ('clean', 'removal', 'without depth')
    >>> condition_name("corruption", "depth")
    'depth corrupted'
    """
    if not modality:
        return condition
    return f"without {modality}" if condition == "removal" else f"{modality} corrupted"


def signed(value: float, digits: int = 3) -> str:
    """Write a difference with its sign, and three figures where it is small.

    >>> signed(0.0214), signed(-0.5), signed(0.00031), signed(float("nan"))
    ('+0.021', '-0.500', '+0.00031', 'not computed')
    """
    if not math.isfinite(value):
        return "not computed"
    small = value != 0 and abs(value) < 10**-digits
    return f"{value:+.2g}" if small else f"{value:+.{digits}f}"


def p_value(p: float) -> str:
    """Write a p-value.

    >>> p_value(0.0123), p_value(1e-7), p_value(float("nan"))
    ('0.012', '< 0.001', 'not computed')
    """
    if not math.isfinite(p):
        return "not computed"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def told(row: Any) -> str:
    """Say one difference: "+0.021 [0.010, 0.033], corrected p 0.012"."""
    if not math.isfinite(row.difference):
        return f"not computed ({row.reason})"
    span = f" [{signed(row.low)}, {signed(row.high)}]" if math.isfinite(row.low) and math.isfinite(row.high) else ""
    test = f"corrected p {p_value(row.p_corrected)}" if math.isfinite(row.p_corrected) else row.reason
    return f"{signed(row.difference)}{span}, {test}"


def sentences(differences: pd.DataFrame, alpha: float) -> tuple[str, ...]:
    """Return one sentence per data set and variant: what is shown first, then what is not."""
    found = []
    for (data, variant), rows in groups(differences, ["data", "variant"]):
        baseline = rows["baseline"].iloc[0]
        parts = []
        for verdict in ("better", "worse"):
            shown = [r for r in records(rows) if r.verdict == verdict]
            if shown:
                listed = "; ".join(f"{condition_name(str(r.condition), str(r.modality))}: {told(r)}" for r in shown)
                parts.append(f"{verdict} than {baseline} on {data}, {listed}")
        rest = [condition_name(str(r.condition), str(r.modality)) for r in records(rows) if r.verdict == "not shown"]
        if not parts:
            first = next((r for r in records(rows) if math.isfinite(r.difference)), records(rows)[0])
            where = condition_name(first.condition, first.modality)
            apart = f"{variant} is not shown to differ from {baseline} on {data} under any condition at {alpha:g}"
            found.append(f"{apart} ({where}: {told(first)})")
            continue
        tail = f"; {', '.join(rest)}: not shown" if rest else ""
        found.append(f"{variant} is {', and '.join(parts)}{tail}")
    return tuple(found)
