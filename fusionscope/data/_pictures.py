"""Image files: found by name, opened with Pillow, delivered as arrays in 0..1."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np

from fusionscope.errors import FileError, InputError, did_you_mean

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
_GREY = ("1", "L", "LA")


def pillow() -> ModuleType:
    """Return ``PIL.Image``.

    Raises:
        InputError: if Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise InputError(
            "reading image folders needs Pillow, which is not installed: pip install 'fusionscope[media]'"
        ) from None
    return Image


def find_pictures(folder: Path, name: str) -> dict[str, Path]:
    """Return the image files of ``folder/name`` by their name without ending.

    Raises:
        FileError: if there is no such folder, or no image in it.
        InputError: if two images have one name.
    """
    place = folder / name
    if not place.is_dir():
        beside = sorted(p.name for p in folder.iterdir() if p.is_dir())
        raise FileError(
            f"{folder} holds no folder {name!r}.{did_you_mean(name, beside)} "
            f"Its folders are {', '.join(beside) or 'none'}."
        )
    found: dict[str, Path] = {}
    for path in sorted(place.iterdir()):
        if path.suffix.lower() not in ENDINGS or path.name.startswith("."):
            continue
        if path.stem in found:
            raise InputError(f"{place} holds {found[path.stem].name} and {path.name}: one image per name, please.")
        found[path.stem] = path
    if not found:
        raise FileError(f"{place} holds no image; expected files that end in {', '.join(ENDINGS)}.")
    return found


def survey(paths: list[Path], name: str, size: tuple[int, int] | None) -> tuple[int, int, int]:
    """Return channels, height and width that all images of a folder have, from their headers.

    Raises:
        FileError: if one cannot be read.
        InputError: if they differ.
    """
    kinds: dict[tuple[int, int, int], Path] = {}
    for path in paths:
        try:
            with pillow().open(path) as image:
                width, height = image.size
                kinds.setdefault((_channels(image.mode), *(size or (height, width))), path)
        except OSError as error:
            raise _unreadable(path, error) from error
    if len({kind[0] for kind in kinds}) > 1:
        (a, one), (b, two) = list(kinds.items())[:2]
        raise InputError(
            f"images of {name!r} differ in their channels: {one.name} has {a[0]}, {two.name} has {b[0]}. "
            "Save all as grey or all in colour."
        )
    if len(kinds) > 1:
        (a, one), (b, two) = list(kinds.items())[:2]
        raise InputError(
            f"images of {name!r} differ in size: {one.name} is {a[1]}x{a[2]}, {two.name} is {b[1]}x{b[2]} "
            f"(height x width). Resize them all by size=HxW, as in size={a[1]}x{a[2]}."
        )
    return next(iter(kinds))


def read_picture(path: Path, size: tuple[int, int] | None) -> np.ndarray:
    """Return float32 ``[C,H,W]`` in 0..1: grey with 1 channel, colour with 3 (transparency is dropped).

    8-bit values are divided by 255, 16-bit grey by 65,535, floats are taken as they are. ``size`` (height, width)
    resizes, bilinear with antialiasing.

    Raises:
        FileError: if the file cannot be read.
    """
    try:
        with pillow().open(path) as image:
            image.load()
            grey = _channels(image.mode) == 1
            deep = image.mode.startswith("I") or image.mode == "F"
            scale = 65535.0 if image.mode.startswith("I") else 1.0 if deep else 255.0
            image = image.convert("F" if deep else "L" if grey else "RGB")
            if size is not None and image.size != (size[1], size[0]):
                image = image.resize((size[1], size[0]), pillow().Resampling.BILINEAR)
            array = np.asarray(image, np.float32) / scale
    except (OSError, SyntaxError, ValueError) as error:
        raise _unreadable(path, error) from error
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _channels(mode: str) -> int:
    return 1 if mode in _GREY or mode == "F" or mode.startswith("I") else 3


def _unreadable(path: Path, error: Exception) -> FileError:
    return FileError(f"image {path} cannot be read ({error}). Replace the file, or leave its id out of the table.")
