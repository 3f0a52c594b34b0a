"""Run a user's model to measure it: taps, coalitions of modalities, and the ``Dissection`` they give."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusionscope._lazy import attach

if TYPE_CHECKING:
    from fusionscope.dissection._dissect import dissect as dissect
    from fusionscope.dissection._dissection import Dissection as Dissection
    from fusionscope.dissection._dissection import check_folder as check_folder
    from fusionscope.dissection._dissection import load as load
    from fusionscope.dissection._fill import fill_in as fill_in
    from fusionscope.dissection._names import MEASURES as MEASURES
    from fusionscope.dissection._names import Measure as Measure
    from fusionscope.dissection._pictures import pictures as pictures
    from fusionscope.dissection._ranks import launched as launched
    from fusionscope.dissection._ranks import place as place

_exports = {
    "Dissection": "_dissection",
    "MEASURES": "_names",
    "Measure": "_names",
    "check_folder": "_dissection",
    "dissect": "_dissect",
    "fill_in": "_fill",
    "launched": "_ranks",
    "place": "_ranks",
    "load": "_dissection",
    "pictures": "_pictures",
}
__getattr__, __dir__ = attach(__name__, _exports)
__all__ = sorted(_exports)
