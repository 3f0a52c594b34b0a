"""Run a wiring on symbols instead of numbers: what every tensor of every call is made of, in one imagined run.

A tensor is one term per row that a sample has. A term is an integer that stands for an operation and its arguments, so
two terms are equal exactly if the same operations were applied to the same inputs. Whether a call depends on a modality
is then whether its terms differ between the world as it is and a world in which that modality is another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

Key = tuple[str, int]


@dataclass(frozen=True)
class Sym:
    """A tensor: ``parts`` are the terms of the rows that each sample has, in the order of ``layout``.

    ``coupled``: every row follows every sample. A tensor without rows has the layout "scalar".
    """

    parts: tuple[int, ...]
    layout: str = "plain"
    coupled: bool = False
    floating: bool = True


@dataclass
class Ran:
    """One call of one module in one world; a call that raised has no outputs."""

    key: Key
    parent: Key | None
    inputs: dict[str, Sym]
    outputs: dict[str, Sym] = field(default_factory=dict)
    children: int = 0


class Raised(Exception):
    """Stands for the exception that a module raises."""


class Terms(dict[tuple[str | int, ...], int]):
    """The terms of all worlds of one wiring; ``live`` are those that an input went into."""

    def __init__(self) -> None:
        super().__init__()
        self.live: set[int] = set()

    def of(self, op: str, *args: int) -> int:
        """Return the number of this operation on these arguments."""
        term = self.setdefault((op, *args), len(self))
        if not self.live.isdisjoint(args):
            self.live.add(term)
        return term

    def source(self, name: str) -> int:
        """Return the number of an input."""
        term = self.of(name)
        self.live.add(term)
        return term


def leaves(nest: Any, prefix: str = "") -> dict[str, Sym]:
    """The symbols in a nest by their place."""
    if isinstance(nest, Sym):
        return {prefix: nest}
    items: Iterable[tuple[object, Any]] = ()
    if isinstance(nest, Mapping):
        items = nest.items()
    elif isinstance(nest, list | tuple):
        items = enumerate(nest)
    return {p: s for key, value in items for p, s in leaves(value, f"{prefix}.{key}" if prefix else str(key)).items()}


def replaced(nest: Any, new: Mapping[str, Sym], prefix: str = "") -> Any:
    """The same nest with the symbols at some places replaced."""
    if isinstance(nest, Sym):
        return new.get(prefix, nest)
    if isinstance(nest, Mapping):
        return {k: replaced(v, new, f"{prefix}.{k}" if prefix else str(k)) for k, v in nest.items()}
    if isinstance(nest, list | tuple):
        return type(nest)(replaced(v, new, f"{prefix}.{i}" if prefix else str(i)) for i, v in enumerate(nest))
    return nest


class World:
    """One imagined run: with one modality ``changed``, with zero parameters ``noised``, with outputs edited.

    ``edit`` maps the key of a call to places and the parts of them that another value takes.
    """

    def __init__(
        self,
        terms: Terms,
        paths: Mapping[int, str] | None = None,
        *,
        changed: str | None = None,
        noised: bool = True,
        edit: Mapping[Key, Mapping[str, tuple[int, ...]]] | None = None,
    ) -> None:
        self.terms, self.paths, self.changed, self.noised, self.edit = terms, paths, changed, noised, edit or {}
        self.calls: dict[Key, Ran] = {}
        self.state: dict[str, Any] = {}
        self._counts: dict[str, int] = {}
        self._stack: list[Ran] = []

    # ------------------------------------------------------------ what steps use

    def source(self, modality: str, name: str, floating: bool = True) -> Sym:
        """A tensor of a modality, as it comes in."""
        changed = "another " if self.changed == modality else ""
        return Sym((self.terms.source(f"{changed}input {modality}.{name}"),), floating=floating)

    def flag(self, name: str) -> bool:
        """The condition ``name``: that of a modality flips whenever the modality changes, the others hold always."""
        return name != self.changed

    def rows(self, op: str, *args: Sym) -> Sym:
        """A function that treats every row alike and alone."""
        like = next((arg for arg in args if arg.layout != "scalar"), args[0])
        columns = [arg.parts * len(like.parts) if arg.layout == "scalar" else arg.parts for arg in args]
        assert {arg.layout for arg in args} <= {like.layout, "scalar"}
        parts = tuple(self.terms.of(op, *terms) for terms in zip(*columns, strict=True))
        coupled = any(arg.coupled for arg in args)
        # Where rows interact, which of them belong together cannot be seen; no wiring stacks such rows.
        assert not coupled or len(set(parts)) == 1
        return Sym(parts, like.layout, coupled)

    def batch(self, op: str, x: Sym, layout: str = "plain") -> Sym:
        """A function in which the rows of a plain tensor interact."""
        assert len(x.parts) == 1
        term = self.terms.of(op, *x.parts)
        return Sym((term,), layout, term in self.terms.live)

    def constant(self, op: str, like: Sym) -> Sym:
        """Rows that no input reaches."""
        return Sym((self.terms.of(op),) * len(like.parts), like.layout)

    def draw(self, store: str, size: Sym) -> Sym:
        """Random numbers, one for each row of ``size``; they depend on how many were drawn before."""
        before = self.state.get(store, self.terms.of("generator", store))
        k = len(size.parts)
        self.state[store] = self.terms.of(f"drawn {k}", before)
        return Sym(tuple(self.terms.of(f"random {i}", before) for i in range(k)), size.layout)

    def fn(self, op: str, *args: Sym) -> Sym:
        """A function of the program's own code."""
        x = args[0]
        if op in ("stack", "interleave"):
            layout = {"stack": "stacked", "interleave": "interleaved"}[op]
            return Sym(tuple(term for arg in args for term in arg.parts), layout)
        if op in ("dead", "clone"):
            return x
        if op == "like":
            return self.rows(op, x)
        if op == "zero":
            return self.constant(op, x)
        if op == "batch_mean":
            return self.batch(op, x)
        if op == "dropout":
            return self.rows(op, x, self.draw("global", x))
        return self.rows(op, *args)

    def gate(self, name: str, x: Sym, y: Sym) -> Sym:
        """``x`` plus a zero parameter times ``y``."""
        return self.rows(name, x, y) if self.noised else x

    def split(self, x: Sym, layout: str, k: int) -> list[Sym]:
        """The rows of a stacked or interleaved tensor, one plain tensor for each."""
        assert x.layout == layout
        assert len(x.parts) == k
        return [Sym((term,)) for term in x.parts]

    def inplace(self, op: str, values: list[Sym], target: int, *others: int) -> None:
        """Change a value where it lies."""
        values[target] = self.rows(op, values[target], *(values[i] for i in others))

    def inplace_part(self, values: list[Sym], target: int, other: int) -> None:
        """Change the first of the rows that each sample has."""
        x, y = values[target], values[other]
        values[target] = replace(x, parts=(self.terms.of("part", x.parts[0], y.parts[0]), *x.parts[1:]))

    def call_ignored(self, module: nn.Module, values: list[Sym], target: int) -> None:
        """Call a module that works in place, and leave what it returns."""
        values[target] = self.call(module, values[target])

    def attempt(self, module: nn.Module, x: Sym, fails: bool) -> Sym:
        """Call a module that may raise; the exception is caught."""
        try:
            return self.call(module, x, fails)
        except Raised:
            return self.rows("fallback", x)

    def call(self, module: nn.Module, *args: Any, **named: Any) -> Any:
        """Call a module: record it as the tracer would."""
        path = self.path_of(module)
        index = self._counts.get(path, 0)
        self._counts[path] = index + 1
        parent = self._stack[-1] if self._stack else None
        if parent is not None:
            parent.children += 1
        ran = self.calls[path, index] = Ran(
            (path, index), parent.key if parent else None, leaves({**dict(enumerate(args)), **named})
        )
        self._stack.append(ran)
        try:
            out = self._infer(module, path, *args, *named.values())
        finally:
            self._stack.pop()
        ran.outputs = leaves(out)
        if ran.key in self.edit:
            chosen = self.edit[ran.key]
            return replaced(out, {p: self._edited(s, chosen[p]) for p, s in ran.outputs.items() if p in chosen})
        return out

    def path_of(self, module: nn.Module) -> str:
        """The module's first path; while a wiring is built it has none yet."""
        return str(id(module)) if self.paths is None else self.paths[id(module)]

    # ------------------------------------------------------------------ helpers

    def _infer(self, module: nn.Module, path: str, *args: Any) -> Any:
        if hasattr(module, "infer"):
            return module.infer(self, *args)
        if isinstance(module, nn.Sequential):
            for child in module:
                args = (self.call(child, *args),)
        if isinstance(module, nn.Identity | nn.Sequential):
            return args[0]
        op = path if any(True for _ in module.parameters()) else type(module).__name__
        if isinstance(module, nn.LSTM):
            return self.rows(op, *args), (self.rows(f"{op}.h", *args), self.rows(f"{op}.c", *args))
        if isinstance(module, nn.GRU):
            return self.rows(op, *args), self.rows(f"{op}.h", *args)
        if isinstance(module, nn.MultiheadAttention):
            return self.rows(op, *args), self.rows(f"{op}.weights", *args)
        return self.rows(op, *args)

    def _edited(self, sym: Sym, parts: tuple[int, ...]) -> Sym:
        new = (self.terms.of("edited", term) if i in parts else term for i, term in enumerate(sym.parts))
        return replace(sym, parts=tuple(new))
