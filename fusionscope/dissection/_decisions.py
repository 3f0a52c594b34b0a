"""The decision instruments: what each modality does to the output; all see a batch while it is at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fusionscope.batch import Batch
from fusionscope.dissection import _decision_tables as tables_of
from fusionscope.dissection._emap import Additive
from fusionscope.dissection._fill import Fill, fill_in
from fusionscope.dissection._head import Head
from fusionscope.dissection._perceptual import Perception
from fusionscope.dissection._pictures import pictures
from fusionscope.dissection._ranks import gathered
from fusionscope.dissection._reuse import Reuse
from fusionscope.dissection._robustness import Baseline, Sweep
from fusionscope.dissection._sources import Source
from fusionscope.dissection._step import Step, attempt
from fusionscope.dissection._task import Task
from fusionscope.dissection._valuation import Valuation
from fusionscope.measures import (
    CoalitionTable,
    RemovalResult,
    cooperations,
    resolve_score,
    sampled_subsets,
)
from fusionscope.tracing import Trace

DONORS = 24
GAMES = ("removal", "contribution", "imbalance")
FEW_GROUPS = 10


class Decisions:
    """What the measures from ``removal`` to ``imbalance`` need of a model.

    Attributes:
        coalitions: the tables V(S), by metric: the main one first, then the smooth one.
        metric: the name of the main one, "" if there is no target to score.
        empty: how V of no modality is told.
    """

    def __init__(
        self,
        main: Source,
        found: Trace,
        task: Task,
        measures: Sequence[str],
        *,
        fill: Fill,
        empty: Literal["majority", "filled"] | None,
        prior: Any,
        metric: Any,
        kinds: Mapping[str, str],
        baseline: Baseline | None,
        first: Batch,
        alpha: float,
        seed: int,
    ) -> None:
        self.main, self.task, self.fill, self.seed, self.kinds = main, task, fill, seed, kinds
        self.notes: list[str] = []
        self.reuse = Reuse(main, found)
        self.coalitions: dict[str, CoalitionTable] = {}
        self.valuation = self.perception = self.additive = self.sweep = self.head = None
        self.metric, self.empty = "", ""
        self.replaced: set[str] = set()
        self.moved: set[str] = set()
        wanted = set(measures)
        self.wanted = wanted & {*GAMES, "valuation", "perceptual", "emap", "robustness"}
        if task.kind == "none" and self.wanted:
            self.notes.append(f"{', '.join(sorted(self.wanted))}: the batches hold no target to score against")
        if task.kind == "none" or not self.wanted:
            return
        names, classes = main.modalities, len(task.classes)
        score = resolve_score(metric, task.kind, classes)
        smooth = resolve_score("neg_mse" if task.kind == "regression" else "loglik", task.kind, classes)
        self.metric = score.name
        common: dict[str, Any] = {"alpha": alpha, "seed": seed}
        chosen: Literal["majority", "filled"] = empty or ("majority" if prior is not None else "filled")
        self.empty = chosen
        self.subsets, orders = sampled_subsets(names, seed=seed)
        if orders is not None:
            self.notes.append(f"{len(names)} modalities: V(S) of {len(self.subsets)} sampled subsets, not of all")
        if wanted & set(GAMES):
            given = prior if chosen == "majority" else None
            both = wanted & {"contribution"}
            for one in {score.name: score, **({smooth.name: smooth} if both else {})}.values():
                self.coalitions[one.name] = CoalitionTable(
                    names, score=one, empty=chosen, prior=given, permutations=orders, **common
                )
        if "valuation" in wanted:
            if any(call.batch_coupled for call in found.calls):
                self.notes.append("valuation: samples of a batch influence each other in this model, so none is valued")
            else:
                self.valuation = Valuation(task, names, first.target, donors=DONORS, **common)
        if "perceptual" in wanted:
            self.perception = Perception(names, task.kind, score, **common)
        if "emap" in wanted and len(names) > 1:
            self.additive = Additive(main, task, score, **common)
        if "robustness" in wanted:
            self.sweep = Sweep(task, score, first, kinds, baseline, **common)
        if "imbalance" in wanted and task.kind == "classification":
            self.head = Head(main, first, **common)

    def keeping(self) -> AbstractContextManager[None]:
        """While it is open, the unchanged forward keeps what later forwards reuse."""
        self.reuse.start()
        return self.reuse.using(dict.fromkeys(self.main.modalities, "real")) if self.wanted else nullcontext()

    def feed(self, batch: Batch, index: int, start: int, returned: Any, rng: dict[str, Any]) -> None:
        """Run what one batch needs."""
        if not self.metric:
            return
        prediction = self.task.prediction(self.main.adapter.output(returned), batch.target)
        step = Step(batch, index, start, prediction, self.main, self.task, self.reuse, rng)
        if self.coalitions:
            self._coalitions(step)
        for one in (self.valuation, self.perception, self.sweep, self.head):
            if one is not None:
                one.feed(step)

    def see(self, batch: Batch, index: int) -> None:
        """Look at a batch that may be another rank's."""
        if self.additive is not None:
            self.additive.see(batch, index)

    def _coalitions(self, step: Step) -> None:
        names = self.main.modalities
        for subset in self.subsets:
            if not subset and self.empty == "majority":
                continue
            output: Tensor | None = step.prediction
            if len(subset) < len(names):
                absent = [m for m in names if m not in subset]
                versions = {m: "filled" if m in absent else "real" for m in names}
                output, reason = attempt(
                    lambda absent=absent, versions=versions: step.predict(
                        fill_in(step.batch, absent, self.fill, seed=self.seed, index=step.index), versions
                    )
                )
                if output is None:
                    for table in self.coalitions.values():
                        table.fail(subset, reason)
                    continue
                if len(absent) == 1:
                    self.replaced.add(absent[0])
                    if absent[0] not in self.moved and not torch.equal(output, step.prediction):
                        self.moved.add(absent[0])
            for table in self.coalitions.values():
                table.update(subset, output, step.batch.target, step.batch.group, step.ids)

    def tables(
        self, rows: int, device: torch.device, probes: list[dict[str, Any]]
    ) -> tuple[dict[str, pd.DataFrame], dict[str, np.ndarray]]:
        """Compute everything and lay it out; ``rows`` per forward of what still has to run."""
        self._share_reasons()
        names, found = self.main.modalities, {}
        arrays: dict[str, np.ndarray] = {}
        results = {metric: table.compute() for metric, table in self.coalitions.items()}
        if results:
            found |= self._games(results)
        if self.perception is not None:
            found["perceptual"] = tables_of.frame(self.perception.table.compute().rows, names)
        if self.additive is not None:
            extra = tables_of.emap(self.additive.compute(rows, device), self.metric)
            found["cooperation"] = (
                pd.concat([found["cooperation"], extra], ignore_index=True) if "cooperation" in found else extra
            )
        if self.valuation is not None:
            tested, drawn, notes = self.valuation.results()
            self.notes += notes
            found["samples"] = tables_of.samples(tested, self._valued(results))
            arrays |= pictures(drawn, self.kinds)
        if self.sweep is not None:
            found |= self.sweep.tables()
        if "imbalance" in self.wanted and results:
            found["imbalance"] = pd.DataFrame([*self._imbalance(results[self.metric]), *probes])
        self.notes += dict.fromkeys(gathered(self.reuse.notes))
        return found, arrays

    def _share_reasons(self) -> None:
        """Tell every rank why conditions failed on another one."""
        sweep = [] if self.sweep is None else [self.sweep.table, self.sweep.calibration]
        others = [one.table for one in (self.perception, self.head) if one is not None]
        for table in (*self.coalitions.values(), *others, *sweep):
            if table is not None:
                for reasons in gathered([table.reasons]):
                    table.reasons = reasons | table.reasons

    def _games(self, results: Mapping[str, RemovalResult]) -> dict[str, pd.DataFrame]:
        names, main = self.main.modalities, results[self.metric]
        found: dict[str, pd.DataFrame] = {}
        if "removal" in self.wanted:
            found["removal"] = tables_of.removal(main, names, self.metric)
            if main.groups < min(FEW_GROUPS, main.samples):
                self.notes.append(f"removal: the intervals rest on {main.groups} groups only and are too narrow")
        if "contribution" in self.wanted:
            found["coalitions"] = tables_of.coalitions(results, names, self.task.classes)
            found["contribution"] = tables_of.contribution(results.values(), names, self.task.classes)
            found["cooperation"] = tables_of.frame(
                (r for one in results.values() for r in cooperations(one).rows), names
            )
            shares, note = found["contribution"], "no output changed when it was replaced: ignored, or constant here"
            still = set(gathered(sorted(self.replaced))) - set(gathered(sorted(self.moved)))
            unmoved = shares["modality"].isin(still)
            shares.loc[unmoved, "reason"] = [f"{note}; {r}" if r else note for r in shares.loc[unmoved, "reason"]]
        return found

    def _valued(self, results: Mapping[str, RemovalResult]) -> pd.DataFrame | None:
        """The sample-level valuation of every sample, where the outputs are classes."""
        if self.task.kind != "classification" or "accuracy" not in results:
            return None
        return tables_of.valued(results["accuracy"])

    def _imbalance(self, result: RemovalResult) -> list[dict[str, Any]]:
        """Each modality alone, and the discrepancy ratio of the head."""
        rows = [{"measure": "alone"} | row for row in tables_of.alone(result)]
        if self.head is not None:
            rows += [{"measure": "discrepancy ratio"} | row for row in self.head.ratios()]
        return rows
