"""A training with planted dynamics, as a folder and as a dissection: rgb is learned first, audio not at all."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.report import factory
from tests.report.factory_decisions import Kept

EPOCHS = 20
PROBE = 256
CHOSEN = (0, 5, 20)
RISE = {"rgb": (0.62, 3), "depth": (0.55, 10), "audio": (0.0, 5)}
REASON = "the modalities share no weights"


def rows(modalities: list[str], epochs: int = EPOCHS, chance: float = 0.1, shared: bool = True) -> list[dict[str, Any]]:
    """One row per epoch, quantity and modality: alone a modality rises by a planted amount around a planted epoch."""
    rng = np.random.default_rng(7)
    found = []

    def add(epoch: int, quantity: str, modality: str, mean: float, std: float, count: int, other: str = "") -> None:
        reason = "" if math.isfinite(mean) else REASON
        row = {"epoch": epoch, "quantity": quantity, "modality": modality, "other": other, "mean": mean, "std": std}
        found.append(row | {"count": count, "reason": reason})

    for epoch in range(epochs + 1):
        near = epoch / epochs
        for i, m in enumerate(modalities):
            most, when = RISE.get(m, (0.3, 8))
            rise = most / (1 + math.exp(-(epoch - when * epochs / 20) * 16 / epochs))
            add(epoch, "value", m, chance + rise, math.nan, PROBE)
            add(epoch, "instance gate", m, 0.88 - 0.27 * near * (m == "audio"), 0.01 + 0.1 * near, PROBE)
            add(epoch, "dimension gate", m, 0.02 * i * near, 0.2 * near, PROBE * 64)
            add(epoch, "similarity to final", m, 1 - (1 - near) ** (2 + i), math.nan, PROBE)
            if epoch:
                size = (2.4, 0.75, 0.2)[i % 3] * math.exp(-1.5 * near)
                add(epoch, "gradient norm", m, size * (1 + 0.1 * rng.random()), 0.3 * size, 40)
                add(epoch, "discrepancy", m, (1.8, 0.6, 0.3)[i % 3] + 0.1 * rng.random(), math.nan, PROBE)
        add(epoch, "value", "", chance + 0.7 * (1 - math.exp(-6 * near)), math.nan, PROBE)
        for i, (a, b) in enumerate(combinations(modalities, 2)):
            if epoch:
                cosine = (0.4, 0.0, -0.2)[i % 3] + 0.05 * rng.random() if shared else math.nan
                add(epoch, "gradient cosine", a, cosine, math.nan, 16, b)
    return found


def projection(modalities: list[str], labels: list[str], samples: int = PROBE) -> list[dict[str, Any]]:
    rng = np.random.default_rng(8)
    classes = sorted(set(labels), key=labels.index)
    centres = {c: 6 * np.array([math.cos(2.4 * i), math.sin(2.4 * i)]) for i, c in enumerate(classes)}
    found = []
    for m in modalities:
        noise = rng.normal(size=(samples, 2))
        for epoch in CHOSEN:
            for s in range(samples):
                label = labels[s % len(labels)]
                x, y = noise[s] + centres[label] * min(epoch / 10, 1) * (m != "audio")
                found.append({"epoch": epoch, "modality": m, "sample": s, "label": label, "x": x, "y": y})
    return found


def gallery(modalities: list[str], labels: list[str], units: int = 5, places: int = 6) -> list[dict[str, Any]]:
    found = []
    for m in modalities:
        for epoch in CHOSEN:
            for u in range(units):
                for place in range(1, places + 1):
                    # before training any sample, after it those of one class
                    sample = (17 * u + 31 * place) % PROBE if not epoch else u + len(labels) * place
                    row = {"epoch": epoch, "modality": m, "unit": 3 * u, "place": place, "sample": sample % PROBE}
                    found.append(row | {"activation": 4.0 - 0.3 * place})
    return found


def picture(kind: str, sample: int, labels: list[str]) -> np.ndarray:
    """An image, sequence or vector that shows its label's number."""
    rng = np.random.default_rng(sample)
    k = sample % len(labels)
    if kind == "image":
        image = np.full((96, 96, 3), (60 + 15 * k, 200 - 15 * k, 120), np.uint8)
        image[20:70, 8 * k % 60 : 8 * k % 60 + 24] = (250, 220, 40)
        return np.clip(image + rng.integers(-12, 12, image.shape), 0, 255).astype(np.uint8)
    time = np.linspace(0, 6, 60)[:, None]
    wave = np.sin((k + 1) * time + np.arange(3)) + 0.1 * rng.normal(size=(60, 3))
    return wave.astype(np.float32) if kind == "sequence" else np.roll(np.linspace(-1, 2, 24), k).astype(np.float32)


def arrays(table: pd.DataFrame, kinds: dict[str, str], labels: list[str]) -> dict[str, np.ndarray]:
    found = {}
    for m, kind in kinds.items():
        samples = sorted(set(table[table["modality"] == m]["sample"]))
        found[f"pictures/{m}"] = np.stack([picture(kind, s, labels) for s in samples])
        found[f"samples/{m}"] = np.array(samples, np.int64)
    return found


def about(**more: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "metric": "accuracy",
        "task": "classification",
        "probe": {"size": PROBE, "split": "val", "gradients": 16},
        "measured_steps": "all",
        "others_are": "taken for absent behind their encoders (present)",
        "epochs": list(CHOSEN),
        "quantities": {
            "value": "the task's metric on the probe with this modality alone; without a modality: with all"
        },
        "seconds": 3.1,
    } | more


def write(folder: Path, modalities: list[str], kinds: dict[str, str], labels: list[str], **more: Any) -> Path:
    """Write a ``dynamics`` folder as the training does."""
    folder.mkdir(parents=True)
    shown = pd.DataFrame(gallery(modalities, labels))
    pd.DataFrame(rows(modalities)).to_csv(folder / "dynamics.csv", index=False)
    pd.DataFrame(projection(modalities, labels)).to_csv(folder / "projection.csv", index=False)
    shown.to_csv(folder / "gallery.csv", index=False)
    np.savez_compressed(folder / "pictures.npz", allow_pickle=False, **arrays(shown, kinds, labels))
    (folder / "about.json").write_text(json.dumps(about(**more)), encoding="utf-8")
    return folder


def history(epochs: int = EPOCHS) -> pd.DataFrame:
    return pd.DataFrame(
        {"phase": "train", "epoch": e, "lr": 0.001, "train_loss": 2.3 * 0.85**e, "val_loss": 0.4 + 1.9 * 0.85**e}
        | {"val_accuracy": 0.8 - 0.7 * 0.85**e}
        for e in range(1, epochs + 1)
    )


TRAINING = {"metric": "accuracy", "test": 0.81, "epochs": EPOCHS, "best_epoch": 17, "seconds": 34.0, "seed": 0}


def learned(
    kinds: dict[str, str] | None = None, labels: list[str] | None = None, whole: Any = None, **more: Any
) -> Kept:
    """A training alone, or (``whole``) a dissection with its training."""
    kinds = kinds or {"rgb": "image", "depth": "image", "audio": "sequence"}
    labels = labels or [f"class {i}" for i in range(7)]
    modalities = list(kinds)
    shown = pd.DataFrame(gallery(modalities, labels))
    tables = {
        "history": history(),
        "dynamics": pd.DataFrame(more.pop("rows", None) or rows(modalities)),
        "projection": pd.DataFrame(projection(modalities, labels)),
        "gallery": shown,
    }
    drawn = {f"dynamics/{name}": values for name, values in arrays(shown, kinds, labels).items()}
    told = factory.manifest(modalities, labels, task="classification") if whole is None else whole.manifest
    told = told | {"dynamics": about(**more), "training": TRAINING}
    if whole is None:
        told |= {"parameters": {}, "wall_s": {"training": 34.0}, "data": {"spec": "scenes", "fingerprint": "51ce90aa"}}
    found = (whole.tables if whole is not None else {}) | tables
    return Kept(found, told, whole.trace if whole is not None else {}, drawn)
