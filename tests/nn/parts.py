"""The table of parts: what is in it gets every law of ``test_part_laws.py``. Files ``parts_*.py`` add to it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

VECTORS: dict[str, tuple[int, ...]] = {"rgb": (20,), "depth": (20,), "audio": (20,)}
SEQUENCES = {"rgb": (7, 20), "depth": (7, 20), "audio": (7, 20)}
MAPS = {"rgb": (20, 5, 11), "depth": (20, 5, 11), "audio": (20, 5, 11)}
UNEQUAL_VECTORS: dict[str, tuple[int, ...]] = {"rgb": (11,), "depth": (7,), "audio": (13,)}
UNEQUAL_SEQUENCES = {"rgb": (5, 11), "depth": (17, 7), "audio": (3, 13)}


@dataclass(frozen=True)
class Case:
    """One part in one setting.

    Attributes:
        build: makes the part; seeded by the test.
        shapes: the features' shapes per sample, by modality.
        exchange: whether features come out, in the shapes they came in; else one tensor comes out.
        one: whether the part works with one modality alone.
        idle: parameters that no gradient need reach, by the end of their name.
        compiled: whether compile and export are tried; not where another case builds the same code (they take long).
    """

    build: Callable[[], nn.Module]
    shapes: Mapping[str, tuple[int, ...]]
    exchange: bool = False
    one: bool = True
    idle: tuple[str, ...] = ()
    compiled: bool = True


def features(case: Case, batch: int = 5, seed: int = 0, *, grad: bool = False) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {m: torch.randn(batch, *s, generator=generator).requires_grad_(grad) for m, s in case.shapes.items()}


def presence(case: Case, batch: int = 5) -> dict[str, Tensor]:
    """Sample 0 lacks the first modality, sample 1 all but the first, the rest is whole."""
    found = {m: torch.ones(batch, dtype=torch.bool) for m in case.shapes}
    first, *others = case.shapes
    found[first][0] = False
    for name in others:
        found[name][1] = False
    return found


def _all() -> dict[str, Case]:
    from fusionscope.nn import Concat

    found: dict[str, Case] = {
        "concat vectors": Case(lambda: Concat(tuple(VECTORS)), UNEQUAL_VECTORS),
        "concat maps": Case(lambda: Concat(tuple(MAPS)), MAPS),
    }
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name.startswith("parts_"):
            found |= importlib.import_module(f"tests.nn.{module.name}").PARTS
    return found


def parts() -> dict[str, Case]:
    global _found
    if not _found:
        _found = _all()
    return _found


_found: dict[str, Case] = {}
