"""What was recorded along a training, as the report reads it: series by quantity, projections, galleries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fusionscope.report._view import View, number, text

QUANTITIES = {
    "value": "Each modality alone",
    "gradient norm": "Size of the gradients",
    "gradient cosine": "Do the gradients agree?",
    "discrepancy": "Discrepancy",
    "instance gate": "Calibration: gate per sample",
    "dimension gate": "Calibration: gate per dimension",
    "similarity to final": "Similarity to the final features",
}
TOGETHER = "all together"
EPOCHS_DRAWN = 60
Key = tuple[str, str]


@dataclass(frozen=True)
class Point:
    """A quantity at one epoch: mean and standard deviation over ``count`` steps or samples; NaN with a reason."""

    epoch: int
    mean: float
    std: float = math.nan
    count: int = 0
    reason: str = ""

    @property
    def known(self) -> bool:
        return math.isfinite(self.mean)

    @property
    def error(self) -> float:
        """The mean's standard error, 0 where the spread is not known."""
        return self.std / math.sqrt(self.count) if math.isfinite(self.std) and self.count > 1 else 0.0


class Learning:
    """Read-only access to the dynamics of one dissection."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.about = view.section("dynamics")
        self.training = view.section("training")
        self.task = text(self.about.get("task") or view.manifest.get("task"))
        self.modalities = view.modalities

    @cached_property
    def series(self) -> dict[str, dict[Key, list[Point]]]:
        """By quantity and (modality, other): its points, ascending by epoch; those without any value are left out."""
        return {q: kept for q, of in self._read.items() if (kept := {k: p for k, p in of.items() if _any(p)})}

    @cached_property
    def missing(self) -> dict[str, dict[Key, str]]:
        """By quantity and (modality, other): why there is no value at any epoch."""
        found: dict[str, dict[Key, str]] = {}
        for quantity, of in self._read.items():
            for key, points in of.items():
                if not _any(points):
                    reason = next((p.reason for p in points if p.reason), "no reason given")
                    found.setdefault(quantity, {})[key] = reason
        return found

    @cached_property
    def _read(self) -> dict[str, dict[Key, list[Point]]]:
        found: dict[str, dict[Key, list[Point]]] = {}
        for row in self.view.whole("dynamics").to_dict("records"):
            count = number(row["count"])
            point = Point(
                int(row["epoch"]),
                number(row["mean"]),
                number(row["std"]),
                int(count) if math.isfinite(count) else 0,
                text(row["reason"]),
            )
            key = (text(row["modality"]), text(row["other"]))
            found.setdefault(text(row["quantity"]), {}).setdefault(key, []).append(point)
        return {q: {k: sorted(p, key=lambda point: point.epoch) for k, p in of.items()} for q, of in found.items()}

    def of(self, quantity: str) -> dict[Key, list[Point]]:
        """Return a quantity's series, modalities in the model's order, all together last."""
        order = {m: i for i, m in enumerate(self.modalities)}
        found = self.series.get(quantity, {})
        return dict(sorted(found.items(), key=lambda item: tuple(order.get(m, len(order)) for m in item[0])))

    def name(self, key: Key) -> str:
        """Name a series: a modality, a pair, a modality at one of several calibrations, or all together."""
        modality, other = key
        if not other:
            return modality or TOGETHER
        return f"{modality} and {other}" if other in self.modalities else f"{modality} at {other}"

    @property
    def any(self) -> bool:
        """Something was recorded, or is said to be missing."""
        return bool(self._read) or bool(self.history)

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """One row per epoch of the training with validation (or of the only training): losses and score."""
        rows = self.view.whole("history").to_dict("records")
        phases = [text(row["phase"]) for row in rows]
        return [row for row, phase in zip(rows, phases, strict=True) if phase == phases[0]]

    @property
    def metric(self) -> str:
        """The task's main score as a reader calls it."""
        name = text(self.about.get("metric") or self.training.get("metric")) or "score"
        known = {"miou": "mIoU", "r2": "R²", "psnr": "PSNR", "f1": "F1", "ssim": "SSIM", "macro_f1": "macro F1"}
        return known.get(name, name.replace("_", " "))

    @property
    def last(self) -> int:
        """The last epoch that anything was recorded at."""
        return max((p.epoch for of in self._read.values() for points in of.values() for p in points), default=0)

    @property
    def kept(self) -> int | None:
        """The epoch whose weights the run keeps, where it is known."""
        epoch = number(self.training.get("best_epoch"))
        return int(epoch) if math.isfinite(epoch) else None

    @property
    def probe(self) -> str:
        """The probe samples in words, such as "256 samples of the val split"."""
        probe = self.about.get("probe")
        probe = probe if isinstance(probe, dict) else {}
        size = number(next((probe[k] for k in ("size", "samples", "count") if k in probe), math.nan))
        split = text(probe.get("split"))
        named = f"{size:,.0f} samples" if math.isfinite(size) else "the probe samples"
        return f"{named} of the {split} split" if split else named

    def error(self, point: Point) -> float:
        """Return the standard error of a score from the number of probe samples; NaN for scores that are no share."""
        if self.metric != "accuracy" or self.task != "classification" or point.count < 2 or not point.known:
            return math.nan
        return math.sqrt(max(point.mean * (1 - point.mean), 0.25 / point.count) / point.count)

    # --- feature visualisation ---

    @cached_property
    def projected(self) -> dict[str, dict[int, list[dict[str, Any]]]]:
        """By modality and chosen epoch the projected probe samples."""
        found: dict[str, dict[int, list[dict[str, Any]]]] = {}
        for row in self.view.whole("projection").to_dict("records"):
            if math.isfinite(number(row["x"])) and math.isfinite(number(row["y"])):
                found.setdefault(text(row["modality"]), {}).setdefault(int(row["epoch"]), []).append(row)
        return {m: dict(sorted(found[m].items())) for m in self.modalities if m in found}

    @cached_property
    def labels(self) -> dict[int, str]:
        """The label of each projected sample, where there is one."""
        rows = (row for epochs in self.projected.values() for of in epochs.values() for row in of)
        return {int(row["sample"]): text(row["label"]) for row in rows if text(row["label"])}

    @cached_property
    def gallery(self) -> dict[str, dict[int, dict[int, list[dict[str, Any]]]]]:
        """By modality, chosen epoch and unit: the samples that activate it most, the first the most."""
        found: dict[str, dict[int, dict[int, list[dict[str, Any]]]]] = {}
        for row in self.view.whole("gallery").to_dict("records"):
            units = found.setdefault(text(row["modality"]), {}).setdefault(int(row["epoch"]), {})
            units.setdefault(int(row["unit"]), []).append(row)
        for epochs in found.values():
            for units in epochs.values():
                for unit, rows in units.items():
                    units[unit] = sorted(rows, key=lambda row: number(row["place"]))
        return {m: dict(sorted(found[m].items())) for m in self.modalities if m in found}

    def pictures(self, modality: str) -> dict[int, Any]:
        """Return the inputs of a modality that can be drawn, by sample."""
        samples = self.view.arrays.get(f"dynamics/samples/{modality}")
        given = self.view.arrays.get(f"dynamics/pictures/{modality}")
        if samples is None or given is None:
            return {}
        return {int(sample): picture for sample, picture in zip(samples, given, strict=True)}


def _any(points: Sequence[Point]) -> bool:
    return any(p.known for p in points)


def known(points: Sequence[Point]) -> list[Point]:
    """Return the points that have a value."""
    return [p for p in points if p.known]


def thinned(epochs: Sequence[int], most: int = EPOCHS_DRAWN) -> set[int]:
    """Return at most ``most`` epochs, evenly spaced, the first and the last among them."""
    ordered = sorted(set(epochs))
    if len(ordered) <= most:
        return set(ordered)
    return {ordered[round(i * (len(ordered) - 1) / (most - 1))] for i in range(most)}
