"""A trace as text and as plain data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fusionscope.tracing._call import Call, FusionPoint

if TYPE_CHECKING:
    from fusionscope.tracing._trace import Trace

LONGEST = 40


def tree(trace: Trace) -> str:
    """One lane per modality, then where they meet, then what a user should know."""
    taps = {tap.id: tap for found in trace.taps.values() for tap in found}
    lines = [
        f"Trace of {trace.model}: {', '.join(trace.modalities)}; {len(trace.calls)} calls, "
        f"{len(trace.fusion_points)} fusion point{'s' if len(trace.fusion_points) != 1 else ''} "
        f"({trace.forwards} forwards of {trace.batch_size} samples, {trace.seconds:.1f} s)"
    ]
    for modality in trace.modalities:
        count = sum(map(len, trace.lanes[modality]))
        lines.append(f"{modality}  ({count} calls)")
        shown = _lane(trace, modality)
        kept = shown if len(shown) <= LONGEST else _shortened(shown, {tap.id for tap in trace.taps[modality]})
        stretch = 0
        for depth, call, count in kept:
            if call is None:
                lines.append(f"  ... {count} more call{'s' if count > 1 else ''}")
                continue
            if call.stretch and call.stretch > stretch:
                stretch = call.stretch
                lines.append(f"  -- after exchange {stretch} --")
            mark = f", {count} calls" if count > 1 else ""
            mark += f"  <- level {taps[call.id].level}" if call.id in taps else ""
            hidden = call.wired_to - call.depends_on
            mark += f"  (wired to {', '.join(sorted(hidden))}, inactive)" if hidden else ""
            lines.append(f"  {'  ' * depth}{_name(call)} {call.module} {_shape(call)}{mark}")
    lines.append("fused")
    points = [f"  {f'after exchange {p.round}: ' if p.round else ''}{p}" for p in trace.fusion_points]
    lines += points or ["  nowhere: no call depends on two modalities"]
    if trace.unused:
        names = ", ".join(trace.unused[:5]) + (f" and {len(trace.unused) - 5} more" if len(trace.unused) > 5 else "")
        lines.append(f"never called, though it has parameters: {names}")
    lines += [f"note: {message}" for message in trace.messages]
    return "\n".join(lines)


Line = tuple[int, Call | None, int]


def _lane(trace: Trace, modality: str) -> list[Line]:
    """The calls of a lane with their depth below its outermost container; none that spans several stretches."""
    spans: dict[tuple[str, int], set[object]] = {}
    taps = {tap.id for tap in trace.taps[modality]}
    for call in trace.calls:
        spans.setdefault(call.key, set()).add((call.lane, call.stretch))
    parents = {call.key: call.parent for call in trace.calls}
    depths: dict[tuple[str, int], int] = {}
    shown: list[Line] = []
    for call in trace.calls:
        whole = call.leaf or call.id in taps or len(spans[call.key]) == 1
        if call.lane != modality or call.parent is None or not whole:
            continue
        above = call.parent
        while above is not None and above not in depths:
            above = parents.get(above)
        depth = depths[above] + 1 if above is not None else 0
        depths[call.key] = depth
        shown.append((depth, call, 1))
    return shown


def _shortened(shown: list[Line], taps: set[str]) -> list[Line]:
    """A long lane: its taps, with the number of calls in each, and the number of calls between them."""
    kept: list[Line] = []
    within: int | None = None
    inside = between = 0
    for depth, call, _ in shown:
        if call is None or (within is not None and depth > within):
            inside += call is not None and call.leaf
            continue
        if within is not None:
            kept[-1] = (0, kept[-1][1], inside)
            within = None
        if call.id in taps:
            kept += [(0, None, between)] if between else []
            kept.append((0, call, 1))
            within, inside, between = depth, 0, 0
        else:
            between += call.leaf
    if within is not None:
        kept[-1] = (0, kept[-1][1], inside)
    return [*kept, (0, None, between)] if between else kept


def _name(call: Call) -> str:
    again = f"#{call.index}" if call.index else ""
    place = f":{call.output}" if call.output else ""
    return f"{call.path or 'model'}{again}{place}{call.slot}"


def _shape(call: Call) -> str:
    return f"[{', '.join(map(str, call.shape))}]"


def to_dict(trace: Trace) -> dict[str, Any]:
    """Plain data: what the drawing and the JSON file need."""
    tapped = {tap.id for found in trace.taps.values() for tap in found}
    first = {call.key: call.id for call in reversed(trace.calls)}
    return {
        "model": trace.model,
        "modalities": list(trace.modalities),
        "batch_size": trace.batch_size,
        "forwards": trace.forwards,
        "seconds": round(trace.seconds, 3),
        "calls": [_call(call, first, tapped) for call in trace.calls],
        "fusion_points": [_point(point) for point in trace.fusion_points],
        "messages": list(trace.messages),
        "unused": list(trace.unused),
    }


def _call(call: Call, first: dict[tuple[str, int], str], tapped: set[str]) -> dict[str, Any]:
    return {
        "id": call.id,
        "path": call.path,
        "index": call.index,
        "output": call.output,
        "slot": call.slot,
        "module": call.module,
        "shape": list(call.shape),
        "axes": {"sample": call.axes.sample, "unit": call.axes.unit, "location": list(call.axes.location)},
        "parent": first.get(call.parent) if call.parent is not None else None,
        "leaf": call.leaf,
        "depends_on": sorted(call.depends_on),
        "wired_to": sorted(call.wired_to),
        "unknown": sorted(call.unknown),
        "effects": {m: float(f"{x:.3g}") for m, x in sorted(call.effects.items()) if math.isfinite(x)},
        "states": {m: call.state(m) for m in sorted(call.wired_to | call.unknown)},
        "lane": call.lane,
        "stretch": call.stretch,
        "fused": call.fused,
        "kind": call.kind,
        "deterministic": call.deterministic,
        "batch_coupled": call.batch_coupled,
        "conditional": call.conditional,
        "tap": call.id in tapped,
    }


def _point(point: FusionPoint) -> dict[str, Any]:
    return {
        "call": point.call.id if point.call else None,
        "parent": point.parent,
        "functional": point.functional,
        "kind": point.kind,
        "modalities": sorted(point.modalities),
        "round": point.round,
        "exchange": point.exchange,
        "mixed_by": point.mixed_by.id if point.mixed_by else None,
        "text": str(point),
    }
