"""What a comparison takes from the run folders of a study: one row per run and score."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fusionscope.errors import FileError

from ._metrics import restored
from ._study import StudyRun

MAIN_FILL = "resample"
CELL = ["data", "variant", "seed"]
COLUMNS = [*CELL, "condition", "modality", "kind", "severity", "metric", "value", "reason"]


@dataclass(frozen=True)
class Results:
    """All scores of a study's finished runs, and what is missing.

    Attributes:
        scores: columns ``COLUMNS``; the clean rows have every test score of ``metrics.json``.
        missing: columns ``data, variant, seed, state, what``: runs without scores, or without ``conditions.csv``.
        metric: each data set's main metric.
    """

    scores: pd.DataFrame
    missing: pd.DataFrame
    metric: dict[str, str]


def read_results(cells: Iterable[StudyRun]) -> Results:
    """Read every run that is finished.

    Raises:
        FileError: if a file of one is damaged.
    """
    tables: list[pd.DataFrame] = []
    missing: list[tuple[str, str, int, str, str]] = []
    metric: dict[str, str] = {}
    for cell in cells:
        place = (cell.data, cell.variant, cell.seed)
        found = _metrics(cell.folder)
        if not found or not found.get("test"):
            missing.append((*place, cell.state, "run"))
            continue
        try:
            metric.setdefault(cell.data, str(found["metric"]))
            plain = {name: float(v) for name, v in found["test"].items() if isinstance(v, int | float)}
        except (KeyError, TypeError, AttributeError) as error:
            raise FileError(f"{cell.folder / 'metrics.json'} is damaged: {error}") from error
        clean = pd.DataFrame({"metric": list(plain), "value": list(plain.values())})
        tables.append(clean.assign(condition="clean", modality="", kind="", severity=0, reason="", **_place(place)))
        conditions = _conditions(cell.conditions)
        if conditions is None:
            missing.append((*place, cell.state, "conditions"))
        else:
            tables.append(conditions[conditions["condition"] != "clean"].assign(**_place(place)))
    scores = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)
    table = pd.DataFrame(missing, columns=[*CELL, "state", "what"])
    return Results(scores[COLUMNS], table, metric)


def _place(place: tuple[str, str, int]) -> dict[str, Any]:
    return dict(zip(CELL, place, strict=True))


def _metrics(folder: Path) -> dict[str, Any]:
    path = folder / "metrics.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise FileError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise FileError(f"{path} is damaged: expected an object, found {type(found).__name__}")
    return restored(found)


def _conditions(path: Path) -> pd.DataFrame | None:
    if not path.exists():
        return None
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values={"value": ["", "nan"], "severity": [""]})
        values = table["value"].astype(float)
    except (ValueError, KeyError, OSError) as error:
        raise FileError(f"{path} is damaged: {error}; remove it and run the study again to score anew") from error
    lacks = [name for name in COLUMNS[3:] if name not in table]
    if lacks:
        raise FileError(f"{path} is damaged: no column {lacks[0]}; remove it and run the study again to score anew")
    return table.assign(value=values, severity=table["severity"].astype(float))


def records(table: Any) -> list[Any]:
    """Return the rows of a table, each with its columns as attributes."""
    return list(table.itertuples(index=False))


def groups(table: Any, by: Any) -> list[tuple[Any, Any]]:
    """Return the parts of a table with the values they share, in the order they came in."""
    return list(table.groupby(by, sort=False))
