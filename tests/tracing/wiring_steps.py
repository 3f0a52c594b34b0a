"""The steps of random wirings. A step runs on tensors or on symbols, whichever its ``world`` works with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.tracing.wiring_parts import dropout

FUNCTIONS = {
    "sin": torch.sin,
    "tanh": lambda x: (0.7 * x).tanh(),
    "fallback": lambda x: (0.8 * x + 0.1).sin(),
    "clone": torch.clone,
    "add": lambda x, y: 0.6 * x + 0.5 * y,
    "mul": lambda x, y: x * (y + 0.4).cos(),
    "scaled": lambda x, s: x * s,
    "weak": lambda x, y: x + 1e-5 * y,
    "dead": lambda x, y: x + 0.0 * y,
    "zero": lambda x: 0.0 * x,
    "dropout": dropout,
    "batch_mean": lambda x: x.sort(0).values.mean(0, keepdim=True).expand_as(x).clone(),
    "cat": lambda *xs: torch.cat(xs, 1),
    "stack": lambda *xs: torch.cat(xs),
    "interleave": lambda *xs: torch.stack(xs, 1).flatten(0, 1),
    "merge": lambda *xs: sum(x * (0.4 + 0.2 * i) for i, x in enumerate(xs)),
    "tokens": lambda *xs: torch.stack(xs, 1),
    "mean1": lambda x: x.mean(1),
    "one": lambda x: x[:, None],
    "timeline": lambda *xs: torch.stack(xs),
    "time_major": lambda x: x.transpose(0, 1),
    "mean0": lambda x: x.mean(0),
    "last": lambda x: x[-1].clone(),
    "pool": lambda x, mask: (x * mask[..., None].to(x.dtype)).sum(1),
    "like": lambda x, y: x.to(y.dtype),
    "unwhole": lambda x: (x / 4096).sin(),
    "clean": lambda x: x.nan_to_num(0.5).sin(),
    "pad": lambda x, like: torch.nn.functional.pad(x, (0, like.shape[1] - x.shape[1])),
    "total": lambda *xs: sum(x * (0.5 + 0.1 * i) for i, x in enumerate(xs)),
}
IN_PLACE = {
    "sin_": lambda x: x.sin_(),
    "scale_": lambda x: x.mul_(0.9),
    "add_": lambda x, y: x.add_(y, alpha=0.5),
    "data_": lambda x, y: x.data.add_(y, alpha=0.5),
    "column_": lambda x, y: x[:, :1].copy_(y[:, :1]),
}


class Numbers:
    """Runs steps on tensors."""

    def __init__(self, flags: Mapping[str, bool]) -> None:
        self.flags = flags

    def flag(self, name: str) -> bool:
        return self.flags[name]

    def fn(self, op: str, *args: Tensor) -> Tensor:
        return FUNCTIONS[op](*args)

    def gate(self, name: str, x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return x + scale * y

    def split(self, x: Tensor, layout: str, k: int) -> list[Tensor]:
        return list(x.chunk(k) if layout == "stacked" else x.unflatten(0, (-1, k)).unbind(1))

    def inplace(self, op: str, values: list[Tensor], target: int, *others: int) -> None:
        IN_PLACE[op](values[target], *(values[i] for i in others))

    def inplace_part(self, values: list[Tensor], target: int, other: int, layout: str, k: int) -> None:
        self.split(values[target], layout, k)[0].add_(values[other], alpha=0.5)

    def call(self, module: nn.Module, *args: Any, **named: Any) -> Any:
        return module(*args, flags=self.flags) if isinstance(module, Program) else module(*args, **named)

    def call_ignored(self, module: nn.Module, values: list[Tensor], target: int) -> None:
        module(values[target])

    def attempt(self, module: nn.Module, x: Tensor, fails: bool) -> Tensor:
        try:
            return module(x, fails)
        except ArithmeticError:
            return self.fn("fallback", x)


class Program(nn.Module):
    """Steps over a growing list of values, and the modules that they call."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: tuple[Any, ...] = ()
        self.parts = nn.ModuleList()
        self.gates = nn.ParameterList()

    def play(self, world: Any, values: list[Any]) -> list[Any]:
        """Run all steps."""
        for step in self.steps:
            step.go(world, self, values)
        return values


class Block(Program):
    """A container: its arguments are its first values, its last value is what it returns, by choice with another."""

    def __init__(self, count: int, nested: bool) -> None:
        super().__init__()
        self.count, self.nested, self.loss = count, nested, 0

    def result(self, values: list[Any]) -> Any:
        """What the block returns of its values."""
        return {"x": values[-1], "seen": [values[-2]]} if self.nested else values[-1]

    def forward(self, *args: Tensor, flags: Mapping[str, bool]) -> Any:
        return self.result(self.play(Numbers(flags), list(args)))

    def infer(self, world: Any, *args: Any) -> Any:
        return self.result(self.play(world, list(args)))


def pick(nest: Any, place: tuple[Any, ...]) -> Any:
    """The entry of a nest at ``place``."""
    for key in place:
        nest = nest[key]
    return nest


@dataclass(frozen=True)
class Fn:
    """A function of values."""

    op: str
    args: tuple[int, ...]

    def go(self, w: Any, p: Program, v: list[Any]) -> None:
        v.append(w.fn(self.op, *(v[i] for i in self.args)))


@dataclass(frozen=True)
class Call:
    """A call of module ``name`` on the values ``args``, each after a function ``before``; ``then`` follows.

    ``places`` of the output become values; ``listed`` passes the arguments as one list, ``named`` the last as ``y``.
    """

    name: str
    args: tuple[int, ...]
    then: str = ""
    before: str = ""
    joined: str = ""
    places: tuple[tuple[Any, ...], ...] = ((),)
    listed: bool = False
    named: bool = False

    def go(self, w: Any, p: Program, v: list[Any]) -> None:
        args = [v[i] for i in self.args]
        if self.before:
            args = [w.fn(self.before, arg) for arg in args]
        if self.joined:
            args = [w.fn(self.joined, *args)]
        keywords = {"y": args.pop()} if self.named else {}
        out = w.call(p.get_submodule(self.name), *([args] if self.listed else args), **keywords)
        for place in self.places:
            one = pick(out, place)
            v.append(w.fn(self.then, one) if self.then else one)


@dataclass(frozen=True)
class Attend:
    """Attention from the first value to the others."""

    name: str
    args: tuple[int, ...]

    def go(self, w: Any, p: Program, v: list[Any]) -> None:
        query, keys = w.fn("one", v[self.args[0]]), w.fn("tokens", *(v[i] for i in self.args[1:]))
        v.append(w.fn("mean1", w.call(p.get_submodule(self.name), query, keys, keys)[0]))


@dataclass(frozen=True)
class Pool:
    """Embedded tokens, summed where the mask is set."""

    name: str
    ids: int
    mask: int

    def go(self, w: Any, p: Program, v: list[Any]) -> None:
        v.append(w.fn("sin", w.fn("pool", w.call(p.get_submodule(self.name), v[self.ids]), v[self.mask])))


@dataclass(frozen=True)
class Cast:
    """A tensor that is no float, from a module or as it came in, then as a float into another module."""

    name: str
    arg: int
    like: int
    first: str = ""
    between: str = ""

    def go(self, w: Any, p: Program, v: list[Any]) -> None:
        x = w.call(p.get_submodule(self.first), v[self.arg]) if self.first else v[self.arg]
        x = w.fn("like", x, v[self.like])
        x = w.fn(self.between, x) if self.between else x
        v.append(w.fn("sin", w.call(p.get_submodule(self.name), x)))


@dataclass(frozen=True)
class Chain:
    """Calls one after the other, then a function."""

    names: tuple[str, ...]
    arg: int
    then: str
    between: str = ""

    def go(self, w: Any, p: Program, v: list[Any]) -> None:
        x = v[self.arg]
        for i, name in enumerate(self.names):
            x = w.call(p.get_submodule(name), w.fn(self.between, x) if self.between and i else x)
        v.append(w.fn(self.then, x))


@dataclass(frozen=True)
class Scale:
    """A value times a number that a module makes of another."""

    name: str
    arg: int
    other: int

    def go(self, w: Any, p: Program, v: list[Any]) -> None:
        v.append(w.fn("scaled", v[self.arg], w.call(p.get_submodule(self.name), v[self.other])))


@dataclass(frozen=True)
class Gated:
    """A zero parameter of the program itself scales what is added."""

    index: int
    args: tuple[int, int]

    def go(self, w: Any, p: Program, v: list[Any]) -> None:
        x, y = (v[i] for i in self.args)
        if isinstance(w, Numbers):
            v.append(w.gate("", x, y, p.gates[self.index]))
        else:
            v.append(w.gate(f"{w.path_of(p)}.gates.{self.index}", x, y))


@dataclass(frozen=True)
class Split:
    """The rows of a stacked or interleaved value."""

    arg: int
    layout: str
    k: int
    merge: bool

    def go(self, w: Any, p: Program, v: list[Any]) -> None:
        parts = w.split(v[self.arg], self.layout, self.k)
        if self.merge:
            v.append(w.fn("merge", *parts))
        else:
            v.extend(parts)


@dataclass(frozen=True)
class InPlace:
    """A value is changed where it lies."""

    op: str
    args: tuple[int, ...]

    def go(self, w: Any, p: Program, v: list[Any]) -> None:
        w.inplace(self.op, v, *self.args)


@dataclass(frozen=True)
class InPlacePart:
    """The first of the rows that each sample has is changed where it lies."""

    target: int
    other: int
    layout: str
    k: int

    def go(self, w: Any, p: Program, v: list[Any]) -> None:
        if isinstance(w, Numbers):
            w.inplace_part(v, self.target, self.other, self.layout, self.k)
        else:
            w.inplace_part(v, self.target, self.other)


@dataclass(frozen=True)
class Ignored:
    """A module works in place, and what it returns is left."""

    name: str
    target: int

    def go(self, w: Any, p: Program, v: list[Any]) -> None:
        w.call_ignored(p.get_submodule(self.name), v, self.target)


@dataclass(frozen=True)
class Branch:
    """Steps that run only if a condition is ``when``; else a function of the first argument."""

    flag: str
    when: bool
    args: tuple[int, ...]
    steps: tuple[Any, ...]

    def go(self, w: Any, p: Program, v: list[Any]) -> None:
        local = [v[i] for i in self.args]
        if w.flag(self.flag) is not self.when:
            v.append(w.fn("fallback", local[0]))
            return
        for step in self.steps:
            step.go(w, p, local)
        v.append(local[-1])


@dataclass(frozen=True)
class Loop:
    """A module is called three times or once."""

    flag: str
    when: bool
    name: str
    arg: int

    def go(self, w: Any, p: Program, v: list[Any]) -> None:
        x = v[self.arg]
        for _ in range(3 if w.flag(self.flag) is self.when else 1):
            x = w.fn("sin", w.call(p.get_submodule(self.name), x))
        v.append(x)


@dataclass(frozen=True)
class Shortened:
    """The output of a call has another shape if a condition flips."""

    flag: str
    when: bool
    name: str
    arg: int

    def go(self, w: Any, p: Program, v: list[Any]) -> None:
        whole = w.flag(self.flag) is self.when
        v.append(w.fn("pad", w.call(p.get_submodule(self.name), v[self.arg], whole), v[self.arg]))


@dataclass(frozen=True)
class Attempt:
    """A module raises, always or if a condition flips, and the exception is caught."""

    name: str
    arg: int
    flag: str
    when: bool

    def go(self, w: Any, p: Program, v: list[Any]) -> None:
        fails = True if not self.flag else w.flag(self.flag) is self.when
        v.append(w.attempt(p.get_submodule(self.name), v[self.arg], fails))
