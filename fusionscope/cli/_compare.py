"""``fusionscope compare``: the variants of a study in a table on the screen, and all of it in a folder."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fusionscope.cli._options import CompareOptions
from fusionscope.engine import Comparison, compare
from fusionscope.report import comparison_sheets, write_comparison


def compare_variants(options: CompareOptions) -> None:
    """Compare, print the tables and the verdicts, write the folder."""
    found = compare(
        options.study,
        baseline=options.baseline or None,
        metric=options.metric or None,
        conditions=options.conditions,
        alpha=options.alpha,
        method=options.method,
        seed=options.seed,
    )
    out = write_comparison(found, options.out or None, formats=options.formats)
    show(found, Console(highlight=False))
    print(f"tables and charts: {out.resolve()}")


def show(found: Comparison, console: Console) -> None:
    """Print the means of every data set, then the verdicts in words."""
    for sheet in comparison_sheets(found, differences=False):
        table = Table(title=Text(sheet.caption), title_justify="left", title_style="bold", pad_edge=False)
        for i, head in enumerate(sheet.head):
            table.add_column(Text(head), justify="left" if i < sheet.names else "right", overflow="fold")
        for row in sheet.body:
            table.add_row(*(Text(cell.text, "bold green" if cell.bold else "") for cell in row))
        console.print(table)
        console.print()
    for line in (*found.sentences, *found.notes):
        console.print(Text(f"- {line}"))
    tests = sum(math.isfinite(p) for p in found.differences["p"])
    if tests:
        console.print(
            Text(
                f"(p: paired t tests over seeds, corrected by Holm's method for {tests} comparisons; brackets: "
                f"bootstrap intervals at {100 * (1 - found.alpha):g} %, each for itself)"
            )
        )
