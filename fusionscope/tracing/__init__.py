"""Run a model with one modality changed at a time: calls, slots, axes, streams, levels and fusion points."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusionscope._lazy import attach

if TYPE_CHECKING:
    from fusionscope.tracing._call import Axes as Axes
    from fusionscope.tracing._call import Call as Call
    from fusionscope.tracing._call import FusionPoint as FusionPoint
    from fusionscope.tracing._levels import Tap as Tap
    from fusionscope.tracing._reader import TapReader as TapReader
    from fusionscope.tracing._record import module_paths as module_paths
    from fusionscope.tracing._runner import differing as differing
    from fusionscope.tracing._state import ModelState as ModelState
    from fusionscope.tracing._state import quiet as quiet
    from fusionscope.tracing._state import rng_state as rng_state
    from fusionscope.tracing._state import set_rng as set_rng
    from fusionscope.tracing._trace import Trace as Trace
    from fusionscope.tracing._trace import one_adapter as one_adapter
    from fusionscope.tracing._trace import trace as trace

_exports = {
    "Axes": "_call",
    "Call": "_call",
    "FusionPoint": "_call",
    "ModelState": "_state",
    "Tap": "_levels",
    "TapReader": "_reader",
    "differing": "_runner",
    "module_paths": "_record",
    "Trace": "_trace",
    "one_adapter": "_trace",
    "quiet": "_state",
    "rng_state": "_state",
    "set_rng": "_state",
    "trace": "_trace",
}
__getattr__, __dir__ = attach(__name__, _exports)
__all__ = sorted(_exports)
