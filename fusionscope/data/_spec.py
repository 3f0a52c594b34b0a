"""Read a data spec, ``source[:path][?option=value&...]``, into typed options. Imports no torch."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

from fusionscope.errors import InputError, did_you_mean

Count = Annotated[int, msgspec.Meta(ge=1)]
Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]
Fraction = Annotated[float, msgspec.Meta(gt=0, lt=1)]


class ScenesOptions(msgspec.Struct, frozen=True):
    """Options of ``scenes``."""

    train: Count = 2000
    val: Count = 300
    test: Count = 600
    size: Count = 64
    cells: Count = 5
    night: Probability = 0.0
    holes: Probability = 0.0


class DigitsOptions(msgspec.Struct, frozen=True):
    """Options of ``digits``: shares of the images that go to val and test."""

    val: Fraction = 0.15
    test: Fraction = 0.25


class NpzOptions(msgspec.Struct, frozen=True):
    """Options of ``npz``; an empty string means not given."""

    inputs: str = ""
    target: str = "label"
    split: str = ""
    group: str = ""
    classes: str = ""
    ignore: int | None = None


class ImagesOptions(msgspec.Struct, frozen=True):
    """Options of ``images``; an empty string means not given."""

    inputs: str = ""
    target: str = ""
    split: str = ""
    group: str = ""
    classes: str = ""
    size: str = ""


SOURCES: dict[str, type[msgspec.Struct]] = {
    "scenes": ScenesOptions,
    "digits": DigitsOptions,
    "npz": NpzOptions,
    "images": ImagesOptions,
}
_READS = {
    "npz": "no file. Write 'npz:FILE.npz?inputs=rgb:NHWC&target=label'.",
    "images": "no folder. Write 'images:FOLDER?inputs=vi&target=ir'.",
}
_EXAMPLES = (
    "'scenes?train=2000&night=0.3', 'digits', 'npz:FILE.npz?inputs=rgb:NHWC,depth:NHW&target=label' "
    "or 'images:FOLDER?inputs=vi&target=ir'"
)

T = TypeVar("T", bound=msgspec.Struct)


def parse_spec(spec: str) -> tuple[str, str, msgspec.Struct]:
    """Return source, path (empty where the source has none) and typed options.

    >>> source, path, options = parse_spec("scenes?train=50&night=0.3")
    >>> source, path, options.train, options.night
    ('scenes', '', 50, 0.3)

    Raises:
        InputError: unknown source or option, a value of the wrong type, a missing or superfluous path.
    """
    head, mark, query = spec.rpartition("?")
    if not mark:
        head, query = spec, ""
    source, colon, path = head.partition(":")
    if source not in SOURCES:
        raise InputError(
            f"unknown data source {source!r} in {spec!r}.{did_you_mean(source, SOURCES)} "
            f"Expected {', '.join(SOURCES)}, as in {_EXAMPLES}."
        )
    if source in _READS and not path:
        raise InputError(f"data spec {spec!r} names {_READS[source]}")
    if source not in _READS and colon:
        raise InputError(f"data source {source!r} reads no file, but {spec!r} gives {path!r}. Leave ':{path}' out.")
    return source, path, _typed(SOURCES[source], _pairs(query, spec), source)


def _pairs(query: str, spec: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for piece in query.split("&") if query else []:
        key, equals, value = piece.partition("=")
        if not (key and equals and value):
            raise InputError(f"cannot read {piece!r} in {spec!r}: expected option=value, joined by '&'.")
        if key in pairs:
            raise InputError(f"option {key!r} is given twice in {spec!r} ({pairs[key]!r} and {value!r}). Keep one.")
        pairs[key] = value
    return pairs


def _typed(options: type[T], pairs: dict[str, str], source: str) -> T:
    types = {field.name: field.type for field in msgspec.structs.fields(options)}
    values = {}
    for key, text in pairs.items():
        if key not in types:
            raise InputError(
                f"data source {source!r} has no option {key!r}.{did_you_mean(key, types)} "
                f"Its options are {', '.join(types)}."
            )
        bare = text.startswith(".") and types[key] is not str  # msgspec reads 0.3 but not .3
        plain = f"0{text}" if bare else text
        try:
            values[key] = msgspec.convert(plain, types[key], strict=False)
        except msgspec.ValidationError as error:
            raise InputError(f"option {key}={text} of data source {source!r}: {error}.") from None
        if values[key] != values[key]:  # nan passes every bound
            raise InputError(f"option {key}={text} of data source {source!r}: expected a number.")
    return options(**values)
