"""Studies written by hand: run folders with planted scores, as the study runner leaves them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

KINDS = {"rgb": ("noise", "blur"), "depth": ("holes", "blur")}
SEVERITIES = (1, 3, 5)


def plant(
    folder: Path,
    effects: Mapping[str, float],
    *,
    seeds: Sequence[int] = tuple(range(12)),
    data: Sequence[str] = ("utd",),
    sd: float = 0.01,
    modalities: Sequence[str] = ("rgb", "depth"),
    metric: str = "accuracy",
    conditions: bool = True,
    seed: int = 0,
) -> Path:
    """Write a study whose variants score ``0.7 + effect`` with independent noise ``sd`` per run.

    Removal costs 0.2, corruption 0.02 per severity, whatever the variant.
    """
    rng = np.random.default_rng(seed)
    plain = {
        "out": str(folder),
        "seeds": list(seeds),
        "conditions": conditions,
        "data": {name: {"data": "digits"} for name in data},
        "variants": {name: {} for name in effects},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps({"kind": "fusionscope study", "schema": 1, "study": plain}))
    for name in data:
        for variant, effect in effects.items():
            for s in seeds:
                score = 0.7 + effect + sd * rng.normal()
                run = folder / "runs" / name / variant / f"seed-{s}"
                run.mkdir(parents=True)
                (run / "config.json").write_text("{}")
                scores = {metric: score, "loss": 1 - score, "recall": {"a": score}}
                told = {"metric": metric, "interrupted": False, "test": scores}
                (run / "metrics.json").write_text(json.dumps(told))
                if conditions:
                    table(score, modalities, metric).to_csv(run / "conditions.csv", index=False)
    return folder


def table(score: float, modalities: Sequence[str], metric: str) -> pd.DataFrame:
    """Return the scores of one run under conditions."""
    rows: list[tuple] = [("clean", "", "", 0, score, "")]
    alone = "depth is the only modality: without it nothing is left" if len(modalities) == 1 else ""
    for m in modalities:
        lost = float("nan") if alone else score - 0.2
        rows += [("removal", m, "resample", None, lost, alone), ("removal", m, "present", None, 0.0, alone)]
        rows += [("corruption", m, k, s, score - 0.02 * s, "") for k in KINDS[m] for s in SEVERITIES]
    frame = pd.DataFrame(rows, columns=["condition", "modality", "kind", "severity", "value", "reason"])
    frame["severity"] = frame["severity"].astype("Int64")
    both = [frame.assign(metric=metric), frame.assign(metric="loss", value=1 - frame["value"])]
    return pd.concat(both)[["condition", "modality", "kind", "severity", "metric", "value", "reason"]]
