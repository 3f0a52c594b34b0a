"""Read arrays from an ``.npz`` file without ever unpickling. Imports no torch."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fusionscope.errors import FileError, InputError, did_you_mean


def read_arrays(path: str, names: Iterable[str], optional: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """Return the named arrays of an ``.npz`` file; ``optional`` ones only where they exist.

    Raises:
        FileError: no such file, not an ``.npz``, a damaged member, an array of Python objects.
        InputError: a name that the file does not hold.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        beside = [p.name for p in file.parent.glob("*.npz")] if file.parent.is_dir() else []
        what = "is a folder" if file.is_dir() else "does not exist"
        raise FileError(f"{file} {what}; expected an .npz file.{did_you_mean(file.name, beside)}")
    if not zipfile.is_zipfile(file):
        raise FileError(f"{file} is not an .npz file. Write one with numpy.savez_compressed(FILE, name=array, ...).")
    try:
        with np.load(file, allow_pickle=False) as archive:
            missing = [name for name in names if name not in archive.files]
            if missing:
                raise InputError(
                    f"{file.name} holds no array {missing[0]!r}.{did_you_mean(missing[0], archive.files)} "
                    f"It holds {', '.join(archive.files) or 'nothing'}."
                )
            wanted = dict.fromkeys([*names, *(name for name in optional if name in archive.files)])
            return {name: _member(file, archive, name) for name in wanted}
    except (OSError, zipfile.BadZipFile) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{file} cannot be read ({error}). Write the file again.") from error


def _member(file: Path, archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        array = archive[name]
    except (ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        if "allow_pickle" in str(error):
            raise FileError(
                f"array {name!r} in {file.name} holds Python objects, which would have to be unpickled: that can run "
                f"foreign code, and is refused. Save plain numbers or strings: numpy.asarray({name}, dtype=...)."
            ) from None
        raise FileError(f"array {name!r} in {file.name} cannot be read ({error}). Write the file again.") from error
    if not isinstance(array, np.ndarray):
        raise FileError(f"{name!r} in {file.name} is not an array. Write the file with numpy.savez_compressed.")
    return array


def check_lengths(arrays: dict[str, np.ndarray]) -> int:
    """Return the number of samples that all arrays share; ``InputError`` where they differ, or where there are none."""
    flat = [name for name, array in arrays.items() if array.ndim == 0]
    if flat:
        raise InputError(f"array {flat[0]!r} is a single number; expected one entry per sample.")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InputError(f"arrays differ in their number of samples: {shown}. Save one entry per sample in each.")
    empty = [name for name, array in arrays.items() if array.size == 0]
    if empty:
        raise InputError(f"array {empty[0]!r} is empty, shape {arrays[empty[0]].shape}.")
    return next(iter(lengths.values()))


def check_numbers(name: str, array: np.ndarray) -> None:
    """Raise ``InputError`` unless the array holds finite real numbers."""
    if array.dtype.kind not in "buif":
        raise InputError(f"array {name!r} has dtype {array.dtype}; expected real numbers (bool, integer or float).")
    if array.dtype.kind != "f":
        return
    bad = ~np.isfinite(array)
    if bad.any():
        first = int(np.flatnonzero(bad.reshape(len(array), -1).any(1))[0])
        nan = int(np.isnan(array).sum())
        raise InputError(
            f"array {name!r} holds {nan} NaN and {int(bad.sum()) - nan} infinite values, first in sample {first}. "
            f"Leave those samples out, or fill the values (numpy.nan_to_num), before saving the file."
        )
