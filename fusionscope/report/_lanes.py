"""A trace arranged for drawing: lanes of boxes and groups, cut into stages at the fusion points."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fusionscope.report._calls import full_name, idle_on, lane_of, remarks, sizes
from fusionscope.report._meetings import Point, few, meetings

SHOWN_WHOLE = 6
FUSED_WHOLE = 2


@dataclass
class Item:
    """One box: a call, or a group of calls that are not shown one by one."""

    name: str
    detail: tuple[str, ...] = ()
    title: str = ""
    tap: str = ""
    calls: int = 1
    group: bool = False
    idle: bool = False


@dataclass
class Stage:
    """What runs between two fusion points or exchanges; ``point`` closes it."""

    lanes: dict[str, list[Item]] = field(default_factory=dict)
    fused: list[Item] = field(default_factory=list)
    point: Point | None = None


@dataclass
class Lane:
    """What is known of a modality's lane as a whole."""

    calls: int
    prefix: str
    slot: str
    shared: list[str]
    dead: bool
    stretches: int = 1


@dataclass
class Layout:
    modalities: list[str]
    lanes: dict[str, Lane]
    stages: list[Stage]
    output: list[str]
    exchanges: int = 0


def arrange(trace: dict[str, Any]) -> Layout:
    """Return the layout of a trace's plain data."""
    calls: list[dict[str, Any]] = list(trace.get("calls") or [])
    modalities = [str(m) for m in trace.get("modalities") or []]
    taps = set(trace["taps"]) if trace.get("taps") else {c["id"] for c in calls if c.get("tap")}
    ancestors = _tapped_ancestors(calls, taps)
    ancestors |= _taps_without_calls(calls, taps - set(ancestors.values()))
    points, inside = meetings(trace, calls)
    inside -= {full_name(c) for c in calls if lane_of(c) is not None} & taps
    exchanges = sum(p.exchange for p in points)
    pure, fused = _in_stages(calls, points, inside, ancestors)
    points = few(points, {k for k, found in enumerate(pure) if any(tap for own in found.values() for _, tap in own)})
    pure, fused = _in_stages(calls, points, inside, ancestors)
    stages = [Stage(point=p) for p in points] + [Stage()]
    repeated = {c.get("path") for c in calls if c.get("index")}

    by_id = {full_name(c): c for c in calls}
    lanes: dict[str, Lane] = {}
    of_lane = {m: [c for c in calls if c.get("leaf") and lane_of(c) == m] for m in modalities}
    paths = {m: {c.get("path") for c in own} for m, own in of_lane.items()}
    reached = _reached(calls, modalities)
    for m in modalities:
        own = of_lane[m]
        slots = {str(c.get("slot") or "") for c in own}
        prefix = _prefix([str(c.get("path") or "") for c in own])
        sharing = [n for n in modalities if n != m and paths[n] & paths[m]]
        lanes[m] = Lane(
            calls=len({(c.get("path"), c.get("index")) for c in own}),
            prefix=prefix,
            slot=slots.pop() if len(slots) == 1 else "",
            shared=sharing,
            dead=m not in reached,
            stretches=len({c.get("stretch") or 0 for c in own}),
        )
        whole = len(own) <= SHOWN_WHOLE
        tapped = [str(by_id.get(t, {}).get("path") or "") for found in pure for _, t in found.get(m, []) if t]
        prefix = _prefix(tapped) or prefix
        for stage, found in zip(stages, pure, strict=True):
            stage.lanes[m] = _items(found.get(m, []), by_id, prefix, repeated, whole)
    every = sum(map(len, fused))
    for stage, found_fused in zip(stages, fused, strict=True):
        shown = found_fused if every <= FUSED_WHOLE else found_fused[-1:] if stage is stages[-1] else []
        hidden = [c for c in found_fused if c not in shown]
        stage.fused = _rest(hidden, "", repeated, False) + [_box(c, "", repeated, "") for c in shown]
    outputs = [c for c in calls if not c.get("path")]
    return Layout(modalities, lanes, stages, [sizes(c) for c in outputs], exchanges)


def _in_stages(
    calls: list[dict], points: list[Point], inside: set[str], ancestors: dict[tuple[str, str], str]
) -> tuple[list[dict[str, list[tuple[dict, str]]]], list[list[dict]]]:
    """The leaf calls between the points: those of each lane with the tap they belong to, and the fused ones."""
    pure: list[dict[str, list[tuple[dict, str]]]] = [{} for _ in range(len(points) + 1)]
    fused: list[list[dict]] = [[] for _ in pure]
    for place, call in enumerate(calls):
        modality, stretch, name = lane_of(call), call.get("stretch"), full_name(call)
        if name in inside or not (call.get("leaf") or (name, modality) in ancestors):
            continue
        if modality is not None:
            # A lane waits only for the points it takes part in, so that independent lanes lie below each other.
            passed = [k + 1 for k, p in enumerate(points) if modality in p.modalities and p.precedes(place, stretch)]
            stage = max(passed, default=0)
            pure[stage].setdefault(modality, []).append((call, ancestors.get((name, modality), "")))
        elif call.get("depends_on") or call.get("wired_to"):
            fused[max((k + 1 for k, p in enumerate(points) if p.place <= place), default=0)].append(call)
    return pure, fused


def _reached(calls: list[dict], modalities: list[str]) -> set[str]:
    """Modalities that the model's output depends on, or, where the trace has no root call, that any fused call does."""
    roots = [c for c in calls if not c.get("path")]
    seen = {str(m) for c in roots for m in c.get("depends_on") or []}
    if roots or len(modalities) < 2:
        return seen if roots else set(modalities)
    return {str(m) for c in calls if lane_of(c) is None for m in c.get("depends_on") or []}


def _tapped_ancestors(calls: list[dict], taps: set[str]) -> dict[tuple[str, str], str]:
    """By (leaf, modality): the id of the tapped call that is the leaf, or the nearest one that contains it."""
    by_id = {full_name(c): c for c in calls}
    tapped = {(c.get("path"), c.get("index"), _lane_of_tap(c)): full_name(c) for c in calls if full_name(c) in taps}
    found = {}
    for call in calls:
        modality = lane_of(call)
        if not call.get("leaf") or modality is None:
            continue
        if full_name(call) in taps:
            found[(full_name(call), modality)] = full_name(call)
            continue
        above: dict[str, Any] | None = by_id.get(call.get("parent") or "")
        steps = 0
        while above is not None and steps < 100:
            own = (above.get("path"), above.get("index"), modality)
            name = tapped.get(own) or tapped.get((*own[:2], None))
            # After an exchange inside it, a container's output belongs to a later stretch than its first calls.
            if name and by_id[name].get("stretch") in (None, call.get("stretch")):
                found[(full_name(call), modality)] = name
                break
            above, steps = by_id.get(above.get("parent") or ""), steps + 1
    return found


def _taps_without_calls(calls: list[dict], taps: set[str]) -> dict[tuple[str, str], str]:
    """Tapped containers whose own code makes their output, so that no leaf call stands for it."""
    found = ((full_name(c), lane_of(c)) for c in calls if full_name(c) in taps)
    return {(name, modality): name for name, modality in found if modality is not None}


def _lane_of_tap(call: dict[str, Any]) -> str | None:
    """The lane of a tapped call; None, which fits any lane, for a container that sees several modalities."""
    depends = call.get("depends_on") or []
    return lane_of(call) or (str(depends[0]) if len(depends) == 1 or ("lane" not in call and depends) else None)


def _items(
    found: list[tuple[dict, str]], by_id: dict[str, dict], prefix: str, repeated: set, whole: bool
) -> list[Item]:
    last_of = {tap: i for i, (_, tap) in enumerate(found) if tap}
    items: list[Item] = []
    waiting: list[tuple[dict, str]] = []
    for i, (call, tap) in enumerate(found):
        waiting.append((call, tap))
        if tap and last_of[tap] == i:
            start = len(waiting)
            while start and waiting[start - 1][1] == tap:
                start -= 1
            items += _rest([c for c, _ in waiting[:start]], prefix, repeated, whole)
            shown = by_id.get(tap, call)
            box = _box(shown, prefix, repeated, f"level {shown['level']}" if "level" in shown else "tap")
            box.calls = sum(bool(c.get("leaf")) for c, _ in waiting[start:])
            if box.calls > 1:
                box.title += f"\n{box.calls} calls inside"
            items.append(box)
            waiting = []
    return items + _rest([c for c, _ in waiting], prefix, repeated, whole)


def _rest(calls: list[dict], prefix: str, repeated: set, whole: bool) -> list[Item]:
    if whole or len(calls) == 1:
        return [_box(c, prefix, repeated, "") for c in calls]
    return [_group(calls)] if calls else []


def _box(call: dict, prefix: str, repeated: set, tap: str) -> Item:
    path = str(call.get("path") or "") or "model"
    name = path[len(prefix) + 1 :] if prefix and path.startswith(prefix + ".") else path
    if not any(sign.isalpha() for sign in name):
        name = ".".join(path.split(".")[-2:])
    if call.get("path") in repeated:
        name += f" #{call.get('index', 0)}"
    slot = str(call.get("slot") or "")
    detail = (str(call.get("module") or ""), f"{slot} {sizes(call)}".strip())
    return Item(name, detail, "\n".join([_title(call), *remarks(call)]), tap, idle=bool(idle_on(call)))


def _group(calls: list[dict]) -> Item:
    listed = "\n".join(f"{_title(c)}{''.join(f' ({said})' for said in remarks(c))}" for c in calls[:20])
    more = f"\n… and {len(calls) - 20} more" if len(calls) > 20 else ""
    return Item(str(len(calls)), ("calls" if len(calls) > 1 else "call",), listed + more, "", len(calls), True)


def _title(call: dict) -> str:
    shape = call.get("shape")
    shown = f"[{', '.join(map(str, shape))}]" if isinstance(shape, (list, tuple)) else str(shape or "")
    return f"{full_name(call)} {call.get('module') or ''} {shown}".strip()


def _prefix(paths: list[str]) -> str:
    """Return the container that holds all paths."""
    if not paths:
        return ""
    parts = [p.split(".")[:-1] for p in paths]
    common = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return ".".join(common)
