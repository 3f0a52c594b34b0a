"""The networks that one dissection looks at: the model itself, its twins and their copies, its checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fusionscope.batch import Adapter, Batch, unwrap
from fusionscope.errors import InputError, did_you_mean
from fusionscope.tracing import ModelState, Tap, TapReader, Trace, set_rng, trace

Reference = nn.Module | tuple[nn.Module, Adapter]


@dataclass(eq=False)
class Source:
    """One network with the taps to measure in it; ``name`` is empty for the model that is dissected."""

    name: str
    model: nn.Module
    adapter: Adapter
    modalities: tuple[str, ...]
    taps: list[Tap]
    state: ModelState | None = None
    notes: list[str] = field(default_factory=list)
    forwards: int = 0

    def spot(self, tap: Tap) -> str:
        """Return the name of one of its taps among those of all sources."""
        return f"{self.name}/{tap.id}" if self.name else tap.id

    @property
    def spots(self) -> list[str]:
        return [self.spot(tap) for tap in self.taps]

    def of(self, modality: str) -> list[Tap]:
        """Return the taps of one modality, from early to late."""
        return [tap for tap in self.taps if tap.modality == modality]

    def part(self, batch: Batch) -> Batch:
        """Return the batch with what this network takes."""
        if tuple(batch.inputs) == self.modalities:
            return batch
        present = None if batch.present is None else {m: v for m, v in batch.present.items() if m in self.modalities}
        return Batch({m: batch.inputs[m] for m in self.modalities}, batch.target, present or None, batch.group)

    def run(self, batch: Batch, rng: dict[str, Any], use: Callable[[str, Tensor], None] | None = None) -> Any:
        """Run the network on a batch from the given random numbers, and hand the features of each tap to ``use``."""
        if self.state is not None:
            self.state.restore(rng=False)
        set_rng(rng)
        self.forwards += 1
        inputs = self.part(batch).clone()
        if use is None or not self.taps:
            return self.adapter.call(self.model, inputs)
        with TapReader(self.model, self.taps, lambda tap, x: use(self.spot(tap), x)) as reader:
            reader.start()
            returned = self.adapter.call(self.model, inputs)
            reader.check()
        return returned

    def prepare(self, few: Batch, layouts: Mapping[str, str] | None) -> None:
        """Trace a twin on its own modality and choose its taps."""
        if self.taps:
            return
        paths = dict(unwrap(self.model).named_modules())
        known = {path: layout for path, layout in (layouts or {}).items() if path in paths}
        found = trace(self.model, self.part(few), adapter=self.adapter, layouts=known or None)
        self.taps = [tap for tap in found.taps[self.modalities[0]] if tap.call.axes.unit is not None]
        self.state = keeps_state(self.model, found)
        if not self.taps:
            self.notes.append(f"{self.name}: no call could be measured")


def keeps_state(model: nn.Module, found: Trace) -> ModelState | None:
    """Return a snapshot to go back to before each forward, if the model changes itself."""
    return ModelState(unwrap(model)) if any("keeps state" in note for note in found.messages) else None


def solo_sources(named: Sequence[tuple[str, str, Any]], adapter: Adapter, first: Batch) -> list[Source]:
    """Return the twins and copies, given as ``(name, modality, model or (model, adapter))``.

    Raises:
        InputError: an unknown modality, or something that is no module.
    """
    sources = []
    for name, modality, one in named:
        if modality not in first.inputs:
            known = list(first.inputs)
            raise InputError(
                f"the reference {name!r} is for a modality that the batch does not have; expected one of "
                f"{', '.join(known)}.{did_you_mean(modality, known)}"
            )
        model, own = one if isinstance(one, tuple) else (one, Adapter(adapter.modalities, target=adapter.target))
        if not isinstance(model, nn.Module):
            raise InputError(
                f"expected a torch.nn.Module (or a pair of it and an Adapter) as {name!r}, got {type(model).__name__}"
            )
        sources.append(Source(name, model, own, (modality,), []))
    return sources


def checkpoint_sources(main: Source, checkpoints: Mapping[int, Any]) -> list[Source]:
    """Make a copy of the model for each checkpoint (a file, a state dict or a module); the taps are the model's.

    Raises:
        InputError: weights that do not fit the model.
    """
    sources = []
    for epoch, weights in sorted(checkpoints.items()):
        if isinstance(weights, nn.Module):
            model = weights
        else:
            model = copy.deepcopy(unwrap(main.model))
            held = _read(Path(weights)) if isinstance(weights, str | Path) else weights
            try:
                model.load_state_dict(held)
            except (RuntimeError, TypeError, AttributeError) as error:
                text = str(error).splitlines()[0]
                raise InputError(f"the checkpoint of epoch {epoch} does not fit the model: {text}") from error
        state = ModelState(model) if main.state is not None else None
        sources.append(Source(f"epoch {epoch}", model, main.adapter, main.modalities, main.taps, state))
    return sources


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, weights_only=True, map_location="cpu")


def matched(a: Sequence[Tap], b: Sequence[Tap]) -> list[tuple[Tap, Tap]]:
    """Pair the taps of two streams from early to late, by path where they have the same, else evenly by rank."""
    by_path = {(tap.call.path, tap.call.index): tap for tap in b}
    same = [(tap, by_path[key]) for tap in a if (key := (tap.call.path, tap.call.index)) in by_path]
    if len(same) == min(len(a), len(b)):
        return same
    n = min(len(a), len(b))
    at = lambda taps, i: taps[round(i * (len(taps) - 1) / (n - 1))] if n > 1 else taps[-1]  # noqa: E731
    return [(at(a, i), at(b, i)) for i in range(n)]
