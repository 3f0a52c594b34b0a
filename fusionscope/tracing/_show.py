"""A trace as text and as plain data."""

from __future__ import annotations

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
        stream = trace.streams[modality]
        lines.append(f"{modality}  ({len(stream)} calls)")
        shown = _lane(trace, modality)
        cut = len(shown) > LONGEST
        for depth, call in shown[: LONGEST - 1] if cut else shown:
            mark = f"  <- level {taps[call.id].level}" if call.id in taps else ""
            lines.append(f"  {'  ' * depth}{_name(call)} {call.module} {_shape(call)}{mark}")
        if cut:
            lines.append(f"  ... and {len(shown) - LONGEST + 1} more calls")
    lines.append("fused")
    lines += [f"  {point}" for point in trace.fusion_points] or ["  nowhere: no call depends on two modalities"]
    if trace.unused:
        names = ", ".join(trace.unused[:5]) + (f" and {len(trace.unused) - 5} more" if len(trace.unused) > 5 else "")
        lines.append(f"never called, though it has parameters: {names}")
    lines += [f"note: {message}" for message in trace.messages]
    return "\n".join(lines)


def _lane(trace: Trace, modality: str) -> list[tuple[int, Call]]:
    """The calls of a lane with their depth below its outermost container."""
    depths: dict[tuple[str, int], int] = {}
    shown = []
    for call in trace.calls:
        if call.lane != modality or call.parent is None:
            continue
        depth = depths[call.parent] + 1 if call.parent in depths else 0
        depths[call.key] = depth
        shown.append((depth, call))
    return shown


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
        "text": str(point),
    }
