"""A comparison -> a folder of tables (CSV, Markdown, LaTeX) and charts (SVG, PNG, PDF)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fusionscope._files import atomic_folder
from fusionscope.errors import FileError, InputError, did_you_mean
from fusionscope.report._compare_charts import charts, rendered
from fusionscope.report._compare_tables import comparison_sheets, explanation, latex, markdown
from fusionscope.report._compare_view import ComparisonLike

FORMATS = ("svg", "png", "pdf")
KIND, SCHEMA = "fusionscope comparison", 1
TABLES = ("conditions", "means", "differences", "curves", "robustness", "missing")


def write_comparison(
    found: ComparisonLike, folder: str | Path | None = None, *, formats: Sequence[str] = FORMATS
) -> Path:
    """Write the tables and charts of a comparison, whole or not at all; return the folder.

    ``conditions.csv``, ``means.csv``, ``differences.csv``, ``curves.csv``, ``robustness.csv`` and ``missing.csv`` hold
    the tables of :class:`fusionscope.engine.Comparison` in full precision; ``comparison.md`` and ``comparison.tex``
    (for booktabs) what a reader needs, with the best variant in bold only where it is shown to be; ``scores``,
    ``differences`` and ``robustness`` are charts in each of the formats; ``about.json`` says what was compared.

    Args:
        found: the comparison.
        folder: where to; None is ``comparison`` in the study's folder. An earlier comparison there is replaced.
        formats: of the charts: "svg", "png", "pdf"; none for no charts.

    Raises:
        InputError: if a format is unknown.
        FileError: if the folder holds something else, or cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise InputError(f"formats are {', '.join(FORMATS)}, got {name!r}.{did_you_mean(name, FORMATS)}")
    out = Path(folder) if folder is not None else found.folder / "comparison"
    _check(out)
    with atomic_folder(out) as temporary:
        for name in TABLES:
            getattr(found, name).to_csv(temporary / f"{name}.csv", index=False)
        (temporary / "comparison.md").write_text(_markdown(found), encoding="utf-8")
        (temporary / "comparison.tex").write_text(_latex(found), encoding="utf-8")
        for name, spec in charts(found).items() if formats else ():
            for kind in dict.fromkeys(formats):
                (temporary / f"{name}.{kind}").write_bytes(rendered(spec, kind))
        (temporary / "about.json").write_text(json.dumps(_about(found), indent=2, ensure_ascii=False) + "\n", "utf-8")
    return out


def _check(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise FileError(f"{out} is a file; choose a folder for the comparison")
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        kind = json.loads((out / "about.json").read_text(encoding="utf-8")).get("kind")
    except (OSError, ValueError, AttributeError):
        kind = None
    if kind != KIND:
        raise FileError(f"{out} holds something that is no comparison and is not replaced; choose another folder")


def _about(found: ComparisonLike) -> dict[str, Any]:
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": list(found.data),
        "variants": list(found.variants),
        "baseline": found.baseline,
        "metric": found.metric,
        "alpha": found.alpha,
        **found.settings,
        "sentences": list(found.sentences),
        "notes": list(found.notes),
    }


def _markdown(found: ComparisonLike) -> str:
    said = [f"- {line}" for line in (*found.sentences, *found.notes)]
    blocks = [f"# {', '.join(found.variants)} on {', '.join(found.data)}", "\n".join(said)]
    return "\n\n".join([*blocks, *map(markdown, comparison_sheets(found)), *explanation(found)]) + "\n"


def _latex(found: ComparisonLike) -> str:
    said = [f"% {line}" for line in (*found.sentences, *found.notes)]
    return "\n".join([r"% \usepackage{booktabs}", *said, "", *map(latex, comparison_sheets(found))]) + "\n"
