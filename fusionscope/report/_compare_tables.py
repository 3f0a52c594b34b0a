"""A comparison's tables as text: once as rows of cells, then written as Markdown or as LaTeX."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fusionscope.report._compare_names import condition_name, digits, groups, metric_name, number, p_value, records
from fusionscope.report._compare_view import ComparisonLike

TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "–": "--",
    "²": r"\textsuperscript{2}",
    "−": "$-$",
}


@dataclass(frozen=True)
class Cell:
    """A cell's text, and whether it stands out."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table: its caption, heads, rows of cells; the first columns are names, the rest numbers."""

    caption: str
    head: tuple[str, ...]
    body: tuple[tuple[Cell, ...], ...]
    names: int = 1


def comparison_sheets(found: ComparisonLike, *, differences: bool = True) -> list[Sheet]:
    """Return the tables for a reader: per data set the means and the differences, then robustness."""
    made = []
    for data in found.data:
        made.append(means_sheet(found, data))
        if differences and len(found.differences):
            made.append(differences_sheet(found, data))
    if len(found.robustness):
        made.append(robustness_sheet(found))
    return made


def means_sheet(found: ComparisonLike, data: str) -> Sheet:
    """Return conditions down and variants across, mean ± standard deviation; bold is what is shown to be best."""
    table = found.means[found.means["data"] == data]
    most = int(table["n"].max()) if len(table) else 0
    body = []
    for place, rows in _by_condition(table):
        best = _best(found, data, rows)
        cells = [Cell(condition_name(*place))]
        for variant in found.variants:
            row = next(r for r in records(rows) if r.variant == variant)
            spread = f" ± {number(row.sd, digits(row.mean))}" if math.isfinite(row.sd) else ""
            less = f" (n = {row.n})" if 0 < row.n < most else ""
            cells.append(Cell(f"{number(row.mean, digits(row.mean))}{spread}{less}", variant == best))
        body.append(tuple(cells))
    seeds = f"{most} seed{'' if most == 1 else 's'}"
    caption = f"{data}: {metric_name(found, data)}, mean ± standard deviation over {seeds}"
    if any(cell.bold for row in body for cell in row):
        caption += "; bold: best, and shown to be"
    return Sheet(caption, ("Condition", *found.variants), tuple(body))


def differences_sheet(found: ComparisonLike, data: str) -> Sheet:
    """Return each difference from the baseline with its interval, its tests and the verdict."""
    table = found.differences[found.differences["data"] == data]
    body = []
    for row in records(table):
        name = condition_name(row.condition, row.modality)
        places = max(digits(row.difference), 3 if abs(row.difference) < 1 else 2)
        span = f"[{number(row.low, places, True)}, {number(row.high, places, True)}]"
        texts = [
            name,
            row.variant,
            number(row.difference, places, True),
            span if math.isfinite(row.low) and math.isfinite(row.high) else "–",
            str(row.n) + (f" (without seed {row.missing})" if row.missing else ""),
            p_value(row.p),
            p_value(row.p_corrected),
            p_value(row.p_sign_flip),
            row.verdict,
        ]
        body.append(tuple(Cell(text, i == 8 and row.verdict != "not shown") for i, text in enumerate(texts)))
    level = f"{100 * (1 - found.alpha):g} %"
    caption = f"{data}: difference in {metric_name(found, data)} from {found.baseline}, paired over seeds"
    head = ("Condition", "Variant", "Difference", level, "Seeds", "p", "corrected p", "sign-flip p", "Verdict")
    return Sheet(caption, head, tuple(body), names=2)


def robustness_sheet(found: ComparisonLike) -> Sheet:
    """Return what corruption leaves of each variant's score."""
    body = []
    for row in records(found.robustness):
        numbers = (number(getattr(row, name), 3) for name in ("effective", "mce", "relative_mce"))
        spread = f" ± {number(row.sd, 3)}" if math.isfinite(row.sd) else ""
        texts = (row.data, row.variant, number(row.relative, 3) + spread, *numbers)
        body.append(tuple(Cell(text) for text in texts))
    head = ("Data", "Variant", "Relative robustness", "Effective", "mCE", "Relative mCE")
    return Sheet(f"Robustness to corruption; the last three against {found.baseline}", head, tuple(body), names=2)


def markdown(sheet: Sheet) -> str:
    """Write a table as Markdown.

    >>> print(markdown(Sheet("a", ("x", "y"), ((Cell("b|c"), Cell("1", True)),))))
    **a**
    <BLANKLINE>
    | x | y |
    |:--|--:|
    | b\\|c | **1** |
    """
    right = [":--" if i < sheet.names else "--:" for i in range(len(sheet.head))]
    lines = [f"**{sheet.caption}**", "", _line(map(_escaped, sheet.head)), f"|{'|'.join(right)}|"]
    for row in sheet.body:
        lines.append(_line(f"**{_escaped(c.text)}**" if c.bold else _escaped(c.text) for c in row))
    return "\n".join(lines)


def latex(sheet: Sheet) -> str:
    """Write a table as LaTeX; it needs the package booktabs.

    >>> print(latex(Sheet("50 %", ("a_b", "y"), ((Cell("x"), Cell("1 ± 2", True)),))))
    \\begin{table}
    \\centering
    \\caption{50 \\%}
    \\begin{tabular}{lr}
    \\toprule
    a\\_b & y \\\\
    \\midrule
    x & \\textbf{1 $\\pm$ 2} \\\\
    \\bottomrule
    \\end{tabular}
    \\end{table}
    """
    form = "l" * sheet.names + "r" * (len(sheet.head) - sheet.names)
    body = []
    for row in sheet.body:
        cells = [rf"\textbf{{{escape_tex(c.text)}}}" if c.bold else escape_tex(c.text) for c in row]
        # a row that begins with [ would be read as an option of the line break before it
        body.append(" & ".join(cells) + r" \\")
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_tex(sheet.caption)}}}",
            rf"\begin{{tabular}}{{{form}}}",
            r"\toprule",
            " & ".join(map(escape_tex, sheet.head)) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def escape_tex(text: str) -> str:
    r"""Write a text so that LaTeX shows it as it is.

    >>> print(escape_tex(r"50 % of a_b & {c} \ <0.001"))
    50 \% of a\_b \& \{c\} \textbackslash{} \textless{}0.001
    """
    return "".join(TEX.get(letter, letter) for letter in text)


def _best(found: ComparisonLike, data: str, rows: Any) -> str:
    """Return the variant with the best mean if it is shown: better than the baseline, or all others worse than it."""
    known = rows.dropna(subset=["mean"])
    if not len(known) or not len(found.differences):
        return ""
    first = records(known)[0]
    less = first.metric in found.lower_is_better
    best = str(known.loc[known["mean"].idxmin() if less else known["mean"].idxmax(), "variant"])
    here = found.differences
    here = here[(here["data"] == data) & (here["condition"] == first.condition)]
    verdicts = dict(here[here["modality"] == first.modality][["variant", "verdict"]].itertuples(index=False))
    if best == found.baseline:
        return best if verdicts and all(v == "worse" for v in verdicts.values()) else ""
    return best if verdicts.get(best) == "better" else ""


def _by_condition(table: Any) -> list[tuple[tuple[str, str], Any]]:
    return groups(table, ["condition", "modality"])


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    for letter in "\\|*_<":
        text = text.replace(letter, f"\\{letter}")
    return text


def explanation(found: ComparisonLike) -> Sequence[str]:
    """Return what the numbers mean, a paragraph each."""
    level = f"{100 * (1 - found.alpha):g} %"
    tests = int(found.differences["p"].notna().sum())
    smallest = f"{2.0 ** (1 - int(found.differences['n'].max())):.4g}" if len(found.differences) else "1"
    return (
        "Removal: another sample's values in place of a modality's. Corruption of a modality: the mean over its kinds "
        "and severities. Means over modalities give each the same weight.",
        f"Differences are paired: each variant's score minus {found.baseline}'s of the same seed. The interval in "
        f"brackets is a bootstrap over seeds at {level}, for each comparison alone; p is the paired t test's, "
        f"corrected by Holm's method for {tests} comparisons; a verdict needs {found.alpha:g} or less. "
        f"The sign-flip test assumes less and, with the seeds here, cannot go below {smallest}.",
        f"Robustness: relative, the area under the curve over severities; effective, what is kept beyond "
        f"{found.baseline} moved to the same clean score; mCE and relative mCE, errors in units of {found.baseline}'s.",
    )
