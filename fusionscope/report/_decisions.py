"""The tables of the decision instruments, typed: what each modality does to the model's output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from fusionscope.report._view import COLUMNS, Estimate, View, number, text, truth

TEXT = {"metric", "concept", "subset", "modality", "modality_a", "modality_b", "kind", "group", "label", "predicted"}
TEXT |= {"tap_a", "tap_b", "about", "estimator", "atom", "bins", "corruption", "baseline", "measure", "reason"}
SMOOTH = ("loglik", "neg_mse")
NAMES = {"loglik": "mean log-likelihood", "neg_mse": "negative mean squared error"}
ATOMS = ("R", "U_a", "U_b", "S")
Row = dict[str, Any]
Pair = tuple[str, str, str]  # modality, the other (or "a+b"), estimator


@dataclass(frozen=True)
class Atom:
    """One part of a decomposition: the raw estimate, what shuffled labels give, and their difference."""

    raw: float
    shuffled: float
    shuffled_high: float
    corrected: Estimate

    @property
    def clear(self) -> bool:
        """The corrected value's interval lies above zero, and the raw value above the null."""
        return self.corrected.positive and not self.raw <= self.shuffled_high

    @property
    def doubt(self) -> str:
        """Why only the interval says something, though there is a value; "" for no such reason."""
        return self.corrected.reason if self.corrected.computed else ""


@dataclass(frozen=True)
class Point:
    """One severity of a curve."""

    severity: float
    value: Estimate
    drop: Estimate
    ece: Estimate
    floor: float  # the ECE that a calibrated model as confident would show by chance


def estimate(row: Row, value: str = "value", low: str = "low", high: str = "high") -> Estimate:
    """Return a value of a row with its interval and reason."""
    return Estimate(row[value], row.get(low, math.nan), row.get(high, math.nan), row.get("reason", ""))


def apart(a: Estimate, b: Estimate) -> bool:
    """Both intervals are known and share no value."""
    return a.has_interval and b.has_interval and not a.overlaps(b)


def leaders(found: dict[Any, Estimate]) -> list[Any]:
    """Return the largest value that lies above zero, and after it all that cannot be told from it."""
    known = {name: e for name, e in found.items() if e.computed}
    above = [name for name, e in known.items() if e.positive]
    if not above:
        return []
    first = max(above, key=lambda name: known[name].value)
    rivals = [name for name in known if name != first and not apart(known[name], known[first])]
    return [first, *sorted(rivals, key=lambda name: -known[name].value)]


def _clearest(row: Row) -> tuple[float, float]:
    """Order tested samples by p, then by effect, as a dissection chooses the inputs that it keeps."""
    p, effect = row["p"], row["effect"]
    return p if p == p else math.inf, effect if effect == effect else math.inf


class Decisions:
    """Read-only access to these tables, of a view."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._rows: dict[str, list[Row]] = {}

    def rows(self, name: str) -> list[Row]:
        """Return the rows of a table; of the coalitions those of all data, of the samples those that were tested."""
        if name not in self._rows:
            table = self.view.whole(name)[COLUMNS[name].split()]
            if "corruption" in table and len(table):
                table = table.assign(corruption=[text(c).replace("_", " ") for c in table["corruption"]])
            if name == "information" and self.view.holds(name, "level_a"):
                table = table.assign(level=table["level_a"])
            if name == "coalitions" and len(table):
                table = table[[text(c) == "" for c in table["concept"]]]
            if name == "samples" and len(table):
                tested = pd.to_numeric(table["effect"], errors="coerce").notna()
                table = table[tested | table["hurts"].map(lambda told: truth(told) is True)]
            self._rows[name] = [
                {str(k): text(v) if k in TEXT else truth(v) if k == "hurts" else number(v) for k, v in row.items()}
                for row in table.to_dict("records")
            ]
        return self._rows[name]

    def failure(self, rows: Sequence[Row], value: str = "value") -> str:
        """Return why no row has a value, "" where one has."""
        if any(math.isfinite(row[value]) for row in rows):
            return ""
        return next((row["reason"] for row in rows if row["reason"]), "no reason given")

    @property
    def alpha(self) -> str:
        """The share of false discoveries that is allowed, such as "5 %"."""
        alpha = number(self.view.section("parameters").get("alpha", 0.05))
        return f"{100 * (alpha if math.isfinite(alpha) else 0.05):g} %"

    @property
    def dense(self) -> bool:
        """Whether the model answers for every place of a sample."""
        return self.view.manifest.get("task") == "dense"

    # --- metrics ---

    @cached_property
    def metrics(self) -> list[str]:
        """The metrics of the contributions, the chosen one first, the smooth one last."""
        tables = ("contribution", "cooperation", "coalitions", "perceptual")
        found = dict.fromkeys(row["metric"] for name in tables for row in self.rows(name))
        chosen = str(self.view.section("parameters").get("metric") or "")
        return sorted(found, key=lambda m: (m != chosen, m in SMOOTH))

    @property
    def main(self) -> str:
        return self.metrics[0] if self.metrics else ""

    def metric_name(self, metric: str) -> str:
        """Write a metric as a reader would."""
        return NAMES.get(metric, metric.replace("_", " ")) or self.view.metric

    def unit(self, metric: str) -> str:
        return " nats" if metric == "loglik" else ""

    # --- contribution ---

    def coalition(self, metric: str, present: Sequence[str]) -> Estimate:
        """Return V(S) on all data; of the chosen metric also from the table of removals."""
        for row in self.rows("coalitions"):
            if row["metric"] == metric and sorted(self.view.present(row["subset"])) == sorted(present):
                return estimate(row)
        named = self.view.section("parameters").get("metric")
        other = self.view.value(list(present)) if metric in (named, self.view.metric) else None
        return other or Estimate(math.nan, reason="this subset was not evaluated")

    @cached_property
    def _contributions(self) -> dict[tuple[str, str], dict[str, Row]]:
        found: dict[tuple[str, str], dict[str, Row]] = {}
        for row in self.rows("contribution"):
            found.setdefault((row["metric"], row["concept"]), {})[row["modality"]] = row
        return found

    def contribution_rows(self, metric: str, concept: str = "") -> dict[str, Row]:
        """Return the rows of one metric and class by modality, in the model's order."""
        found = self._contributions.get((metric, concept), {})
        names = [m for m in self.view.modalities if m in found]
        return {m: found[m] for m in [*names, *(m for m in found if m not in names)]}

    def contributions(self, metric: str, concept: str = "") -> dict[str, Estimate]:
        """Return the Shapley value of each modality."""
        return {m: estimate(row, "shapley") for m, row in self.contribution_rows(metric, concept).items()}

    @cached_property
    def contributing(self) -> list[str]:
        """Metrics of which a contribution on all data was computed, or failed with a reason."""
        return [metric for metric in self.metrics if self.contribution_rows(metric)]

    @cached_property
    def classes(self) -> list[str]:
        """Classes that have contributions of their own, in the order of the manifest, then of the table."""
        found = dict.fromkeys(concept for _, concept in self._contributions if concept)
        place = {c: i for i, c in enumerate(self.view.classes)}
        return sorted(found, key=lambda c: place.get(c, len(place)))

    @cached_property
    def told_by(self) -> str:
        """The number by which a modality hurts a class: ``last``, in older tables the Shapley value."""
        return "last" if self.view.holds("contribution", "last_low") else "shapley"

    def on_class(self, row: Row) -> Estimate:
        """Return what a class gets by a modality, the number that decides whether it hurts."""
        return estimate(row, "last", "last_low", "last_high") if self.told_by == "last" else estimate(row, "shapley")

    @cached_property
    def class_metric(self) -> str:
        """The metric in which the classes are told: the first that has any value."""
        known = (m for m in self.metrics if any(self.on_class(row).computed for row in self.class_rows(m)))
        return next(known, self.main)

    def class_rows(self, metric: str) -> list[Row]:
        """Return the rows of every class and modality, in order."""
        return [row for c in self.classes for row in self.contribution_rows(metric, c).values()]

    def tests(self, rows: Sequence[Row]) -> int:
        """Return how many of the rows were tested."""
        return sum(math.isfinite(row["q"]) or math.isfinite(row["p"]) for row in rows)

    def harm(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows of classes in which a modality hurts, the worst first."""
        value = self.told_by
        return sorted((r for r in rows if r["hurts"]), key=lambda r: r[value] if r[value] == r[value] else math.inf)

    # --- cooperation ---

    def together(self, kind: str, metric: str) -> dict[tuple[str, ...], Estimate]:
        """Return the values of one kind by the modalities they are about, larger sets first."""
        found = {
            tuple(self.view.present(row["subset"])): estimate(row)
            for row in self.rows("cooperation")
            if row["kind"] == kind and row["metric"] == metric
        }
        if kind.startswith("emap") and len(self.view.modalities) == 2:
            found = dict(list(found.items())[:1])  # one against the rest is the other against the rest
        place = {m: i for i, m in enumerate(self.view.modalities)}
        order = sorted(found, key=lambda names: (-len(names), [place.get(n, len(place)) for n in names]))
        return {names: found[names] for names in order}

    def set_name(self, names: Sequence[str]) -> str:
        """Write a set of modalities, short where there are many."""
        many = self.view.modalities
        missing = [m for m in many if m not in names]
        if len(many) > 3 and len(missing) < 2:
            return f"all but {missing[0]}" if missing else f"all {len(many)}"
        return " + ".join(names)

    def perceived(self, metric: str) -> dict[str, dict[str, Estimate]]:
        """Return the perceptual scores by modality and kind."""
        found: dict[str, dict[str, Estimate]] = {m: {} for m in self.view.modalities}
        for row in self.rows("perceptual"):
            if row["metric"] == metric:
                found.setdefault(row["modality"], {})[row["kind"]] = estimate(row)
        return {m: kinds for m, kinds in found.items() if kinds}

    # --- samples ---

    @cached_property
    def harmful_samples(self) -> list[Row]:
        """Tested rows in which a modality hurts, the clearest first, then those with the largest effect of the rest."""
        hurt = sorted((row for row in self.rows("samples") if row["hurts"]), key=_clearest)
        further = [row for row in self.rows("samples") if not row["hurts"] and row["effect"] < 0]
        return hurt + sorted(further, key=lambda row: row["effect"])

    @cached_property
    def grouped(self) -> bool:
        """Whether some group holds more than one sample."""
        groups = {row["sample"]: row["group"] for row in self.rows("samples") if row["group"]}
        return len(set(groups.values())) < len(groups)

    def class_name(self, label: str) -> str:
        """Write a label: the class's name where the label is its number."""
        value = number(label)
        if label in self.view.classes or not math.isfinite(value):
            return label
        if value == int(value) and 0 <= value < len(self.view.classes):
            return self.view.classes[int(value)]
        return f"{value:.4g}"

    # --- information ---

    @cached_property
    def decompositions(self) -> dict[Pair, dict[str, dict[float, dict[str, Atom]]]]:
        """Atoms by pair (each against the rest first), by what they are about, and by level from early to late."""
        found: dict[Pair, dict[str, dict[float, dict[str, Atom]]]] = {}
        for row in sorted(self.rows("information"), key=lambda r: r["level"] if r["level"] == r["level"] else -1.0):
            if row["atom"] not in ATOMS:
                continue
            raw, shuffled, corrected = row["value"], row["shuffled"], row["corrected"]
            known = raw - shuffled if math.isnan(corrected) else corrected
            atom = Atom(raw, shuffled, row["shuffled_high"], estimate(row | {"corrected": known}, "corrected"))
            pair = row["modality_a"], row["modality_b"], row["estimator"]
            levels = found.setdefault(pair, {}).setdefault(row["about"], {})
            levels.setdefault(row["level"] if math.isfinite(row["level"]) else -1.0, {})[row["atom"]] = atom
        return dict(sorted(found.items(), key=lambda item: len(self.view.present(item[0][1])) < 2))

    def told(self, about: str, levels: dict[float, dict[str, Atom]]) -> tuple[float, dict[str, Atom]]:
        """Return the level a pair is read at, and its atoms, of those with a value.

        About the label the inputs, what the data hold; about the prediction the last level, what the model answers by.
        """
        late = sorted(levels, reverse=True)
        order = late if about == "prediction" else [-1.0, *late]
        known = [n for n in order if any(a.corrected.computed for a in levels.get(n, {}).values())]
        level = (known or sorted(levels))[0]
        return level, levels[level]

    def other(self, a: str, b: str) -> str:
        """Write the second of a pair: a modality, or the rest of them."""
        names = self.view.present(b)
        if len(names) > 1 and sorted([a, *names]) == sorted(self.view.modalities):
            return "the rest"
        return " + ".join(names)

    # --- robustness ---

    @cached_property
    def robust_metric(self) -> str:
        found = dict.fromkeys(row["metric"] for row in self.rows("robustness"))
        chosen = str(self.view.section("parameters").get("metric") or "")
        return min(found, key=lambda m: (m != chosen, m in SMOOTH), default="")

    @cached_property
    def curves(self) -> dict[str, dict[str, list[Point]]]:
        """Curves of the chosen metric by modality and corruption, severities in order."""
        found: dict[str, dict[str, list[Point]]] = {m: {} for m in self.view.modalities}
        for row in self.rows("robustness"):
            if row["metric"] == self.robust_metric and math.isfinite(row["severity"]):
                point = Point(
                    row["severity"],
                    estimate(row),
                    estimate(row, "drop", "drop_low", "drop_high"),
                    estimate(row, "ece", "ece_low", "ece_high"),
                    row["ece_floor"],
                )
                found.setdefault(row["modality"], {}).setdefault(row["corruption"], []).append(point)
        return {
            m: {c: sorted(points, key=lambda p: p.severity) for c, points in of.items()}
            for m, of in found.items()
            if of
        }

    def hardest(self, modality: str) -> tuple[float, dict[str, Estimate]]:
        """Return the highest severity of a modality's curves, and the drop of each corruption there."""
        curves = self.curves[modality]
        top = max(p.severity for points in curves.values() for p in points)
        return top, {c: p.drop for c, points in curves.items() for p in points if p.severity == top}

    def miscalibrated(self, points: Sequence[Point]) -> list[float]:
        """Return the severities at which ECE's interval lies above the clean one, and above its floor."""
        clean = next((p.ece for p in points if p.severity == 0), Estimate(math.nan))
        above = [p for p in points if apart(p.ece, clean) and p.ece.value > clean.value]
        return [p.severity for p in above if not p.ece.low <= p.floor]
