"""Which features the partial information decomposition compares: the inputs, and the taps from early to late."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusionscope._nest import tensors
from fusionscope.batch import Batch
from fusionscope.dissection._sources import Source
from fusionscope.dissection._task import Task
from fusionscope.measures import Broja, InformationResult
from fusionscope.measures.functional import ProbeAccuracy, probe_accuracy

LEVELS = 3
WIDEST = 2048
INPUT = "input/"
SHUFFLES = 20
KEPT, PROBED = 4096, 2048  # samples
BIASED = 0.25  # of what a label can tell
QUANTILES = 5
Side = tuple[str, ...]


class Information:
    """The instrument, and what its pairs of features mean.

    Compared are the inputs (level -1) and up to three levels of the streams, early to late, for each pair of modalities
    and, of three or more, for each modality against the rest.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        task: Task,
        first: Batch,
        measures: Sequence[str],
        decomposition: str,
        *,
        alpha: float,
        seed: int,
    ) -> None:
        self.main, self.sources, self.task = sources[0], list(sources), task
        self.seed, self.alpha = seed, alpha
        self.inputs = [m for m in self.main.modalities if input_features(first, m, task) is not None]
        self.pairs: dict[tuple[Side, Side], dict[str, Any]] = {}
        compared = [source for source in sources if not source.name or source.name.startswith("solo ")]
        self.ends = {source.name: [source.of(m)[-1] for m in source.modalities if source.of(m)] for source in compared}
        self.probed = "imbalance" in measures
        if "information" in measures:
            self._pairs()
        spots = [spot for pair in self.pairs for side in pair for spot in side]
        if self.probed:
            spots += [source.spot(tap) for source in sources for tap in self.ends.get(source.name, [])]
        self.spots = list(dict.fromkeys(spots))
        self.instrument = Broja(
            self.spots,
            pairs=list(self.pairs),
            estimator=decomposition,
            shuffles=SHUFFLES if decomposition == "cvx" else 0,
            classes=len(task.classes),
            samples=KEPT if self.pairs else PROBED,
            alpha=alpha,
            seed=seed,
            workers=max(torch.get_num_threads(), 1),
        )

    def _pairs(self) -> None:
        names = self.main.modalities
        found = [(-1, {m: f"{INPUT}{m}" for m in self.inputs})]
        taps = {m: self.main.of(m) for m in names if self.main.of(m)}
        count = min((len(of) for of in taps.values()), default=0)
        chosen = sorted({round(i * (count - 1) / (LEVELS - 1)) for i in range(LEVELS)}) if count > 1 else range(count)
        for level in chosen:
            share = level / (count - 1) if count > 1 else 1.0
            found.append((level, {m: self.main.spot(of[round(share * (len(of) - 1))]) for m, of in taps.items()}))
        for level, spots in found:
            present = [m for m in names if m in spots]
            sides: list[tuple[Side, Side]] = [((a,), (b,)) for i, a in enumerate(present) for b in present[i + 1 :]]
            if len(present) > 2:
                sides += [((a,), tuple(b for b in present if b != a)) for a in present]
            for a, b in sides:
                key = tuple(spots[m] for m in a), tuple(spots[m] for m in b)
                self.pairs[key] = {
                    "modality_a": "+".join(a),
                    "modality_b": "+".join(b),
                    "level_a": level,
                    "level_b": level,
                    "tap_a": "+".join(key[0]),
                    "tap_b": "+".join(key[1]),
                }

    def inputs_of(self, batch: Batch, context: Any) -> dict[str, Any]:
        """Return what the instrument keeps of the inputs."""
        found = {}
        for modality in self.inputs:
            spot, features = f"{INPUT}{modality}", input_features(batch, modality, self.task)
            if spot in self.spots and features is not None:
                found[spot] = self.instrument.reduce(features, context, spot)
        return found

    def rows(self, result: InformationResult) -> list[dict[str, Any]]:
        """Return the rows of the table ``information``."""
        key = operator.itemgetter("tap_a", "tap_b", "about")
        found = []
        for row in result.rows:
            said = asdict(row)
            sides = said.pop("side_a"), said.pop("side_b")
            said["bins"] = "x".join(map(str, said["bins"]))
            found.append({**self.pairs[sides], **said})
        most = math.log2(len(self.task.classes) or QUANTILES)
        bias = {key(row): row["shuffled"] for row in found if row["atom"] == "I_ab"}
        for row in found:
            if bias.get(key(row), 0.0) > BIASED * most and not row["reason"]:
                row["reason"] = (
                    f"shuffled labels alone give {bias[key(row)]:.1f} of at most {most:.1f} bits: too few samples for "
                    "so many classes and clusters, so only the interval says something"
                )
        return found

    def probes(self, result: InformationResult) -> list[dict[str, Any]]:
        """Return how well a linear probe tells the class from each encoder's last tap: joint, solo, difference."""
        rows: list[dict[str, Any]] = []
        if not self.probed or self.task.kind != "classification":
            return rows
        labels = np.nan_to_num(result.labels[:, 0], nan=-1).astype(np.int64)
        joint: dict[str, ProbeAccuracy] = {}
        for source in self.sources:
            for tap in self.ends.get(source.name, []):
                spot = source.spot(tap)
                if spot not in result.features:
                    continue
                features = result.features[spot]
                found = probe_accuracy(features, labels, result.groups, seed=self.seed, alpha=self.alpha)
                values = found.accuracy, found.low, found.high
                kind = "probe solo" if source.name else "probe joint"
                rows.append(_row(kind, tap.modality, *values, found.reason) | {"chance": found.chance})
                if not source.name:
                    joint[tap.modality] = found
                elif tap.modality in joint:
                    gap = joint[tap.modality].minus(found)
                    rows.append(
                        _row("probe difference", tap.modality, *gap, joint[tap.modality].reason or found.reason)
                    )
        return rows


def _row(measure: str, modality: str, value: float, low: float, high: float, reason: str) -> dict[str, Any]:
    return {"measure": measure, "modality": modality, "value": value, "low": low, "high": high, "reason": reason}


def input_features(batch: Batch, modality: str, task: Task) -> Tensor | None:
    """Return a modality's own values as features ``[B, D]`` (for dense tasks ``[B, C, H, W]``), None for tokens.

    Images and sequences wider than 2,048 are averaged over blocks of places or steps.
    """
    found = [t for _, t in tensors(batch.inputs[modality]) if t.ndim > 1]
    floating = [t for t in found if t.is_floating_point() or (t.dtype == torch.uint8 and t.ndim > 3)]
    if not floating:
        return None
    values = floating[0].float()
    if task.kind == "dense" and values.ndim == 4:
        return values
    if values.ndim == 3:
        steps = max(min(values.shape[1], WIDEST // values.shape[2]), 1)
        values = torch.nn.functional.adaptive_avg_pool1d(values.transpose(1, 2), steps)
    elif values.ndim >= 4:
        values = values.flatten(1, -3)
        side = max(math.isqrt(max(WIDEST // values.shape[1], 1)), 1)
        size = (min(values.shape[-2], side), min(values.shape[-1], side))
        values = torch.nn.functional.adaptive_avg_pool2d(values, size)
    return values.flatten(1) if values[0].numel() <= WIDEST else None
