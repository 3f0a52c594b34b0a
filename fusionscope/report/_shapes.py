"""The shapes of the trace's drawing, each as a piece of SVG."""

from __future__ import annotations

from html import escape

from fusionscope.report._lanes import Item
from fusionscope.report._meetings import Point

PITCH, BOX_W, BOX_H, PILL_W, GAP = 80, 100, 52, 38, 10
NODE_W, NARROW_W, OUT_W, BAR = 116, 34, 72, 20
DOTS = 3
SMALL, NAME = 10.0, 11.5
# Roughly, in em, of a wide sans serif; other signs count 0.62.
_WIDTHS = {
    sign: width
    for signs, width in (("ijl.,:;'|!· ", 0.3), ("frtI()[]/-", 0.39), ("csz_", 0.53), ("w×#", 0.83), ("mMW@%…", 0.97))
    for sign in signs
}

STYLE = """
.fs-trace{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
.fs-trace text{fill:var(--ink)}.fs-trace .s{fill:var(--soft);font-size:10px}
.fs-trace .n{font-size:11.5px;font-weight:600}.fs-trace .h{font-size:14px;font-weight:700}
.fs-trace .sheet{fill:var(--paper)}
.fs-trace .box{fill:var(--paper);stroke-width:1.2}.fs-trace .tap{stroke-width:2.4}
.fs-trace .idle{stroke-dasharray:6 4}
.fs-trace .pill{fill:var(--panel);stroke-width:1;stroke-dasharray:2 2}
.fs-trace .wire{fill:none;stroke-width:2.2}.fs-trace .dead .wire{stroke-dasharray:3 5;opacity:.6}
.fs-trace .dead .item{opacity:.55}.fs-trace .bad{fill:var(--bad)}
.fs-trace .bar{fill:var(--panel);stroke:var(--ink);stroke-width:1.4}
.fs-trace .node{fill:var(--ink)}
.fs-trace .node.f{fill:var(--paper);stroke:var(--ink);stroke-width:2;stroke-dasharray:3 2}
.fs-trace .node.w{fill:var(--paper);stroke:var(--soft);stroke-width:1.5;stroke-dasharray:1 2.5}
"""


def item_box(item: Item, x: float, y: float, stroke: str) -> tuple[str, float]:
    """A box or a pill with its text; also where it ends."""
    width = PILL_W if item.group else BOX_W
    css = "pill" if item.group else "box tap" if item.tap else "box"
    css += " idle" if item.idle and not item.group else ""
    middle = x + width / 2
    lines = [item.name, *item.detail]
    first = y - 6.5 * (len(lines) - 1) + (7 if item.tap else 4)
    texts = "".join(
        f'<text class="{"n" if j == 0 else "s"}" x="{middle}" y="{first + 13 * j}" text-anchor="middle">'
        f"{escape(fit(text, width - 6.0, SMALL if j else NAME, not j))}</text>"
        for j, text in enumerate(lines)
        if text
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


def node(point: Point, x: float, y: float, aside: bool) -> str:
    """A fusion point: a dot with its words above and below; ``aside``, to the right of wires that come from below."""
    head = escape(fit(point.head, 90.0, NAME, True))
    texts = f'<text class="n" x="{x - 9}" y="{y - 16}">{head}</text>'
    at, anchor = (x - 9, "start") if aside else (x, "middle")
    texts += "".join(_small(text, at, y + 24 + 12 * j, anchor) for j, text in enumerate(point.lines))
    return f'<g class="point"><title>{escape(point.title)}</title>{_dot(point, x, y, 8.0)}{texts}</g>'


def bar(point: Point, x: float, first: float, last: float) -> str:
    """An exchange: a bar across rows, a dot for each of its fusion points, its words above."""
    base = first - 20 - 12 * (len(point.lines) - 1)
    texts = f'<text class="n" x="{x}" y="{base - 13}" text-anchor="middle">{escape(point.head)}</text>'
    texts += "".join(_small(text, x, base + 12 * j) for j, text in enumerate(point.lines))
    rect = (
        f'<rect class="bar" x="{x - BAR / 2}" y="{first - 13}" width="{BAR}" height="{last - first + 26}" '
        f'rx="{BAR / 2}"/>'
    )
    # Between two rows, where no wire passes.
    middle = first + PITCH / 2 if last > first else first
    shown = point.members[:DOTS]
    dots = "".join(_dot(p, x, middle + 17 * (j - (len(shown) - 1) / 2), 6.0) for j, p in enumerate(shown))
    return f'<g class="point exchange"><title>{escape(point.title)}</title>{rect}{dots}{texts}</g>'


def down(x: float, y1: float, y2: float) -> str:
    """From a bar's end to the fused part."""
    dot = f'<circle class="node" cx="{x}" cy="{y2}" r="4"/>'
    return f'<path class="wire" d="M{x} {y1 + 13}V{y2}" style="stroke:var(--ink)"/>{dot}'


def _dot(point: Point, x: float, y: float, radius: float) -> str:
    css = "node w" if point.idle else "node f" if point.functional else "node"
    return f'<circle class="{css}" cx="{x}" cy="{y}" r="{radius}"/>'


def _small(text: str, x: float, y: float, anchor: str = "middle") -> str:
    shown = escape(fit(text, NODE_W - 4.0))
    return f'<text class="s" x="{x}" y="{y}" text-anchor="{anchor}">{shown}</text>'


def line(x1: float, y: float, x2: float, stroke: str = "") -> str:
    """A level wire."""
    style = f' style="stroke:{stroke}"' if stroke else ""
    return f'<path class="wire" d="M{x1} {y}H{x2}"{style}/>'


def join(x1: float, y1: float, bend: float, x2: float, y2: float) -> str:
    """A wire that leaves its row at ``bend`` and ends in another."""
    half = (bend + x2) / 2
    return f'<path class="wire" d="M{x1} {y1}H{bend}C{half} {y1} {half} {y2} {x2} {y2}"/>'


def fit(text: str, room: float, size: float = SMALL, bold: bool = False) -> str:
    """Shorten in the middle to about ``room`` pixels: both ends of a path tell something.

    >>> fit("encoder.layer.11.attention.output", 100.0)
    'encode…ion.output'
    """
    widths = [size * (_WIDTHS.get(sign, 0.62) + 0.065 * bold) for sign in text]
    if sum(widths) <= room:
        return text
    room -= size
    head, tail, taken = 0, 0, 0.0
    while head + tail < len(text):
        first = head < (head + tail) // 3 + 1 and tail > 1
        width = widths[head] if first else widths[-1 - tail]
        if taken + width > room:
            break
        head, tail, taken = head + first, tail + (not first), taken + width
    return f"{text[:head]}…{text[len(text) - tail :]}"
