"""A run as a dissection: with how it was trained, and without measures where it was not dissected."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fusionscope.dissection import Dissection, load

from ._folder import METRICS, Run


def with_training(found: Dissection, run: Run) -> Dissection:
    """Return a dissection with what was recorded while the run was trained; unchanged if nothing was.

    Raises:
        FileError: if the run's ``dynamics`` or history is damaged.
    """
    if run.dynamics is None:
        return found
    tables = {"history": run.history, **run.dynamics.tables}
    return found.with_tables(tables, run.dynamics.arrays, dynamics=run.dynamics.about, training=_training(run))


def dissection_of(run: Run) -> Dissection:
    """Return a run's dissection with its training, or, where there is none, one of the training alone.

    The latter has no measures: its tables are ``history`` and, if recorded, those of the dynamics.

    Raises:
        FileError: if the dissection, the ``dynamics`` or the history is damaged.
    """
    folder = run.folder / "dissection"
    if (folder / "manifest.json").is_file():
        return with_training(load(folder), run)
    data, seconds = run.description["data"], run.metrics.get("seconds")
    sizes = ", ".join(f"{name} {size:,}" for name, size in data.get("sizes", {}).items())
    manifest: dict[str, Any] = {
        "schema": 1,
        "created": datetime.fromtimestamp((run.folder / METRICS).stat().st_mtime, UTC).isoformat(timespec="seconds"),
        "model": {"name": type(run.model).__name__, "parameters": sum(p.numel() for p in run.model.parameters())},
        "data": {"spec": data["spec"], "fingerprint": data["fingerprint"], "sizes": sizes},
        "modalities": list(run.modalities),
        "classes": list(data["classes"]),
        "task": data["task"],
        "parameters": {},
        "versions": run.description.get("versions", {}),
        "wall_s": {} if seconds is None else {"training": seconds},
        "messages": [],
        "training": _training(run),
    }
    return with_training(Dissection({"history": run.history}, manifest, {}), run)


def _training(run: Run) -> dict[str, Any]:
    """Return what a report says of the training: its metric, test score, epochs, seconds and seed."""
    metric = run.metrics.get("metric")
    kept = {
        name: run.metrics.get(name) for name in ("epochs", "best_epoch", "refit_epochs", "stopped_early", "seconds")
    }
    test = run.metrics.get("test") or {}
    return {"metric": metric, "test": test.get(metric), **kept, "seed": run.config.seed}
