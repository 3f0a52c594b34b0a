"""The instruments that look at features: what they are, what feeds them, and the passes over the data they need."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fusionscope.batch import Batch
from fusionscope.dissection._information import Information
from fusionscope.dissection._sources import Source
from fusionscope.dissection._task import Task
from fusionscope.errors import InputError
from fusionscope.measures import (
    EtaSquared,
    Instrument,
    MinibatchCKA,
    PairwiseSimilarity,
    SemanticVariance,
    UnitDetectors,
    UnitStatistics,
)

Concepts = Callable[[Batch], Mapping[str, Tensor]]
NULLS = 20


class Features:
    """All feature instruments of one dissection; each network of ``sources`` runs once per batch and pass.

    Attributes:
        instruments: by name of the measure; those that could not be made are left out, and ``notes`` say why.
        concepts: names of the concepts that are probed.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        task: Task,
        measures: Sequence[str],
        *,
        concepts: Concepts | None,
        first: Batch,
        estimator: str,
        decomposition: str,
        permutations: int,
        alpha: float,
        seed: int,
        device: torch.device,
    ) -> None:
        self.sources, self.task, self._masks = list(sources), task, concepts
        self.notes: list[str] = []
        self.stage = 0
        self.information: Information | None = None
        self.instruments: dict[str, Instrument] = {}
        own, every = sources[0].spots, [spot for source in sources for spot in source.spots]
        self.spots: dict[str, list[str]] = {}
        self.concepts: tuple[str, ...] = task.classes
        if concepts is not None:
            self.concepts = tuple(str(name) for name in self._named(first))
        wanted = {"similarity", "selectivity", "semantics", "units", "detectors", "pairwise"} & set(measures)
        if not own and wanted:
            self.notes.append(f"no call depends on one modality alone: no {' and no '.join(sorted(wanted))}")
            return
        nulls = max(NULLS, math.ceil(1 / alpha - 1e-9) - 1)
        common: dict[str, Any] = {"alpha": alpha, "seed": seed}
        if "similarity" in measures:
            self._use("similarity", MinibatchCKA(every, permutations=permutations, **common), every)
        if "selectivity" in measures:
            if task.kind in ("classification", "dense"):
                count = len(task.classes)
                self._use("selectivity", EtaSquared(own, count, permutations=permutations, **common), own)
            else:
                self.notes.append(f"class selectivity needs class labels; the task is {task.kind}")
        if "semantics" in measures:
            if self.concepts:
                probe = SemanticVariance(
                    every,
                    len(self.concepts),
                    estimator=estimator,
                    permutations=nulls,
                    **common,
                )
                self._use("semantics", probe, every)
            else:
                self.notes.append(
                    f"semantic variance needs concepts: class labels as target, or concepts=a function from a batch to "
                    f"{{name: mask}}; the task is {task.kind}"
                )
        labelled = len(task.classes) if task.kind in ("classification", "dense") else 0
        if "units" in measures:
            self._use("units", UnitStatistics(own, labelled or None), own)
        if "detectors" in measures:
            if labelled:
                self._use("detectors", UnitDetectors(own, labelled, permutations=nulls, **common), own)
            else:
                self.notes.append(f"unit detectors need class labels; the task is {task.kind}")
        if "pairwise" in measures:
            self._use("pairwise", PairwiseSimilarity(own, permutations=nulls, **common), own)
        asked = {"information", "imbalance"} & set(measures)
        if "information" in asked and task.kind == "multilabel":
            self.notes.append("information needs one label or number per sample; the task is multilabel")
        elif asked and task.kind not in ("none", "multilabel"):
            self.information = Information(sources, task, first, measures, decomposition, **common)
            if self.information.spots:
                self._use("information", self.information.instrument, self.information.spots)
        for instrument in self.instruments.values():
            instrument.to(device)

    def _use(self, name: str, instrument: Instrument, spots: list[str]) -> None:
        self.instruments[name] = instrument
        self.spots[name] = spots

    @property
    def passes(self) -> int:
        """How often the data must be read."""
        return max((one.passes for one in self.instruments.values()), default=1)

    def advance(self) -> None:
        """End a pass; instruments that need no further one keep what they have."""
        for instrument in self._active():
            if instrument.passes > self.stage + 1:
                instrument.advance()
        self.stage += 1

    def _active(self) -> list[Instrument]:
        return [one for one in self.instruments.values() if one.passes > self.stage]

    def feed(self, batch: Batch, index: int, rng: dict[str, Any]) -> Any:
        """Run every network on a batch; return what the dissected model returned, None if it did not need to run."""
        active = {name: one for name, one in self.instruments.items() if one.passes > self.stage}
        contexts = {
            name: one.context(batch.size, self._target(name, batch), index, batch.group) for name, one in active.items()
        }
        reduced: dict[str, dict[str, Any]] = {name: {} for name in active}
        takers: dict[str, list[str]] = {}
        for name in active:
            for spot in self.spots[name]:
                takers.setdefault(spot, []).append(name)

        def use(spot: str, features: Tensor) -> None:
            for name in takers.get(spot, ()):
                reduced[name][spot] = active[name].reduce(features, contexts[name], spot)

        returned = None
        for number, source in enumerate(self.sources):
            if number == 0 or any(spot in takers for spot in source.spots):
                result = source.run(batch, rng, use)
                returned = result if number == 0 else returned
        for name, one in active.items():
            if name == "information" and self.information is not None:
                reduced[name] |= self.information.inputs_of(batch, contexts[name])
                self.information.instrument.update(reduced[name], contexts[name], self._predicted(returned, batch))
            else:
                one.update(reduced[name], contexts[name])
        return returned

    def _predicted(self, returned: Any, batch: Batch) -> Tensor:
        """The model's prediction in the form of a target: classes, or values."""
        output = self.task.prediction(self.sources[0].adapter.output(returned), batch.target)
        return output.argmax(1) if self.task.kind in ("classification", "dense") else output

    def _target(self, name: str, batch: Batch) -> Tensor | None:
        if name == "semantics" and self._masks is not None:
            named = self._named(batch)
            if tuple(map(str, named)) != self.concepts:
                raise InputError(
                    f"concepts= gave {list(named)} for a batch and {list(self.concepts)} for the first one; give the "
                    "same names in the same order, with NaN where a mask is not known"
                )
            return torch.stack([mask.to(torch.float32) for mask in named.values()], 1)
        if self.task.kind == "multilabel":
            if name != "semantics":
                return None
            known = batch.target.float()
            return torch.where(known < 0, torch.nan, known)
        return batch.target if isinstance(batch.target, Tensor) else None

    def _named(self, batch: Batch) -> Mapping[str, Tensor]:
        if self._masks is None:
            return {}
        named = self._masks(batch)
        if not isinstance(named, Mapping) or not named or not all(isinstance(m, Tensor) for m in named.values()):
            raise InputError(
                f"expected concepts= to return a dict of masks, as {{'name': tensor [B] or [B, H, W]}}, got "
                f"{type(named).__name__}"
            )
        shapes = {tuple(mask.shape) for mask in named.values()}
        if len(shapes) > 1 or next(iter(shapes))[:1] != (batch.size,):
            raise InputError(
                f"expected masks of one shape that starts with the batch's {batch.size} samples, got {sorted(shapes)}; "
                "resize them to one grid"
            )
        return named
