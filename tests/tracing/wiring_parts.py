"""The modules of random wirings: each says beside ``forward`` what its output is made of (``infer``)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.tracing.wiring_world import Raised, Sym, World


class Nested(nn.Module):
    """A nested output, of which the first entry sees the first input only."""

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        return {"first": (x + 0.4).cos(), "note": "text", "rest": (None, x * 0.3 + y)}

    def infer(self, w: World, x: Sym, y: Sym) -> dict[str, Any]:
        return {"first": w.rows("first", x), "note": "text", "rest": (None, w.rows("rest", x, y))}


class Parallel(nn.Module):
    """A list to a list of the same length, with the same weight for each tensor."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(width, width), 1.2))

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        return [(x @ self.weight).sin() for x in xs]

    def infer(self, w: World, xs: list[Sym]) -> list[Sym]:
        return [w.rows(w.path_of(self), x) for x in xs]


class Exchange(nn.Module):
    """Two tensors swap their last unit."""

    def forward(self, xs: list[Tensor]) -> tuple[Tensor, Tensor]:
        x, y = xs
        return torch.cat([x[:, :-1], y[:, -1:]], 1), torch.cat([y[:, :-1], x[:, -1:]], 1)

    def infer(self, w: World, xs: list[Sym]) -> tuple[Sym, Sym]:
        return w.rows("swap", *xs), w.rows("swap", *reversed(xs))


class Gate(nn.Module):
    """A residual whose scale starts at zero, one for all units or one for each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.scale * y

    def infer(self, w: World, x: Sym, y: Sym) -> Sym:
        return w.gate(w.path_of(self), x, y)


class ZeroLinear(nn.Linear):
    """A linear layer that starts at zero, by choice with a bias."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__(width, width)
        nn.init.zeros_(self.weight)
        if not bias:
            nn.init.zeros_(self.bias)

    def infer(self, w: World, x: Sym) -> Sym:
        path = w.path_of(self)
        return w.rows(path, x) if w.noised else w.constant(path, x)


class ZeroConv(nn.Conv1d):
    """A 1x1 convolution that starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 1)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[..., None])[..., 0]

    infer = ZeroLinear.infer


class Dead(nn.Module):
    """An input that is multiplied by zero."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x.sin() + 0.0 * y

    def infer(self, w: World, x: Sym, y: Sym) -> Sym:
        return w.rows("sin", x)


class Weak(nn.Module):
    """An input whose effect is very small."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x.sin() + 1e-5 * y


class Center(nn.Module):
    """Rows minus their mean over the batch, the same to the last bit for any order of the samples."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.sort(0).values.mean(0, keepdim=True)

    def infer(self, w: World, x: Sym) -> Sym:
        return w.batch("Center", x)


class BatchMean(nn.Module):
    """The mean over the batch in every row, or one number."""

    def __init__(self, scalar: bool) -> None:
        super().__init__()
        self.scalar = scalar

    def forward(self, x: Tensor) -> Tensor:
        ordered = x.sort(0).values
        return ordered.mean() if self.scalar else ordered.mean(0, keepdim=True).expand_as(x).clone()

    def infer(self, w: World, x: Sym) -> Sym:
        return w.batch("scalar", x, "scalar") if self.scalar else w.batch("batch_mean", x)


class Noise(nn.Module):
    """Dropout that is left on and some noise, from the global generator or from one of its own."""

    def __init__(self, private: bool) -> None:
        super().__init__()
        seed = int(torch.randint(2**31, ()))
        self.generator = torch.Generator().manual_seed(seed) if private else None

    def forward(self, x: Tensor) -> Tensor:
        if self.generator is not None:
            return x * (1 + torch.rand(x.shape, generator=self.generator, dtype=x.dtype))
        return dropout(x)

    def infer(self, w: World, x: Sym) -> Sym:
        if self.generator is None:
            return w.fn("dropout", x)
        return w.rows("private", x, w.draw(w.path_of(self), x))


def dropout(x: Tensor) -> Tensor:
    """Dropout that is left on; what is added keeps every row alive."""
    return x + F.dropout(x, 0.5, training=True) + 0.1 * torch.rand_like(x)


class Recall(nn.Module):
    """Adds its input of the call before, if there was one; or scales by the number of calls so far."""

    def __init__(self, store: str) -> None:
        super().__init__()
        self.store = store
        self.last: Tensor | None = None
        self.all: list[Tensor] = []
        self.known: dict[str, Tensor] = {}
        self.count = 0

    def forward(self, x: Tensor) -> Tensor:
        last = {"attribute": self.last, "list": self.all[-1] if self.all else None}.get(self.store, self.known.get("x"))
        y = x.sin() if last is None else x.sin() + 0.5 * last
        if self.store == "attribute":
            self.last = x.clone()
        elif self.store == "list":
            self.all.append(x.clone())
        elif self.store == "dict":
            self.known["x"] = x.clone()
        else:
            y = y * (1 + self.count)
            self.count += 1
        return y

    def infer(self, w: World, x: Sym) -> Sym:
        path = w.path_of(self)
        last, w.state[path] = w.state.get(path), x if self.store != "count" else w.state.get(path, 0) + 1
        if self.store == "count":
            return w.rows("sin" if not last else f"sin times {last}", x)
        return w.rows("sin", x) if last is None else w.rows("recall", x, last)


class Memo(nn.Module):
    """Computes once, and gives the same again to whoever asks next."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(width, width)))
        self.known: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if "y" not in self.known:
            self.known["y"] = (x @ self.weight).sin()
        return self.known["y"]

    def infer(self, w: World, x: Sym) -> Sym:
        path = w.path_of(self)
        return w.state.setdefault(path, w.rows(path, x))


class Ema(nn.Module):
    """Scales by a running mean that every call updates, before or after it is read; a buffer or a parameter."""

    def __init__(self, width: int, first: bool, parameter: bool) -> None:
        super().__init__()
        self.first = first
        mean = 1 + 0.5 * torch.rand(width)
        if parameter:
            self.mean = nn.Parameter(mean, requires_grad=False)
        else:
            self.register_buffer("mean", mean)

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take a step towards the mean of ``x``."""
        self.mean.mul_(0.7).add_(x.mean(0), alpha=0.3)

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            self.update(x)
        y = x * self.mean
        if not self.first:
            self.update(x)
        return y

    def infer(self, w: World, x: Sym) -> Sym:
        path = w.path_of(self)
        old = w.state.get(path, w.constant(path, x))
        new = w.state[path] = replaced_mean(w, old, x)
        return w.rows(f"{path}.scale", x, new if self.first else old)


def replaced_mean(w: World, old: Sym, x: Sym) -> Sym:
    """The running mean after one more batch."""
    return w.batch("mean", w.rows("step", old, x))


class NanLog(nn.Module):
    """The logarithm of the first unit: NaN where it is negative."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :1].log(), x[:, 1:]], 1)


class Bits(nn.Module):
    """Booleans: twelve binary digits of each unit."""

    def forward(self, x: Tensor) -> Tensor:
        digits = (x * 4096).long()[..., None] >> torch.arange(12)
        return ((digits & 1) == 1).flatten(1)

    def infer(self, w: World, x: Sym) -> Sym:
        y = w.rows("bits", x)
        return Sym(y.parts, y.layout, y.coupled, floating=False)


class Whole(nn.Module):
    """Integers."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 4096).long()

    infer = Bits.infer


class Raises(nn.Module):
    """Runs what is inside and then raises, by choice."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, fails: bool) -> Tensor:
        y = self.inner(x, fails) if isinstance(self.inner, Raises) else self.inner(x)
        if fails:
            raise ArithmeticError("not today")
        return y.sin()

    def infer(self, w: World, x: Sym, fails: bool) -> Sym:
        y = w.call(self.inner, x, fails) if isinstance(self.inner, Raises) else w.call(self.inner, x)
        if fails:
            raise Raised
        return w.rows("sin", y)


class Cut(nn.Module):
    """Leaves the last unit out, by choice: the shape changes."""

    def forward(self, x: Tensor, whole: bool) -> Tensor:
        return x.sin() if whole else x[:, :-1].sin()

    def infer(self, w: World, x: Sym, whole: bool) -> Sym:
        return w.rows("sin" if whole else "cut", x)
