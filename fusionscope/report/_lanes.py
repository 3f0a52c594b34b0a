"""A trace arranged for drawing: lanes of boxes and groups, cut into stages at the fusion points."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SHOWN_WHOLE = 6
FUSED_WHOLE = 2
MOST_POINTS = 6


@dataclass
class Item:
    """One box: a call, or a group of calls that are not shown one by one."""

    name: str
    detail: tuple[str, ...] = ()
    title: str = ""
    tap: str = ""
    calls: int = 1
    group: bool = False


@dataclass
class Point:
    """A fusion point at a place in the order of execution."""

    place: int
    modalities: list[str]
    head: str
    lines: list[str]
    title: str
    functional: bool = False
    call: str | None = None


@dataclass
class Stage:
    """What runs between two fusion points; ``point`` closes it."""

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


@dataclass
class Layout:
    modalities: list[str]
    lanes: dict[str, Lane]
    stages: list[Stage]
    output: list[str]


def full_name(call: dict[str, Any]) -> str:
    """Return path, index, output and slot, as a trace prints them."""
    return str(call.get("id") or f"{call.get('path') or 'model'}#{call.get('index', 0)}{call.get('slot') or ''}")


def sizes(call: dict[str, Any]) -> str:
    """Return the output's shape without its sample axis, as "16×32×32"."""
    shape = call.get("shape")
    if not isinstance(shape, (list, tuple)):
        return str(shape or "")
    axis = (call.get("axes") or {}).get("sample", 0)
    kept = [str(n) for i, n in enumerate(shape) if i != axis]
    return "×".join(kept) or "scalar"


def own_modality(call: dict[str, Any]) -> str | None:
    """Return the one modality whose lane the call belongs to, or None."""
    depends = call.get("depends_on") or []
    meeting = call.get("fused") and call.get("kind")
    return str(depends[0]) if len(depends) == 1 and not meeting else None


def arrange(trace: dict[str, Any]) -> Layout:
    """Return the layout of a trace's plain data."""
    calls: list[dict[str, Any]] = list(trace.get("calls") or [])
    modalities = [str(m) for m in trace.get("modalities") or []]
    taps = set(trace["taps"]) if trace.get("taps") else {c["id"] for c in calls if c.get("tap")}
    points = _few(_points(trace, calls))
    repeated = {c.get("path") for c in calls if c.get("index")}
    drawn_as_point = {p.call for p in points if not p.functional}

    stages = [Stage(point=p) for p in points] + [Stage()]
    pure: list[dict[str, list[tuple[dict, str]]]] = [{} for _ in stages]
    fused: list[list[dict]] = [[] for _ in stages]
    ancestors = _tapped_ancestors(calls, taps)
    for place, call in enumerate(calls):
        if not call.get("leaf"):
            continue
        stage = sum(p.place <= place for p in points)
        modality = own_modality(call)
        if modality is not None:
            # A lane waits only for the points it takes part in, so that independent lanes lie below each other.
            stage = max((k + 1 for k, p in enumerate(points[:stage]) if modality in p.modalities), default=0)
            pure[stage].setdefault(modality, []).append((call, ancestors.get((full_name(call), modality), "")))
        elif call.get("depends_on") and full_name(call) not in drawn_as_point:
            fused[stage].append(call)

    by_id = {full_name(c): c for c in calls}
    lanes: dict[str, Lane] = {}
    of_lane = {m: [call for stage in pure for call, _ in stage.get(m, [])] for m in modalities}
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
        )
        whole = len(own) <= SHOWN_WHOLE
        for stage, found in zip(stages, pure, strict=True):
            stage.lanes[m] = _items(found.get(m, []), by_id, prefix, repeated, whole)
    every = sum(map(len, fused))
    for stage, found_fused in zip(stages, fused, strict=True):
        shown = found_fused if every <= FUSED_WHOLE else found_fused[-1:] if stage is stages[-1] else []
        hidden = [c for c in found_fused if c not in shown]
        stage.fused = _rest(hidden, "", repeated, False) + [_box(c, "", repeated, "") for c in shown]
    outputs = [c for c in calls if not c.get("path")]
    return Layout(modalities, lanes, stages, [sizes(c) for c in outputs])


def _reached(calls: list[dict], modalities: list[str]) -> set[str]:
    """Modalities that the model's output depends on, or, where the trace has no root call, that any fused call does."""
    roots = [c for c in calls if not c.get("path")]
    seen = {str(m) for c in roots for m in c.get("depends_on") or []}
    if roots or len(modalities) < 2:
        return seen if roots else set(modalities)
    return {str(m) for c in calls if own_modality(c) is None for m in c.get("depends_on") or []}


def _points(trace: dict, calls: list[dict]) -> list[Point]:
    place_of = {full_name(c): i for i, c in enumerate(calls)}
    points = []
    for given in trace.get("fusion_points") or []:
        call = given.get("call")
        functional = bool(given.get("functional"))
        parent = str(given.get("parent") or "") or "the model"
        kind = str(given.get("kind") or "fusion")
        if functional:
            lines = ["functional", f"in {parent}", f"before {call}" if call else "before its output"]
        else:
            lines = [str(call) if call else f"in {parent}"]
        text = str(given.get("text") or " ".join(lines))
        meeting = [str(m) for m in given.get("modalities") or []]
        points.append(Point(place_of.get(call, len(calls)), meeting, kind, lines, text, functional, call))
    known = {m for p in points for m in p.modalities}
    for place, call in enumerate(calls):
        new = [str(m) for m in call.get("depends_on") or [] if m not in known]
        if new and call.get("leaf") and own_modality(call) is None:
            name = full_name(call)
            points.append(
                Point(place, new, "joins later", [name], f"{', '.join(new)} first meets others in {name}", True)
            )
            known.update(new)
    return sorted(points, key=lambda p: p.place)


def _few(points: list[Point]) -> list[Point]:
    """Fold the middle ones of many fusion points into one."""
    if len(points) <= MOST_POINTS:
        return points
    middle = points[MOST_POINTS - 2 : -1]
    met = list(dict.fromkeys(m for p in middle for m in p.modalities))
    folded = Point(
        middle[0].place, met, f"{len(middle)} more", ["fusion points"], "\n".join(p.title for p in middle), True
    )
    return [*points[: MOST_POINTS - 2], folded, points[-1]]


def _tapped_ancestors(calls: list[dict], taps: set[str]) -> dict[tuple[str, str], str]:
    """By (leaf, modality): the id of the tapped call that is the leaf, or the nearest one that contains it."""
    by_id = {full_name(c): c for c in calls}
    tapped = {
        (c.get("path"), c.get("index"), str(c["depends_on"][0])): full_name(c)
        for c in calls
        if full_name(c) in taps and c.get("depends_on")
    }
    found = {}
    for call in calls:
        modality = own_modality(call)
        if not call.get("leaf") or modality is None:
            continue
        if full_name(call) in taps:
            found[(full_name(call), modality)] = full_name(call)
            continue
        above: dict[str, Any] | None = by_id.get(call.get("parent") or "")
        steps = 0
        while above is not None and steps < 100:
            key = (above.get("path"), above.get("index"), modality)
            if key in tapped:
                found[(full_name(call), modality)] = tapped[key]
                break
            above, steps = by_id.get(above.get("parent") or ""), steps + 1
    return found


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
            box.calls = len(waiting) - start
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
    return Item(name, detail, _title(call), tap)


def _group(calls: list[dict]) -> Item:
    listed = "\n".join(_title(c) for c in calls[:20])
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
