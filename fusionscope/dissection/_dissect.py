"""``dissect``: trace a model, pick taps, stream the data once, and return a ``Dissection``."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

import fusionscope
from fusionscope.batch import Adapter, Batch, takes_present, unwrap
from fusionscope.dissection._choices import check_arguments, check_names, choose_taps, varied
from fusionscope.dissection._decisions import Decisions
from fusionscope.dissection._device import device_of, model_fingerprint, moved, usable
from fusionscope.dissection._dissection import SCHEMA, Dissection
from fusionscope.dissection._features import Concepts, Features
from fusionscope.dissection._fill import Fill, check_fill
from fusionscope.dissection._measurement import Measurement
from fusionscope.dissection._names import MEASURES, OPTIONAL
from fusionscope.dissection._progress import progress_bar
from fusionscope.dissection._ranks import place, same_batches
from fusionscope.dissection._robustness import Baseline, kinds_of
from fusionscope.dissection._sources import Reference, Source, checkpoint_sources, keeps_state, solo_sources
from fusionscope.dissection._stream import LoaderState, Stream
from fusionscope.dissection._task import infer_task
from fusionscope.errors import InputError
from fusionscope.tracing import (
    ModelState,
    differing,
    one_adapter,
    quiet,
    trace,
)

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
    decomposition: str = "cvx",
    kinds: Mapping[str, str] | None = None,
    baseline: Dissection | None = None,
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
            units, class selectivity index, effective rank), ``removal`` (the metric for every subset of modalities),
            ``contribution`` (Shapley values, cooperation and interaction from the same subsets), ``valuation`` (samples
            on which a modality hurts) and ``imbalance`` (discrepancy ratio, each modality alone, linear probes); and,
            when named, ``information`` (redundancy, uniqueness and synergy of the inputs and the streams),
            ``robustness`` (corruptions of each modality, severities 0 to 5, with the confidence calibration),
            ``perceptual`` (permutations, any, within and across classes), ``emap`` (what interaction adds to the best
            additive approximation), ``detectors`` (Network Dissection: slow, a third reading) and ``pairwise``
            (Procrustes, SVCCA, RSA, mutual neighbours and RBF CKA on a subsample); or ``all``.
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
        decomposition: how ``information`` is estimated: ``cvx`` (clusters, exact, with the binning bias) or ``batch``
            (learned networks, for features of many dimensions that clusters cannot hold; slow).
        kinds: what each modality is, for the corruptions that suit it: ``image``, ``depth``, ``video``, ``audio``,
            ``sequence``, ``vector`` or ``tokens``; inferred where it is not given.
        baseline: a dissection of the model to compare the robustness with (a late fusion, a plain concatenation), on
            the same data.
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
    >>> list(found.tables)[-3:], sorted(found.tables["contribution"]["modality"].unique())
    (['cooperation', 'samples', 'imbalance'], ['a', 'b'])
    """
    begin = time.perf_counter()
    check_arguments(model, loader)
    measures = (measures,) if isinstance(measures, str) else tuple(measures)
    check_names("measure", measures, (*MEASURES, *OPTIONAL, "all"))
    if "all" in measures:
        measures = (*MEASURES, *OPTIONAL)
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
    rival = Baseline.of(baseline)
    if rival is not None and "robustness" not in measures:
        raise InputError("baseline= compares the robustness, which is not measured; name 'robustness' in measures=")
    device = usable(device) if device is not None else device_of(model)
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
        few, constant = varied(differing(first, TRACED).to(device))
        found = trace(model, few, adapter=adapter, layouts=layouts)
        chosen, unread = choose_taps(found, taps)
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
            decomposition=decomposition,
            permutations=permutations,
            alpha=alpha,
            seed=seed,
            device=device,
        )
        kinds = kinds_of(first, kinds)
        decisions = Decisions(
            main,
            found,
            task,
            measures,
            fill=fill,
            empty=empty,
            prior=prior,
            metric=metric,
            kinds=kinds,
            baseline=rival,
            first=first,
            alpha=alpha,
            seed=seed,
        )
        cleanup.enter_context(decisions.reuse.installed())
        run = Measurement(main, task, features, decisions)
        run.notes += [*unread, *constant, *features.notes, *(note for source in sources for note in source.notes)]
        steps = len(stream) * features.passes
        with quiet(unwrap(model)), progress_bar("dissecting", steps, progress if not rank else False) as tick:
            readings = [_chain(first, batches)]
            for number in range(features.passes):
                if number:
                    features.advance()
                    start.restore()
                    readings.append(iter(Stream(loader, adapter, stream.marks)))
                seen = 0
                for index, batch in enumerate(readings[number]):
                    if index % ranks == rank:
                        run.step(batch.to(device), index, seen)
                    if not number:
                        decisions.see(batch, index)
                    seen += batch.size
                    tick()
                if not number:
                    same_batches(stream.fingerprint)
                # Programmes of the information decomposition are long work too.
            asked = features.information
            with progress_bar(
                "decomposing", len(asked.pairs) * 2 if asked else 0, progress if not rank else False
            ) as tick:
                if asked:
                    asked.instrument.tick = tick
                if rival is not None and rival.data != stream.fingerprint:
                    run.notes.append(
                        "the baseline was measured on other data than this model: its robustness is no yardstick here"
                    )
                tables, arrays = run.tables(truth, first.size, device)
    end = time.perf_counter()
    manifest = {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": {
            "name": type(unwrap(model)).__name__,
            "parameters": sum(p.numel() for p in model.parameters()),
            "fingerprint": model_fingerprint(model),
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
            "empty": decisions.empty,
            "metric": decisions.metric,
            "kinds": kinds,
            "baseline": rival.name if rival is not None else "",
            "estimator": estimator,
            "decomposition": decomposition,
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
        "forwards": {"trace": found.forwards, "stream": main.forwards},
        "messages": [*found.messages, *task.notes, *run.notes, *run.order.notes()],
    }
    return Dissection(tables, manifest, found.to_dict() | {"taps": [tap.id for tap in chosen]}, arrays)


def _chain(first: Batch, rest: Iterable[Batch]) -> Iterable[Batch]:
    yield first
    yield from rest
