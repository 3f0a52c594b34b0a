"""Dissection -> one self-contained HTML page. Never sees a model: any report can be rebuilt from a saved dissection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusionscope._lazy import attach

if TYPE_CHECKING:
    from fusionscope.report._drawing import trace_svg as trace_svg
    from fusionscope.report._page import write_report as write_report
    from fusionscope.report._view import DissectionLike as DissectionLike

__getattr__, __dir__ = attach(__name__, {"DissectionLike": "_view", "trace_svg": "_drawing", "write_report": "_page"})
__all__ = ["DissectionLike", "trace_svg", "write_report"]
