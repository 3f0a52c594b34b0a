"""The first look at a command line: one message for each mistake. What passes is read by tyro."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import tyro

from fusionscope._settings import WORDS, choices, from_text, misfit
from fusionscope.errors import InputError, did_you_mean

YES_OR_NO = ("yes", "no", "true", "false", "on", "off", "1", "0")


def check_arguments(
    command: str, arguments: Sequence[str], commands: Mapping[str, type[msgspec.Struct]], given: Sequence[str] = ()
) -> None:
    """Refuse an unknown command or option, a value of the wrong type, a required option that is missing.

    Args:
        command: the first word.
        arguments: the words after it.
        commands: the options of each command.
        given: options that need not be among the arguments.

    Raises:
        InputError: of the first one found, with its name, its value and what to write instead.
    """
    if command not in commands:
        raise InputError(
            f"no command {command!r}: one of {', '.join(commands)}.{did_you_mean(command, commands)} "
            "`fusionscope --help` says what they do"
        )
    if any(word in ("-h", "--help") or word.startswith("--tyro-") for word in arguments):
        return
    types, words = _options(commands[command])
    all_of = f"`fusionscope {command} --help` has all"
    seen = {*given}
    for option, values in _grouped(arguments):
        if option is None:
            if len(values) > len(words):
                raise InputError(f"{command}: {_stray(values[len(words)], words)}; {all_of}")
            seen.update(words[: len(values)])
            continue
        name = option.lstrip("-").replace("-", "_")
        if name.removeprefix("no_") in types and types[name.removeprefix("no_")] is bool:
            kind, name = bool, name.removeprefix("no_")
        elif name in types:
            kind = types[name]
        else:
            flags = [f"--{n.replace('_', '-')}" for n in types]
            raise InputError(f"{command}: no option {option}.{did_you_mean(option, flags)} {all_of}")
        seen.add(name)
        left = _check_values(option, kind, values, f"--no-{name.replace('_', '-')}")
        if len(left) > max(len(words) - len(seen.intersection(words)), 0):
            raise InputError(f"{command}: after {option}, {_stray(left[-1], words)}; {all_of}")
        seen.update(words[: len(left)])
    missing = [f.name for f in msgspec.structs.fields(commands[command]) if f.required and f.name not in seen]
    if missing:
        needed = " and ".join(name.upper() if name in words else f"--{name.replace('_', '-')}" for name in missing)
        raise InputError(f"{command}: {needed} must be given; {all_of}")


def _options(options: type[msgspec.Struct]) -> tuple[dict[str, Any], list[str]]:
    """Return the type of every option, and the names of those that are given without their names."""
    types: dict[str, Any] = {}
    words = []
    for name, hint in get_type_hints(options, include_extras=True).items():
        if get_origin(hint) is Annotated and tyro.conf.Positional in get_args(hint):
            words.append(name)
        else:
            types[name] = hint
    return types, words


def _grouped(arguments: Sequence[str]) -> Iterator[tuple[str | None, list[str]]]:
    """Each option with the words after it; None for the words before the first option."""
    option: str | None = None
    values: list[str] = []
    for word in arguments:
        if word.startswith("-") and not re.fullmatch(r"-|-[\d.].*", word):
            yield option, values
            option, equals, value = word.partition("=")
            values = [value] if equals else []
        else:
            values.append(word)
    yield option, values


def _check_values(option: str, kind: Any, values: list[str], switch_off: str) -> list[str]:
    """Check the values that an option takes; return those that are left."""
    if kind is bool:
        if values and values[0].lower() in YES_OR_NO:
            raise InputError(f"{option} {values[0]}: a switch takes no value; leave it out, or write {switch_off}")
        return values
    many = get_origin(kind) is tuple
    if not values and not many:
        wanted = WORDS.get(kind) or f"one of {', '.join(choices(kind))}"
        raise InputError(f"{option} needs a value: {wanted}")
    kind = get_args(kind)[0] if many else kind
    for text in values if many else values[:1]:
        if said := misfit(from_text(text, kind), kind):
            raise InputError(f"{option} {text}: {said.partition(', got ')[0]}")
    return [] if many else values[1:]


def _stray(word: str, words: Sequence[str]) -> str:
    first = words[0].upper() if words else "a FILE.toml"
    return f"{word!r} belongs to no option: only {first} goes without a name, and comes first"
