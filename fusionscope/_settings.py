"""Values of settings, and what to say of those that do not fit. Imports no torch."""

from __future__ import annotations

from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from fusionscope.errors import did_you_mean

WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
KINDS = {
    str: "a text",
    bool: "true or false",
    list: "a list",
    tuple: "a list",
    float: "a number",
    dict: "a table",
    int: "a whole number",
}


def misfit(value: Any, kind: Any) -> str:
    """Say what a setting of this type takes where ``value`` is none; empty where it is one.

    >>> misfit("adam", Literal["adamw", "sgd"])
    "expected one of adamw, sgd. Did you mean 'adamw'?"
    >>> misfit("high", float), misfit(3, float), misfit("rgb", tuple[str, ...])
    ('expected a number, got a text', '', "expected a list of texts, got a text: write ['rgb']")
    """
    if kind in WORDS:
        # exactly, as the run folder's JSON takes no subtypes; but a whole number is a number
        fits = type(value) is kind or (kind is float and type(value) is int)
        return "" if fits else f"expected {WORDS[kind]}, got {_kind(value)}"
    if texts := choices(kind):
        hint = did_you_mean(value, texts) if isinstance(value, str) else ""
        return "" if value in texts else f"expected one of {', '.join(texts)}.{hint}"
    inner = get_args(kind)
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            return f"expected a list of texts, got {_kind(value)}: write [{value!r}]"
        return next((f"{one!r}: {said}" for one in value if (said := misfit(one, inner[0]))), "")
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        return f"{str(error)[0].lower()}{str(error)[1:]}"
    return ""


def choices(kind: Any) -> tuple[str, ...]:
    """Return the texts that a type allows; none where it is no choice among texts.

    >>> choices(Literal["r2", "f1"] | Literal["all"]), choices(str)
    (('r2', 'f1', 'all'), ())
    """
    if get_origin(kind) is Union:
        return tuple(text for one in get_args(kind) for text in choices(one))
    return get_args(kind) if get_origin(kind) is Literal else ()


def from_text(text: str, kind: Any) -> Any:
    """Read what was written on a command line; what is no such number stays a text.

    >>> from_text("1e-3", float), from_text("1e-3", int), from_text("sgd", Literal["adamw", "sgd"])
    (0.001, '1e-3', 'sgd')
    """
    try:
        return kind(text) if kind in (float, int) else text
    except ValueError:
        return text


def _kind(value: Any) -> str:
    return KINDS.get(type(value), f"a {type(value).__module__}.{type(value).__name__}".replace("a builtins.", "a "))
