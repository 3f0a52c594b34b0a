"""Results of encoders kept while a batch is at hand, for the forwards in which their modality is the same."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fusionscope._nest import map_tensors
from fusionscope.batch import Batch, unwrap
from fusionscope.dissection._sources import Source
from fusionscope.tracing import Trace

Version = str | None


class Reuse:
    """Runs a model on changed batches; calls that depend on one modality alone run once per version of it.

    ``versions`` names for each modality which of its values a batch holds ("real", "filled"); ``None`` = values that no
    other forward shares. A call is reused if the trace found it wired to one modality only, deterministic, on no
    conditional path, and if its module owns parameters. The first batch runs everything plainly as well: if a single
    value differs, nothing is reused from then on, and ``notes`` says so.
    """

    def __init__(self, main: Source, found: Trace) -> None:
        self.main = main
        self.notes: list[str] = []
        self.owner = _reusable(main, found)
        self.kept: dict[tuple[str, int, str, str], Any] = {}
        self.counts: dict[str, int] = {}
        self.versions: Mapping[str, Version] | None = None
        self.begun = self.checked = False

    @contextmanager
    def installed(self) -> Generator[Reuse, None, None]:
        """Wrap the modules whose results may be kept, and put them back."""
        modules = dict(unwrap(self.main.model).named_modules())
        paths = {path for path, _ in self.owner}
        before = {path: modules[path].__dict__.get("forward") for path in paths}
        for path in paths:
            modules[path].forward = self._wrapped(path, modules[path].forward)
        try:
            yield self
        finally:
            for path in paths:
                if before[path] is None:
                    del modules[path].__dict__["forward"]
                else:
                    modules[path].forward = before[path]
            self.kept.clear()

    def start(self) -> None:
        """Forget the batch before; the first one is checked."""
        self.kept.clear()
        self.checked, self.begun = self.begun, True

    @contextmanager
    def using(self, versions: Mapping[str, Version]) -> Generator[None, None, None]:
        """Keep and reuse results in the forwards of this block."""
        self.counts.clear()
        self.versions = versions
        try:
            yield
        finally:
            self.versions = None

    def run(self, batch: Batch, versions: Mapping[str, Version], rng: dict[str, Any]) -> Tensor:
        """Return the model's prediction for a batch whose modalities have these versions."""
        output = self.main.adapter.output
        if not self.owner:
            return output(self.main.run(batch, rng))
        with self.using(versions):
            found = output(self.main.run(batch, rng))
        if not self.checked:
            plain = output(self.main.run(batch, rng))
            if not _same(found, plain):
                self.owner = {}
                self.notes.append(
                    "results of encoders are not reused between subsets: on the first batch they did not give what the "
                    "plain model gives"
                )
                return plain
        return found

    def _wrapped(self, path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def reused(*args: Any, **keywords: Any) -> Any:
            if self.versions is None:
                return forward(*args, **keywords)
            index = self.counts.get(path, 0)
            self.counts[path] = index + 1
            modality = self.owner.get((path, index))
            version = self.versions.get(modality) if modality is not None else None
            if modality is None or version is None:
                return forward(*args, **keywords)
            key = (path, index, modality, version)
            if key not in self.kept:
                result = forward(*args, **keywords)
                self.kept[key] = map_tensors(torch.clone, result)
                return result
            return map_tensors(torch.clone, self.kept[key])

        return reused


def _reusable(main: Source, found: Trace) -> dict[tuple[str, int], str]:
    """Return the outermost calls that belong to one modality, with it."""
    model = unwrap(main.model)
    if main.state is not None or model is not main.model or isinstance(model, torch.jit.ScriptModule):
        return {}
    modules = dict(model.named_modules())
    wired: dict[tuple[str, int], set[str]] = {}
    for call in found.calls:
        wired.setdefault(call.key, set()).update(call.wired_to | call.unknown, {call.slot} - {""})
    owner: dict[tuple[str, int], str] = {}
    inside: set[tuple[str, int]] = set()
    for call in found.calls:
        if call.parent in inside or call.key in owner:
            inside.add(call.key)
            continue
        module = modules.get(call.path)
        if (
            len(wired[call.key]) == 1
            and call.wired_to
            and call.path
            and call.deterministic
            and not call.conditional
            and isinstance(module, nn.Module)
            and not isinstance(module, torch.jit.ScriptModule)
            and any(True for _ in module.parameters())
        ):
            owner[call.key] = next(iter(call.wired_to))
            inside.add(call.key)
    return owner


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isnan(), b.isnan())
