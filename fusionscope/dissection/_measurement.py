"""The instruments of one dissection, and the forwards that feed them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fusionscope.batch import Adapter, Batch, unwrap
from fusionscope.dissection import _tables
from fusionscope.dissection._coalitions import Fill, fill_in, subsets
from fusionscope.dissection._task import ClassOrder, Task
from fusionscope.measures import CoalitionTable, EtaSquared, MinibatchCKA, resolve_score
from fusionscope.tracing import ModelState, Tap, TapReader, Trace, rng_state, set_rng

FEW_GROUPS = 10


class Measurement:
    """The instruments of one dissection and the forwards that feed them."""

    def __init__(
        self,
        model: nn.Module,
        adapter: Adapter,
        found: Trace,
        taps: list[Tap],
        task: Task,
        measures: Sequence[str],
        fill: Fill,
        seed: int,
        device: torch.device,
    ) -> None:
        self.model, self.adapter, self.taps, self.task = model, adapter, taps, task
        self.modalities = found.modalities
        self.measures, self.fill, self.seed, self.device = measures, fill, seed, device
        self.forwards = 0
        self.notes: list[str] = []
        self.order = ClassOrder()
        self.state = ModelState(unwrap(model)) if any("keeps state" in note for note in found.messages) else None
        self.rng: dict[str, Any] = {}
        self.alone = 0
        self.cka: MinibatchCKA | None = None
        self.eta: EtaSquared | None = None
        self.coalitions: CoalitionTable | None = None
        self.metric_name = ""
        self.empty: Literal["majority", "filled", ""] = ""

    def prepare(
        self, metric: Any, empty: Literal["majority", "filled"] | None, prior: Any, permutations: int, alpha: float
    ) -> None:
        """Make the instruments that the data and the task allow; say which cannot be."""
        ids = [tap.id for tap in self.taps]
        if not ids and set(self.measures) & {"similarity", "selectivity"}:
            self.notes.append("no call depends on one modality alone: no similarity and no selectivity")
        if "similarity" in self.measures and ids:
            self.cka = MinibatchCKA(ids, permutations=permutations, alpha=alpha, seed=self.seed).to(self.device)
        if "selectivity" in self.measures and ids:
            if self.task.kind in ("classification", "dense"):
                count = len(self.task.classes)
                self.eta = EtaSquared(ids, count, permutations=permutations, alpha=alpha, seed=self.seed)
                self.eta = self.eta.to(self.device)
            else:
                self.notes.append(f"class selectivity needs class labels; the task is {self.task.kind}")
        if "removal" in self.measures:
            if self.task.kind == "none":
                self.notes.append("removal needs a target in each batch; there is none")
                return
            score = resolve_score(metric, self.task.kind, len(self.task.classes))
            empty = empty or ("majority" if prior is not None else "filled")
            self.empty = empty
            self.metric_name = score.name
            self.coalitions = CoalitionTable(
                self.modalities,
                score=score,
                alpha=alpha,
                seed=self.seed,
                empty=empty,
                prior=prior if empty == "majority" else None,
            )

    @torch.no_grad()
    def step(self, batch: Batch, index: int) -> None:
        """Feed one batch to all instruments."""
        if batch.size < 2:
            self.alone += 1
            return
        self.rng = rng_state()
        try:
            self._feed(batch, index)
        finally:
            set_rng(self.rng)

    def _feed(self, batch: Batch, index: int) -> None:
        if self.task.kind == "classification":
            self.order.add(batch.target)
        returned = self._tapped(batch, index)
        if self.coalitions is None:
            return
        output = self.adapter.output(returned)
        target, group = batch.target, batch.group
        for subset in subsets(self.modalities):
            if not subset and self.empty == "majority":
                continue
            if len(subset) < len(self.modalities):
                absent = [m for m in self.modalities if m not in subset]
                filled = fill_in(batch, absent, self.fill, seed=self.seed, index=index)
                output = self.adapter.output(self._forward(filled))
            self.coalitions.update(subset, self.task.prediction(output, target), target, group)

    def _tapped(self, batch: Batch, index: int) -> Any:
        instruments: list[Any] = [one for one in (self.cka, self.eta) if one is not None]
        target = batch.target if isinstance(batch.target, Tensor) else None
        contexts = [one.context(batch.size, target, index) for one in instruments]
        reduced: list[dict[str, Any]] = [{} for _ in instruments]

        def use(tap: Tap, features: Tensor) -> None:
            for one, context, store in zip(instruments, contexts, reduced, strict=True):
                store[tap.id] = one.reduce(features, context, tap.id)

        with TapReader(self.model, self.taps, use) if instruments else nullcontext() as reader:
            if reader is not None:
                reader.start()
            returned = self._forward(batch)
            if reader is not None:
                reader.check()
        for one, context, store in zip(instruments, contexts, reduced, strict=True):
            one.update(store, context)
        return returned

    def _forward(self, batch: Batch) -> Any:
        """Run the model from the same state and the same random numbers for all subsets of a batch."""
        self.forwards += 1
        if self.state is not None:
            self.state.restore(rng=False)
        set_rng(self.rng)
        return self.adapter.call(self.model, batch.clone())

    def tables(self, truth: Mapping[str, Mapping[str, Any]] | None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Compute everything and lay it out as tidy tables and arrays."""
        if self.alone:
            self.notes.append(f"{self.alone} samples came alone in a batch of a form of its own and are left out")
        tables: dict[str, Any] = {"taps": _tables.taps(self.taps)}
        arrays: dict[str, np.ndarray] = {}
        if self.cka is not None:
            tables["similarity"] = _tables.similarity(self.cka.compute(), self.taps)
        if self.eta is not None:
            result = self.eta.compute()
            tables["selectivity"], arrays = _tables.selectivity(result, self.taps, self.task.classes)
            told = tables["selectivity"]
            if told["null_high"].isna().all():
                self.notes.append(f"no class selectivity could be told: {told['reason'].iloc[0] or 'no null'}")
        if self.coalitions is not None:
            result = self.coalitions.compute()
            tables["removal"] = _tables.removal(result, self.modalities, self.metric_name)
            if result.groups < min(FEW_GROUPS, result.samples):
                self.notes.append(f"removal: the intervals rest on {result.groups} groups only and are too narrow")
        if truth and self.eta is not None:
            tables["recovery"] = _tables.recovery(tables["selectivity"], truth, self.modalities)
        return tables, arrays
