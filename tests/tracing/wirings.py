"""Random wirings: models drawn from a seed, of which it is known what every call depends on.

    wiring = Wiring(7, must=("stack",))
    faults(wiring, trace(wiring, wiring.batch())) == []

The truth is found without running the model: its steps are run on symbols (``wiring_world``), once as they are and once
with each modality another, and compared call by call.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fusionscope.tracing import Call, Trace
from tests.tracing import wiring_steps as steps
from tests.tracing.wiring_builder import linear
from tests.tracing.wiring_features import CORE, OTHERS, Features
from tests.tracing.wiring_world import Key, Ran, Terms, World

NAMES = ("a", "b", "c")
VOCABULARY = 1000
Pair = tuple[frozenset[str], frozenset[str]]
Calls = dict[Key, Ran]
Rows = dict[tuple[Key, str], dict[str, list[bool]]]


@dataclass(frozen=True)
class Expected:
    """What must be found of one call; ``coupled`` None is not compared."""

    key: Key
    depends_on: frozenset[str]
    wired_to: frozenset[str]
    conditional: bool
    coupled: bool | None
    parent: Key | None


@dataclass(frozen=True)
class Truth:
    """The calls by their id, the keys of the fused ones and those of the first fusion points.

    The key of a point without a call is None; ``points`` None: what counts as a point is open here.
    """

    calls: dict[str, Expected]
    fused: set[Key]
    points: list[Key | None] | None


class Wiring(steps.Program):
    """A random program over the tensors of two or three modalities."""

    def __init__(self, seed: int, must: Iterable[str] = ()) -> None:
        super().__init__()
        draw = self.draw = random.Random(f"wiring {seed}")
        self.seed, self.size, self.width = seed, draw.randint(4, 7), draw.randint(3, 7)
        self.length, self.channels = draw.randint(2, 7), draw.randint(2, 7)
        if draw.random() < 0.3:
            self.width = self.length = self.size
        self.row = draw.choice((0, 0, draw.randrange(self.size)))
        self.dtype = draw.choice((torch.float32, torch.float32, torch.float64))
        self.kinds = {name: draw.choice(("row", "row", "row", "seq", "ids")) for name in NAMES[: draw.choice((2, 3))]}
        if set(self.kinds.values()) == {"ids"}:
            self.kinds["a"] = "row"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._draw_steps(tuple(must))
        self.to(self.dtype)
        del self.draw

    # -------------------------------------------------------------------- model

    def forward(self, inputs: dict[str, Any]) -> Any:
        flags: dict[str, bool] = {}
        values: list[Tensor] = []
        for name, kind in self.kinds.items():
            first = inputs[name]["ids"] - VOCABULARY // 2 if kind == "ids" else inputs[name]
            flags[name] = bool(first[self.row].flatten()[0] > 0)
            flags[f"always:{name}"] = bool(first.double().mean() > -2 * VOCABULARY)
            values += [inputs[name]["ids"], inputs[name]["mask"]] if kind == "ids" else [inputs[name]]
        return self._result(steps.Numbers(flags), self.play(steps.Numbers(flags), values))

    def infer(self, world: World, inputs: dict[str, Any]) -> Any:
        """What ``forward`` does, on symbols."""
        values = [sym for nest in inputs.values() for sym in (nest.values() if isinstance(nest, dict) else (nest,))]
        return self._result(world, self.play(world, values))

    def batch(self) -> dict[str, Any]:
        """A batch; the first value of one sample has another sign than that of all others."""
        draw, chance = torch.Generator().manual_seed(self.seed), random.Random(f"batch {self.seed}")
        found: dict[str, Any] = {}
        for name, kind in self.kinds.items():
            shape = {"row": (self.width,), "seq": (self.length, self.channels), "ids": (self.length,)}[kind]
            if kind == "ids":
                ids = torch.randint(VOCABULARY // 2, (self.size, *shape), generator=draw)
                ids[:, 0] = torch.randperm(VOCABULARY // 2, generator=draw)[: self.size]
                ids[self.row] += VOCABULARY // 2
                lengths = torch.tensor([1, self.length, *chance.choices(range(1, self.length + 1), k=self.size - 2)])
                lengths = lengths[chance.sample(range(self.size), self.size)]
                found[name] = {"ids": ids, "mask": (torch.arange(self.length) < lengths[:, None]).long()}
                continue
            x = torch.randn((self.size, *shape), generator=draw, dtype=self.dtype)
            first = x.view(self.size, -1)[:, 0]
            first.copy_(-0.3 - first.abs())
            first[self.row].neg_()
            others = [i for i in range(self.size) if i != self.row]
            for i in chance.choice((others[:0], others[:0], others[:0], chance.sample(others, 1), others)):
                x[i] = x[others[0]]
            found[name] = x
        return found

    def _draw_steps(self, must: tuple[str, ...]) -> None:
        builder = Features(self.draw, self, self.width, list(self.kinds), 6 if self.dtype == torch.float32 else 9)
        raw = self._sources(builder.world)
        places = {}
        for name, nest in raw.items():
            for key, sym in nest.items() if isinstance(nest, dict) else [("", nest)]:
                places[name, key] = len(builder.values)
                builder.give(sym, "rows" if self.kinds[name] == "row" else "raw")
        for name, kind in self.kinds.items():
            if kind == "seq":
                self._draw_sequence(builder, places[name, ""])
            elif kind == "ids":
                self._draw_tokens(builder, places[name, "ids"], places[name, "mask"])
        wanted = [self.draw.choice(CORE), *must]
        others = [self.draw.choice((*CORE, *OTHERS, *OTHERS)) for _ in range(self.draw.randint(4, 9))]
        wanted = [*others[:2], *wanted, *others[2:]]
        for feature in wanted:
            for _ in range(20 if feature in must else 1):
                if getattr(builder, feature)():
                    break
            else:
                assert feature not in must, f"seed {self.seed} has no place for {feature}"
        self.steps = tuple(builder.steps)
        plain = [i for i, v in enumerate(builder.values) if builder.infos[i].kind == "rows" and v.layout == "plain"]
        rows = [i for i, info in enumerate(builder.infos) if info.kind == "rows"]
        self.totals, self.extras = tuple(plain), tuple(self.draw.choice(rows) for _ in range(2))
        self.form = self.draw.choice(("tensor", "dict", "tuple", "list"))

    def _draw_sequence(self, builder: Features, x: int) -> None:
        if self.draw.random() < 0.3:
            builder.add(steps.InPlace("scale_", (x,)))
        kind = self.draw.choice((nn.LSTM, nn.GRU))
        name, then = builder.part(lambda: kind(self.channels, self.width), 0), self.draw.choice(("mean0", "last"))
        builder.add(steps.Call(name, (x,), then, before="time_major", places=((0,),)), x)

    def _draw_tokens(self, builder: Features, ids: int, mask: int) -> None:
        builder.add(steps.Pool(builder.part(lambda: nn.Embedding(VOCABULARY, self.width), 0), ids, mask))
        if self.length > 2 and self.draw.random() < 0.5:
            name = builder.part(lambda: linear(self.length, self.width), 0)
            builder.add(steps.Cast(name, mask, len(builder.values) - 1), flat=True)

    def _result(self, world: Any, values: list[Any]) -> Any:
        total = world.fn("total", *(values[i] for i in self.totals))
        first, second = (world.fn("clone", values[i]) for i in self.extras)
        return {
            "tensor": total,
            "dict": {"logits": total, "aux": [first, None, second]},
            "tuple": (total, {"x": first}),
            "list": [first, second, total],
        }[self.form]

    # -------------------------------------------------------------------- truth

    def _sources(self, world: World) -> dict[str, Any]:
        return {
            name: {"ids": world.source(name, "ids", False), "mask": world.source(name, "mask", False)}
            if kind == "ids"
            else world.source(name, "")
            for name, kind in self.kinds.items()
        }

    def truth(self, wired: bool = True) -> Truth:
        """What a tracer must find; ``wired`` False: without the copy whose zero parameters got noise."""
        terms, paths = Terms(), {}
        for path, module in self.named_modules():
            paths[id(module)] = path

        def run(noised: bool, **kwargs: Any) -> Calls:
            world = World(terms, paths, noised=noised, **kwargs)
            world.call(self, self._sources(world))
            return world.calls

        plain, noised = run(False), run(True)
        without = {m: run(False, changed=m) for m in self.kinds}
        with_noise = {m: run(True, changed=m) for m in self.kinds} if wired else {}

        def sets(key: Key, side: str, place: str) -> list[Pair]:
            """What each row of a tensor depends on, as it is and with noise."""
            found: list[Pair] = []
            for i in range(len(getattr(plain[key], side)[place].parts)):
                depends = {m for m, other in without.items() if _moved(plain, other, key, side, place, i)}
                more = {m for m, other in with_noise.items() if _moved(noised, other, key, side, place, i)}
                found.append((frozenset(depends), frozenset(depends | more)))
            return found

        calls: dict[str, Expected] = {}
        for key, ran in plain.items():
            outputs = {place: sets(key, "outputs", place) for place in ran.outputs}
            missing = {p: any(key not in w or p not in w[key].outputs for w in without.values()) for p in ran.outputs}
            for place, name, pair in self._spelled(ran, outputs):
                one, other = ran.outputs[place], noised[key].outputs[place]
                told = one.coupled == other.coupled and one.layout != "scalar"
                calls[name] = Expected(key, *pair, missing[place], one.coupled if told else None, ran.parent)
        base = noised if wired else plain
        rows = {
            (key, side): {p: [len(pair[1]) > 1 for pair in sets(key, side, p)] for p in getattr(ran, side)}
            for key, ran in base.items()
            for side in ("inputs", "outputs")
        }
        fused = [
            key
            for key, ran in base.items()
            if ran.outputs
            and not ran.children
            and any(any(r) for s in ("inputs", "outputs") for r in rows[key, s].values())
        ]
        choices = [
            _first_points(base, rows, fused, lambda edit: run(wired, edit=edit), whole, given)
            for whole in (True, False)
            for given in (base, plain)
        ]
        return Truth(calls, set(fused), choices[0] if all(choice == choices[0] for choice in choices) else None)

    def _spelled(self, ran: Ran, outputs: dict[str, list[Pair]]) -> list[tuple[str, str, Pair]]:
        """The calls of one record: the place that stands for each, its id, its modalities."""
        groups: dict[tuple[Pair, tuple[int, ...] | None, bool], list[str]] = {}
        for place, pairs in outputs.items():
            rows: dict[Pair, list[int]] = {}
            for i, pair in enumerate(pairs):
                rows.setdefault(pair, []).append(i)
            for pair, members in rows.items():
                coupled = ran.outputs[place].coupled and ran.outputs[place].layout != "scalar"
                groups.setdefault((pair, tuple(members) if len(rows) > 1 else None, coupled), []).append(place)
        found = []
        for (pair, members, _), places in groups.items():
            syms = {place: ran.outputs[place] for place in places}
            readable = [p for p, s in syms.items() if s.floating and not s.coupled and s.layout != "scalar"]
            main = (readable or places)[0]
            name = f"{ran.key[0] or 'model'}#{ran.key[1]}" + (f":{main}" if main else "")
            slot = _slot(syms[main].layout, len(syms[main].parts), members, self.size)
            found.append((main, name + slot, pair))
        return found


def _slot(layout: str, k: int, members: tuple[int, ...] | None, size: int) -> str:
    if members is None:
        return ""
    if layout == "interleaved":
        return f"[{','.join(map(str, members))}::{k}]"
    text, start = "", members[0]
    for i, j in zip(members, (*members[1:], None), strict=True):
        if j != i + 1:
            text += f"[{start * size}:{(i + 1) * size}]"
            start = j if j is not None else 0
    return text


def _moved(base: Calls, other: Calls, key: Key, side: str, place: str, i: int) -> bool:
    """Whether row ``i`` of a tensor is another in another world."""
    there = getattr(other[key], side).get(place) if key in other else None
    here = getattr(base[key], side)[place]
    return there is None or len(there.parts) != len(here.parts) or there.parts[i] != here.parts[i]


def _first_points(
    base: Calls, rows: Rows, fused: list[Key], restart: Callable[..., Calls], whole: bool, seen_in: Calls
) -> list[Key | None]:
    """The fused calls none of whose inputs follows from the output of an earlier one.

    Of calls that take the very same fused tensors the first counts, and one that gives nothing fused counts only where
    no other takes them. ``whole``: all rows of a fused output count as fused, not only those of two modalities;
    ``seen_in``: the world in which tensors are the same. Where that makes a difference, it is a matter of taste.
    """
    found: list[Key | None] = []
    after: set[Key] = set()
    seen: set[tuple[object, ...]] = set()
    order = list(base)
    for key in sorted(fused, key=lambda key: not any(any(many) for many in rows[key, "outputs"].values())):
        if key in after:
            continue
        inputs = seen_in[key].inputs
        given = {(inputs[p].layout, *inputs[p].parts) for p in inputs if any(rows[key, "inputs"][p])}
        if not given or not given <= seen:
            found.append(key)
        seen |= given
        parts = {
            p: tuple(i for i, one in enumerate(many) if one or whole)
            for p, many in rows[key, "outputs"].items()
            if any(many)
        }
        other = restart({key: parts})
        for later in order[order.index(key) + 1 :]:
            places = base[later].inputs
            if any(_moved(base, other, later, "inputs", p, i) for p, s in places.items() for i in range(len(s.parts))):
                after.add(later)
    root = ("", 0)
    if not found and any(any(many) for many in rows[root, "outputs"].values()):
        return [None]
    return sorted(found, key=order.index)


def faults(wiring: Wiring, found: Trace, wired: bool = True) -> list[str]:
    """Everything in which a trace differs from the truth."""
    truth = wiring.truth(wired)
    told, met = [], set()
    laned = {call.key for call in found.calls if getattr(call, "stretch", 0)}
    for call in found.calls:
        name = call.id if call.id in truth.calls else None
        # What one lane or another goes on with is told apart there, and so is what rows that rounding hides couple.
        if call.key in laned or wiring.dtype == torch.float32:
            name = name or next((n for n, e in truth.calls.items() if _alike(call, e)), None)
        if name is None:
            told.append(f"{call.id}: must not be there ({show(call.depends_on)})")
            continue
        met.add(name)
        want = truth.calls[name]
        pairs = [("depends_on", want.depends_on), ("conditional", want.conditional), ("parent", want.parent)]
        pairs += [("wired_to", want.wired_to), ("unknown", frozenset())] if wired else []
        # In float32 a weak step between samples may be no more than rounding, which does not count as coupling.
        rounded = want.coupled and wiring.dtype == torch.float32
        pairs += [("batch_coupled", want.coupled)] if want.coupled is not None and not rounded else []
        told += [f"{name}: {k} is {show(v)}, must be {show(x)}" for k, x in pairs if (v := getattr(call, k)) != x]
    told += [
        f"{name}: is missing, must be {show(want.depends_on)}, wired to {show(want.wired_to)}"
        for name, want in truth.calls.items()
        if name not in met and not any(call.key in laned and _alike(call, want) for call in found.calls)
    ]
    told += [f"{key}: fused or not" for key in truth.fused ^ {call.key for call in found.fused}]
    points = [p.call.key if p.call else None for p in found.fusion_points if getattr(p, "round", 0) == 0]
    if truth.points is not None and truth.points != points:
        told.append(f"fusion points are {points}, must be {truth.points}")
    return told


def _alike(call: Call, want: Expected) -> bool:
    same = (call.key, call.depends_on, call.wired_to) == (want.key, want.depends_on, want.wired_to)
    return same and want.coupled in (None, call.batch_coupled)


def show(value: object) -> str:
    """A set of modalities as ``a+b``."""
    return ("+".join(sorted(value)) or "none") if isinstance(value, frozenset) else str(value)


def check(seed: int, must: Iterable[str] = (), wired: bool = True) -> list[str]:
    """Trace one wiring and return its faults, an exception and anything left changed among them."""
    from fusionscope.tracing import trace

    wiring = Wiring(seed, must).eval()
    batch, again = wiring.batch(), wiring.batch()
    torch.manual_seed(seed)
    before = {name: tensor.clone() for name, tensor in wiring.state_dict().items()}
    try:
        told = faults(wiring, trace(wiring, batch), wired)
    except Exception as error:
        return [f"raised {type(error).__name__}: {error}"]
    for name, kind in wiring.kinds.items():
        pairs = (
            [(batch[name][k], again[name][k]) for k in again[name]] if kind == "ids" else [(batch[name], again[name])]
        )
        told += [f"the batch's {name} was changed" for x, y in pairs if not torch.equal(x, y)]
    return told + [f"{k} was changed" for k, x in wiring.state_dict().items() if not torch.equal(x, before[k])]
