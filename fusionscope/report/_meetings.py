"""Where lanes meet: fusion points, exchanges after which the lanes go on, and the folding of many of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from fusionscope.report._calls import full_name, idle_on, lane_of, remarks

SHOWN_POINTS = 8
FIRST_POINTS = 4


@dataclass
class Point:
    """A fusion point, an exchange, or several folded into one, at a place in the order of execution.

    An exchange has the number of its ``round``: a lane's stretches above that number come after it. A ``narrow`` one
    shows its words on hover only; ``merges`` counts the fusion points folded into an exchange.
    """

    place: int
    modalities: list[str]
    head: str
    lines: list[str]
    title: str
    functional: bool = False
    call: str | None = None
    round: int | None = None
    exchange: bool = False
    idle: bool = False
    narrow: bool = False
    merges: int = 0
    parent: str = ""
    members: list[Point] = field(default_factory=list)

    def precedes(self, place: int, stretch: int | None) -> bool:
        """Whether a call of one of the modalities' lanes comes after this point."""
        if self.exchange and self.round is not None and stretch is not None:
            return stretch > self.round
        return self.place <= place


def meetings(trace: dict[str, Any], calls: list[dict[str, Any]]) -> tuple[list[Point], set[str]]:
    """Return the points in order, and the ids of calls that are part of one and are not drawn by themselves."""
    singles = sorted([*_given(trace, calls), *_late(trace, calls)], key=lambda p: p.place)
    starts = _starts(calls)
    inside = {p.call for p in singles if not p.functional and p.call}
    inside |= _calls_inside(singles, starts, calls)
    return _grouped(singles, [str(m) for m in trace.get("modalities") or []]), inside


def _given(trace: dict, calls: list[dict]) -> list[Point]:
    place_of = {full_name(c): i for i, c in enumerate(calls)}
    points = []
    for given in trace.get("fusion_points") or []:
        call = given.get("call")
        place = place_of.get(call, len(calls))
        functional = bool(given.get("functional"))
        parent = str(given.get("parent") or "")
        if functional:
            lines = [
                "functional",
                f"in {parent or 'the model'}",
                f"before {_key(call)}" if call else "before its output",
            ]
        else:
            lines = [_key(call) if call else f"in {parent or 'the model'}"]
        text = str(given.get("text") or " ".join(lines))
        meeting = [str(m) for m in given.get("modalities") or []]
        own = calls[place] if place < len(calls) else {}
        idle = any(m in meeting for m in idle_on(own))
        lines += ["inactive here"] * idle
        if idle or not functional:
            text = "\n".join([text, *remarks(own)])
        kind = str(given.get("kind") or "fusion")
        round_ = given.get("round")
        exchange = bool(given.get("exchange"))
        points.append(Point(place, meeting, kind, lines, text, functional, call, round_, exchange, idle, parent=parent))
    return points


def _late(trace: dict, calls: list[dict]) -> list[Point]:
    """Points for modalities that no given point names, at the first fused call that sees them."""
    known = {str(m) for p in trace.get("fusion_points") or [] for m in p.get("modalities") or []}
    points = []
    for place, call in enumerate(calls):
        new = [str(m) for m in call.get("depends_on") or [] if m not in known]
        if new and call.get("leaf") and lane_of(call) is None:
            name = full_name(call)
            text = f"{', '.join(new)} first meets others in {name}"
            points.append(Point(place, new, "joins later", [name], text, True))
            known.update(new)
    return points


def _starts(calls: list[dict]) -> dict[str, dict[int, int]]:
    """For each modality, the place of the first call of each of its stretches."""
    starts: dict[str, dict[int, int]] = {}
    for place, call in enumerate(calls):
        if call.get("leaf") and call.get("lane") is not None and call.get("stretch") is not None:
            starts.setdefault(str(call["lane"]), {}).setdefault(int(call["stretch"]), place)
    return starts


def _next_starts(point: Point, starts: dict[str, dict[int, int]]) -> list[int]:
    """Where the lanes of the point's modalities go on after its round."""
    if point.round is None:
        return []
    after = ([p for s, p in starts.get(m, {}).items() if s > (point.round or 0)] for m in point.modalities)
    return [min(places) for places in after if places]


def _calls_inside(points: list[Point], starts: dict[str, dict[int, int]], calls: list[dict]) -> set[str]:
    """Fused calls between an exchange's points and where the lanes go on, and further outputs of its calls."""
    inside = set()
    of_points = {c: p for p in points if p.exchange and not p.functional and (c := _key(p.call))}
    for place, call in enumerate(calls):
        last = next((p for p in reversed(points) if p.place <= place), None)
        if not call.get("leaf") or last is None:
            continue
        own = _key(full_name(call)) in of_points
        between = last.exchange and lane_of(call) is None and place < max(_next_starts(last, starts), default=0)
        if own or between:
            inside.add(full_name(call))
    return inside


def _key(name: str | None) -> str:
    """Path and index of a call's name, without output and slot."""
    path, sign, rest = (name or "").rpartition("#")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return f"{path}{sign}{digits}"


def _grouped(singles: list[Point], modalities: list[str]) -> list[Point]:
    """Make one point of all exchange points of a round; keep the rounds in order."""
    rounds: dict[int, list[Point]] = {}
    for point in singles:
        if point.exchange and point.round is not None:
            rounds.setdefault(point.round, []).append(point)
    keys: dict[int, int] = {}
    placed: list[tuple[int, int, Point]] = []
    for number, (round_, members) in enumerate(sorted(rounds.items()), start=1):
        keys[round_] = max([*keys.values(), *(p.place for p in members)])
        placed.append((keys[round_], 0, _exchange(number, round_, members, modalities)))
    for point in singles:
        if not point.exchange:
            before = [key for round_, key in keys.items() if point.round is not None and round_ < point.round]
            placed.append((max([point.place, *before]), 1, point))
    return [point for *_, point in sorted(placed, key=lambda p: p[:2])]


def _exchange(number: int, round_: int, members: list[Point], modalities: list[str]) -> Point:
    met = {m for p in members for m in p.modalities}
    first = members[0]
    where = _common([p.parent if p.functional else p.call or p.parent for p in members])
    if len(members) > 1:
        lines = [f"{len(members)} points", f"in {where or 'the model'}"]
    else:
        lines = [f"{first.head}, functional", first.lines[1]] if first.functional else [first.head, first.lines[0]]
    idle = all(p.idle for p in members)
    return Point(
        max(p.place for p in members),
        [m for m in modalities if m in met] or sorted(met),
        f"exchange {number}",
        lines + ["inactive here"] * idle,
        f"exchange {number}: " + "\n".join(p.title for p in members),
        round=round_,
        exchange=True,
        members=members,
    )


def _common(paths: list[str]) -> str:
    """The path of the container that holds all of them.

    >>> _common(["x.0.attention.drop#0", "x.0.attention.drop#1"])
    'x.0.attention'
    """
    parts = [path.split(".") for path in paths]
    same = takewhile(lambda names: len(set(names)) == 1, zip(*parts, strict=False))
    return ".".join(names[0] for names in same)


def few(points: list[Point], tapped: set[int]) -> list[Point]:
    """Fold the middle ones of many points: into one, or, where there are exchanges, those with no tap between them.

    Args:
        points: all points, in order.
        tapped: the numbers of the points before which a lane has a tap.
    """
    if len(points) <= SHOWN_POINTS:
        return points
    middle = points[FIRST_POINTS:-1]
    groups = [middle]
    if any(p.exchange for p in points):
        groups = []
        for number, point in enumerate(middle, start=FIRST_POINTS):
            if not groups or number in tapped:
                groups.append([])
            groups[-1].append(point)
    return [*points[:FIRST_POINTS], *map(_folded, groups), points[-1]]


def _folded(points: list[Point]) -> Point:
    exchanges = [p for p in points if p.exchange]
    met = list(dict.fromkeys(m for p in points for m in p.modalities))
    title = "\n".join(p.title for p in points)
    if not exchanges and len(points) == 1:
        return points[0]
    if not exchanges:
        return Point(points[0].place, met, f"{len(points)} more", ["fusion points"], title, functional=True)
    numbers = list(dict.fromkeys(p.head.split()[-1] for p in (exchanges[0], exchanges[-1])))
    return Point(
        points[0].place,
        met,
        "–".join(numbers),
        [],
        title,
        round=exchanges[0].round,
        exchange=True,
        narrow=True,
        merges=len(points) - len(exchanges),
        members=exchanges[0].members if len(exchanges) == 1 else exchanges,
    )
