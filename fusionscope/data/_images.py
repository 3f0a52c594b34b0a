"""``images``: folders of images as modalities, matched by file name."""

from __future__ import annotations

import csv
import re
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from fusionscope.errors import FileError, InputError, did_you_mean

from ._pictures import find_pictures, pillow, read_picture, survey
from ._spec import ImagesOptions
from ._splits import DataSplits, fingerprint
from ._target import random_split, read_group, read_split, read_target

TABLE = "index.csv"


class ImageDataset(Dataset):
    """Samples ``rows`` of image files that are read when asked for.

    Items: float32 inputs ``[C,H,W]`` in 0..1; the target is such an image too, or a class or a number.
    """

    def __init__(
        self,
        inputs: dict[str, list[Path]],
        target: list[Path] | np.ndarray,
        rows: np.ndarray,
        group: np.ndarray | None,
        size: tuple[int, int] | None,
    ) -> None:
        self.inputs, self.target, self.rows = inputs, target, rows
        self._group, self._size = group, size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        at = int(self.rows[index])
        sample: dict = {
            "inputs": {m: torch.from_numpy(read_picture(p[at], self._size)) for m, p in self.inputs.items()}
        }
        if isinstance(self.target, np.ndarray):
            kind = torch.float32 if self.target.dtype.kind == "f" else torch.int64
            sample["target"] = torch.as_tensor(self.target[at]).to(kind)
        else:
            sample["target"] = torch.from_numpy(read_picture(self.target[at], self._size))
        if self._group is not None:
            sample["group"] = torch.tensor(int(self._group[at]))
        return sample

    def __repr__(self) -> str:
        return f"ImageDataset({len(self)} samples of {', '.join(self.inputs)})"


def load_images(spec: str, path: str, options: ImagesOptions, seed: int) -> DataSplits:
    """Read modalities and target from folders of images beside each other, splits and columns from a table."""
    pillow()
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FileError(f"{folder} is not a folder; expected one with a folder of images per modality.")
    names = _names(options)
    size = _size(options.size)
    columns = _table(folder, options)
    images = (folder / options.target).is_dir()
    targets = () if images else (options.target,) if options.target in columns else tuple(options.target.split(","))
    for one in targets:
        if one not in columns:
            known = [p.name for p in sorted(folder.iterdir()) if p.is_dir()] + list(columns)
            raise InputError(
                f"target {one!r} is neither a folder in {folder} nor a column of its table."
                f"{did_you_mean(one, known)} There are {', '.join(known)}."
            )
    if images and options.classes:
        raise InputError("option 'classes' is for class labels, but the target is a folder of images: leave it out.")
    found = {name: find_pictures(folder, name) for name in (*names, *([options.target] if images else []))}
    ids = _match(found, columns.get("id"), folder)
    paths = {name: [files[i] for i in ids] for name, files in found.items()}
    shapes = {name: survey(files, name, size) for name, files in paths.items()}
    group = read_group(options.group, columns[options.group]) if options.group else None
    rows = read_split("split", columns["split"]) if _splits(options, columns) else random_split(len(ids), group, seed)
    task, target, classes = "translation", paths.get(options.target, []), ()
    if not images:
        labels = tuple(options.classes.split(",")) if options.classes else targets if len(targets) > 1 else ()
        task, target, classes = read_target(options.target, _stacked(targets, columns), labels)
    words = [task, *classes, options.size, *names, *ids]
    arrays = [*rows.values(), *(x for x in (target, group) if isinstance(x, np.ndarray))]
    files = (np.frombuffer(p.read_bytes(), np.uint8) for found in paths.values() for p in found)
    inputs = {name: paths[name] for name in names}
    return DataSplits(
        spec=spec,
        splits={name: ImageDataset(inputs, target, index, group, size) for name, index in rows.items()},
        modalities=names,
        axes=dict.fromkeys(names, "NCHW"),
        shapes={name: shapes[name] for name in names},
        task=task,
        classes=classes,
        truth=None,
        fingerprint=fingerprint(chain(words, arrays, files)),
    )


def _names(options: ImagesOptions) -> tuple[str, ...]:
    if not options.inputs or not options.target:
        what = "inputs=, the folders to use" if not options.inputs else "target=, a folder or a column of its table"
        raise InputError(f"data source 'images' needs {what}, as in 'images:FOLDER?inputs=vi&target=ir'.")
    names = tuple(options.inputs.split(","))
    if "" in names or len(set(names)) < len(names):
        raise InputError(f"cannot read inputs={options.inputs}: expected names of folders, each once, joined by ','.")
    if options.target in names:
        raise InputError(f"folder {options.target!r} is an input and also the target. Take it out of inputs=.")
    return names


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise InputError(f"cannot read size={text}: expected HEIGHTxWIDTH in pixels, as in size=120x160.")
    return int(match[1]), int(match[2])


def _splits(options: ImagesOptions, columns: dict[str, np.ndarray]) -> bool:
    return options.split != "random" and "split" in columns


def _table(folder: Path, options: ImagesOptions) -> dict[str, np.ndarray]:
    """Return the columns of the table, numbers as numbers; empty where there is none and none is named."""
    given = options.split not in ("", "random")
    file = folder / (options.split if given else TABLE)
    if not given and not file.is_file():
        if options.group:
            raise InputError(f"group={options.group} names a column, but there is no table {file}.")
        return {}
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            head, *lines = list(csv.reader(stream)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        beside = [p.name for p in folder.glob("*.csv")]
        raise FileError(f"table {file} cannot be read ({error}).{did_you_mean(file.name, beside)}") from error
    lines = [line for line in lines if line]
    wrong = [number for number, line in enumerate(lines, 2) if len(line) != len(head)]
    if wrong or not lines:
        raise FileError(
            f"table {file}: " + (f"line {wrong[0]} has other columns than line 1." if wrong else "no rows.")
        )
    for name in ("id", *(["split"] if given else []), *([options.group] if options.group else [])):
        if name not in head:
            raise InputError(
                f"table {file} has no column {name!r}.{did_you_mean(name, head)} Its columns are {', '.join(head)}."
            )
    columns = dict(zip(head, zip(*lines, strict=True), strict=True))
    ids = columns["id"]
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise InputError(f"table {file} holds the id {twice!r} more than once.")
    return {name: np.array(ids) if name == "id" else _typed(cells) for name, cells in columns.items()}


def _typed(cells: tuple[str, ...]) -> np.ndarray:
    for kind in (np.int64, np.float64):
        try:
            return np.array(cells).astype(kind)
        except (ValueError, OverflowError):
            continue
    return np.array(cells)


def _stacked(names: tuple[str, ...], columns: dict[str, np.ndarray]) -> np.ndarray:
    """One column, or several of 0 and 1 side by side."""
    for name in names if len(names) > 1 else ():
        if not np.isin(columns[name], (0, 1)).all():
            raise InputError(
                f"target={','.join(names)} names several columns, labels of 0 and 1, but column {name!r} holds other "
                "values. Name one column for classes or numbers."
            )
    return columns[names[0]] if len(names) == 1 else np.stack([columns[name].astype(int) for name in names], 1)


def _match(found: dict[str, dict[str, Path]], listed: np.ndarray | None, folder: Path) -> list[str]:
    """Return the ids to use: those of the table, else all; each has an image in every folder."""
    first, *others = found
    ids = sorted(set().union(*found.values())) if listed is None else [str(i) for i in listed]
    for name in (first, *others):
        gone = [i for i in ids if i not in found[name]]
        if gone:
            raise InputError(
                f"{len(gone)} of {len(ids)} samples have no image in {folder / name}, the first is {gone[0]!r}. "
                + ("Add the files, " if listed is None else "Add the files, take those ids out of the table, ")
                + "or give images of one sample the same name in every folder."
            )
    return ids
