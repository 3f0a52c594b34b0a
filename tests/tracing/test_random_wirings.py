"""Random wirings: the generator knows which modalities every call sees, and the trace must say the same."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from fusionscope.tracing import _rows, trace

B, D = 5, 7
NAMES = ("a", "b", "c")


class Wiring(nn.Module):
    """A random program over named tensors. Every step is drawn once, then repeated in each forward.

    While ``truth`` is a dict, a forward fills it with what each call must depend on, by call name and slot.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.modalities = NAMES[: draw.choice((2, 3))]
        self.layers = nn.ModuleList(nn.Linear(D, D) for _ in range(6))
        self.wide = nn.ModuleList(nn.Linear(2 * D, D) for _ in range(3))
        self.nested = Nested()
        self.steps: list[tuple] = []
        size = len(self.modalities)
        for _ in range(draw.randint(6, 14)):
            kind = draw.choice(("layer", "layer", "layer", "add", "cat", "stack", "interleave", "inplace", "nested"))
            one, two = draw.randrange(size), draw.randrange(size)
            if kind in ("stack", "interleave") and one == two:
                two = (one + 1) % size
            self.steps.append((kind, one, two, draw.randrange(6), draw.randrange(3)))
            size += {"stack": 2, "interleave": 2, "nested": 2}.get(kind, 1)
        self.truth: dict[str, set[str]] | None = None

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        values = [inputs[name] for name in self.modalities]
        sets: list[set[str]] = [{name} for name in self.modalities]
        counts: dict[str, int] = {}

        def note(path: str, seen: set[str], slot: str = "") -> None:
            if self.truth is not None:
                self.truth[f"{path}#{counts[path]}{slot}"] = set(seen)

        def called(path: str) -> str:
            counts[path] = counts.get(path, -1) + 1
            return path

        for kind, i, j, layer, wide in self.steps:
            if kind == "layer":
                values.append(self.layers[layer](values[i]).tanh())
                sets.append(set(sets[i]))
                note(called(f"layers.{layer}"), sets[-1])
            elif kind == "add":
                values.append(values[i] + 0.5 * values[j])
                sets.append(sets[i] | sets[j])
            elif kind == "cat":
                values.append(self.wide[wide](torch.cat([values[i], values[j]], 1)))
                sets.append(sets[i] | sets[j])
                note(called(f"wide.{wide}"), sets[-1])
            elif kind in ("stack", "interleave"):
                path = called(f"layers.{layer}")
                if kind == "stack":
                    x, y = self.layers[layer](torch.cat([values[i], values[j]])).chunk(2)
                    slots = (f"[0:{B}]", f"[{B}:{2 * B}]")
                else:
                    both = self.layers[layer](torch.stack([values[i], values[j]], 1).flatten(0, 1)).unflatten(0, (B, 2))
                    x, y = both[:, 0], both[:, 1]
                    slots = ("[0::2]", "[1::2]")
                values += [x.sin(), y.sin()]
                sets += [set(sets[i]), set(sets[j])]
                if sets[i] == sets[j]:
                    note(path, sets[i])
                else:
                    note(path, sets[i], slots[0])
                    note(path, sets[j], slots[1])
            elif kind == "inplace":
                changed = values[i].clone()
                changed += values[j].relu()
                values.append(changed)
                sets.append(sets[i] | sets[j])
            else:
                out = self.nested(values[i], values[j])
                values += [out["first"], out["rest"][0]]
                sets += [set(sets[i]), sets[i] | sets[j]]
                path = called("nested")
                if sets[i] == sets[i] | sets[j]:
                    note(path, sets[i], ":first")
                else:
                    note(path, sets[i], ":first")
                    note(path, sets[i] | sets[j], ":rest.0")
        return torch.stack(values).sum(0)


class Nested(nn.Module):
    """A leaf with a nested output, of which the first entry sees the first input only."""

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor | tuple[Tensor]]:
        return {"first": x.cos(), "rest": (x * 0.3 + y,)}


def wrong(seed: int) -> list[str]:
    """Trace one wiring; return every call whose modalities differ from the truth."""
    torch.manual_seed(seed)
    model = Wiring(seed).eval()
    batch = {name: torch.randn(B, D) for name in model.modalities}
    truth: dict[str, set[str]] = {}
    model.truth = truth
    with torch.no_grad():
        model(batch)
    model.truth = None
    found = trace(model, batch)
    seen = {call.id: set(call.depends_on) for call in found.calls if call.path}
    faults = [f"{name}: is {seen.get(name)}, must be {want}" for name, want in truth.items() if seen.get(name) != want]
    return faults + [f"{name}: not in the truth" for name in seen if name not in truth]


@pytest.mark.parametrize("start", range(0, 40, 10))
def test_every_call_of_random_wirings(start: int) -> None:
    assert {seed: faults for seed in range(start, start + 10) if (faults := wrong(seed))} == {}


def test_a_tracer_without_slots_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rows, "find_rows", lambda base, single, sample, size: _rows.Rows(None, 1, "coupled"))
    assert any(wrong(seed) for seed in range(5))


def test_a_tracer_that_misses_a_modality_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _rows.entries

    def blind(key, prints, side, single, runs, sample, size):
        return whole(key, prints, side, single, {m: r for m, r in runs.items() if m != "b"}, sample, size)

    monkeypatch.setattr("fusionscope.tracing._analyse.entries", blind)
    assert all(wrong(seed) for seed in range(5))
