"""The tables of concepts, typed: one entry per row, names as text, numbers as floats, own taps unless asked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from typing import Any

from fusionscope.report._view import COLUMNS, Estimate, View, number, text, truth

TEXT = {"tap", "tap_a", "tap_b", "source", "source_a", "source_b", "modality", "modality_a", "modality_b", "concept"}
TEXT |= {"reason", "kind", "question", "pressure", "measure"}
Row = dict[str, Any]


@dataclass(frozen=True)
class Variance:
    """Semantic variance of two taps, with what refits alone give, and the CKA of the same two."""

    a: float
    b: float
    sv: Estimate
    floor: float
    similarity: float
    ratio: float
    row: Row

    @property
    def at(self) -> str:
        """The level; both where they differ."""
        return place(self.row)

    @property
    def told_apart(self) -> bool:
        """The interval (or the value, where there is none) lies above the floor."""
        if not self.sv.computed or not math.isfinite(self.floor):
            return False
        return (self.sv.low if self.sv.has_interval else self.sv.value) > self.floor


def estimate(row: Row, value: str) -> Estimate:
    """Return a value of a row with its interval and reason."""
    return Estimate(row[value], row.get("low", math.nan), row.get("high", math.nan), row.get("reason", ""))


def numeral(level: float) -> str:
    """Write a level.

    >>> numeral(2.0), numeral(float("nan"))
    ('2', '?')
    """
    return f"{level:g}" if math.isfinite(level) else "?"


def place(row: Row) -> str:
    """Write the level of a row of two taps; both levels where they differ."""
    a, b = numeral(row["level_a"]), numeral(row["level_b"])
    return a if a == b else f"{a}/{b}"


class Semantics:
    """Read-only access to the tables of concepts, of a view."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._rows: dict[tuple[str, bool], list[Row]] = {}

    def rows(self, name: str, own: bool = True) -> list[Row]:
        """Return the rows of a table; with ``own`` those of the dissected model only."""
        if (name, own) not in self._rows:
            table = self.view.table(name) if own else self.view.whole(name)
            table = table[COLUMNS[name].split()]
            self._rows[name, own] = [
                {str(k): text(v) if k in TEXT else truth(v) if k == "encoded" else number(v) for k, v in row.items()}
                for row in table.to_dict("records")
            ]
        return self._rows[name, own]

    def failure(self, rows: Sequence[Row], value: str) -> str:
        """Return why no row has a value, "" where one has."""
        if any(math.isfinite(row[value]) for row in rows):
            return ""
        return next((row["reason"] for row in rows if row.get("reason")), "no reason given")

    @property
    def margin(self) -> float:
        """What training anew alone changes in a score, as the dissection took it; NaN where it has none."""
        return number(self.view.section("parameters").get("margin"))

    # --- concepts ---

    def _ordered(self, names: Iterable[str]) -> list[str]:
        place = {c: i for i, c in enumerate(self.view.classes)}
        return sorted(dict.fromkeys(names), key=lambda c: place.get(c, len(place)))

    @cached_property
    def concepts(self) -> list[str]:
        """The concepts, in the order of the classes, then of the table."""
        return self._ordered(row["concept"] for row in self.rows("concepts"))

    @cached_property
    def streams(self) -> list[str]:
        """The modalities whose concepts were measured."""
        present = {row["modality"] for row in self.rows("concepts")}
        return [m for m in self.view.modalities if m in present]

    @cached_property
    def _measured(self) -> set[tuple[str, str]]:
        return {(r["modality"], r["concept"]) for r in self.rows("concepts") if math.isfinite(r["score"])}

    @cached_property
    def _emerged(self) -> dict[tuple[str, str], float]:
        found = {(r["modality"], r["concept"]): r["level"] for r in self.rows("emergence")}
        if not found:
            for row in sorted(self.rows("concepts"), key=lambda r: -r["level"]):
                key = (row["modality"], row["concept"])
                found[key] = row["level"] if row["encoded"] else found.get(key, -1.0)
        return found

    def emergence(self, modality: str, concept: str) -> float:
        """Return the first level at which a stream encodes a concept, -1 for nowhere, NaN where it has no value."""
        known = (modality, concept) in self._measured
        return self._emerged.get((modality, concept), math.nan) if known else math.nan

    def encoders(self, concept: str) -> list[str]:
        """Return the modalities that encode a concept at one level at least."""
        return [m for m in self.streams if self.emergence(m, concept) >= 0]

    # --- differences, concept by concept ---

    def differences(self, question: str) -> dict[tuple[str, str], list[Row]]:
        """Return the rows of one question by pair of modalities, by level and then as the table has them."""
        found: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows("profile", own=False):
            if row["question"] == question:
                found.setdefault((row["modality_a"], row["modality_b"]), []).append(row)
        names = {m: i for i, m in enumerate(self.view.modalities)}
        order = sorted(found, key=lambda pair: [names.get(m, len(names)) for m in pair])
        return {pair: sorted(found[pair], key=lambda r: (r["level_b"], r["level_a"])) for pair in order}

    @staticmethod
    def kinds(rows: Sequence[Row]) -> dict[str, dict[str, list[str]]]:
        """Return by kind, then by concept, the levels at which the concept is of that kind."""
        found: dict[str, dict[str, list[str]]] = {}
        for row in rows:
            found.setdefault(row["kind"], {}).setdefault(row["concept"], []).append(place(row))
        return found

    # --- semantic variance ---

    @cached_property
    def variances(self) -> dict[tuple[str, str], list[Variance]]:
        """Own semantic variances by ordered pair of modalities."""
        found: dict[tuple[str, str], list[Variance]] = {}
        for row in self.rows("variance"):
            found.setdefault((row["modality_a"], row["modality_b"]), []).append(_variance(row))
        return found

    @cached_property
    def twins(self) -> dict[tuple[str, str], list[Variance]]:
        """Semantic variances between the solo twins of two modalities."""
        found: dict[tuple[str, str], list[Variance]] = {}
        for row in self.rows("variance", own=False):
            pair = (row["modality_a"], row["modality_b"])
            if pair in self.pairs and (row["source_a"], row["source_b"]) == (f"solo {pair[0]}", f"solo {pair[1]}"):
                found.setdefault(pair, []).append(_variance(row))
        return found

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of modalities that the table of semantic variance holds."""
        return [pair for pair in combinations(self.view.modalities, 2) if pair in self.variances]

    def matched(self, a: str, b: str) -> list[Variance]:
        """Return the semantic variances of matched levels of two modalities."""
        return sorted((v for v in self.variances.get((a, b), []) if self.match(v.row)), key=lambda v: (v.a, v.b))

    def match(self, row: Row) -> bool:
        """Whether a row is about levels that the dissection compares across modalities; else about equal levels."""
        if self._matched:
            return (row["tap_a"], row["tap_b"]) in self._matched
        return row["level_a"] == row["level_b"]

    @cached_property
    def _matched(self) -> set[tuple[str, str]]:
        rows = [row for row in self.rows("profile") if row["question"] == "across"]
        found = {(row["tap_a"], row["tap_b"]) for row in rows if row["tap_a"]}
        return found | {(b, a) for a, b in found}

    def steps(self, modality: str) -> list[Variance]:
        """Return the semantic variance of each level of a stream to the level before it."""
        found = self.variances.get((modality, modality), [])
        before = {later: earlier for earlier, later in _consecutive({v.a for v in found})}
        return sorted((v for v in found if before.get(v.a) == v.b), key=lambda v: v.a)

    @cached_property
    def training(self) -> dict[str, dict[float, dict[float, Variance]]]:
        """By modality, level and epoch: the semantic variance of a checkpoint to the final model."""
        found: dict[str, dict[float, dict[float, Variance]]] = {}
        for row in self.rows("variance", own=False):
            epoch = _epoch(row["source_a"])
            same = (row["modality_a"], row["level_a"]) == (row["modality_b"], row["level_b"])
            if epoch is not None and not row["source_b"] and same:
                levels = found.setdefault(row["modality_a"], {})
                levels.setdefault(row["level_a"], {})[epoch] = _variance(row)
        return {
            m: {level: dict(sorted(found[m][level].items())) for level in sorted(found[m])}
            for m in self.view.modalities
            if m in found
        }

    # --- collaboration ---

    def collaborations(self) -> dict[tuple[str, str], list[Row]]:
        """Return the rows of the collaboration table by pair of modalities."""
        found: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows("collaboration"):
            found.setdefault((row["modality_a"], row["modality_b"]), []).append(row)
        return found


def _variance(row: Row) -> Variance:
    floor, similarity, ratio = row["floor"], row["similarity"], row["ratio"]
    return Variance(row["level_a"], row["level_b"], estimate(row, "sv"), floor, similarity, ratio, row)


def _consecutive(levels: set[float]) -> list[tuple[float, float]]:
    ordered = sorted(level for level in levels if math.isfinite(level))
    return list(pairwise(ordered))


def _epoch(source: str) -> float | None:
    kind, _, epoch = source.partition(" ")
    return float(epoch) if kind == "epoch" and epoch.isdecimal() else None
