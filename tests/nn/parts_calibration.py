"""Calibration in all its variants, for the laws of parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from .parts import MAPS, UNEQUAL_SEQUENCES, UNEQUAL_VECTORS, Case

MIXED: dict[str, tuple[int, ...]] = {"rgb": (11, 5, 3), "depth": (17, 7), "audio": (13,)}
PAIR: dict[str, tuple[int, ...]] = {"rgb": (11,), "audio": (5, 13)}


def channels(shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    return {m: shape[-1] if len(shape) < 3 else shape[0] for m, shape in shapes.items()}


def calibration(shapes: dict[str, tuple[int, ...]], **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from fusionscope.nn import ContextualCalibration

        return ContextualCalibration(channels(shapes), dim=7, hidden=5, **options)

    return build


def case(shapes: dict[str, tuple[int, ...]], **options: Any) -> Case:
    return Case(calibration(shapes, **options), shapes, exchange=True)


PARTS: dict[str, Case] = {
    "calibration vectors": case(UNEQUAL_VECTORS),
    "calibration sequences": case(UNEQUAL_SEQUENCES, summary="attention"),
    "calibration maps, shared": case(MAPS, shared=True, summary="max"),
    "calibration mixed, residual": case(MIXED, mode="residual", instance=False),
    "calibration of one, no support": case(PAIR, detach=True, gated=("rgb",), support=False),
    "calibration per sample, no conflict": case(PAIR, conflict=False, dimension=False),
    "calibration alone": case({"rgb": (11,)}),
}
