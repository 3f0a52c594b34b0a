"""``metrics.json`` as strict JSON, which has no NaN: a score that could not be computed is null there."""

from __future__ import annotations

import json
import math
from typing import Any

SCORES = ("test", "val")


def metrics_text(metrics: dict[str, Any]) -> str:
    """Return the file's text.

    >>> metrics_text({"test": {"r2": float("nan")}, "val": {}}).split()
    ['{', '"test":', '{', '"r2":', 'null', '},', '"val":', '{}', '}']
    """
    return json.dumps(_without_nan(metrics), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def restored(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return what was read, with NaN where a score is null.

    >>> restored({"test": {"r2": None, "loss": 0.5}, "val": None})
    {'test': {'r2': nan, 'loss': 0.5}, 'val': None}
    """
    return {k: _with_nan(v) if k in SCORES and isinstance(v, dict) else v for k, v in metrics.items()}


def _with_nan(scores: dict[str, Any]) -> dict[str, Any]:
    return {k: math.nan if v is None else v for k, v in scores.items()}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
