"""``dissect``: trace a model, pick taps, stream the data once, and return a ``Dissection``."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

import fusionscope
from fusionscope._nest import tensors
from fusionscope.batch import Adapter, Batch, takes_present, unwrap
from fusionscope.dissection._coalitions import Fill, check_fill
from fusionscope.dissection._dissection import SCHEMA, Dissection
from fusionscope.dissection._features import Concepts, Features
from fusionscope.dissection._measurement import Measurement, coalition_table
from fusionscope.dissection._progress import progress_bar
from fusionscope.dissection._ranks import place, same_batches
from fusionscope.dissection._sources import Reference, Source, checkpoint_sources, keeps_state, solo_sources
from fusionscope.dissection._stream import LoaderState, Stream
from fusionscope.dissection._task import infer_task
from fusionscope.errors import InputError, did_you_mean
from fusionscope.tracing import (
    ModelState,
    Tap,
    Trace,
    differing,
    one_adapter,
    quiet,
    trace,
)

MEASURES = ("similarity", "selectivity", "semantics", "units", "removal")
OPTIONAL = ("detectors", "pairwise")
TWICE = ("semantics", "units", "detectors")
TRACED = 16


def dissect(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    modalities: Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
    adapter: Adapter | None = None,
    measures: Sequence[str] = MEASURES,
    taps: Mapping[str, Sequence[str]] | None = None,
    layouts: Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
    fill: Fill = "resample",
    empty: Literal["majority", "filled"] | None = None,
    prior: Any = None,
    metric: Any = None,
    permutations: int = 100,
    alpha: float = 0.05,
    seed: int = 0,
    references: Mapping[str, Reference] | None = None,
    copies: Mapping[str, Sequence[Reference]] | None = None,
    checkpoints: Mapping[int, Any] | None = None,
    concepts: Concepts | None = None,
    estimator: str = "ridge",
    device: torch.device | str | None = None,
    truth: Mapping[str, Mapping[str, Any]] | None = None,
    data: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> Dissection:
    """Measure what each modality contributes to ``model``, and where the modalities agree and differ.

    Traces the model on the first batch, then reads the loader: twice for ``semantics``, else once. For every batch the
    model runs once with hooks on the taps, and once (in the first reading) for each further subset of modalities.
    Features are reduced inside the hooks; none is kept. A loader that shuffles does so alike in both readings, where
    its random numbers come from the global generators or from a generator of its own; other batches are refused.

    Under ``torch.distributed`` every rank is given the same loader and reads it whole, and measures every n-th batch;
    all ranks return the same dissection, equal to that of one process.

    Args:
        model: a trained model; it is run in eval mode without gradients and left as it was found.
        loader: any iterable of batches; see :class:`fusionscope.Adapter` for what a batch may be.
        modalities: names or groups of keys, passed to the adapter.
        adapter: how to read a batch and call the model, where that cannot be inferred.
        measures: which of ``similarity`` (CKA between all taps), ``selectivity`` (η² and ε² per unit and class),
            ``semantics`` (concept probes and the semantic variance between all taps), ``units`` (dead and saturated
            units, class selectivity index, effective rank) and ``removal`` (the metric for every subset of modalities);
            and, when named, ``detectors`` (Network Dissection: slow, a third reading) and ``pairwise`` (Procrustes,
            SVCCA, RSA, mutual neighbours and RBF CKA on a subsample).
        taps: for each modality the calls to measure, by path or id; default: chosen from the trace.
        layouts: the axes of taps whose units cannot be told, as ``{"path": "NHWC"}``.
        classes: names of the classes.
        fill: what stands in for an absent modality: ``resample``, ``zero``, ``mean``, ``present``, or a function.
        empty: the value of no modality at all: ``majority`` (needs ``prior``) or ``filled``; default: ``majority`` if
            ``prior`` is given.
        prior: class counts (or, for regression, the mean) of the *training* targets.
        metric: ``accuracy``, ``miou``, ``r2``, ``loglik``, a torchmetrics metric, or a function of output and target
            that gives one value per sample; default by task.
        permutations: how many for each null.
        alpha: error rate of bounds and intervals.
        seed: for permutations, bootstrap and resampling.
        references: for each modality a separately trained twin of its encoder: a model that takes that modality alone,
            or a pair of it and an :class:`fusionscope.Adapter`; joint and solo streams are then compared.
        copies: for each modality further trainings of that twin: how far they are apart is the noise floor of training.
        checkpoints: earlier weights of the model by epoch (files, state dicts or models): how its streams moved.
        concepts: what to probe instead of the classes: a function from a :class:`fusionscope.Batch` to ``{name:
        mask}``,
            masks ``[B]``, ``[B, T]`` or ``[B, H, W]``, bool or shares from 0 to 1, NaN = unknown.
        estimator: of the concept probes.
        device: where to run; default: where the model's parameters are.
        truth: planted truth by class, as data sets of fusionscope give it.
        data: what to write into the manifest about the data, as ``{"spec": ..., "split": ...}``.
        progress: show a progress bar; default: if a terminal is there.

    Raises:
        InputError: for a setting, a batch or a target that does not fit.
        ModelError: if the model keeps state, or takes another path on a later batch.

    >>> from torch.utils.data import DataLoader
    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b, self.head = nn.Linear(3, 5), nn.Linear(2, 5), nn.Linear(10, 7)
    ...     def forward(self, a, b):
    ...         return self.head(torch.cat([self.a(a), self.b(b)], 1))
    >>> samples = [{"a": torch.randn(3), "b": torch.randn(2), "label": i % 7} for i in range(64)]
    >>> found = dissect(Net(), DataLoader(samples, batch_size=32), progress=False)
    >>> list(found.tables)
    ['taps', 'similarity', 'selectivity', 'concepts', 'variance', 'profile', 'emergence', 'units', 'removal']
    """
    begin = time.perf_counter()
    _check_kinds(model, loader)
    measures = (measures,) if isinstance(measures, str) else measures
    _check_names("measure", measures, (*MEASURES, *OPTIONAL))
    check_fill(fill)
    if fill == "present" and not takes_present(model):
        raise InputError(
            "fill='present' needs a model whose forward takes `present` (a dict of bool tensors), and "
            f"{type(unwrap(model)).__name__}'s does not; use fill='resample', 'zero' or 'mean'"
        )
    if not 0 < alpha < 1 or permutations + 1 < 1 / alpha or seed < 0:
        raise InputError(
            "expected 0 < alpha < 1, a seed from 0 up, and at least 1/alpha - 1 permutations, since every number "
            f"stands beside its null; got alpha {alpha}, seed {seed}, permutations {permutations}"
        )
    adapter = one_adapter(adapter, modalities)
    device = _usable(device) if device is not None else _device_of(model)
    twice = [name for name in measures if name in TWICE]
    if isinstance(loader, Iterator) and twice:
        raise InputError(
            f"{' and '.join(twice)} reads the data twice, and this loader can be read only once (it is an iterator); "
            "give a DataLoader or a list of batches, or leave it out: measures=('similarity', 'selectivity', 'removal')"
        )
    rank, ranks = place()
    start = LoaderState(loader)
    stream = Stream(loader, adapter)
    batches = iter(stream)
    first = next(batches)
    with ExitStack() as cleanup:
        cleanup.enter_context(moved(model, device))
        state = ModelState(unwrap(model))
        # The loader's draws are its own; every step puts the generators back.
        cleanup.callback(state.restore, rng=False)
        few = differing(first, TRACED).to(device)
        found = trace(model, few, adapter=adapter, layouts=layouts)
        chosen, unread = _choose(found, taps)
        main = Source("", model, adapter, found.modalities, chosen, keeps_state(model, found))
        others = [(f"solo {m}", m, one) for m, one in (references or {}).items()]
        others += [(f"copy {m} {i}", m, one) for m, many in (copies or {}).items() for i, one in enumerate(many, 1)]
        sources = [main]
        for source in (*solo_sources(others, adapter, first), *checkpoint_sources(main, checkpoints or {})):
            cleanup.enter_context(moved(source.model, device))
            cleanup.enter_context(quiet(unwrap(source.model)))
            source.prepare(few, layouts)
            sources.append(source)
        with quiet(unwrap(model)):
            task = infer_task(lambda: adapter.output(adapter.call(model, few.clone())), few.target, classes)
        state.restore()
        traced = time.perf_counter()
        features = Features(
            sources,
            task,
            measures,
            concepts=concepts,
            first=first,
            estimator=estimator,
            permutations=permutations,
            alpha=alpha,
            seed=seed,
            device=device,
        )
        table, chosen_empty, metric_name, missing = coalition_table(
            measures, found.modalities, task, metric, empty, prior, alpha, seed
        )
        run = Measurement(main, task, features, table, fill=fill, empty=chosen_empty, seed=seed)
        run.notes += [*unread, *missing, *features.notes, *(note for source in sources for note in source.notes)]
        steps = len(stream) * features.passes
        with quiet(unwrap(model)), progress_bar("dissecting", steps, progress if not rank else False) as tick:
            readings = [_chain(first, batches)]
            for number in range(features.passes):
                if number:
                    features.advance()
                    start.restore()
                    readings.append(iter(Stream(loader, adapter, stream.marks)))
                for index, batch in enumerate(readings[number]):
                    if index % ranks == rank:
                        run.step(batch.to(device), index)
                    tick()
                if not number:
                    same_batches(stream.fingerprint)
        tables, arrays = run.tables(truth)
    end = time.perf_counter()
    manifest = {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": {
            "name": type(unwrap(model)).__name__,
            "parameters": sum(p.numel() for p in model.parameters()),
            "fingerprint": _model_fingerprint(model),
        },
        "data": {
            "spec": "a user's loader",
            "split": "",
            **(data or {}),
            "samples": stream.samples,
            "batches": stream.batches,
            "fingerprint": stream.fingerprint,
        },
        "modalities": list(found.modalities),
        "references": [source.name for source in sources[1:]],
        "classes": list(task.classes),
        "task": task.kind,
        "parameters": {
            "measures": list(measures),
            "fill": fill if isinstance(fill, str) else getattr(fill, "__name__", "a function"),
            "empty": run.empty,
            "metric": metric_name,
            "estimator": estimator,
            "margin": run.margin,
            "permutations": permutations,
            "alpha": alpha,
            "seed": seed,
            "batch_size": first.size,
            "device": str(device),
            "ranks": ranks,
        },
        "versions": {
            "fusionscope": fusionscope.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "wall_s": {
            "trace": round(traced - begin, 3),
            "stream": round(end - traced, 3),
            "total": round(end - begin, 3),
        },
        "forwards": {"trace": found.forwards, "stream": run.forwards},
        "messages": [*found.messages, *task.notes, *run.notes, *run.order.notes()],
    }
    return Dissection(tables, manifest, found.to_dict() | {"taps": [tap.id for tap in chosen]}, arrays)


def _check_kinds(model: Any, loader: Any) -> None:
    """Tell a mixed-up argument from a model and a loader of batches."""
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch.nn.Module and then a loader of batches, got a {type(model).__name__} first")
    if hasattr(loader, "loader") and hasattr(loader, "splits"):
        raise InputError("expected a loader of batches, got DataSplits; give data.loader('test', 64, shuffle=True)")
    if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
        raise InputError(f"expected a loader of batches, got the data set {type(loader).__name__}; use a DataLoader")
    if not isinstance(loader, Iterable):
        raise InputError(f"expected a loader of batches, got a {type(loader).__name__}")


def _choose(found: Trace, wanted: Mapping[str, Sequence[str]] | None) -> tuple[list[Tap], list[str]]:
    """Return the taps to measure, and a note on those that cannot be read."""
    if wanted is None:
        taps = [tap for taps in found.taps.values() for tap in taps]
        unread = [tap.call for tap in taps if tap.call.axes.unit is None]
        if not unread:
            return taps, []
        layouts = ", ".join(f"{call.path!r}: '{'N' + '?' * (len(call.shape) - 1)}'" for call in unread[:3])
        text = (
            f"cannot tell which axis of {', '.join(call.id for call in unread[:3])} holds units, so "
            f"{len(unread)} of {len(taps)} taps are left out; say it with layouts={{{layouts}}} (N samples, C units)"
        )
        if len(unread) == len(taps):
            raise InputError(text)
        return [tap for tap in taps if tap.call.axes.unit is not None], [text]
    _check_names("modality", wanted, found.modalities)
    chosen: dict[str, Tap] = {}
    for modality, names in wanted.items():
        for level, name in enumerate(names):
            tap = Tap(modality, level, (level + 1) / len(names), found.call(name))
            if tap.id in chosen:
                raise InputError(f"taps= names {tap.id} twice; a call is measured once, for one modality")
            chosen[tap.id] = tap
    return list(chosen.values()), []


def _check_names(what: str, names: Iterable[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise InputError(f"unknown {what} {name!r}; expected {', '.join(known)}.{did_you_mean(name, known)}")


def _chain(first: Batch, rest: Iterable[Batch]) -> Iterable[Batch]:
    yield first
    yield from rest


@contextmanager
def moved(model: nn.Module, device: torch.device) -> Generator[None, None, None]:
    """Hold a model on a device, and put it back."""
    home = _device_of(model)
    if home == device:
        yield
        return
    try:
        model.to(device)
        yield
    finally:
        model.to(home)


def _device_of(model: nn.Module) -> torch.device:
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def _usable(device: torch.device | str) -> torch.device:
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except Exception as error:
        raise InputError(f"cannot use the device {device!r}: {error}") from error
    return chosen


def _model_fingerprint(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(unwrap(model).state_dict().items()):
        digest.update(name.encode())
        for _, part in tensors(tensor):
            digest.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
