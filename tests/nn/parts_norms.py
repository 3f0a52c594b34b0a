"""Norms for several modalities, for the table of parts."""

from __future__ import annotations

from torch import nn

from .parts import MAPS, SEQUENCES, VECTORS, Case


class OwnNorm(nn.LayerNorm):
    """A norm that is not torch's."""


def _norm(norm: nn.Module, private: str = "both") -> nn.Module:
    from fusionscope.nn import ModalityNorm

    return ModalityNorm(norm, ("rgb", "depth", "audio"), private)


PARTS: dict[str, Case] = {
    "batch norm vectors": Case(lambda: _norm(nn.BatchNorm1d(20)), VECTORS, exchange=True),
    "batch norm maps": Case(lambda: _norm(nn.BatchNorm2d(20)), MAPS, exchange=True),
    "batch norm maps affine": Case(lambda: _norm(nn.BatchNorm2d(20), "affine"), MAPS, exchange=True),
    "layer norm maps": Case(lambda: _norm(nn.LayerNorm(20)), MAPS, exchange=True),
    "group norm maps": Case(lambda: _norm(nn.GroupNorm(5, 20)), MAPS, exchange=True),
    "unknown norm sequences": Case(lambda: _norm(OwnNorm(20)), SEQUENCES, exchange=True),
}
