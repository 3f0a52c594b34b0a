"""Errors that speak to the user: what was expected, what came, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FusionscopeError(Exception):
    """Base of every error that fusionscope raises on purpose; the command line prints it and exits with code 2."""


class InputError(FusionscopeError, ValueError):
    """Data, a name or a setting is not what was expected."""


class FileError(FusionscopeError, OSError):
    """A file or folder cannot be read or written, or does not hold what it should."""


class ModelError(FusionscopeError, RuntimeError):
    """The user's model could not be called, or does what an instrument cannot work with."""


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the option nearest to ``name``, or an empty string.

    >>> did_you_mean("dept", ["rgb", "depth"])
    " Did you mean 'depth'?"
    >>> did_you_mean("sound", ["rgb", "depth"])
    ''
    """
    near = difflib.get_close_matches(name, list(options), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
