"""Draw the steps of a random wiring.

What is drawn must show in the numbers: a call that depends on a modality by its wiring must do so by its values too,
but for odds that do not matter. So values carry what was lost on the way (``Info``), and steps ask for values that bear
them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from tests.tracing import wiring_parts as parts
from tests.tracing import wiring_steps as steps
from tests.tracing.wiring_steps import Program
from tests.tracing.wiring_world import Sym, Terms, World

PINNED = 0


@dataclass
class Info:
    """What is known of a value while steps are drawn.

    ``loss``: decimal digits by which an effect may have shrunk; ``flat``: some rows may be constant; ``narrow``: an
    effect may show in one unit only; ``alias``: the memory it lies in.
    """

    alias: int
    kind: str = "rows"
    loss: int = 0
    flat: bool = False
    narrow: bool = False


class Builder:
    """Adds steps to a program, and runs each at once on symbols."""

    def __init__(self, draw: random.Random, program: Program, width: int, flags: list[str], limit: int) -> None:
        self.draw, self.program, self.width, self.flags, self.limit = draw, program, width, flags, limit
        self.world = World(Terms())
        self.values: list[Sym] = []
        self.infos: list[Info] = []
        self.steps: list[object] = []
        self._aliases = PINNED
        for name, count, factor in (("lin", 3, 1), ("wide", 2, 2)):
            if not hasattr(program, name):
                setattr(program, name, nn.ModuleList(linear(factor * width, width) for _ in range(count)))

    # ------------------------------------------------------------------ values

    def give(self, value: Sym, kind: str = "rows", like: Info | None = None) -> None:
        """Start with a value."""
        self.values.append(value)
        self.infos.append(Info(self.alias(), kind, *((like.loss, like.flat, like.narrow) if like else ())))

    def alias(self) -> int:
        """A new place in memory."""
        self._aliases += 1
        return self._aliases

    def add(
        self, step: object, *args: int, loss: int = 0, flat: bool = False, narrow: bool | None = None, alias: int = -1
    ) -> bool:
        """Append a step that makes values of the values ``args``."""
        before = len(self.values)
        step.go(self.world, self.program, self.values)  # ty: ignore[unresolved-attribute]
        self.steps.append(step)
        used = [self.infos[i] for i in args]
        for _ in self.values[before:]:
            self.infos.append(
                Info(
                    self.alias() if alias < 0 else alias,
                    loss=max((info.loss for info in used), default=0) + loss,
                    flat=flat,
                    narrow=any(info.narrow for info in used) if narrow is None else narrow,
                )
            )
        return True

    def pick(
        self,
        *,
        like: int | None = None,
        other: tuple[int, ...] = (),
        plain: bool = False,
        apart: bool = False,
        live: bool = True,
        wide: bool = False,
        loss: int | None = None,
        own: bool = False,
    ) -> int | None:
        """Draw a value.

        ``like``: of the same rows as this one; ``other``: of other terms than these; ``plain``: one row per sample;
        ``apart``: rows that do not interact; ``live``: not flat; ``wide``: not narrow; ``loss``: this at most;
        ``own``: nothing else lies in its memory.
        """
        found = []
        for i, (value, info) in enumerate(zip(self.values, self.infos, strict=True)):
            same = like is None or rows_of(value) == rows_of(self.values[like])
            unlike = all(i != j and not set(value.parts) & set(self.values[j].parts) for j in other)
            alone = info.alias != PINNED and sum(one.alias == info.alias for one in self.infos) == 1
            if (
                info.kind == "rows"
                and same
                and unlike
                and not (plain and value.layout != "plain")
                and not (apart and value.coupled)
                and not (live and info.flat)
                and not (wide and info.narrow)
                and info.loss <= (self.limit if loss is None else loss)
                and (alone or not own)
            ):
                found.append(i)
        # Late values more often than early ones, so that wirings get deep.
        return self.draw.choice(found + found[-3:]) if found else None

    def several(self, count: int, **wanted: object) -> list[int] | None:
        """Draw ``count`` values of the same rows; None if there are none."""
        first = self.pick(**wanted)  # ty: ignore[invalid-argument-type]
        if first is None:
            return None
        rest = [self.pick(like=first, other=(first,), **wanted) for _ in range(count - 1)]  # ty: ignore
        return None if None in rest else [first, *rest]  # ty: ignore[invalid-return-type]

    def part(self, make: Callable[[], nn.Module], again: float = 0.4) -> str:
        """The name of a new module, or by chance of one of its type and shapes that is there."""
        new = make()
        known = [i for i, module in enumerate(self.program.parts) if form_of(module) == form_of(new)]
        if known and self.draw.random() < again:
            return f"parts.{self.draw.choice(known)}"
        self.program.parts.append(new)
        return f"parts.{len(self.program.parts) - 1}"

    def layer_name(self) -> str:
        """A linear layer of those that are used again and again."""
        if hasattr(self.program, "alias") and self.draw.random() < 0.2:
            return "alias"
        return f"lin.{self.draw.randrange(len(self.program.lin))}"  # ty: ignore[invalid-argument-type]

    def flag(self) -> str:
        """The name of a condition: two in three flip."""
        name = self.draw.choice(self.flags)
        return name if self.draw.random() < 0.67 else f"always:{name}"

    def coin(self) -> bool:
        """True or False."""
        return self.draw.random() < 0.5

    # ---------------------------------------------------------- plain features

    def layer(self) -> bool:
        x = self.pick(live=False)
        if x is None:
            return False
        then = self.draw.choice(("sin", "tanh", "sin", "tanh", ""))
        return self.add(steps.Call(self.layer_name(), (x,), then), x, flat=self.infos[x].flat, narrow=False)

    def function(self) -> bool:
        """Functional fusion."""
        both = self.several(2)
        if both is None:
            return False
        op = self.draw.choice(("add", "mul", "cat"))
        if op == "cat":
            name = f"wide.{self.draw.randrange(len(self.program.wide))}"  # ty: ignore[invalid-argument-type]
            return self.add(steps.Call(name, tuple(both), "sin", joined="cat"), *both, narrow=False)
        return self.add(steps.Fn(op, tuple(both)), *both)

    def nested(self) -> bool:
        kind = self.draw.choice(("nested", "parallel", "exchange"))
        both = self.several(2, wide=kind == "exchange")
        if both is None:
            return False
        if kind == "nested":
            name, places = self.part(parts.Nested), (("first",), ("rest", 1))
            return self.add(steps.Call(name, tuple(both), places=places, named=self.coin()), *both)
        make = parts.Exchange if kind == "exchange" else lambda: parts.Parallel(self.width)
        step = steps.Call(self.part(make), tuple(both), places=((0,), (1,)), listed=True)
        return self.add(step, *both, narrow=kind == "exchange")

    def elementwise(self) -> bool:
        x = self.pick()
        if x is None:
            return False
        kind = self.draw.choice(("norm", "identity", "tanh", "clone"))
        if kind == "clone":
            return self.add(steps.Fn("clone", (x,)), x)
        make = {"norm": lambda: nn.LayerNorm(self.width), "identity": nn.Identity, "tanh": nn.Tanh}[kind]
        then = "sin" if kind == "norm" else ""
        alias = self.infos[x].alias if kind == "identity" else -1
        return self.add(steps.Call(self.part(make), (x,), then), x, alias=alias)

    def sequential(self) -> bool:
        """A container, inside which an activation works in place."""
        x = self.pick()
        if x is None:
            return False
        w = self.width
        name = self.part(lambda: nn.Sequential(linear(w, w), nn.LeakyReLU(0.3, inplace=True), linear(w, w)), 0.6)
        return self.add(steps.Call(name, (x,), "sin"), x, narrow=False)

    def tokens(self) -> bool:
        """Values side by side on an axis of their own, a layer, the mean."""
        both = self.several(2)
        return both is not None and self.add(
            steps.Call(self.layer_name(), tuple(both), "mean1", joined="tokens"), *both, narrow=False
        )

    def attention(self) -> bool:
        keys = self.several(2, loss=0)
        query = self.pick(like=keys[0], loss=self.limit - 1) if keys else None
        if keys is None or query is None:
            return False
        name = self.part(lambda: nn.MultiheadAttention(self.width, 1, batch_first=True))
        return self.add(steps.Attend(name, (query, *keys)), query, *keys, loss=1, narrow=False)

    def timeline(self) -> bool:
        """A recurrent layer over values in a row, time first."""
        values = self.several(self.draw.choice((2, 3, 3, 4)), loss=self.limit - 2)
        if values is None:
            return False
        kind = self.draw.choice((nn.LSTM, nn.GRU))
        name, then = self.part(lambda: kind(self.width, self.width)), self.draw.choice(("mean0", "last"))
        step = steps.Call(name, tuple(values), then, joined="timeline", places=((0,),))
        return self.add(step, *values, loss=2 if then == "last" else 1, narrow=False)

    # ------------------------------------------------------------------ rows

    def stack(self) -> bool:
        return self._stack("stack")

    def interleave(self) -> bool:
        return self._stack("interleave")

    def _stack(self, op: str) -> bool:
        count = self.draw.choice((2, 2, 3))
        chosen = self.several(count, plain=True, apart=True, live=False)
        chosen = chosen or self.several(2, plain=True, apart=True, live=False)
        if chosen is None:
            return False
        self.add(steps.Fn(op, tuple(chosen)), *chosen, flat=any(self.infos[i].flat for i in chosen))
        x = len(self.values) - 1
        flat, then = self.infos[x].flat, self.draw.choice(("sin", "tanh"))
        return self.add(steps.Call(self.layer_name(), (x,), then), x, flat=flat, narrow=False)

    def split(self) -> bool:
        stacked = [i for i, value in enumerate(self.values) if len(value.parts) > 1]
        if not stacked:
            return False
        x = self.draw.choice(stacked)
        value, info, merge = self.values[x], self.infos[x], self.coin()
        alias = -1 if merge else info.alias
        return self.add(steps.Split(x, value.layout, len(value.parts), merge), x, flat=info.flat, alias=alias)

    def inplace(self) -> bool:
        kind = self.draw.choice(("sin_", "scale_", "add_", "add_", "data_", "column_", "part", "ignored"))
        x = self.pick(own=True, wide=kind == "column_", apart=kind == "part")
        if x is None:
            return False
        if kind == "part" and self.values[x].layout == "plain":
            kind = "scale_"
        if kind == "ignored":
            return self.add(steps.Ignored(self.part(lambda: nn.LeakyReLU(0.3, inplace=True)), x))
        if kind in ("sin_", "scale_"):
            return self.add(steps.InPlace(kind, (x,)))
        value, part = self.values[x], kind == "part"
        y = self.pick(like=None if part else x, other=(x,), plain=part, apart=part, wide=kind == "column_")
        if y is None:
            return False
        info = self.infos[x]
        info.loss, info.narrow = max(info.loss, self.infos[y].loss), info.narrow or kind == "column_"
        if part:
            return self.add(steps.InPlacePart(x, y, value.layout, len(value.parts)))
        return self.add(steps.InPlace(kind, (x, y)))

    def symmetric(self) -> bool:
        """Rows interact, in a way that the order of the samples does not change."""
        x = self.pick(plain=True, apart=True)
        if x is None:
            return False
        kind = self.draw.choice(("center", "mean", "scalar", "function"))
        if kind == "function":
            return self.add(steps.Fn("batch_mean", (x,)), x)
        if kind == "scalar":
            y = self.pick(plain=True)
            self.program.parts.append(parts.BatchMean(True))
            name = f"parts.{len(self.program.parts) - 1}"
            return y is not None and self.add(steps.Scale(name, y, x), x, y)
        make = parts.Center if kind == "center" else lambda: parts.BatchMean(False)
        return self.add(steps.Call(self.part(make, 0.0), (x,)), x)


def linear(width_in: int, width: int) -> nn.Linear:
    """A linear layer that keeps effects alive."""
    layer = nn.Linear(width_in, width)
    nn.init.orthogonal_(layer.weight, 1.2)
    return layer


def form_of(module: nn.Module) -> tuple[object, ...]:
    """What two modules must share to take each other's place."""
    return type(module), *(parameter.shape for parameter in module.parameters())


def rows_of(value: Sym) -> tuple[str, int]:
    """How the rows of a value lie."""
    return value.layout, len(value.parts)
