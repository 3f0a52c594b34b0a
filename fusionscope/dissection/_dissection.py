"""``Dissection``: what was measured, as tidy tables with a manifest."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fusionscope._files import atomic_folder
from fusionscope.dissection import _words
from fusionscope.errors import FileError

SCHEMA = 1
_READ: dict[str, Callable[[str], Any]] = {
    "float": lambda text: float(text) if text else float("nan"),
    "int": int,
    "bool": lambda text: text == "True",
    "boolean": lambda text: {"True": True, "False": False}.get(text, pd.NA),
    "str": str,
}
_DTYPES = {"float": "float64", "int": "int64", "bool": "bool", "boolean": "boolean", "str": "str"}


@dataclass(frozen=True, eq=False)
class Dissection:
    """What :func:`fusionscope.dissect` measured.

    Attributes:
        tables: ``taps``, ``similarity``, ``selectivity``, ``concepts``, ``variance``, ``profile``, ``emergence``,
            ``collaboration`` (with references), ``removal``, and ``recovery`` where the data has planted truth; tidy
            pandas tables, one row per value, with its interval or null, and a reason where it is NaN.
        arrays: per tap the full ``eta2/TAP`` and ``epsilon2/TAP``, ``[1 + classes, units]``, row 0 = all classes.
        trace: the trace as plain data.
        manifest: versions, seeds, parameters, fingerprints of model and data, wall time.
    """

    tables: dict[str, pd.DataFrame]
    manifest: dict[str, Any]
    trace: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def __repr__(self) -> str:
        return _words.summary(self.tables, self.manifest)

    def save(self, folder: str | Path) -> Path:
        """Write tables (CSV), arrays (npz), trace and manifest (JSON) into ``folder``, all or nothing.

        An earlier dissection at ``folder`` is replaced; any other folder that is not empty is refused.

        Raises:
            FileError: if ``folder`` cannot be written, or holds something else.
        """
        folder = check_folder(folder)
        columns = {name: {c: _kind(table[c]) for c in table} for name, table in self.tables.items()}
        with atomic_folder(folder) as new:
            (new / "tables").mkdir()
            for name, table in self.tables.items():
                table.to_csv(new / "tables" / f"{name}.csv", index=False)
            np.savez_compressed(new / "arrays.npz", allow_pickle=False, **self.arrays)
            (new / "trace.json").write_text(json.dumps(self.trace, indent=1), encoding="utf-8")
            manifest = {**self.manifest, "columns": columns}
            (new / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        return folder

    def with_tables(
        self, tables: dict[str, pd.DataFrame], arrays: dict[str, np.ndarray] | None = None, **manifest: Any
    ) -> Dissection:
        """Return a copy with more tables, arrays and entries of the manifest; those of the same name are replaced."""
        more = {"tables": self.tables | tables, "manifest": self.manifest | manifest}
        return replace(self, **more, arrays=self.arrays | (arrays or {}))

    def report(self, path: str | Path = "report.html") -> Path:
        """Write one HTML file that opens offline, and return its path.

        Raises:
            FileError: if it cannot be written.
        """
        from fusionscope.report import write_report  # a report reads dissections, so it is imported on use only

        return write_report(self, path)


def check_folder(folder: str | Path) -> Path:
    """Return the folder as a path if a dissection may be written there: it is new, empty, or holds one.

    Raises:
        FileError: if it holds something else.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / "manifest.json").exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileError(f"{folder} exists and is not a dissection; choose a new folder")
    return folder


def _kind(column: pd.Series) -> str:
    dtype = str(column.dtype)
    if dtype == "boolean":
        return "boolean"
    return {"f": "float", "i": "int", "b": "bool"}.get(getattr(column.dtype, "kind", "O"), "str")


def load(folder: str | Path) -> Dissection:
    """Read what :meth:`Dissection.save` wrote.

    Raises:
        FileError: if ``folder`` holds no dissection, or one that is damaged or newer than this version can read.
    """
    folder = Path(folder)
    if not (folder / "manifest.json").is_file():
        inner = folder / "dissection"
        hint = f" Did you mean {inner}?" if (inner / "manifest.json").is_file() else ""
        what = "holds no dissection (no manifest.json)" if folder.exists() else "does not exist"
        raise FileError(f"{folder} {what}; give the folder that `dissect` wrote, or a run folder.{hint}")
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        schema = manifest["schema"]
        if schema > SCHEMA:
            raise FileError(
                f"{folder} was written with schema {schema}, newer than the {SCHEMA} known here; upgrade fusionscope"
            )
        tables = {}
        for name, kinds in manifest.pop("columns").items():
            text = pd.read_csv(folder / "tables" / f"{name}.csv", dtype=str, keep_default_na=False)
            tables[name] = pd.DataFrame(
                {c: pd.Series([_READ[k](t) for t in text[c]], dtype=_DTYPES[k]) for c, k in kinds.items()}
            )
        with np.load(folder / "arrays.npz", allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        trace = json.loads((folder / "trace.json").read_text(encoding="utf-8"))
    except FileError:
        raise
    except Exception as error:
        raise FileError(
            f"the dissection in {folder} is damaged ({type(error).__name__}: {error}); dissect again"
        ) from error
    return Dissection(tables, manifest, trace, arrays)
