"""The tables of the training dynamics: rows as they are found, and what is made of the features at the end."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusionscope.dissection import pictures
from fusionscope.measures.functional import centred_gram, eta_squared, hsic1

COLUMNS = ("epoch", "quantity", "modality", "other", "mean", "std", "count", "reason")
NUMBERS = ("mean", "std")
UNITS, PLACES = 6, 5
SIMILARITY = "similarity to final"


class Rows:
    """The rows of ``dynamics.csv`` in the order they were added."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(
        self,
        epoch: int,
        quantity: str,
        modality: str,
        mean: float,
        *,
        other: str = "",
        std: float = math.nan,
        count: int = 0,
        reason: str = "",
    ) -> None:
        """Add a row; a mean that is not finite becomes NaN, with a reason."""
        if not math.isfinite(mean):
            reason = reason or "the value is not finite"
            mean = std = math.nan
        self.rows.append(dict(zip(COLUMNS, (epoch, quantity, modality, other, mean, std, count, reason), strict=True)))

    def state_dict(self) -> dict[str, Any]:
        """Columns; numbers as float64 tensors, so that they come back bit by bit."""
        found: dict[str, Any] = {c: [row[c] for row in self.rows] for c in COLUMNS}
        return found | {c: torch.tensor(found[c], dtype=torch.float64) for c in NUMBERS}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        columns = [state[c].tolist() if c in NUMBERS else state[c] for c in COLUMNS]
        self.rows = [dict(zip(COLUMNS, values, strict=True)) for values in zip(*columns, strict=True)]


def gram(features: Tensor) -> Tensor:
    """What similarity needs of features ``[P,D]``, in 2 P² bytes: their centred Gram matrix, scaled to at most 1.

    Zeros where the features are all equal (up to rounding) or not finite.
    """
    K = centred_gram(features.cpu())
    size = features.double().square().sum(1).amax().cpu()
    largest = K.abs().amax()
    return (K / largest if largest > 1e-12 * size else torch.zeros_like(K)).half()


def similarities(grams: Mapping[int, Mapping[str, Tensor]], rows: Rows) -> None:
    """Add every epoch's CKA with the last: linear, unbiased, as :func:`fusionscope.measures.functional.cka`."""
    last = max(grams)
    for epoch in sorted(grams):
        for m, K in grams[epoch].items():
            L = grams[last].get(m)
            if L is None:
                continue
            if len(K) < 4:
                rows.add(epoch, SIMILARITY, m, math.nan, count=len(K), reason="the probe has fewer than 4 samples")
                continue
            own = float(hsic1(K, K) * hsic1(L, L))
            value = float(hsic1(K, L)) / math.sqrt(own) if own > 0 else math.nan
            reason = "" if own > 0 else "the features are the same for all samples, or not finite"
            rows.add(epoch, SIMILARITY, m, value, count=len(K), reason=reason)


def projections(
    features: Mapping[int, Mapping[str, Tensor]], index: Sequence[int], labels: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows of ``projection.csv``: the plane of most variance at the last epoch, for all epochs. Axes point to where
    the unit of largest weight grows; a second axis that does not exist is 0."""
    last, found = max(features), []
    for m, final in features[last].items():
        if not _usable(features, m):
            continue
        x = final.double().numpy()
        plane, centre = np.zeros((2, x.shape[1])), x.mean(0)
        if x.std(0).max() > 0:
            axes = np.linalg.svd(x - centre, full_matrices=False)[2][:2]
            axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
            plane[: len(axes)] = axes
        for epoch in sorted(features):
            places = (features[epoch][m].double().numpy() - centre) @ plane.T
            for sample, label, (a, b) in zip(index, labels, places.tolist(), strict=True):
                found.append({"epoch": epoch, "modality": m, "sample": sample, "label": label, "x": a, "y": b})
    return found


def gallery(
    features: Mapping[int, Mapping[str, Tensor]], index: Sequence[int], classes: Tensor | None
) -> list[dict[str, Any]]:
    """Rows of ``gallery.csv``: the samples that excite a unit most, for the units that tell the classes apart best at
    the last epoch (eta squared; without classes, that vary most)."""
    last, found = max(features), []
    for m, final in features[last].items():
        if not _usable(features, m):
            continue
        worth = final.double().var(0, correction=0)
        if classes is not None and len(classes.unique()) > 1:
            explained = eta_squared(final, classes)[0][0]
            worth = explained if explained.isfinite().any() else worth
        units = torch.argsort(worth.nan_to_num(-1.0), descending=True, stable=True)[:UNITS].tolist()
        for epoch in sorted(features):
            for unit in units:
                values = features[epoch][m][:, unit]
                top = torch.argsort(values, descending=True, stable=True)[:PLACES].tolist()
                found += [
                    {
                        "epoch": epoch,
                        "modality": m,
                        "unit": unit,
                        "place": place,
                        "sample": index[at],
                        "activation": float(values[at]),
                    }
                    for place, at in enumerate(top, 1)
                ]
    return found


def shown(rows: Iterable[Mapping[str, Any]], inputs: Mapping[str, Tensor], index: Sequence[int]) -> dict[str, Any]:
    """Arrays of ``pictures.npz``: for each modality the samples that the gallery shows of it."""
    found: dict[str, Any] = {}
    place = {sample: at for at, sample in enumerate(index)}
    for m, x in inputs.items():
        samples = sorted({row["sample"] for row in rows if row["modality"] == m})
        drawn = {str(s): {m: torch.nan_to_num(x[place[s]].detach().float().cpu())} for s in samples}
        made = pictures(drawn, {})
        if made:
            found[f"pictures/{m}"] = np.stack([made[f"sample/{s}/{m}"] for s in samples])
            found[f"samples/{m}"] = np.asarray(samples, dtype=np.int64)
    return found


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table; NaN is an empty cell."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()})


def _usable(features: Mapping[int, Mapping[str, Tensor]], modality: str) -> bool:
    return all(bool(found[modality].isfinite().all()) for found in features.values() if modality in found) and all(
        modality in found for found in features.values()
    )
