"""For all tests and doctests: the same random numbers whatever ran before, and types checked at run time."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, get_args

import jaxtyping
import numpy as np
import pytest
import torch

whole = jaxtyping.jaxtyped


def shaped(hint: Any) -> bool:
    """True where jaxtyping has a part in an annotation, or where that cannot be told."""
    if isinstance(hint, list | tuple):
        return any(map(shaped, hint))
    if isinstance(hint, str) or type(hint).__name__ in ("ForwardRef", "TypeVar", "TypeAliasType"):
        return True
    return "jaxtyping" in (type(hint).__module__ + str(getattr(hint, "__module__", ""))) or shaped(get_args(hint))


def needs_shapes(function: Any) -> bool:
    try:
        hints = [
            eval(hint, function.__globals__) if isinstance(hint, str) else hint
            for hint in function.__annotations__.values()
        ]
    except Exception:  # a name that only its enclosing function knows: jaxtyping deals with it
        return True
    return shaped(hints)


def jaxtyped(function: Any = None, *, typechecker: Any) -> Callable[..., Any]:
    """What jaxtyping's import hook puts on every function, without its cost where no annotation names a shape.

    jaxtyping binds the arguments of each call and checks them twice, to compare the sizes of axes by name. Where no
    annotation has such a name, the type checker alone checks the same in less time.
    """
    if function is None:
        return lambda given: jaxtyped(given, typechecker=typechecker)
    if isinstance(function, type) or not hasattr(function, "__globals__") or needs_shapes(function):
        return whole(function, typechecker=typechecker)
    return typechecker(function)


jaxtyping.jaxtyped = jaxtyped


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed every global generator before each test."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
