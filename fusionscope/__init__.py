"""fusionscope: see what each modality contributes to a multimodal PyTorch model, and where the modalities agree.

import fusionscope as fs

found = fs.dissect(model, loader)
found.report("report.html")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusionscope._lazy import attach

if TYPE_CHECKING:
    from fusionscope.batch import Adapter as Adapter
    from fusionscope.batch import Batch as Batch
    from fusionscope.data import load_data as load_data
    from fusionscope.dissection import Dissection as Dissection
    from fusionscope.dissection import dissect as dissect
    from fusionscope.dissection import load as load
    from fusionscope.engine import TrainConfig as TrainConfig
    from fusionscope.engine import load_run as load_run
    from fusionscope.engine import train as train
    from fusionscope.tracing import Trace as Trace
    from fusionscope.tracing import trace as trace

__version__ = "0.1.0"
_exports = {
    "Adapter": "batch",
    "Batch": "batch",
    "Dissection": "dissection",
    "Trace": "tracing",
    "TrainConfig": "engine",
    "dissect": "dissection",
    "load": "dissection",
    "load_data": "data",
    "load_run": "engine",
    "trace": "tracing",
    "train": "engine",
}
_rooms = dict.fromkeys(("batch", "data", "dissection", "engine", "errors", "measures", "nn", "report", "tracing"), "")
__getattr__, __dir__ = attach(__name__, _exports | _rooms)
__all__ = ["__version__", *sorted(_exports)]
