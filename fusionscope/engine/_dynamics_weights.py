"""Which of a model's weights belong to one modality only, and which several modalities share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from fusionscope.errors import InputError, ModelError
from fusionscope.nn import FusionNet, ModalityNorm, SharedEncoder
from fusionscope.tracing import Tap, Trace, module_paths, trace

SAMPLES, SIDE, STEPS, FRAMES = 4, 64, 64, 4


@dataclass
class Owners:
    """Names of parameters by whom they serve.

    Attributes:
        own: for each modality, ``(parameter, row)`` of what it alone passes through; the row is that of a norm which
            holds every modality's values in one parameter, else -1.
        shared: for each parameter that several modalities reach, which ones.
        found: how this was found out, in words.
    """

    own: dict[str, list[tuple[str, int]]]
    shared: dict[str, list[str]]
    found: str
    taps: dict[str, Tap] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        return {
            "own": {m: [[name, row] for name, row in entries] for m, entries in self.own.items()},
            "shared": {name: list(who) for name, who in self.shared.items()},
            "found": self.found,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.own = {m: [(str(name), int(row)) for name, row in entries] for m, entries in state["own"].items()}
        self.shared = {name: list(who) for name, who in state["shared"].items()}
        self.found = state["found"]


def owners(
    model: nn.Module, inputs: Mapping[str, Tensor], target: Tensor, axes: Mapping[str, str], features: bool
) -> Owners:
    """Find whom each parameter serves.

    A parameter is a modality's own if all calls of the modules that hold it depend on that modality alone, as a trace
    of four samples finds (large maps and long sequences are cut, which changes no wiring); it is shared if they depend
    on several. The package's own models say so without a trace, by the names of their modules: encoders, heads and
    stems are own, and rows of private norms, and the rest is shared. So it is done where the trace fails, too.

    Args:
        model: in any mode, left as it is.
        inputs: some samples.
        target: theirs.
        axes: of each modality.
        features: whether to find, for each modality, the call whose output stands for its features.
    """
    modalities = tuple(inputs)
    if isinstance(model, FusionNet) or any(isinstance(m, SharedEncoder) for m in model.modules()):
        return _by_name(model, modalities, "a model of this package")
    seen, error = _traced(model, inputs, target, axes)
    if seen is None:
        return _by_name(model, modalities, f"the trace failed ({error})")
    wired: dict[str, set[str]] = {}
    for call in seen.calls:
        if call.parametric:
            wired.setdefault(call.path, set()).update(call.wired_to)
    modules = module_paths(model)
    leaves = {call.path for call in seen.calls if call.leaf}
    who: dict[int, set[str]] = {}
    for path, found in wired.items():
        for parameter in modules[path].parameters(recurse=path in leaves):
            who.setdefault(id(parameter), set()).update(found)
    taps = {m: found[-1] for m, found in seen.taps.items() if found and found[-1].call.axes.unit is not None}
    named = {name: who.get(id(p), set()) for name, p in _trained(model)}
    return _owners(model, modalities, named, "traced", taps if features else {})


def _owners(
    model: nn.Module, modalities: Sequence[str], who: Mapping[str, set[str]], found: str, taps: dict[str, Tap]
) -> Owners:
    rows = _rows(model)
    own = {m: [(name, -1) for name, served in who.items() if served == {m} and name not in rows] for m in modalities}
    for name, held in rows.items():
        for row, m in enumerate(held):
            own.setdefault(m, []).append((name, row))
    shared = {name: sorted(served) for name, served in who.items() if len(served) > 1 and name not in rows}
    return Owners(own, shared, found, taps)


def _by_name(model: nn.Module, modalities: Sequence[str], found: str) -> Owners:
    """By the names of modules: below ``encoders`` and the like, a module that bears a modality's name is its own."""
    homes = ("encoders", "heads", "stems", "copies")
    norms = tuple(f"{path}." for path, m in model.named_modules() if isinstance(m, ModalityNorm) and not m.own[0])
    served: dict[int, set[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        parts = [] if name.startswith(norms) else name.split(".")
        mine = {b for a, b in pairwise(parts) if a in homes and b in modalities}
        served.setdefault(id(p), set()).update(mine or modalities)
    who = {name: served[id(p)] for name, p in _trained(model)}
    if any(len(mine) == 1 for mine in who.values()) or isinstance(model, FusionNet) or _rows(model):
        return _owners(model, modalities, who, f"{found}: told by the names of its modules", {})
    return Owners({m: [] for m in modalities}, {}, f"{found}, and the model has no encoders[NAME]")


def _rows(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Parameters of norms that hold one row per modality."""
    return {
        f"{path}.{name}".lstrip("."): m.modalities
        for path, m in model.named_modules()
        if isinstance(m, ModalityNorm) and m.own[0] and m.copies is None
        for name, p in m.named_parameters(recurse=False)
        if p.requires_grad
    }


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def _traced(
    model: nn.Module, inputs: Mapping[str, Tensor], target: Tensor, axes: Mapping[str, str]
) -> tuple[Trace | None, str]:
    whole = {m: x[:SAMPLES] for m, x in inputs.items()}
    cut = {m: _cut(x, axes.get(m, "")) for m, x in whole.items()}
    tries = [cut, whole] if any(cut[m].shape != whole[m].shape for m in whole) else [whole]
    error = ""
    for batch in tries:
        try:
            return trace(model, (batch, target[:SAMPLES])), ""
        except (InputError, ModelError) as caught:
            error = str(caught).splitlines()[0]
        except Exception as caught:  # the model's own, on an input cut smaller or of other samples
            error = f"{type(caught).__name__}: {str(caught).splitlines()[0] if str(caught) else ''}"
    return None, error


def _cut(x: Tensor, axes: str) -> Tensor:
    if axes in ("NTC", "NTCHW"):
        x = x[:, : STEPS if axes == "NTC" else FRAMES]
    return x[..., :SIDE, :SIDE] if axes in ("NCHW", "NTCHW") else x


def chosen(model: nn.Module, entries: Sequence[tuple[str, int]]) -> list[tuple[nn.Parameter, int]]:
    """The parameters themselves."""
    named = dict(model.named_parameters())
    return [(named[name], row) for name, row in entries]


def total_norm(entries: Sequence[tuple[nn.Parameter, int]]) -> Tensor | None:
    """Euclidean norm of the gradients (of those rows) together; None where there is none."""
    grads = [p.grad if row < 0 else p.grad[row] for p, row in entries if p.grad is not None]
    return torch.nn.utils.get_total_norm(grads) if grads else None
