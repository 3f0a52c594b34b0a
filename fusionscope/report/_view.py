"""A dissection as the report reads it: tables with every column present, and the facts that sentences are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, Protocol, runtime_checkable

import pandas as pd

COLUMNS = {
    "taps": "tap modality level depth path index slot module units locations rows",
    "similarity": "tap_a tap_b modality_a level_a modality_b level_b cka low high null_mean null_high reason",
    "selectivity": "tap modality level concept best_unit eta2 epsilon2 mean_epsilon2 null_mean null_high encoded "
    "reason",
    "concepts": "tap source modality level concept iou null_mean null_high score low high encoded threshold prevalence "
    "reason",
    "variance": "tap_a tap_b source_a source_b modality_a level_a modality_b level_b sv raw low high floor shuffled "
    "concepts similarity ratio consistency speciality reason",
    "profile": "question tap_a tap_b source_a source_b modality_a level_a modality_b level_b concept d low high kind",
    "emergence": "source modality concept level tap best_level score prevalence",
    "collaboration": "measure modality_a modality_b level concept joint solo difference low high pressure",
    "units": "tap source modality level units dead saturated effective_rank participation selectivity_mean "
    "selectivity_max detectors concepts_detected reason",
    "pairwise": "measure tap_a tap_b source_a source_b modality_a level_a modality_b level_b value null_mean null_high "
    "samples of reason",
    "removal": "subset n_present metric value low high drop drop_low drop_high reason",
    "recovery": "concept planted modality expected best_tap epsilon2 null_high encoded agrees",
    "coalitions": "metric concept subset n_present value low high reason",
    "contribution": "metric concept modality shapley low high share share_low share_high alone last "
    "last_low last_high p q hurts reason",
    "cooperation": "metric kind subset value low high reason",
    "perceptual": "metric modality kind value sd low high repeats reason",
    "samples": "sample group label predicted modality effect worse donors p q hurts valuation reason",
    "information": "modality_a modality_b level level_a tap_a tap_b about estimator atom value shuffled shuffled_high "
    "corrected low high gap samples bins reason",
    "robustness": "modality corruption severity metric value low high drop drop_low drop_high ece ece_low ece_high "
    "ece_floor reason",
    "robustness_summary": "modality corruption relative relative_low relative_high effective corruption_error "
    "relative_corruption_error baseline reason",
    "imbalance": "measure modality value low high reason",
    "dynamics": "epoch quantity modality other mean std count reason",
    "projection": "epoch modality sample label x y",
    "gallery": "epoch modality unit place sample activation",
    "history": "phase epoch lr train_loss val_loss",
}


@runtime_checkable
class DissectionLike(Protocol):
    """What the report needs of a dissection: data only, never a model.

    ``arrays`` (``{name: array}``) is read where there is one: the inputs that are drawn, as ``sample/NUMBER/MODALITY``.
    """

    @property
    def tables(self) -> dict[str, pd.DataFrame]: ...

    @property
    def manifest(self) -> dict[str, Any]: ...

    @property
    def trace(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; NaN where there is none, with the reason."""

    value: float
    low: float = math.nan
    high: float = math.nan
    reason: str = ""

    @property
    def computed(self) -> bool:
        return math.isfinite(self.value)

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def positive(self) -> bool:
        """The interval lies above zero."""
        return self.has_interval and self.low > 0

    @property
    def negative(self) -> bool:
        return self.has_interval and self.high < 0

    def overlaps(self, other: Estimate) -> bool:
        """True unless both intervals are known and lie apart."""
        if not (self.has_interval and other.has_interval):
            return True
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class Similarity:
    """CKA of one level of one modality with one level of another (or the same), and the upper bound of its null."""

    level_a: int
    level_b: int
    cka: Estimate
    null_high: float

    @property
    def inside(self) -> bool:
        """The value lies within its null: nothing is shown."""
        return self.cka.computed and self.cka.value <= self.null_high


def number(value: Any) -> float:
    """Return a float, NaN for anything that is none (None, pd.NA, text)."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def text(value: object) -> str:
    """Return a cell as text, "" for a missing one."""
    return "" if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)) else str(value)


def truth(value: object) -> bool | None:
    """Return a cell as True, False or None (missing)."""
    return None if text(value) == "" else str(value) in ("True", "true", "1", "1.0")


class View:
    """Read-only access to one dissection."""

    def __init__(self, dissection: DissectionLike) -> None:
        self._tables = dissection.tables
        self._own: dict[str, pd.DataFrame] = {}
        self.manifest = dissection.manifest
        self.trace = dissection.trace or {}
        self.arrays: Mapping[str, Any] = getattr(dissection, "arrays", None) or {}
        named = self.manifest.get("modalities") or self.trace.get("modalities") or []
        self.modalities: list[str] = [str(m) for m in named]
        self.classes: list[str] = [str(c) for c in self.manifest.get("classes") or []]

    def table(self, name: str) -> pd.DataFrame:
        """Return a table with all its columns, empty where the dissection has none; rows of the model's own taps."""
        if name not in self._own:
            table = self.whole(name)
            for column in ("source", "source_a", "source_b"):
                if column in table.columns and len(table):
                    table = table[[text(v) == "" for v in table[column]]]
            self._own[name] = table
        return self._own[name]

    def whole(self, name: str) -> pd.DataFrame:
        """Return a table with the rows of every source: also of solo twins, their copies and checkpoints."""
        table = self._tables.get(name)
        columns = COLUMNS[name].split()
        if table is None:
            return pd.DataFrame(columns=columns)
        return table.reindex(columns=[*columns, *(c for c in table.columns if c not in columns)])

    def holds(self, name: str, column: str) -> bool:
        """Return whether a table has a column."""
        return column in getattr(self._tables.get(name), "columns", ())

    def section(self, name: str) -> dict[str, Any]:
        """Return a part of the manifest that is a dictionary, empty where it is absent."""
        part = self.manifest.get(name)
        return part if isinstance(part, dict) else {}

    @property
    def unmeasured(self) -> bool:
        """Of this model the training is known, but nothing was measured afterwards."""
        return bool(self.section("training")) and not self.trace.get("calls") and "taps" not in self._tables

    @property
    def metric(self) -> str:
        named = self.section("parameters").get("metric") or next(iter(self.table("removal")["metric"].dropna()), "")
        return str(named).replace("_", " ") or "the metric"

    @property
    def confidence(self) -> str:
        """The intervals' level in words, such as "95 %"."""
        alpha = number(self.section("parameters").get("alpha", 0.05))
        return f"{100 * (1 - (alpha if math.isfinite(alpha) else 0.05)):g} %"

    @cached_property
    def messages(self) -> list[str]:
        """Messages of the dissection, then of the trace, each once."""
        told = [*(self.manifest.get("messages") or []), *(self.trace.get("messages") or [])]
        return list(dict.fromkeys(str(message) for message in told))

    # --- removal ---

    @cached_property
    def _subsets(self) -> dict[str, list[str]]:
        sizes = range(len(self.modalities) + 1) if len(self.modalities) <= 12 else ()
        return {"+".join(c): list(c) for n in sizes for c in combinations(self.modalities, n)}

    def present(self, subset: object) -> list[str]:
        """Return the modalities of a subset written as "rgb+depth"; a name may itself hold a plus sign."""
        given = text(subset)
        return self._subsets.get(given, [m for m in given.split("+") if m])

    def subset(self, present: list[str]) -> dict[str, Any] | None:
        """Return the removal row for a set of modalities that are present."""
        for row in self.table("removal").to_dict("records"):
            if sorted(self.present(row["subset"])) == sorted(present):
                return row
        return None

    def value(self, present: list[str]) -> Estimate:
        """Return V(S)."""
        return self._estimate(self.subset(present), "value", "low", "high")

    def cost(self, modality: str) -> Estimate:
        """Return the drop V(all) - V(all without ``modality``)."""
        row = self.subset([m for m in self.modalities if m != modality])
        return self._estimate(row, "drop", "drop_low", "drop_high")

    @staticmethod
    def _estimate(row: dict[str, Any] | None, value: str, low: str, high: str) -> Estimate:
        if row is None:
            return Estimate(math.nan, reason="this subset was not evaluated")
        return Estimate(number(row[value]), number(row[low]), number(row[high]), text(row["reason"]))

    @cached_property
    def costs(self) -> dict[str, Estimate]:
        """The cost of each modality's removal, dearest first, those that could not be computed last."""
        costs = {m: self.cost(m) for m in self.modalities}
        return dict(sorted(costs.items(), key=lambda item: -item[1].value if item[1].computed else math.inf))

    # --- similarity ---

    def similarities(self, a: str, b: str) -> list[Similarity]:
        """Return every computed or failed CKA between the levels of ``a`` and ``b``."""
        table = self.table("similarity")
        rows = table[(table["modality_a"] == a) & (table["modality_b"] == b)].to_dict("records")
        return [
            Similarity(
                int(row["level_a"]),
                int(row["level_b"]),
                Estimate(number(row["cka"]), number(row["low"]), number(row["high"]), text(row["reason"])),
                number(row["null_high"]),
            )
            for row in rows
        ]

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of modalities that the similarity table holds, in the modalities' order."""
        return [(a, b) for a, b in combinations(self.modalities, 2) if self.similarities(a, b)]

    def aligned(self, a: str, b: str) -> list[Similarity]:
        """Return the similarities of equal levels, in order."""
        return sorted((s for s in self.similarities(a, b) if s.level_a == s.level_b), key=lambda s: s.level_a)

    # --- selectivity ---

    @cached_property
    def selectivity(self) -> pd.DataFrame:
        """The selectivity table with names as text, numbers as floats and ``encoded`` as True, False or None."""
        table = self.table("selectivity").copy()
        for name in ("concept", "modality", "tap", "reason"):
            table[name] = pd.Series([text(v) for v in table[name]], index=table.index, dtype=object)
        for name in ("epsilon2", "mean_epsilon2", "eta2", "null_mean", "null_high", "level"):
            table[name] = pd.Series([number(v) for v in table[name]], index=table.index, dtype=float)
        table["encoded"] = pd.Series([truth(v) for v in table["encoded"]], index=table.index, dtype=object)
        return table

    @cached_property
    def concepts(self) -> list[str]:
        """Concepts but "overall", in the order of the classes, then of the table."""
        found = [c for c in dict.fromkeys(self.selectivity["concept"]) if c != "overall"]
        return sorted(found, key=lambda c: self.classes.index(c) if c in self.classes else len(self.classes))

    @cached_property
    def best(self) -> dict[tuple[str, str], dict[str, Any]]:
        """By (concept, modality): the row with the largest margin over its null (or the reason, if none computed)."""
        best: dict[tuple[str, str], dict[str, Any]] = {}
        for row in self.selectivity.to_dict("records"):
            key = (row["concept"], row["modality"])
            bound = row["null_high"] if math.isfinite(row["null_high"]) else 0.0
            row["margin"] = row["epsilon2"] - bound if math.isfinite(row["epsilon2"]) else -math.inf
            row["encoded_anywhere"] = row["encoded"] is True or best.get(key, {}).get("encoded_anywhere", False)
            if key not in best or row["margin"] > best[key]["margin"]:
                best[key] = row
            best[key]["encoded_anywhere"] = row["encoded_anywhere"]
        return best

    def encoders(self, concept: str) -> list[str]:
        """Return the modalities of which at least one tap encodes the concept."""
        return [m for m in self.modalities if self.best.get((concept, m), {}).get("encoded_anywhere")]

    @property
    def measured(self) -> list[str]:
        """Modalities that have selectivity rows."""
        present = set(self.selectivity["modality"])
        return [m for m in self.modalities if m in present]
