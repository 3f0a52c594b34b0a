"""The instruments of one dissection, and the forwards that feed them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch

from fusionscope.batch import Batch
from fusionscope.dissection import _tables
from fusionscope.dissection._coalitions import Fill, fill_in, subsets
from fusionscope.dissection._features import Features
from fusionscope.dissection._questions import Questions, concepts, variance
from fusionscope.dissection._sources import Source
from fusionscope.dissection._task import ClassOrder, Task
from fusionscope.measures import CoalitionTable, resolve_score
from fusionscope.tracing import rng_state, set_rng

FEW_GROUPS = 10


class Measurement:
    """Features of all networks, and the coalitions of the dissected one; both see every batch while it is at hand."""

    def __init__(
        self,
        main: Source,
        task: Task,
        features: Features,
        coalitions: CoalitionTable | None,
        *,
        fill: Fill,
        empty: Literal["majority", "filled", ""],
        seed: int,
    ) -> None:
        self.main, self.task, self.features, self.coalitions = main, task, features, coalitions
        self.fill, self.empty, self.seed = fill, empty, seed
        self.forwards = 0
        self.notes: list[str] = []
        self.order = ClassOrder()
        self.alone = 0
        self.margin: float | None = None

    @torch.no_grad()
    def step(self, batch: Batch, index: int) -> None:
        """Feed one batch to all instruments of this pass."""
        if batch.size < 2:
            self.alone += self.features.stage == 0
            return
        rng = rng_state()
        try:
            self._feed(batch, index, rng)
        finally:
            set_rng(rng)

    def _feed(self, batch: Batch, index: int, rng: dict[str, Any]) -> None:
        returned = self.features.feed(batch, index, rng)
        self.forwards += 1
        if self.features.stage:
            return
        if self.task.kind == "classification":
            self.order.add(batch.target)
        if self.coalitions is None:
            return
        output = self.main.adapter.output(returned)
        target, group = batch.target, batch.group
        modalities = self.main.modalities
        for subset in subsets(modalities):
            if not subset and self.empty == "majority":
                continue
            if len(subset) < len(modalities):
                absent = [m for m in modalities if m not in subset]
                filled = fill_in(batch, absent, self.fill, seed=self.seed, index=index)
                self.forwards += 1
                output = self.main.adapter.output(self.main.run(filled, rng))
            self.coalitions.update(subset, self.task.prediction(output, target), target, group)

    def tables(self, truth: Mapping[str, Mapping[str, Any]] | None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Compute everything and lay it out as tidy tables and arrays."""
        if self.alone:
            self.notes.append(f"{self.alone} samples came alone in a batch of a form of its own and are left out")
        sources = self.features.sources
        spots = [(source, tap) for source in sources for tap in source.taps]
        tables: dict[str, Any] = {"taps": _tables.taps(spots)}
        arrays: dict[str, np.ndarray] = {}
        found = {name: one.compute() for name, one in self.features.instruments.items()}
        if "similarity" in found:
            tables["similarity"] = _tables.similarity(found["similarity"], spots)
        if "selectivity" in found:
            tables["selectivity"], arrays = _tables.selectivity(found["selectivity"], self.main.taps, self.task.classes)
            told = tables["selectivity"]
            if told["null_high"].isna().all():
                self.notes.append(f"no class selectivity could be told: {told['reason'].iloc[0] or 'no null'}")
        if "semantics" in found:
            names = self.features.concepts
            asked = Questions(sources, found["semantics"], names)
            self.margin = asked.margin
            tables["concepts"] = concepts(found["semantics"], spots, names)
            tables["variance"] = variance(found["semantics"], found.get("similarity"), spots)
            answers = {
                "profile": asked.profile(),
                "emergence": asked.emergence(),
                "collaboration": asked.collaboration(),
            }
            tables |= {name: table for name, table in answers.items() if len(table)}
        own = [(self.main, tap) for tap in self.main.taps]
        if "units" in found or "detectors" in found:
            tables["units"] = _tables.units(found.get("units"), found.get("detectors"), own)
        if "pairwise" in found:
            tables["pairwise"] = _tables.pairwise(found["pairwise"], own)
        if self.coalitions is not None:
            result = self.coalitions.compute()
            tables["removal"] = _tables.removal(result, self.main.modalities, result.score)
            if result.groups < min(FEW_GROUPS, result.samples):
                self.notes.append(f"removal: the intervals rest on {result.groups} groups only and are too narrow")
        if truth and "selectivity" in found:
            tables["recovery"] = _tables.recovery(tables["selectivity"], truth, self.main.modalities)
        return tables, arrays


def coalition_table(
    measures: Any,
    modalities: tuple[str, ...],
    task: Task,
    metric: Any,
    empty: Literal["majority", "filled"] | None,
    prior: Any,
    alpha: float,
    seed: int,
) -> tuple[CoalitionTable | None, Literal["majority", "filled", ""], str, list[str]]:
    """Return the table V(S), how V of no modality is told, the metric's name, and notes."""
    if "removal" not in measures:
        return None, "", "", []
    if task.kind == "none":
        return None, "", "", ["removal needs a target in each batch; there is none"]
    score = resolve_score(metric, task.kind, len(task.classes))
    chosen: Literal["majority", "filled"] = empty or ("majority" if prior is not None else "filled")
    given = prior if chosen == "majority" else None
    table = CoalitionTable(modalities, score=score, alpha=alpha, seed=seed, empty=chosen, prior=given)
    return table, chosen, score.name, []
