"""``dynamics/`` of a run folder, read back: how the modalities learned, as tables and a few inputs."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fusionscope.errors import FileError

DYNAMICS = "dynamics"
SCHEMA = 1
COLUMNS = {
    "dynamics": "epoch:int quantity:str modality:str other:str mean:float std:float count:int reason:str",
    "projection": "epoch:int modality:str sample:int label:str x:float y:float",
    "gallery": "epoch:int modality:str unit:int place:int sample:int activation:float",
}
_READ: dict[str, Callable[[str], Any]] = {
    "int": lambda text: int(float(text)) if text else 0,
    "float": lambda text: float(text) if text else float("nan"),
    "str": str,
}
_DTYPES = {"int": "int64", "float": "float64", "str": "str"}


@dataclass(frozen=True, eq=False, repr=False)
class Dynamics:
    """What was recorded while a run was trained.

    Attributes:
        tables: ``dynamics`` (epoch, quantity, modality, other, mean, std, count, reason), ``projection`` (epoch,
            modality, sample, label, x, y) and ``gallery`` (epoch, modality, unit, place, sample, activation).
        arrays: ``dynamics/pictures/MODALITY`` and ``dynamics/samples/MODALITY``, the inputs that the gallery names.
        about: metric, task, probe, chosen epochs, and the unit and definition of each quantity.
    """

    tables: dict[str, pd.DataFrame]
    arrays: dict[str, np.ndarray]
    about: dict[str, Any]

    def __repr__(self) -> str:
        table = self.tables["dynamics"]
        return f"Dynamics({table['epoch'].nunique()} epochs: {', '.join(dict.fromkeys(table['quantity']))})"


def read_dynamics(folder: str | Path) -> Dynamics:
    """Read the ``dynamics`` folder of a run; no pickle is loaded.

    Raises:
        FileError: if a file is missing, damaged, lacks a column, or is newer than this version can read.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        if not isinstance(about, dict):
            raise FileError(f"{folder / 'about.json'} is damaged: expected an object, found {type(about).__name__}")
        if about.get("schema", SCHEMA) > SCHEMA:
            raise FileError(
                f"{folder} was written with schema {about['schema']}, newer than the {SCHEMA} known here; upgrade "
                "fusionscope"
            )
        tables = {name: _table(folder / f"{name}.csv", columns) for name, columns in COLUMNS.items()}
        with np.load(folder / "pictures.npz", allow_pickle=False) as stored:
            arrays = {f"{DYNAMICS}/{name}": stored[name] for name in stored.files}
    except FileError:
        raise
    except FileNotFoundError as error:
        name = Path(str(error.filename)).name
        raise FileError(f"{folder} lacks {name}; remove that folder, or train again with --dynamics") from error
    except OSError as error:
        raise FileError(f"cannot read {folder}: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise FileError(
            f"{folder} is damaged ({type(error).__name__}: {error}); remove it, or train again with --dynamics"
        ) from error
    _check(folder, arrays)
    return Dynamics(tables, arrays, about)


def _table(path: Path, columns: str) -> pd.DataFrame:
    text = pd.read_csv(path, dtype=str, keep_default_na=False)
    kinds = dict(column.split(":") for column in columns.split())
    missing = [name for name in kinds if name not in text]
    if missing:
        raise FileError(f"{path} is damaged: expected a column {missing[0]!r}, found {', '.join(map(str, text))}")
    try:
        read = {name: pd.Series([_READ[k](t) for t in text[name]], dtype=_DTYPES[k]) for name, k in kinds.items()}
    except ValueError as error:
        raise FileError(f"{path} is damaged: {error}") from error
    return pd.DataFrame(read)


def _check(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Refuse pictures that do not belong to samples, one each."""
    path = folder / "pictures.npz"
    for name, values in arrays.items():
        _, kind, modality = name.split("/", 2) if name.count("/") >= 2 else (name, "", "")
        other = {"pictures": "samples", "samples": "pictures"}.get(kind)
        if other is None:
            raise FileError(f"{path} is damaged: expected pictures/MODALITY and samples/MODALITY, found {name!r}")
        fits = arrays.get(f"{DYNAMICS}/{other}/{modality}")
        if fits is None or not values.ndim or not fits.ndim or len(fits) != len(values):
            raise FileError(f"{path} is damaged: pictures/{modality} and samples/{modality} are not of one length")
        if values.dtype.kind not in "iufb" or (kind == "samples" and values.dtype.kind not in "iu"):
            raise FileError(f"{path} is damaged: {kind}/{modality} holds {values.dtype}")
