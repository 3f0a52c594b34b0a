"""A trained run's test score as it is, without each modality, and with each modality damaged."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from fusionscope.batch import Batch, takes_present
from fusionscope.data import CorruptionStatistics, DataSplits, corrupt, corruptions, modality_kind
from fusionscope.dissection import fill_in
from fusionscope.errors import FusionscopeError, InputError

from ._folder import Run, load_run
from ._memory import Memory, choose, remember
from ._own import dressed
from ._scores import METRIC, Scores, task_loss

COLUMNS = ("condition", "modality", "kind", "severity", "metric", "value", "reason")
FILLS = ("resample", "present")
BATCH = 128
SMALLEST = 4

Condition = tuple[str, str, str, int | None]
CLEAN: Condition = ("clean", "", "", 0)


def score_conditions(
    run_folder: str | Path,
    *,
    severities: Sequence[int] = (1, 3, 5),
    data: DataSplits | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Score a run on its test split, clean, with each modality removed and with each corrupted.

    What is damaged, and how, depends on ``seed``, the data and the modality only: all runs on one data set, of whatever
    model and training seed, see the same damaged samples, so that their differences are paired. The order is random,
    since stand-ins come from the same 128 samples and test splits may be sorted by class; damage is done on the CPU,
    whose random numbers are the same everywhere. Each batch is scored under all conditions while it is at hand.

    Conditions:
        - ``clean``: the test split as it is; the main metric is that of the run's ``metrics.json`` (but for
          rounding after mixed precision: conditions are scored in float32).
        - ``removal``, once per modality: kind "resample" replaces its values by another sample's, which every model can
          be given and no model can tell from data; it is the one that :func:`compare` shows. Kind "present" tells the
          model that the modality is absent, which models have learnt only if trained with modality dropout.
        - ``corruption``, per modality, kind (all that suit it: :func:`fusionscope.data.corruptions`) and severity.

    Args:
        run_folder: what :func:`train` wrote.
        severities: of 1 to 5; fewer save time in proportion, none leaves corruption out.
        data: the run's data, where it is loaded already; it may have more modalities.
        seed: of all that is drawn.

    Returns:
        One row per condition and metric (the task's main one, and ``loss``): columns ``condition, modality, kind,
        severity, metric, value, reason``; ``value`` is NaN where there is none, and ``reason`` says why, else "".

    Raises:
        FileError: if the run folder is damaged.
        InputError: if the data cannot be loaded or is not the run's, or a severity is not one of 1 to 5.

    >>> score_conditions("runs/demo", severities=(5,)).query("condition == 'clean'")  # doctest: +SKIP
    """
    wrong = [s for s in severities if isinstance(s, bool) or s not in (1, 2, 3, 4, 5)]
    if wrong:
        raise InputError(f"expected severities of 1 to 5, got {wrong[0]!r}; leave all out to score no corruption: ()")
    run = load_run(run_folder, data=data is None)
    data = choose(cast(DataSplits, data if data is not None else run.data), run.modalities)
    if data.fingerprint != run.description["data"]["fingerprint"]:
        raise InputError(
            f"the data of {data.spec} (fingerprint {data.fingerprint}) is not what {run_folder} was trained on "
            f"({run.description['data']['fingerprint']}); give the data of its config.json, or leave data out"
        )
    return _Sweep(run, data, sorted(set(severities)), seed).rows()


class _Sweep:
    """All conditions of one run, batch by batch."""

    def __init__(self, run: Run, data: DataSplits, severities: Sequence[int], seed: int):
        self.run, self.data, self.seed = run, data, seed
        gpu = torch.cuda.is_available() and run.config.accelerator in ("auto", "cuda")
        self.device = torch.device("cuda" if gpu else "cpu")
        self.split = remember(data.splits["test"])
        self.kinds = {m: modality_kind(m, self.split[0]["inputs"][m][None]) for m in data.modalities}
        self.scale = _scale(run, data.task).to(self.device)
        self.conditions: list[Condition] = [CLEAN]
        self.reasons: dict[Condition, str] = {}
        for m in data.modalities:
            self.conditions += [("removal", m, fill, None) for fill in FILLS]
        for m in data.modalities:
            self.conditions += [("corruption", m, c, s) for c in corruptions(self.kinds[m]) for s in severities]
        if len(data.modalities) == 1:
            alone = f"{data.modalities[0]} is the only modality: without it nothing is left"
            self.reasons |= {c: alone for c in self.conditions if c[0] == "removal"}
        self.scores = {
            c: Scores(data.task, data.classes, self.device, data_range=2 * float(self.scale.max()))
            for c in self.conditions
        }

    def rows(self) -> pd.DataFrame:
        """Run everything and return the table."""
        model = dressed(self.run.model, self.run.modalities).eval().to(self.device)
        if model is self.run.model:  # ours: a ResNet then takes a third of the time on a CPU; others may use views
            model.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]
        if "present" not in inspect.signature(model.forward).parameters:
            untold = "the model takes no present: it cannot be told what is absent"
            self.reasons = {c: untold for c in self.conditions if c[2] == "present"} | self.reasons
        batches = _order(len(cast(Sized, self.split)), self.seed)
        statistics = self._statistics() if any(c[0] == "corruption" for c in self.conditions) else {}
        with torch.inference_mode():
            for index, batch in self._batches(batches):
                for condition in self.conditions:
                    if condition not in self.reasons:
                        self._score(model, condition, index, batch, statistics)
        rows = []
        for condition in self.conditions:
            reason = self.reasons.get(condition, "")
            found: Any = {} if reason else self.scores[condition].compute()
            for metric in (METRIC[self.data.task], "loss"):
                value = float(found.get(metric, float("nan")))
                rows.append((*condition, metric, value, reason or ("" if value == value else "it is not a number")))
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        return table.astype({"severity": "Int64"})

    def _score(
        self,
        model: nn.Module,
        condition: Condition,
        index: int,
        batch: dict[str, Any],
        statistics: Mapping[str, CorruptionStatistics],
    ) -> None:
        what, modality, kind, severity = condition
        inputs, present = batch["inputs"], None
        try:
            if what == "corruption":
                damaged = corrupt(
                    inputs[modality],
                    kind,
                    severity,
                    kind=self.kinds[modality],
                    seed=self.seed,
                    index=index,
                    modality=modality,
                    statistics=statistics[modality],
                )
                inputs = inputs | {modality: damaged}
            elif kind == "present" and not takes_present(model):
                self.reasons[condition] = "the model's forward has no parameter present"
                return
            elif kind == "present":
                size = len(batch["target"])
                present = {modality: torch.zeros(size, dtype=torch.bool, device=self.device)}
            elif kind == "resample":
                inputs = fill_in(Batch(inputs, None), [modality], "resample", seed=self.seed, index=index).inputs
        except FusionscopeError as error:
            self.reasons[condition] = str(error)
            return
        inputs = {m: x.to(self.device, non_blocking=True) for m, x in inputs.items()}
        target = batch["target"].to(self.device, non_blocking=True)
        try:
            output = model(inputs) if present is None else model(inputs, present)
        except FusionscopeError as error:
            if present is None:
                raise
            self.reasons[condition] = f"the model cannot do without {modality}: {error}"
            return
        output = output.float()
        loss = task_loss(self.data.task, output, target, 0.0, self.scale)
        self.scores[condition].update(output, target, loss)

    def _statistics(self) -> dict[str, CorruptionStatistics]:
        """Those of the whole test split, in its own order."""
        found: dict[str, CorruptionStatistics] = {}
        size = len(cast(Sized, self.split))
        for _, batch in self._batches([list(range(i, min(i + BATCH, size))) for i in range(0, size, BATCH)]):
            for m, x in batch["inputs"].items():
                part = CorruptionStatistics.of(x, self.kinds[m])
                found[m] = found[m].merge(part) if m in found else part
        return found

    def _batches(self, batches: list[list[int]]) -> Iterator[tuple[int, dict[str, Any]]]:
        collate: Callable[[Any], Any] = _as_is if isinstance(self.split, Memory) else default_collate
        workers = 0 if isinstance(self.split, Memory) else self.run.config.workers
        return enumerate(_loader(self.split, batches, collate, workers))


def _loader(split: Dataset, batches: list[list[int]], collate: Callable[[Any], Any], workers: int) -> DataLoader:
    return DataLoader(split, batch_sampler=batches, collate_fn=collate, num_workers=workers)


def _order(size: int, seed: int) -> list[list[int]]:
    """Batches of a random order; a tail of few samples, which have few others to stand in, joins the batch before."""
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist()
    batches = [order[i : i + BATCH] for i in range(0, size, BATCH)]
    if len(batches) > 1 and len(batches[-1]) < SMALLEST:
        tail = batches.pop()
        batches[-1] += tail
    return batches


def _scale(run: Run, task: str) -> Tensor:
    """What the loss divides errors by, as it was in training: of the targets, which weights and config have kept."""
    if task == "translation":
        return cast(Tensor, run.model.scale).detach().clone()
    std = run.description["training"].get("target_std")
    return torch.tensor(std) if std else torch.ones(1)


def _as_is(batch: Any) -> Any:
    return batch
