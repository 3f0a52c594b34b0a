"""Names and numbers in the tables and charts of a comparison."""

from __future__ import annotations

import math
from typing import Any

from fusionscope.report._compare_view import ComparisonLike

UNITS = {"psnr": "PSNR, dB", "ssim": "SSIM", "miou": "mIoU", "r2": "R²", "mae": "MAE"}


def condition_name(condition: str, modality: str) -> str:
    """Name a condition.

    >>> condition_name("clean", ""), condition_name("removal", ""), condition_name("corruption", "depth")
    ('clean', 'removal, mean', 'depth corrupted')
    """
    if not modality:
        return condition if condition == "clean" else f"{condition}, mean"
    return f"without {modality}" if condition == "removal" else f"{modality} corrupted"


def metric_name(found: ComparisonLike, data: str) -> str:
    """Name what is compared on a data set, and say so where less is better."""
    metric = found.metric[data]
    name = UNITS.get(metric, metric.replace("_", " "))
    return f"{name} (less is better)" if metric in found.lower_is_better else name


def digits(value: float) -> int:
    """Return how many decimals to write beside numbers of this size.

    >>> digits(0.734), digits(31.2), digits(1042.0), digits(float("nan"))
    (3, 2, 1, 3)
    """
    size = abs(value)
    return 1 if size >= 100 else 2 if size >= 10 else 3


def number(value: float, decimals: int, sign: bool = False) -> str:
    """Write a number, with a dash where there is none.

    >>> number(0.0214, 3, sign=True), number(float("nan"), 3)
    ('+0.021', '–')
    """
    if not math.isfinite(value):
        return "–"
    return f"{round(value, decimals) + 0.0:{'+' if sign else ''}.{decimals}f}"  # + 0.0: never -0.000


def p_value(p: float) -> str:
    """Write a p-value.

    >>> p_value(0.0123), p_value(1e-7), p_value(float("nan"))
    ('0.012', '<0.001', '–')
    """
    if not math.isfinite(p):
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def records(table: Any) -> list[Any]:
    """Return the rows of a table, each with its columns as attributes."""
    return list(table.itertuples(index=False))


def groups(table: Any, by: Any) -> list[tuple[Any, Any]]:
    """Return the parts of a table with the values they share, in the order they came in."""
    return list(table.groupby(by, sort=False))
