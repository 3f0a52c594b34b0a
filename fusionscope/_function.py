"""A function named on the command line: ``package.module:function``."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from fusionscope.errors import InputError, did_you_mean


def call_function(name: str, option: str, kind: type) -> Any:
    """Import ``package.module:function`` (the current folder counts) and call it."""
    module, _, function = name.partition(":")
    if not module or not function:
        raise InputError(f"{option} takes package.module:function, not {name!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(f"{option}: cannot import {module!r} ({error}); run from the folder that holds it") from error
    except Exception as error:
        raise InputError(f"{option}: importing {module!r} raised {type(error).__name__}: {error}") from error
    if not hasattr(loaded, function):
        raise InputError(f"{option}: module {module!r} has no {function!r}.{did_you_mean(function, vars(loaded))}")
    made = getattr(loaded, function)
    if not callable(made):
        raise InputError(f"{option}: {name} is a {type(made).__name__}; expected a function without arguments")
    try:
        value = made()
    except Exception as error:
        raise InputError(f"{option}: calling {name}() raised {type(error).__name__}: {error}") from error
    if not isinstance(value, kind):
        raise InputError(
            f"{option}: {name} gave a {type(value).__name__}; expected a {kind.__module__}.{kind.__name__}"
        )
    return value
