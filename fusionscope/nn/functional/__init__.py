"""The exchanges' arithmetic on dictionaries of features, without modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusionscope._lazy import attach

if TYPE_CHECKING:
    from ._exchanges import channel_shuffle as channel_shuffle
    from ._exchanges import pixel_shift as pixel_shift

_exports = {
    "channel_shuffle": "_exchanges",
    "pixel_shift": "_exchanges",
}
__getattr__, __dir__ = attach(__name__, _exports)
__all__ = sorted(_exports)
