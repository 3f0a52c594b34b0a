"""What random wirings have beside plain layers: zero gates, state, chance, NaN, integers, conditions, containers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tests.tracing import wiring_parts as parts
from tests.tracing import wiring_steps as steps
from tests.tracing.wiring_builder import Builder, Info, linear
from tests.tracing.wiring_world import Sym

CORE = ("function", "layer", "inplace", "nested", "stack", "interleave", "conditional")
OTHERS = (
    *("elementwise", "sequential", "tokens", "attention", "timeline", "split", "symmetric", "gate", "dead", "weak"),
    *("noise", "cache", "memo", "ema", "nan", "integers", "loop", "shortened", "caught", "failing", "block", "aliased"),
)
INSIDE_BLOCK = ("layer", "function", "nested", "elementwise", "noise", "conditional", "function", "gate")
INSIDE_BRANCH = ("layer", "layer", "function", "nested", "noise")


class Features(Builder):
    """Every method draws one feature; False where no value fits."""

    def draw_one(self, features: Sequence[str]) -> bool:
        """Add one of these features."""
        return getattr(self, self.draw.choice(features))()

    # ------------------------------------------------------- what hides or shrinks

    def gate(self) -> bool:
        """A zero parameter: wired, but nothing passes."""
        both = self.several(2, loss=self.limit - 2)
        if both is None:
            return False
        x, y = both
        kind = self.draw.choice(("module", "parameter", "linear", "conv", "after"))
        if kind == "module":
            return self.add(self._call(lambda: parts.Gate(self.draw.choice((1, self.width))), x, y), x, y, loss=2)
        if kind == "parameter":
            self.program.gates.append(nn.Parameter(torch.zeros(1)))
            return self.add(steps.Gated(len(self.program.gates) - 1, (x, y)), x, y, loss=2)
        make = {
            "linear": lambda: parts.ZeroLinear(self.width, True),
            "after": lambda: parts.ZeroLinear(self.width, False),
            "conv": lambda: parts.ZeroConv(self.width),
        }[kind]
        self.add(self._call(make, y), y, loss=2, flat=True)
        zero = len(self.values) - 1
        if kind == "after":
            self.add(steps.Call(self.layer_name(), (zero,)), zero, flat=True)
            zero = len(self.values) - 1
        return self.add(steps.Fn("add", (x, zero)), x, zero)

    def dead(self) -> bool:
        """Something times zero: not even wired."""
        both = self.several(2)
        if both is None:
            return False
        x, y = both
        kind = self.draw.choice(("module", "function", "zero"))
        if kind == "module":
            return self.add(self._call(parts.Dead, x, y), x)
        if kind == "function":
            return self.add(steps.Fn("dead", (x, y)), x)
        self.add(steps.Fn("zero", (y,)), flat=True)
        zero = len(self.values) - 1
        return self.add(steps.Call(self.layer_name(), (zero,), "sin"), zero, flat=True)

    def weak(self) -> bool:
        """A very small effect."""
        x = self.pick()
        y = self.pick(like=x, other=(x,), loss=0) if x is not None else None
        if x is None or y is None:
            return False
        step = self._call(parts.Weak, x, y) if self.coin() else steps.Fn("weak", (x, y))
        self.add(step, x, y)
        self.infos[-1].loss = max(self.infos[x].loss, 5)
        return True

    # ------------------------------------------------------------- chance and state

    def noise(self) -> bool:
        x = self.pick()
        if x is None:
            return False
        if self.coin():
            return self.add(steps.Fn("dropout", (x,)), x)
        return self.add(self._call(lambda: parts.Noise(self.coin()), x), x)

    def cache(self) -> bool:
        """What one call leaves on the module, the next one reads: in this forward, not in the next."""
        store = self.draw.choice(("attribute", "list", "dict", "count"))
        return self._stateful(lambda: parts.Recall(store))

    def memo(self) -> bool:
        x = self.pick(plain=True, loss=0)
        y = self.pick(plain=True, loss=0)
        if x is None or y is None or any(isinstance(part, parts.Memo) for part in self.program.parts):
            return False
        call = self._call(lambda: parts.Memo(self.width), x)
        self.add(call, x, y, alias=0)
        return self.coin() or self.add(steps.Call(call.name, (y,)), x, y, alias=0)

    def ema(self) -> bool:
        first, parameter = self.coin(), self.coin()
        return self._stateful(lambda: parts.Ema(self.width, first, parameter))

    def _stateful(self, make: object) -> bool:
        x = self.pick(plain=True, loss=0, wide=True)
        return x is not None and self.add(self._call(make, x, again=0.7), x)

    # ---------------------------------------------------------------- odd values

    def nan(self) -> bool:
        """A call whose output holds NaN, by choice another that passes it on."""
        x = self.pick(wide=True)
        if x is None:
            return False
        names = [self.part(parts.NanLog)]
        if self.coin():
            names.append(self.part(nn.Tanh))
        return self.add(steps.Chain(tuple(names), x, "clean"), x, narrow=True)

    def integers(self) -> bool:
        """Booleans or integers made of floats."""
        x = self.pick(loss=0)
        if x is None:
            return False
        whole = self.coin()
        first = self.part(parts.Whole if whole else parts.Bits)
        second = self.part(lambda: linear(self.width * (1 if whole else 12), self.width), 0.0)
        step = steps.Cast(second, x, x, first, "unwhole" if whole else "")
        return self.add(step, x, narrow=False)

    # ------------------------------------------------------------------ conditions

    def conditional(self) -> bool:
        """Steps that run only if a statistic of a modality is positive."""
        count = self.draw.choice((1, 2))
        chosen = self.several(count, apart=True, wide=True, loss=self.limit - 2)
        if chosen is None:
            return False
        inner = self._inside(chosen)
        for _ in range(self.draw.choice((0, 1, 1, 2))):
            inner.draw_one(INSIDE_BRANCH)
        last = len(inner.values) - 1
        own = self.coin()
        name = self.part(lambda: linear(self.width, self.width), 0.0) if own else self.layer_name()
        inner.add(steps.Call(name, (last,), "sin"), last, narrow=False)
        step = steps.Branch(self.flag(), self.coin(), tuple(chosen), tuple(inner.steps))
        self.add(step, *chosen, narrow=False)
        self.infos[-1].loss = max(info.loss for info in inner.infos)
        return True

    def loop(self) -> bool:
        """A module that is called more often if a condition holds."""
        x = self.pick(wide=True)
        if x is None:
            return False
        own = self.coin()
        name = self.part(lambda: linear(self.width, self.width), 0.0) if own else self.layer_name()
        return self.add(steps.Loop(self.flag(), self.coin(), name, x), x)

    def shortened(self) -> bool:
        x = self.pick(wide=True)
        return x is not None and self.add(
            steps.Shortened(self.flag(), self.coin(), self.part(parts.Cut), x), x, narrow=True
        )

    def caught(self) -> bool:
        """A module that raises; what ran inside it is there."""
        return self._attempt("")

    def failing(self) -> bool:
        """A module that raises if a condition holds."""
        return self._attempt(self.flag())

    def _attempt(self, flag: str) -> bool:
        x = self.pick(wide=True)
        if x is None:
            return False

        def make() -> nn.Module:
            inner = parts.Raises(linear(self.width, self.width))
            return parts.Raises(inner) if self.coin() else inner

        return self.add(steps.Attempt(self.part(make), x, flag, self.coin()), x)

    # ------------------------------------------------------------------ containers

    def block(self) -> bool:
        """A container with steps of its own, new or called again."""
        known = [i for i, part in enumerate(self.program.parts) if isinstance(part, steps.Block)]
        if known and self.coin():
            number = self.draw.choice(known)
        else:
            block = steps.Block(self.draw.choice((1, 2)), self.coin())
            inner = Features(self.draw, block, self.width, self.flags, 2)
            for i in range(block.count):
                inner.give(Sym((inner.world.terms.source(f"argument {i}"),)))
            for _ in range(2 + self.draw.randrange(3)):
                while not inner.draw_one(INSIDE_BLOCK):
                    pass
            inner.layer()
            block.steps, block.loss = tuple(inner.steps), max(info.loss for info in inner.infos)
            self.program.parts.append(block)
            number = len(self.program.parts) - 1
        block = self.program.parts[number]
        chosen = self.several(block.count, apart=True, wide=True, loss=self.limit - block.loss)
        if chosen is None:
            return False
        places = (("x",), ("seen", 0)) if block.nested else ((),)
        step = steps.Call(f"parts.{number}", tuple(chosen), "sin", places=places)
        return self.add(step, *chosen, loss=block.loss, narrow=block.nested)

    def aliased(self) -> bool:
        """A module under two names."""
        if not hasattr(self.program, "alias"):
            self.program.alias = self.program.lin[0]
        x = self.pick()
        return x is not None and self.add(steps.Call("alias", (x,), "sin"), x, narrow=False)

    # --------------------------------------------------------------------- helpers

    def _call(self, make: object, *args: int, again: float = 0.4) -> steps.Call:
        return steps.Call(self.part(make, again), args, named=len(args) == 2 and self.coin())

    def _inside(self, chosen: list[int]) -> Features:
        inner = Features(self.draw, self.program, self.width, self.flags, self.limit - 2)
        for i in chosen:
            inner.give(self.values[i], "rows", self.infos[i])
        return inner


__all__ = ["CORE", "OTHERS", "Features", "Info"]
