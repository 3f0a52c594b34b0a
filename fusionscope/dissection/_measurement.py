"""Both kinds of instruments of one dissection, and the forwards that feed them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from fusionscope.batch import Batch
from fusionscope.dissection import _tables
from fusionscope.dissection._decisions import Decisions
from fusionscope.dissection._features import Features
from fusionscope.dissection._questions import Questions, concepts, variance
from fusionscope.dissection._ranks import gathered
from fusionscope.dissection._sources import Source
from fusionscope.dissection._task import ClassOrder, Task
from fusionscope.tracing import rng_state, set_rng


class Measurement:
    """Features of all networks, and decisions of the dissected one; both see every batch while it is at hand."""

    def __init__(self, main: Source, task: Task, features: Features, decisions: Decisions) -> None:
        self.main, self.task, self.features, self.decisions = main, task, features, decisions
        self.notes: list[str] = []
        self.order = ClassOrder()
        self.alone = 0
        self.margin: float | None = None

    @torch.no_grad()
    def step(self, batch: Batch, index: int, start: int) -> None:
        """Feed one batch to all instruments of this pass; its first sample is number ``start`` of the run."""
        if batch.size < 2:
            self.alone += self.features.stage == 0
            return
        rng = rng_state()
        try:
            if self.features.stage:
                self.features.feed(batch, index, rng)
                return
            if self.task.kind == "classification":
                self.order.add(batch.target)
            with self.decisions.keeping():
                returned = self.features.feed(batch, index, rng)
            self.decisions.feed(batch, index, start, returned, rng)
        finally:
            set_rng(rng)

    def tables(
        self, truth: Mapping[str, Mapping[str, Any]] | None, rows: int, device: torch.device
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Compute everything and lay it out as tidy tables and arrays; ``rows`` per forward of what has yet to run."""
        alone = sum(gathered([self.alone]))
        if alone:
            self.notes.append(f"{alone} samples came alone in a batch of a form of its own and are left out")
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
        info = self.features.information
        probes: list[dict[str, Any]] = []
        if info is not None and "information" in found:
            if info.pairs:
                tables["information"] = pd.DataFrame(info.rows(found["information"]))
            probes = info.probes(found["information"])
        decided, drawn = self.decisions.tables(rows, device, probes)
        tables |= decided
        arrays |= drawn
        self.notes += self.decisions.notes
        if truth and "selectivity" in found:
            tables["recovery"] = _tables.recovery(tables["selectivity"], truth, self.main.modalities)
        return tables, arrays
