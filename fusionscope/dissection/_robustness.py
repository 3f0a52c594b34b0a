"""Robustness: the score with one modality corrupted, by kind of corruption and severity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from fusionscope.batch import Batch
from fusionscope.data import CorruptionStatistics, corrupt, corruptions, modality_kind
from fusionscope.dissection._dissection import Dissection
from fusionscope.dissection._step import Step, attempt
from fusionscope.dissection._task import Task
from fusionscope.errors import InputError, did_you_mean
from fusionscope.measures import Robustness, Score, resolve_score

SEVERITIES = 5
KINDS = ("image", "depth", "video", "audio", "sequence", "vector", "tokens")


@dataclass(frozen=True)
class Baseline:
    """The robustness curves of another model, by ``(modality, corruption)``: values at severities 0 to 5."""

    name: str
    metric: str
    data: str  # fingerprint
    curves: Mapping[tuple[str, str], list[float]] = field(repr=False)

    @classmethod
    def of(cls, found: Dissection | None) -> Baseline | None:
        """Take them from a dissection.

        Raises:
            InputError: if it holds none.
        """
        if found is None:
            return None
        if "robustness" not in found.tables:
            raise InputError(
                "the baseline's dissection holds no robustness curves; dissect it with measures=('robustness',)"
            )
        table = found.tables["robustness"]
        curves = {
            (str(m), str(c)): list(rows.sort_values("severity")["value"])
            for m, c in table[["modality", "corruption"]].drop_duplicates().itertuples(index=False)
            if len(rows := table[(table["modality"] == m) & (table["corruption"] == c)])
        }
        data = str(found.manifest["data"]["fingerprint"])
        return cls(str(found.manifest["model"]["name"]), str(table["metric"].iloc[0]), data, curves)


def kinds_of(batch: Batch, given: Mapping[str, str] | None) -> dict[str, str]:
    """Return the kind of each modality, inferred where it is not given.

    Raises:
        InputError: an unknown modality or kind.
    """
    for modality, kind in (given or {}).items():
        if modality not in batch.inputs:
            names = list(batch.inputs)
            raise InputError(
                f"kinds= names the modality {modality!r}; expected {', '.join(names)}.{did_you_mean(modality, names)}"
            )
        if kind not in KINDS:
            raise InputError(
                f"unknown kind {kind!r} of {modality}; expected {', '.join(KINDS)}.{did_you_mean(kind, KINDS)}"
            )
    return {m: (given or {}).get(m) or modality_kind(m, nest) for m, nest in batch.inputs.items()}


class Sweep:
    """Corrupts each modality in every way that suits its kind, severities 1 to 5, while a batch is at hand.

    What a corruption takes from the data (ranges, spreads) comes from the first batch, so that all batches and ranks
    use the same.
    """

    def __init__(
        self,
        task: Task,
        score: Score,
        first: Batch,
        kinds: Mapping[str, str],
        baseline: Baseline | None,
        *,
        alpha: float,
        seed: int,
    ) -> None:
        self.kinds, self.seed = kinds, seed
        self.statistics = {m: CorruptionStatistics.of(nest, kinds[m]) for m, nest in first.inputs.items()}
        wanted = {m: corruptions(kinds[m]) for m in first.modalities}
        self.pairs = [(m, c) for m, names in wanted.items() for c in names]
        if baseline is not None and baseline.metric != score.name:
            raise InputError(
                f"the baseline's robustness is measured by {baseline.metric}, this one by {score.name}; dissect both "
                f"with the same metric=, or leave baseline= out"
            )
        ece = resolve_score("ece", task.kind, len(task.classes)) if task.kind in ("classification", "dense") else None
        common: dict[str, Any] = {"alpha": alpha, "seed": seed}
        named: dict[str, Any] = {"baseline": baseline.curves, "baseline_name": baseline.name} if baseline else {}
        self.table = Robustness(wanted, score=score, **named, **common)
        self.calibration = Robustness(wanted, score=ece, **common) if ece is not None else None

    def feed(self, step: Step) -> None:
        """Run all corruptions of one batch."""
        tables = [table for table in (self.table, self.calibration) if table is not None]
        target, group = step.batch.target, step.batch.group
        for table in tables:
            table.update("clean", step.prediction, target, group)
        for modality, corruption in self.pairs:
            for severity in range(1, SEVERITIES + 1):
                condition = (modality, corruption, severity)
                found, reason = attempt(lambda c=condition: step.predict(self._corrupted(step, *c), step.real(c[0])))
                for table in tables:
                    if found is None:
                        table.fail(condition, reason)
                    else:
                        table.update(condition, found, target, group)

    def _corrupted(self, step: Step, modality: str, corruption: str, severity: int) -> Batch:
        values = corrupt(
            step.batch.inputs[modality],
            corruption,
            severity,
            kind=self.kinds[modality],
            seed=self.seed,
            index=step.index,
            modality=modality,
            statistics=self.statistics[modality],
        )
        return step.batch.with_inputs(**{modality: values})

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return ``robustness``, one row per severity of each curve, and ``robustness_summary``, one per curve."""
        found = self.table.compute()
        rows = pd.DataFrame([asdict(row) for row in found.rows])
        rows = rows.drop(columns="floor")
        rows.insert(3, "metric", found.score)
        calibration = self.calibration.compute().rows if self.calibration is not None else ()
        for name in ("value", "low", "high", "floor"):
            values = [getattr(row, name) for row in calibration] or [float("nan")] * len(rows)
            rows["ece" if name == "value" else f"ece_{name}"] = values
        return {
            "robustness": rows[[c for c in rows if c != "reason"] + ["reason"]],
            "robustness_summary": pd.DataFrame([asdict(row) for row in found.summary]),
        }
