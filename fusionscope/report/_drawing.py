"""The trace as an SVG: a lane per modality, its calls in order, the fusion points, and the fused part to the output."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import Any

from fusionscope.report._lanes import Layout, Stage, arrange
from fusionscope.report._meetings import Point
from fusionscope.report._palette import colour, variables
from fusionscope.report._shapes import (
    BAR,
    BOX_H,
    GAP,
    NARROW_W,
    NODE_W,
    OUT_W,
    PITCH,
    STYLE,
    bar,
    down,
    fit,
    item_box,
    join,
    line,
    node,
)

HEAD, TOP = 128, 20
INK = "var(--ink)"


def trace_svg(trace: dict[str, Any]) -> str:
    """Return the drawing of a trace's plain data as one SVG element, which also stands alone as a file.

    A box is a call (hover: path, module, shape), a dashed pill a group of calls, a thick box with a flag a tap, a box
    with a dashed border a call that is wired to a modality but does not depend on it here. A filled dot is a fused
    call, a hollow one a fusion by a function. A bar across lanes is an exchange, after which they go on. A lane that
    reaches no output ends in a cross.

    Args:
        trace: the plain data of a trace, ``Dissection.trace``; a call may carry ``level``, shown on its box.

    >>> call = {"id": "net#0", "path": "net", "index": 0, "slot": "", "module": "Linear", "shape": [5, 3],
    ...         "parent": None, "leaf": True, "depends_on": ["a"], "fused": False, "kind": None, "tap": True}
    >>> trace_svg({"modalities": ["a"], "calls": [call], "fusion_points": []})[:4]
    '<svg'
    """
    layout = arrange(trace)
    points = [stage.point for stage in layout.stages if stage.point]
    merges = [p for p in points if p.merges or not p.exchange]
    labels = max((len(p.lines) for p in points if p.exchange), default=0)
    top = max(TOP, 12 * labels + 14 if labels else 0) + BOX_H / 2
    rows = [top + PITCH * row for row in range(len(layout.modalities))] or [top]
    own_row = len(merges) > 1 or (len(merges) == 1 and _goes_on_after(layout, merges[0]))
    fused_y = rows[-1] + PITCH if own_row else (rows[0] + rows[-1]) / 2
    below = 26 + 12 * max((len(p.lines) for p in merges), default=0)
    height = int(max(rows[-1] + BOX_H / 2, fused_y + max(below, BOX_H / 2)) + 8)
    shapes, width = _Sheet(
        layout, dict(zip(layout.modalities, rows, strict=False)), fused_y, not own_row and len(rows) > 1
    ).draw()
    told = _words(layout)
    return (
        f'<svg class="fs-trace" xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(told)}" '
        f'width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'style="width:clamp({0.8 * width:.0f}px,100%,{width}px);height:auto">'
        f"<style>{variables('.fs-trace')}{STYLE}</style>"
        f'<rect class="sheet" width="{width}" height="{height}"/>{shapes}</svg>'
    )


def _goes_on_after(layout: Layout, point: Point) -> bool:
    """Whether a lane, or another point, comes after this one."""
    place = next(k for k, stage in enumerate(layout.stages) if stage.point is point)
    later = layout.stages[place + 1 :]
    return any(stage.point or any(stage.lanes.values()) for stage in later)


def _words(layout: Layout) -> str:
    lanes = [f"{m}: {lane.calls} calls{', reaches no output' if lane.dead else ''}" for m, lane in layout.lanes.items()]
    points = [p.title for p in (stage.point for stage in layout.stages) if p]
    return f"Trace of the model. Lanes: {'; '.join(lanes)}. Fusion: {'; '.join(points) or 'none'}."


@dataclass
class _Sheet:
    """What is drawn so far: where each wire ends, and the shapes of lanes, bars and the fused part."""

    layout: Layout
    y: dict[str, float]
    fused_y: float
    aside: bool
    end: dict[str, float] = field(default_factory=dict)
    wires: dict[str, list[str]] = field(default_factory=dict)
    boxes: dict[str, list[str]] = field(default_factory=dict)
    bars: list[str] = field(default_factory=list)
    fused: list[str] = field(default_factory=list)
    fused_end: float | None = None

    def draw(self) -> tuple[str, int]:
        """Return all shapes and the width."""
        for i, m in enumerate(self.layout.modalities):
            self.end[m], self.wires[m], self.boxes[m] = HEAD - 16.0, [], [_header(self.layout, i, m, self.y[m])]
        x = float(HEAD)
        for k, stage in enumerate(self.layout.stages):
            x = self._stage(stage, x)
            if stage.point:
                width = NARROW_W if stage.point.narrow else NODE_W
                if stage.point.exchange:
                    self._exchange(stage.point, k, x + width / 2)
                else:
                    self._merge(stage.point, k, x, x + width / 2)
                    width += width / 2 - GAP if self.aside else 0
                x += width + GAP
        out_x = self._finish(x)
        parts = ["".join(self.bars)]
        for i, m in enumerate(self.layout.modalities):
            dead = ' class="dead"' if self.layout.lanes[m].dead else ""
            wires, boxes = "".join(self.wires[m]), "".join(self.boxes[m])
            parts.append(f'<g{dead} style="stroke:{colour(i)}">{wires}</g><g{dead}>{boxes}</g>')
        return "".join(parts) + "".join(self.fused), int(out_x + OUT_W + 8)

    def _stage(self, stage: Stage, start: float) -> float:
        """Draw what runs before the stage's point; return where it ends."""
        x = start
        for i, m in enumerate(self.layout.modalities):
            at = start
            for item in stage.lanes.get(m, []):
                self.wires[m].append(line(self.end[m], self.y[m], at))
                drawn, self.end[m] = item_box(item, at, self.y[m], colour(i))
                self.boxes[m].append(drawn)
                at = self.end[m] + GAP
            x = max(x, at)
        at = start
        for item in stage.fused:
            if self.fused_end is not None:
                self.fused.append(line(self.fused_end, self.fused_y, at, INK))
            drawn, self.fused_end = item_box(item, at, self.fused_y, INK)
            self.fused.append(drawn)
            at = self.fused_end + GAP
        return max(x, at)

    def _merge(self, point: Point, k: int, x: float, centre: float) -> None:
        """A dot in the fused part, where the lanes of its modalities come together."""
        for m in point.modalities:
            if m in self.y:
                self.wires[m].append(join(self.end[m], self.y[m], x + 4, centre - 9, self.fused_y))
                if not self._runs_on(m, k):
                    self.end[m] = centre
        if self.fused_end is not None:
            self.fused.append(line(self.fused_end, self.fused_y, centre - 9, INK))
        self.fused.append(node(point, centre, self.fused_y, self.aside))
        self.fused_end = centre + 9

    def _exchange(self, point: Point, k: int, centre: float) -> None:
        """A bar across the rows of its modalities, whose lanes go on behind it."""
        met = [m for m in self.layout.modalities if m in point.modalities]
        for m in met:
            self.wires[m].append(line(self.end[m], self.y[m], centre - BAR / 2))
            self.end[m] = centre + BAR / 2
        rows = [self.y[m] for m in met] or [self.fused_y]
        self.bars.append(bar(point, centre, rows[0], rows[-1]))
        if point.merges or (self.layout.stages[k + 1].fused and self.fused_end is None):
            if self.fused_end is not None:
                self.fused.append(line(self.fused_end, self.fused_y, centre, INK))
            self.bars.append(down(centre, rows[-1], self.fused_y))
            self.fused_end = centre

    def _runs_on(self, modality: str, k: int) -> bool:
        later = self.layout.stages[k + 1 :]
        return any(s.lanes.get(modality) or (s.point and modality in s.point.modalities) for s in later)

    def _ends_at_output(self, modality: str) -> bool:
        """Whether a lane goes to the output by itself: it met no other, or went on after its last exchange."""
        stages = self.layout.stages
        last = max((k for k, s in enumerate(stages) if s.point and modality in s.point.modalities), default=None)
        if last is None:
            return True
        point = stages[last].point
        goes_on = any(s.lanes.get(modality) for s in stages[last + 1 :])
        return bool(point and point.exchange) and (goes_on or self.fused_end is None)

    def _finish(self, x: float) -> float:
        """Draw the output, lanes that go straight to it, and the crosses of lanes that reach nothing."""
        straight = [m for m, lane in self.layout.lanes.items() if not lane.dead and self._ends_at_output(m)]
        for m, lane in self.layout.lanes.items():
            if lane.dead:
                at, y = self.end[m] + 18, self.y[m]
                self.wires[m].append(line(self.end[m], y, at))
                self.boxes[m].append(
                    f'<path d="M{at - 6} {y - 6}l12 12m0 -12l-12 12" style="stroke:var(--bad);stroke-width:2.5;'
                    f'fill:none"/><text class="s bad" style="fill:var(--bad)" x="{at + 14}" y="{y + 4}">'
                    f"reaches no output</text>"
                )
                x = max(x, at + 110)
        for m in straight:
            self.wires[m].append(join(self.end[m], self.y[m], x - 4, x + 26, self.fused_y))
        x += 26 if straight or self.fused_end is None else 0
        if self.fused_end is not None:
            self.fused.append(line(self.fused_end, self.fused_y, x, INK))
        self.fused.append(_output(self.layout, x, self.fused_y))
        return x


def _output(layout: Layout, x: float, y: float) -> str:
    sizes = " ".join(layout.output[:2]) or ""
    under = (
        f'<text x="{x + OUT_W / 2}" y="{y + 11}" text-anchor="middle" class="s" style="fill:var(--paper)">'
        f"{escape(fit(sizes, OUT_W - 8.0))}</text>"
    )
    return (
        f"<g><title>output {escape(' '.join(layout.output))}</title>"
        f'<rect x="{x}" y="{y - 19}" width="{OUT_W}" height="38" rx="19" style="fill:{INK}"/>'
        f'<text x="{x + OUT_W / 2}" y="{y + (-1 if sizes else 4)}" text-anchor="middle" class="n" '
        f'style="fill:var(--paper)">output</text>{under if sizes else ""}</g>'
    )


def _header(layout: Layout, i: int, modality: str, y: float) -> str:
    lane = layout.lanes[modality]
    facts = f"{lane.calls} call{'' if lane.calls == 1 else 's'}" + (f" · {lane.slot}" if lane.slot else "")
    where = f"shared with {', '.join(lane.shared)}" if lane.shared else (f"in {lane.prefix}" if lane.prefix else "")
    title = f"{modality}: {facts}" + (f" in {lane.stretches} stretches" if lane.stretches > 1 else "")
    title += f", in {lane.prefix}" if lane.prefix else ""
    title += f", weights shared with {', '.join(lane.shared)}" if lane.shared else ""
    return (
        f"<g><title>{escape(title)}</title>"
        f'<rect x="2" y="{y - 21}" width="5" height="42" rx="2.5" style="fill:{colour(i)}"/>'
        f'<text class="h" x="14" y="{y - 7}">{escape(fit(modality, HEAD - 30.0, 14.0, True))}</text>'
        f'<text class="s" x="14" y="{y + 7}">{escape(fit(facts, HEAD - 30.0))}</text>'
        f'<text class="s" x="14" y="{y + 20}">{escape(fit(where, HEAD - 30.0))}</text></g>'
    )
