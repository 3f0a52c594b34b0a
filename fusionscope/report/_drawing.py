"""The trace as an SVG: a lane per modality, its calls in order, the fusion points, and the fused part to the output."""

from __future__ import annotations

from html import escape
from typing import Any

from fusionscope.report._lanes import Item, Layout, Point, arrange
from fusionscope.report._palette import colour, variables

HEAD, PITCH, BOX_H, TOP = 128, 80, 52, 20
BOX_W, PILL_W, GAP, NODE_W, OUT_W = 92, 38, 10, 116, 72

_STYLE = """
.fs-trace{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
.fs-trace text{fill:var(--ink)}.fs-trace .s{fill:var(--soft);font-size:10px}
.fs-trace .n{font-size:11.5px;font-weight:600}.fs-trace .h{font-size:14px;font-weight:700}
.fs-trace .box{fill:var(--paper);stroke-width:1.2}.fs-trace .tap{stroke-width:2.4}
.fs-trace .pill{fill:var(--panel);stroke-width:1;stroke-dasharray:2 2}
.fs-trace .wire{fill:none;stroke-width:2.2}.fs-trace .dead .wire{stroke-dasharray:3 5;opacity:.6}
.fs-trace .dead .item{opacity:.55}.fs-trace .bad{fill:var(--bad)}
.fs-trace .node{fill:var(--ink)}
.fs-trace .node.f{fill:var(--paper);stroke:var(--ink);stroke-width:2;stroke-dasharray:3 2}
"""


def trace_svg(trace: dict[str, Any]) -> str:
    """Return the drawing of a trace's plain data as one SVG element, which also stands alone as a file.

    A box is a call (hover: path, module, shape), a dashed pill a group of calls, a thick box with a flag a tap. A
    filled dot is a fused call, a hollow one a fusion by a function. A lane that reaches no output ends in a cross.

    Args:
        trace: the plain data of a trace, ``Dissection.trace``; a call may carry ``level``, shown on its box.

    >>> call = {"id": "net#0", "path": "net", "index": 0, "slot": "", "module": "Linear", "shape": [5, 3],
    ...         "parent": None, "leaf": True, "depends_on": ["a"], "fused": False, "kind": None, "tap": True}
    >>> trace_svg({"modalities": ["a"], "calls": [call], "fusion_points": []})[:4]
    '<svg'
    """
    layout = arrange(trace)
    rows = len(layout.modalities)
    own_row = len(layout.stages) > 2 or (len(layout.stages) == 2 and any(layout.stages[1].lanes.values()))
    fused_y = _lane_y(rows) if own_row else (_lane_y(0) + _lane_y(max(rows - 1, 0))) / 2
    below = 26 + 12 * max((len(s.point.lines) for s in layout.stages if s.point), default=0)
    height = int(max(_lane_y(max(rows - 1, 0)) + BOX_H / 2, fused_y + max(below, BOX_H / 2)) + 8)
    shapes, width = _draw(layout, fused_y)
    told = _words(layout)
    return (
        f'<svg class="fs-trace" xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(told)}" '
        f'width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'style="width:clamp({0.8 * width:.0f}px,100%,{width}px);height:auto">'
        f"<style>{variables('.fs-trace')}{_STYLE}</style>{shapes}</svg>"
    )


def _words(layout: Layout) -> str:
    lanes = [f"{m}: {lane.calls} calls{', reaches no output' if lane.dead else ''}" for m, lane in layout.lanes.items()]
    points = [p.title for p in (stage.point for stage in layout.stages) if p]
    return f"Trace of the model. Lanes: {'; '.join(lanes)}. Fusion: {'; '.join(points) or 'none'}."


def _lane_y(row: int) -> float:
    return TOP + BOX_H / 2 + row * PITCH


def _draw(layout: Layout, fused_y: float) -> tuple[str, int]:
    y = {m: _lane_y(i) for i, m in enumerate(layout.modalities)}
    end: dict[str, float] = dict.fromkeys(layout.modalities, HEAD - 16.0)
    wires: dict[str, list[str]] = {m: [] for m in layout.modalities}
    boxes: dict[str, list[str]] = {m: [_header(layout, i, m, y[m])] for i, m in enumerate(layout.modalities)}
    fused: list[str] = []
    fused_end: float | None = None
    pending = {
        m: max((k for k, s in enumerate(layout.stages) if s.point and m in s.point.modalities), default=-1)
        for m in layout.modalities
    }
    x = float(HEAD)
    for k, stage in enumerate(layout.stages):
        start = x
        for i, m in enumerate(layout.modalities):
            at = start
            for item in stage.lanes.get(m, []):
                wires[m].append(_line(end[m], y[m], at))
                drawn, at_next = _item(item, at, y[m], colour(i))
                boxes[m].append(drawn)
                end[m], at = at_next, at_next + GAP
            x = max(x, at)
        if stage.fused:
            at = start
            for item in stage.fused:
                if fused_end is not None:
                    fused.append(_line(fused_end, fused_y, at, "var(--ink)"))
                drawn, fused_end = _item(item, at, fused_y, "var(--ink)")
                fused.append(drawn)
                at = fused_end + GAP
            x = max(x, at)
        if stage.point:
            centre = x + NODE_W / 2
            for m in stage.point.modalities:
                if m in y:
                    wires[m].append(_join(end[m], y[m], x + 4, centre - 9, fused_y))
                    if pending[m] > k or any(s.lanes.get(m) for s in layout.stages[k + 1 :]):
                        continue
                    end[m] = centre
            if fused_end is not None:
                fused.append(_line(fused_end, fused_y, centre - 9, "var(--ink)"))
            fused.append(_node(stage.point, centre, fused_y))
            fused_end = centre + 9
            x += NODE_W + GAP
    out_x = _finish(layout, y, end, wires, boxes, fused, fused_end, x, fused_y)
    parts = []
    for i, m in enumerate(layout.modalities):
        dead = ' class="dead"' if layout.lanes[m].dead else ""
        parts.append(f'<g{dead} style="stroke:{colour(i)}">{"".join(wires[m])}</g><g{dead}>{"".join(boxes[m])}</g>')
    return "".join(parts) + "".join(fused), int(out_x + OUT_W + 8)


def _finish(
    layout: Layout,
    y: dict[str, float],
    end: dict[str, float],
    wires: dict[str, list[str]],
    boxes: dict[str, list[str]],
    fused: list[str],
    fused_end: float | None,
    x: float,
    fused_y: float,
) -> float:
    """Draw the output, lanes that go straight to it, and the crosses of lanes that reach nothing."""
    joined = {m for s in layout.stages if s.point for m in s.point.modalities}
    for m, lane in layout.lanes.items():
        if lane.dead:
            at = end[m] + 18
            wires[m].append(_line(end[m], y[m], at))
            boxes[m].append(
                f'<path d="M{at - 6} {y[m] - 6}'
                f'l12 12m0 -12l-12 12" style="stroke:var(--bad);stroke-width:2.5;fill:none"/>'
                f'<text class="s bad" style="fill:var(--bad)" x="{at + 14}" y="{y[m] + 4}">reaches no output</text>'
            )
            x = max(x, at + 110)
        elif m not in joined:
            wires[m].append(_join(end[m], y[m], x - 4, x + 26, fused_y))
    x += 26 if fused_end is None else 0
    if fused_end is not None:
        fused.append(_line(fused_end, fused_y, x, "var(--ink)"))
    sizes = " ".join(layout.output[:2]) or ""
    fused.append(
        f"<g><title>output {escape(' '.join(layout.output))}</title>"
        f'<rect x="{x}" y="{fused_y - 19}" width="{OUT_W}" height="38" rx="19" style="fill:var(--ink)"/>'
        f'<text x="{x + OUT_W / 2}" y="{fused_y + (-1 if sizes else 4)}" text-anchor="middle" class="n" '
        f'style="fill:var(--paper)">output</text>'
        + (
            f'<text x="{x + OUT_W / 2}" y="{fused_y + 11}" text-anchor="middle" class="s" '
            f'style="fill:var(--paper)">{escape(_cut(sizes, 12))}</text>'
            if sizes
            else ""
        )
        + "</g>"
    )
    return x


def _header(layout: Layout, i: int, modality: str, y: float) -> str:
    lane = layout.lanes[modality]
    facts = f"{lane.calls} call{'' if lane.calls == 1 else 's'}" + (f" · {lane.slot}" if lane.slot else "")
    where = f"shared with {', '.join(lane.shared)}" if lane.shared else (f"in {lane.prefix}" if lane.prefix else "")
    title = f"{modality}: {facts}" + (f", in {lane.prefix}" if lane.prefix else "")
    title += f", weights shared with {', '.join(lane.shared)}" if lane.shared else ""
    return (
        f"<g><title>{escape(title)}</title>"
        f'<rect x="2" y="{y - 21}" width="5" height="42" rx="2.5" style="fill:{colour(i)}"/>'
        f'<text class="h" x="14" y="{y - 7}">{escape(_cut(modality, 14))}</text>'
        f'<text class="s" x="14" y="{y + 7}">{escape(_cut(facts, 18))}</text>'
        f'<text class="s" x="14" y="{y + 20}">{escape(_cut(where, 18))}</text></g>'
    )


def _item(item: Item, x: float, y: float, stroke: str) -> tuple[str, float]:
    width = PILL_W if item.group else BOX_W
    css = "pill" if item.group else "box tap" if item.tap else "box"
    middle = x + width / 2
    lines = [item.name, *item.detail]
    first = y - 6.5 * (len(lines) - 1) + (7 if item.tap else 4)
    texts = "".join(
        f'<text class="{"n" if j == 0 else "s"}" x="{middle}" y="{first + 13 * j}" text-anchor="middle">'
        f"{escape(_cut(line, (14 if j == 0 else 17) if not item.group else 7))}</text>"
        for j, line in enumerate(lines)
        if line
    )
    flag = ""
    if item.tap:
        wide = 8 + 5.6 * len(item.tap)
        flag = (
            f'<rect x="{middle - wide / 2}" y="{y - BOX_H / 2 - 9}" width="{wide}" height="15" rx="7.5" '
            f'style="fill:{stroke}"/>'
            f'<text class="s" style="fill:var(--paper);font-weight:600" x="{middle}" y="{y - BOX_H / 2 + 2}" '
            f'text-anchor="middle">{escape(item.tap)}</text>'
        )
    rect = (
        f'<rect class="{css}" x="{x}" y="{y - BOX_H / 2}" width="{width}" height="{BOX_H}" '
        f'rx="{14 if item.group else 6}" style="stroke:{stroke}"/>'
    )
    return f'<g class="item"><title>{escape(item.title)}</title>{rect}{texts}{flag}</g>', x + width


def _node(point: Point, x: float, y: float) -> str:
    css = "node f" if point.functional else "node"
    texts = f'<text class="n" x="{x}" y="{y - 16}" text-anchor="middle">{escape(_cut(point.head, 18))}</text>'
    texts += "".join(
        f'<text class="s" x="{x}" y="{y + 24 + 12 * j}" text-anchor="middle">{escape(_cut(line, 23))}</text>'
        for j, line in enumerate(point.lines)
    )
    dot = f'<circle class="{css}" cx="{x}" cy="{y}" r="8"/>'
    return f'<g class="point"><title>{escape(point.title)}</title>{dot}{texts}</g>'


def _line(x1: float, y: float, x2: float, stroke: str = "") -> str:
    style = f' style="stroke:{stroke}"' if stroke else ""
    return f'<path class="wire" d="M{x1} {y}H{x2}"{style}/>'


def _join(x1: float, y1: float, bend: float, x2: float, y2: float) -> str:
    half = (bend + x2) / 2
    return f'<path class="wire" d="M{x1} {y1}H{bend}C{half} {y1} {half} {y2} {x2} {y2}"/>'


def _cut(text: str, most: int) -> str:
    """Shorten in the middle: both ends of a path tell something."""
    if len(text) <= most:
        return text
    keep = most - 1
    return f"{text[: keep // 3]}…{text[-(keep - keep // 3) :]}"
