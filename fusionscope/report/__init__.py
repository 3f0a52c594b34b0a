"""Dissection -> one self-contained HTML page; comparison -> tables and charts. Never a model: data can be saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusionscope._lazy import attach

if TYPE_CHECKING:
    from fusionscope.report._compare import write_comparison as write_comparison
    from fusionscope.report._compare_tables import comparison_sheets as comparison_sheets
    from fusionscope.report._compare_view import ComparisonLike as ComparisonLike
    from fusionscope.report._drawing import trace_svg as trace_svg
    from fusionscope.report._page import write_report as write_report
    from fusionscope.report._view import DissectionLike as DissectionLike

_exports = {
    "ComparisonLike": "_compare_view",
    "DissectionLike": "_view",
    "comparison_sheets": "_compare_tables",
    "trace_svg": "_drawing",
    "write_comparison": "_compare",
    "write_report": "_page",
}
__getattr__, __dir__ = attach(__name__, _exports)
__all__ = sorted(_exports)
