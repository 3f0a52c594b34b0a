"""The section about training: its figures with their captions, and the galleries as markup."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from fusionscope.report import _dynamics_charts as charts_of
from fusionscope.report._dynamics import QUANTITIES, Learning, Point, known
from fusionscope.report._dynamics_gallery import galleries
from fusionscope.report._dynamics_prose import short
from fusionscope.report._palette import GLYPHS
from fusionscope.report._prose import num
from fusionscope.report._tables import Table

Charts = dict[str, dict[str, Any]]

AXES = {"gradient norm": "norm", "gradient cosine": "cosine", "discrepancy": "ratio", "similarity to final": "CKA"}
READ = {
    "value": "The score from one modality alone, the others {others}, on {probe}.{band} A model that always saw every "
    "modality may answer badly from one although it learned it: compare with a solo twin.",
    "gradient norm": "Norm of the gradient on each modality's own weights, mean over an epoch's steps ({steps}); band: "
    "one standard deviation of the steps. Encoders differ in size and scale, so compare the course, not the height.",
    "gradient cosine": "Cosine, on the weights that both use, of the gradients of the loss from either modality alone, "
    "on {few} of {probe}. Below the line at 0 they pull apart. So few samples are noisy, and unrelated gradients lie "
    "near 0 too: small values say little.",
    "discrepancy": "The right answers' probability from this modality alone over that from the others alone, on "
    "{probe}; logarithmic. At the line all are alike; within a factor of 1.25 they are called even. Which "
    "answers better alone need not be the one that is needed.",
    "instance gate": "How much of a modality calibration lets through: mean over {probe}, band one standard deviation "
    "of the samples. The line is where gates begin, 0.88. A low gate may come with larger features.",
    "dimension gate": "Calibration's gate per dimension: mean and one standard deviation over samples and dimensions, "
    "on {probe}; at the line, 0, a dimension stays as it is. Strong gates that cancel have a mean near 0.",
    "similarity to final": "CKA of each stream's features with those of its last epoch, on {probe}; 1 at the end by "
    "definition. A low value says that features changed since, not that they were worse.",
}


def section(d: Learning, charts: Charts) -> dict[str, Any] | None:
    """Return what the section shows, its charts added to ``charts``; None where nothing was recorded."""
    if not d.any:
        return None
    figures = _losses(d, charts) + [
        _figure(charts, QUANTITIES[q], f"{QUANTITIES[q]}, over the epochs.", spec, charts_of.marks(d, q), _read(d, q))
        for q in QUANTITIES
        if d.of(q)
        for spec in [charts_of.lines(d, q, AXES.get(q, d.metric if q == "value" else "gate"))]
    ]
    names = charts_of.classes(d)
    legend = [(n, c, GLYPHS[s]) for n, c, s in charts_of.class_marks(names)] if len(names) <= charts_of.LABELLED else []
    return {
        "figures": figures,
        "projections": _projections(d, charts),
        "legend": legend,
        "classes": len(names),
        "numbers": charts_of.numbers(d),
        "galleries": galleries(d),
        "kept": d.kept,
        "terms": _terms(d),
        "nav": "Training",
        "title": "How the modalities learned",
    }


def _figure(
    charts: Charts, caption: str, label: str, spec: dict[str, Any], marks: list[charts_of.Mark], read: str
) -> dict[str, Any]:
    name = f"dynamics-{len(charts)}"
    charts[name] = spec
    glyphs = GLYPHS | {"stroke": "—"}
    key = [(n, c, glyphs[s]) for n, c, s in marks]
    return {"name": name, "caption": caption, "label": label, "key": key, "read": read}


def _losses(d: Learning, charts: Charts) -> list[dict[str, Any]]:
    reads = {
        "Loss": "Mean loss of each epoch; the training loss is taken with dropout and augmentation, so the two "
        "are not quite comparable."
    }
    other = "The model's score with every modality, at the end of each epoch. The kept weights are the best of these, "
    other += "so the score there is a little flattered."
    return [
        _figure(charts, caption, label, spec, marks, reads.get(caption, other))
        for caption, label, spec, marks in charts_of.losses(d)
    ]


def _read(d: Learning, quantity: str) -> str:
    points = [p for of in d.of(quantity).values() for p in known(of)]
    banded = any(math.isfinite(d.error(p)) for p in points)
    probe = d.about.get("probe")
    few = probe.get("gradients") if isinstance(probe, dict) else None
    return READ[quantity].format(
        probe=d.probe,
        band=" Band: two standard errors, from the number of samples." if banded else "",
        others=d.about.get("others_are") or "taken away",
        steps=d.about.get("measured_steps") or "all",
        few=few or "some",
    )


def _projections(d: Learning, charts: Charts) -> list[dict[str, str]]:
    drawn = []
    for m in d.projected:
        name = f"projection-{len(charts)}"
        charts[name] = charts_of.projection(d, m)
        drawn.append(
            {"name": name, "caption": m, "label": f"Features of {m}, projected to a plane, by class and epoch."}
        )
    return drawn


def _terms(d: Learning) -> list[tuple[str, str]]:
    """Return the definitions that were saved with the numbers."""
    given = d.about.get("quantities")
    found = []
    for name, said in given.items() if isinstance(given, dict) else []:
        if name not in d.series:
            continue
        if isinstance(said, dict):
            unit, definition = said.get("unit"), said.get("definition")
            said = f"{definition}{f' (unit: {unit})' if unit and unit not in ('1', 'none') else ''}"
        found.append((str(name), str(said)))
    return found


def table(d: Learning) -> Table:
    """Return each quantity at its first, its kept and its last epoch."""
    body = []
    for quantity in QUANTITIES:
        for key, given in d.of(quantity).items():
            points = known(given)
            at = next((p for p in points if p.epoch == d.kept), None)
            cells = [_cell(p) for p in (points[0], at, points[-1])]
            body.append((quantity, d.name(key), *cells, f"{len(points):,}"))
    head = ("Quantity", "Of", "First epoch", "Kept weights", "Last epoch", "Epochs")
    return Table(head, body, frozenset({2, 3, 4, 5}), "± is one standard deviation over steps or samples.")


def _cell(p: Point | None) -> str:
    if p is None:
        return "–"
    written = num(p.mean, 3) if 0.01 <= abs(p.mean) < 100 or p.mean == 0 else short(p.mean)
    return f"{written} ± {short(p.std)}" if math.isfinite(p.std) else written


def sprites(part: dict[str, Any] | None) -> Markup:
    """Return the pictures that the galleries use, each once."""
    return Markup("").join(g["sprites"] for g in part["galleries"]) if part else Markup("")
