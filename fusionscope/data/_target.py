"""Targets, groups and splits from the arrays of a file. Imports no torch."""

from __future__ import annotations

import numpy as np

from fusionscope.errors import InputError

from ._archive import check_numbers

SPLITS = ("train", "val", "test")


def read_target(
    name: str, array: np.ndarray, classes: tuple[str, ...] = (), ignore: int | None = None
) -> tuple[str, np.ndarray, tuple[str, ...]]:
    """Return task, target and class names.

    Integers, booleans or strings [N]: classification. Integers [N, H, W]: dense, where negative values and ``ignore``
    are left out (-1). Integers or booleans [N, K] of 0 and 1: multilabel, as float32; names are positions unless
    ``classes`` names them. Floats [N] or [N, D]: regression, left as they are. Labels are numbered in sorted order and
    keep their value as name, unless ``classes`` names them; if all labels lie in 0..len(classes)-1, they are taken as
    positions.
    """
    if array.dtype.kind not in "USbui":
        check_numbers(name, array)
        if array.ndim > 2:
            raise InputError(
                f"target {name!r} is {array.dtype} with shape {array.shape}. Expected floats [N] or [N, D] "
                f"(regression), or integers [N] or [N, H, W] (classes)."
            )
        for value, option in ((classes, "classes"), (ignore, "ignore")):
            if value not in ((), None):
                raise InputError(
                    f"option {option!r} is for class labels, but target {name!r} is {array.dtype}: leave it out."
                )
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        return "regression", array.astype(np.float32), ()
    if array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind in "bui":
        return _labels(name, array, classes, ignore)
    if array.ndim not in (1, 3) or (array.ndim == 3 and array.dtype.kind in "US"):
        hint = f" Save {name}[:, 0]." if array.ndim == 2 and array.shape[1] == 1 else ""
        raise InputError(
            f"target {name!r} is {array.dtype} with shape {array.shape}. Expected one class per sample [N], integer "
            f"class maps [N, H, W], or several labels of 0 and 1 per sample [N, K]; save floats for regression.{hint}"
        )
    _check_names(classes)
    array = array.astype(str) if array.dtype.kind == "S" else array
    dense = array.ndim == 3
    if ignore is not None and not dense:
        raise InputError(f"option 'ignore' is for class maps [N, H, W], but target {name!r} has shape {array.shape}.")
    out = np.zeros(array.shape, bool)
    if dense and array.dtype.kind != "b":
        out = array < 0 if ignore is None else (array < 0) | (array == ignore)
    values = np.unique(array[~out])
    if classes and array.dtype.kind in "bui" and len(values) and values[0] >= 0 and values[-1] < len(classes):
        values, names = np.arange(len(classes)), classes
    elif classes and len(classes) != len(values):
        raise InputError(
            f"{len(classes)} class names are given ({', '.join(classes)}), but target {name!r} holds {len(values)} "
            f"labels ({_shown(values)}). Give one name per label, in sorted order."
        )
    else:
        names = classes or tuple(str(value) for value in values)
    if len(names) < 2:
        raise InputError(f"target {name!r} holds {len(values)} class ({_shown(values)}); expected two or more.")
    small = np.int16 if len(names) < 2**15 else np.int64
    index = np.searchsorted(values, array).astype(small)
    return ("dense" if dense else "classification"), np.where(out, small(-1), index), names


def _labels(
    name: str, array: np.ndarray, classes: tuple[str, ...], ignore: int | None
) -> tuple[str, np.ndarray, tuple[str, ...]]:
    """Several labels per sample, each there or not."""
    values = np.unique(array)
    if not np.isin(values, (0, 1)).all():
        raise InputError(
            f"target {name!r} is {array.dtype} with shape {array.shape} and holds {_shown(values)}. Several labels per "
            "sample [N, K] are 0 or 1 each; save one class per sample as [N], class maps as [N, H, W], and numbers to "
            "regress as floats."
        )
    if ignore is not None:
        raise InputError(f"option 'ignore' is for class maps [N, H, W], but target {name!r} has shape {array.shape}.")
    _check_names(classes)
    if classes and len(classes) != array.shape[1]:
        raise InputError(
            f"{len(classes)} class names are given ({', '.join(classes)}), but target {name!r} holds {array.shape[1]} "
            "labels per sample. Give one name per label, in their order."
        )
    return "multilabel", array.astype(np.float32), classes or tuple(map(str, range(array.shape[1])))


def _check_names(classes: tuple[str, ...]) -> None:
    if len(set(classes)) < len(classes) or "" in classes:
        raise InputError(f"class names {', '.join(map(repr, classes))} are not all different and filled in.")


def read_group(name: str, array: np.ndarray) -> np.ndarray:
    """Number the groups in sorted order; integers or strings [N]."""
    if array.ndim != 1 or array.dtype.kind not in "USbui":
        raise InputError(f"group {name!r} is {array.dtype} with shape {array.shape}; expected integers or strings [N].")
    return np.unique(array, return_inverse=True)[1].astype(np.int64)


def read_split(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """Rows per split from 0/1/2 or "train"/"val"/"test"."""
    if array.ndim != 1 or array.dtype.kind not in "USui":
        raise InputError(f"split {name!r} is {array.dtype} with shape {array.shape}; expected integers or strings [N].")
    array = array.astype(str) if array.dtype.kind == "S" else array
    codes = SPLITS if array.dtype.kind == "U" else (0, 1, 2)
    unknown = np.setdiff1d(array, codes)
    if len(unknown):
        raise InputError(
            f"split {name!r} holds {_shown(unknown)}. Expected 0 (train), 1 (val), 2 (test), or those words; "
            f"leave other samples out of the file."
        )
    rows = {split: np.flatnonzero(array == code) for split, code in zip(SPLITS, codes, strict=True)}
    empty = [split for split, index in rows.items() if not len(index)]
    if empty:
        raise InputError(
            f"split {name!r} puts no sample into {' and '.join(empty)}. Give each of train, val and test some, or "
            f"write split=random for a seeded 70/15/15 split."
        )
    return rows


def random_split(count: int, group: np.ndarray | None, seed: int) -> dict[str, np.ndarray]:
    """Seeded split, about 70/15/15 by samples; whole groups stay together."""
    unit = np.arange(count) if group is None else group
    sizes = np.bincount(unit)
    what = "samples" if group is None else "groups"
    if len(sizes) < 3:
        raise InputError(f"{len(sizes)} {what} cannot be split into train, val and test; expected three or more.")
    queue = np.random.default_rng([seed, len(sizes)]).permutation(len(sizes)).tolist()
    rows = {}
    for left, split in ((2, "val"), (1, "test")):
        taken = [queue.pop()]
        # Stop where the next group would carry the part further past its share than it is short of it.
        while len(queue) > left and sizes[taken].sum() + sizes[queue[-1]] / 2 <= 0.15 * count:
            taken.append(queue.pop())
        rows[split] = np.flatnonzero(np.isin(unit, taken))
    return {"train": np.flatnonzero(np.isin(unit, queue)), **rows}


def _shown(values: np.ndarray) -> str:
    return ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
