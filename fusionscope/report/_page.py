"""One self-contained HTML page from a dissection."""

from __future__ import annotations

import hashlib
import json
import math
from base64 import b64encode
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from fusionscope._files import atomic_write
from fusionscope.errors import FileError
from fusionscope.report import (
    _charts,
    _curves_prose,
    _decisions_page,
    _decisions_prose,
    _decisions_tables,
    _dynamics_page,
    _dynamics_prose,
    _prose,
    _semantics_prose,
    _semantics_tables,
    _tables,
    _units_prose,
    _vega,
)
from fusionscope.report._calls import idle_on
from fusionscope.report._decisions import Decisions
from fusionscope.report._drawing import trace_svg
from fusionscope.report._dynamics import Learning
from fusionscope.report._lanes import arrange
from fusionscope.report._palette import GLYPHS, SHAPES, colour, shape, variables
from fusionscope.report._semantics import Semantics
from fusionscope.report._semantics_page import sections
from fusionscope.report._view import DissectionLike, View, number, text

CONCEPTS_DRAWN = 24
PAIRS_DRAWN = 15


def write_report(dissection: DissectionLike, path: str | Path) -> Path:
    """Write the report of a dissection as one HTML file, which opens offline, and return its path.

    Nothing is loaded from anywhere: charts, script and style lie in the page, and its content security policy forbids
    the rest. The file is written to a temporary name and renamed.

    Args:
        dissection: tables, manifest and trace; never a model.
        path: the file to write; its folder is made if absent.

    Raises:
        FileError: if the folder or the file cannot be written.

    >>> import tempfile, types
    >>> empty = types.SimpleNamespace(tables={}, manifest={"modalities": ["rgb"]}, trace={})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(write_report(empty, f"{folder}/report.html").name)
    report.html
    """
    path = Path(path)
    if path.is_dir():
        example = path / "report.html"
        raise FileError(f"cannot write the report: {path} is a folder; give the name of a file, as {example}")
    page = render(View(dissection))
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def render(view: View) -> str:
    """Return the page."""
    charts: dict[str, dict[str, Any]] = {}
    semantics, effects, learning = Semantics(view), Decisions(view), Learning(view)
    script = _resource("page.js")
    bundle = _vega.vega_bundle()
    hashes = " ".join(f"'sha256-{_sha256(code)}'" for code in (bundle, script))
    context = {
        "view": view,
        "prose": _prose,
        "tables": _tables,
        "policy": f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'",
        "style": Markup(variables() + _resource("page.css")),
        "script": Markup(script),
        "bundle": Markup(bundle),
        "drawing": Markup(trace_svg(_with_levels(view))),
        "heatmaps": _heatmaps(view, charts),
        "effects": effects,
        "decided": _decisions_prose,
        "curved": _curves_prose,
        "effect_tables": _decisions_tables,
        "decisions": _decisions_page.sections(effects, charts),
        "semantics": semantics,
        "said": _semantics_prose,
        "counted": _units_prose,
        "listed": _semantics_tables,
        "sections": sections(semantics, charts),
        "learning": learning,
        "learned": _dynamics_prose,
        "learned_table": _dynamics_page.table,
        "glyphs": [GLYPHS[name] for name in SHAPES],
        "concepts": _concepts(view, charts),
        "removal_chart": _removal(view, charts),
        "key": [(m, colour(i), GLYPHS[shape(i)]) for i, m in enumerate(view.modalities)],
        "colour": lambda m: colour(view.modalities.index(m)) if m in view.modalities else "var(--soft)",
        "title": text(view.section("model").get("name")) or "model",
        "exchanges": arrange(view.trace).exchanges,
        "idle": any(idle_on(call) for call in view.trace.get("calls") or []),
        "unused": [str(path) for path in view.trace.get("unused") or []],
    }
    context["learnt"] = _dynamics_page.section(learning, charts)
    context["sprites"] = _dynamics_page.sprites(context["learnt"])
    context["heights"] = {name: _height(chart) for name, chart in charts.items()}
    context["charts"] = Markup(safe_json({"config": _vega.CONFIG, "charts": charts}))
    return _template().render(context)


def safe_json(value: object) -> str:
    """Return JSON that is harmless inside a script element, whatever its strings hold.

    >>> safe_json("</script>")
    '"\\\\u003c/script\\\\u003e"'
    """
    written = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_plain)
    for sign in "<>&\u2028\u2029":
        written = written.replace(sign, f"\\u{ord(sign):04x}")
    return written


def _plain(value: object) -> object:
    item = getattr(value, "item", None)
    return item() if callable(item) else str(value)


def _heatmaps(view: View, charts: dict[str, dict[str, Any]]) -> dict[str, list[dict[str, str]]]:
    """Add a heat map per pair of modalities and per modality; return their names and captions by group."""
    within = [(m, m) for m in view.modalities if view.similarities(m, m)]
    drawn: dict[str, list[dict[str, str]]] = {"between": [], "within": []}
    for group, pairs in (("between", view.pairs[:PAIRS_DRAWN]), ("within", within[:PAIRS_DRAWN])):
        for a, b in pairs:
            name = f"cka-{len(charts)}"
            charts[name] = _charts.similarity(view, a, b)
            caption = f"{a} with {b}" if a != b else f"{a} with itself"
            drawn[group].append({"name": name, "caption": caption, "label": f"Heat map of CKA, levels of {caption}."})
    return drawn


def _concepts(view: View, charts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Add a small chart per concept, the most telling ones where there are many; return what their captions say."""
    values = view.selectivity[["epsilon2", "null_high"]].to_numpy(dtype=float)
    finite = values[values == values]
    top = max(float(finite.max()) * 1.08, 0.05) if finite.size else 1.0
    bounds = (min(float(finite.min()) * 1.1, 0.0) if finite.size else 0.0, top)
    names = [c for c in ["overall", *view.concepts] if c in set(view.selectivity["concept"])]
    chosen = _telling(view, names)
    drawn = []
    for concept in chosen:
        name = f"selectivity-{len(charts)}"
        charts[name] = _charts.selectivity(view, concept, bounds)
        who = view.encoders(concept)
        label = f"{concept}: encoded by {_prose.listing(who) if who else 'no stream'}."
        drawn.append({"name": name, "concept": concept, "encoders": who, "label": label})
    return {"drawn": drawn, "left": len(names) - len(chosen), "total": len(names)}


def _telling(view: View, names: list[str]) -> list[str]:
    """Choose concepts in which the streams differ most, then those encoded best; keep the given order."""
    if len(names) <= CONCEPTS_DRAWN:
        return names

    def interest(concept: str) -> tuple[bool, bool, float]:
        margins = [view.best[concept, m]["margin"] for m in view.measured if (concept, m) in view.best]
        margins = [m for m in margins if math.isfinite(m)]
        who = view.encoders(concept)
        spread = max(margins) - min(margins) if margins else -math.inf
        return concept == "overall", 0 < len(who) < len(view.measured), spread + max(margins, default=0.0)

    kept = set(sorted(names, key=interest, reverse=True)[:CONCEPTS_DRAWN])
    return [name for name in names if name in kept]


def _removal(view: View, charts: dict[str, dict[str, Any]]) -> str:
    if not any(math.isfinite(number(v)) for v in view.table("removal")["value"]):
        return ""
    charts["removal"] = _charts.removal(view)
    return "removal"


def _with_levels(view: View) -> dict[str, Any]:
    """Return the trace with the level of each tap, as the tap table has it."""
    levels = {text(r["tap"]): f"{number(r['level']):g}" for r in view.table("taps").to_dict("records")}
    calls = view.trace.get("calls") or []
    marked = [c | {"level": levels[str(c.get("id"))]} if str(c.get("id")) in levels else c for c in calls]
    return view.trace | {"calls": marked, "modalities": view.modalities}


def _height(chart: dict[str, Any]) -> int:
    """Return roughly the height a chart will take, so that the page does not jump when it is drawn."""
    shown = (chart.get("hconcat") or [chart])[0]
    height = shown.get("height", 0)
    if isinstance(height, dict):
        field = _down(shown)
        rows = len({row[field] for row in chart["datasets"]["rows"] if row.get(field) is not None})
        height = rows * height["step"] + 18  # the title of the axis
    return int(height) + 20


def _down(shown: dict[str, Any]) -> str:
    """Return the field that a chart puts down the side."""
    parts = [part.get("encoding", {}).get("y", {}) for part in [shown, *shown.get("layer", [])]]
    return next((part["field"] for part in parts if "field" in part), "y")


def _sha256(code: str) -> str:
    return b64encode(hashlib.sha256(code.encode()).digest()).decode()


@cache
def _resource(name: str) -> str:
    return (files("fusionscope.report") / name).read_text(encoding="utf-8")


@cache
def _template() -> Any:
    environment = Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        loader=FunctionLoader(_resource),
    )
    return environment.get_template("page.html.j2")
