"""``trace``: find which modalities each call of a model depends on."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fusionscope._nest import map_tensors, tensors
from fusionscope.batch import Adapter, Batch, unwrap
from fusionscope.errors import InputError, ModelError
from fusionscope.tracing import _levels, _show
from fusionscope.tracing._analyse import Analysis
from fusionscope.tracing._call import Call, FusionPoint
from fusionscope.tracing._fingerprint import fingerprint
from fusionscope.tracing._levels import Tap
from fusionscope.tracing._record import CallKey, Recorder, Recording, disturbed, module_paths
from fusionscope.tracing._state import ModelState, quiet


@dataclass(frozen=True)
class Trace:
    """What ran in one forward, and which modalities each call depends on.

    Attributes:
        modalities: the names, in the batch's order.
        calls: every call in execution order, containers before what runs inside them.
        fusion_points: where modalities first meet.
        unused: modules that own parameters but were not called.
        messages: what was ambiguous or odd, in words.
        model: the model's type.
        batch_size: how many samples the traced batch had.
        forwards: how many times the model was run.
        seconds: how long the trace took.
    """

    modalities: tuple[str, ...]
    calls: tuple[Call, ...]
    fusion_points: tuple[FusionPoint, ...]
    unused: tuple[str, ...]
    messages: tuple[str, ...]
    model: str
    batch_size: int
    forwards: int
    seconds: float
    layouts: Mapping[str, str] = field(default_factory=dict)
    prediction: tuple[object, ...] = ()

    @property
    def streams(self) -> dict[str, list[Call]]:
        """For each modality, the leaf calls that depend on it alone, in execution order."""
        return {m: [c for c in self.calls if c.leaf and c.depends_on == {m}] for m in self.modalities}

    @property
    def fused(self) -> list[Call]:
        """The leaf calls whose inputs together depend on two modalities or more, in execution order."""
        return [c for c in self.calls if c.leaf and c.fused]

    @functools.cached_property
    def taps(self) -> dict[str, list[Tap]]:
        """The calls chosen for measuring, for each modality from early to late."""
        return _levels.default_taps(self)

    def levels(self, n: int) -> list[dict[str, Tap]]:
        """Return ``n`` levels from early to late, each with one tap per modality.

        Raises:
            InputError: if ``n`` is not positive, or a modality has no tap.
        """
        return _levels.levels(self.taps, n)

    def call(self, id: str) -> Call:
        """Return the call with this :attr:`Call.id`, or the only call of this path."""
        return _levels.find_call(self.calls, id)

    def to_dict(self) -> dict[str, Any]:
        """Return the trace as plain data, for JSON and for the drawing in the report."""
        return _show.to_dict(self)

    def __str__(self) -> str:
        return _show.tree(self)

    def __repr__(self) -> str:
        return _show.tree(self)


def trace(
    model: nn.Module,
    batch: Any,
    *,
    modalities: Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
    adapter: Adapter | None = None,
    layouts: Mapping[str, str] | None = None,
) -> Trace:
    """Find which modalities each call of ``model`` depends on.

    The values of one modality are replaced by those of other samples, and every call's output is compared with the
    unchanged run, row by row and bit by bit. No module names are needed. The model runs in eval mode without gradients,
    2 M + 5 times for M modalities, once more per fusion point; model and batch are left as they were found, also when
    the model raises.

    Args:
        model: any module that takes the batch.
        batch: a batch with at least two samples that differ in every modality; see :class:`fusionscope.batch.Adapter`.
        modalities: names, or groups of keys, passed to the adapter.
        adapter: how to read the batch and call the model, if that cannot be inferred.
        layouts: the axes of calls whose units cannot be told from the module's type, as ``{"path": "NHWC"}`` with N for
            the sample axis and C for the units.

    Raises:
        InputError: if the batch has one sample, or a modality is constant in it.
        ModelError: if the model keeps state between forwards that cannot be rolled back.

    >>> from torch import nn
    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b, self.head = nn.Linear(3, 5), nn.Linear(2, 5), nn.Linear(10, 7)
    ...     def forward(self, a, b):
    ...         return self.head(torch.cat([self.a(a), self.b(b)], 1))
    >>> found = trace(Net(), {"a": torch.randn(11, 3), "b": torch.randn(11, 2)})
    >>> found.streams["a"]
    [Call(a#0 Linear [11, 5] <- a)]
    >>> print(found.fusion_points[0])
    a, b joined: functional, in the model, before head#0 (Linear), which mixes them
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch.nn.Module and then a batch, got a {type(model).__name__} first")
    if isinstance(batch, DataLoader):
        raise InputError("expected one batch, got a DataLoader; give next(iter(loader))")
    adapter = one_adapter(adapter, modalities)
    whole = adapter.batch(batch)
    return _Tracer(model, whole, adapter, dict(layouts or {})).run()


class _Tracer:
    def __init__(self, model: nn.Module, batch: Batch, adapter: Adapter, layouts: dict[str, str]) -> None:
        self.model, self.batch, self.adapter, self.layouts = unwrap(model), batch, adapter, layouts
        self.size = batch.size
        if self.size < 2:
            raise InputError(
                "a trace replaces samples by other samples, so it needs at least two in the batch, and this one has "
                f"{self.size}; collect a larger batch (4 or more is best)"
            )
        how = adapter.describe_call(self.model, batch.inputs)
        self.forwards = 0
        self.prediction: tuple[object, ...] = ()
        self.notes = [how] if "position" in how and len(batch.inputs) > 1 else []
        hashes = {m: _row_hashes(nest, self.size) for m, nest in batch.inputs.items()}
        self.maps = {m: [_donors(h, step, m) for step in (1, 2)] for m, h in hashes.items()}
        self.sample = self.size // 2

    def run(self) -> Trace:
        start = time.perf_counter()
        before = self.state = ModelState(self.model)
        try:
            with quiet(self.model):
                return self._run(before, start)
        finally:
            self.state.restore()
            before.restore()

    def _run(self, before: ModelState, start: float) -> Trace:
        self._forward(self.batch)
        changed = before.restore()
        if changed:
            names = ", ".join(list(dict.fromkeys(changed))[:3])
            self.notes.append(f"the model keeps state between forwards ({names}); it is rolled back")
        self.state = ModelState(self.model)  # with what the first forward installed
        base, repeat = self._forward(self.batch), self._forward(self.batch)
        prediction = self.prediction
        single = self._single_run(base)
        runs: dict[str, list[Recording]] = {}
        unknown: list[str] = []
        for modality, maps in self.maps.items():
            runs[modality] = []
            for donors in maps:
                recording = self._perturbed(modality, donors)
                if recording is not None:
                    runs[modality].append(recording)
            if not runs[modality]:
                unknown.append(modality)
                runs[modality].append(Recording())
        last = self._forward(self.batch)
        self._check_state(base, repeat, last)
        analysis = Analysis(base, repeat, single, runs, self.sample, self.size, self.batch.modalities)
        calls = analysis.calls()
        calls = _levels.with_layouts(calls, self.layouts)
        points, more = analysis.fusion_points(calls, self._restart)
        notes = [f"{m}: the model fails on other samples' values, so what depends on it is unknown" for m in unknown]
        unused = self._unused(base)
        return Trace(
            modalities=self.batch.modalities,
            calls=tuple(calls),
            fusion_points=tuple(points),
            unused=tuple(unused),
            messages=tuple(self.notes + notes + analysis.messages(calls) + more),
            model=type(self.model).__name__,
            batch_size=self.size,
            forwards=self.forwards,
            seconds=time.perf_counter() - start,
            layouts=self.layouts,
            prediction=prediction,
        )

    def _forward(self, batch: Batch, **edit: Any) -> Recording:
        self.state.restore()
        for module in self.model.modules():
            module.training = False
        self.forwards += 1
        given = batch.clone()
        with Recorder(self.model, **edit) as recorder:
            returned = recorder.run(self.model, given.inputs, lambda: self.adapter.call(self.model, given))
        try:
            self.prediction = fingerprint(self.adapter.output(returned)).key
        except (InputError, LookupError, TypeError):
            self.prediction = ()
        return recorder.recording

    def _single_run(self, base: Recording) -> Recording:
        """Run with one sample replaced; try another where it changes a shape (the longest of a padded batch)."""
        best: tuple[int, int, Recording] | None = None
        for sample in dict.fromkeys((self.size // 2, 0, self.size - 1)):
            self.sample = sample
            run = self._forward(self._single())
            reshaped = sum(
                place not in other.outputs or other.outputs[place].shape != print_.shape
                for key, record in base.calls.items()
                if (other := run.calls.get(key)) is not None
                for place, print_ in record.outputs.items()
            )
            if best is None or reshaped < best[0]:
                best = reshaped, sample, run
            if not reshaped:
                break
        _, self.sample, run = best or (0, self.sample, base)
        return run

    def _single(self) -> Batch:
        """The batch with one sample replaced in every modality."""
        inputs = {}
        for modality, nest in self.batch.inputs.items():
            index = torch.arange(self.size)
            index[self.sample] = self.maps[modality][0][self.sample]
            inputs[modality] = _take(nest, index, self.size)
        return self.batch.with_inputs(**inputs)

    def _perturbed(self, modality: str, donors: Tensor) -> Recording | None:
        """Run with one modality taken from other samples; if the model fails, with its integers (lengths, ids) kept."""
        nest = self.batch.inputs[modality]
        for floating_only in (False, True):
            if floating_only and all(t.is_floating_point() for _, t in tensors(nest)):
                return None
            changed = _take(nest, donors, self.size, floating_only)
            try:
                return self._forward(self.batch.with_inputs(**{modality: changed}))
            except Exception:
                continue
        return None

    def _restart(self, key: CallKey, places: set[str]) -> Recording | None:
        """Run with the output of a call changed; None if the model fails on it."""
        for stretch in (True, False):
            try:
                return self._forward(self.batch, edit={key: lambda out, s=stretch: disturbed(out, places, s)})
            except Exception:
                continue
        return None

    def _check_state(self, base: Recording, repeat: Recording, last: Recording) -> None:
        for key, record in base.calls.items():
            again, end = repeat.calls.get(key), last.calls.get(key)
            for place, print_ in record.outputs.items():
                one = again.outputs.get(place) if again else None
                two = end.outputs.get(place) if end else None
                if one is not None and one.key == print_.key and (two is None or two.key != print_.key):
                    raise ModelError(
                        "the model keeps state between forwards that cannot be rolled back: the call "
                        f"{key[0]}#{key[1]} gives another output after other inputs were seen. Make the forward "
                        "depend on its inputs and on the model's own parameters, buffers and attributes only"
                    )

    def _unused(self, base: Recording) -> list[str]:
        fired = {path for path, _ in base.calls}
        found = []
        for path, module in module_paths(self.model).items():
            parent = path.rpartition(".")[0]
            owned_by_attention = (
                isinstance(self.model.get_submodule(parent), nn.MultiheadAttention) if parent else False
            )
            if path not in fired and any(True for _ in module.parameters(recurse=False)) and not owned_by_attention:
                found.append(path)
        return found


def one_adapter(adapter: Adapter | None, modalities: Any) -> Adapter:
    """Return the adapter given, or one for the modalities given.

    Raises:
        InputError: if both are given.
    """
    if adapter is not None and modalities is not None:
        raise InputError("give modalities= or adapter=, not both; write Adapter(modalities) instead")
    return adapter or Adapter(modalities)


def differing(batch: Batch, most: int) -> Batch:
    """Return at most ``most`` samples, with as many different values of every modality as there are."""
    firsts = np.zeros(batch.size, np.int64)
    for nest in batch.inputs.values():
        _, index = np.unique(_row_hashes(nest, batch.size), return_index=True)
        firsts[index] += 1
    chosen = np.sort(np.argsort(-firsts, kind="stable")[:most])
    return batch.take(torch.from_numpy(chosen))


def _row_hashes(nest: Any, size: int) -> np.ndarray:
    total = np.zeros(size, np.int64)
    for number, (_, tensor) in enumerate(tensors(nest)):
        if tensor.shape[0] == size:
            total = total * np.int64(1000003) + fingerprint(tensor).axes[0] + number
    return total


def _donors(hashes: np.ndarray, step: int, modality: str) -> Tensor:
    """For each sample another sample that differs, some of them used twice (a permutation would leave sums alone)."""
    size = len(hashes)
    if (hashes == hashes[0]).all():
        raise InputError(
            f"modality {modality!r} is constant: all {size} samples of the batch are equal, so nothing can be seen to "
            "depend on it; give a batch whose samples differ"
        )
    donors = []
    for i in range(size):
        wanted = i + step if i + step < size else max(0, size - 2 - (i == size - 2))
        choices = [wanted, *range(size)]
        donors.append(next(j for j in choices if j != i and hashes[j] != hashes[i]))
    return torch.tensor(donors)


def _take(nest: Any, index: Tensor, size: int, floating_only: bool = False) -> Any:
    def take(tensor: Tensor) -> Tensor:
        if tensor.shape[0] != size or (floating_only and not tensor.is_floating_point()):
            return tensor
        return tensor[index.to(tensor.device)]

    return map_tensors(take, nest)
