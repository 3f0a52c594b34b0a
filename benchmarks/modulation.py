"""Does gradient modulation (OGM-GE) help the modality that is left behind? Prints tables; it times nothing.

    python benchmarks/modulation.py [--seeds 5] [--alpha 1.0]

Planted: five classes, each a frequency, in two or three sequences of random phase. In ``strong`` the noise is half the
tone's amplitude, in ``weak`` (and ``weak2``, with noise of its own) it equals it: either tells the class, one sooner
than the other. Each seed has data and initial weights of its own. A classifier with an encoder per modality,
concatenation and a hidden layer is trained with SGD, as in the source, without modulation, with damping alone (OGM) and
with noise (OGM-GE). V(S) is the test accuracy with the modalities in S ``present`` and the others not; V(weak) of three
modalities is the mean of the two weak ones'.

Fails if OGM-GE does not raise V(weak) in at least four of five seeds, by a mean difference whose 95 % interval (paired
t) is above 0. V of all together is printed beside it, and what AdamW makes of it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from scipy import stats
from torch.utils.data import DataLoader, Dataset

from fusionscope.data import load_data
from fusionscope.engine import TrainConfig, load_run, train

STEPS, CHANNELS, CLASSES = 32, 3, 5
SIZES = {"train": 320, "val": 300, "test": 600}
ARMS: dict[str, dict[str, Any]] = {
    "none": {},
    "OGM": {"modulation_noise": False},
    "OGM-GE": {"modulation_noise": True},
}


def plant(path: Path, seed: int, noise: dict[str, float]) -> None:
    """Write the data set; ``noise`` has the standard deviation of each modality's noise."""
    rng = np.random.default_rng(seed)
    count = sum(SIZES.values())
    label = rng.permutation(np.arange(count) % CLASSES)
    time = np.arange(STEPS)[None, :, None] / STEPS
    arrays = {}
    for name, spread in noise.items():
        phase = rng.uniform(0, 2 * np.pi, (count, 1, CHANNELS))
        tone = np.sin(2 * np.pi * (2 + 2 * label[:, None, None]) * time + phase)
        arrays[name] = (tone + spread * rng.normal(size=tone.shape)).astype(np.float32)
    np.savez(path, label=label, split=np.repeat(list(SIZES), list(SIZES.values())), **arrays)


@torch.no_grad()
def values(folder: Path) -> dict[str, float]:
    """V of each modality alone and of all together, of a trained run."""
    run = load_run(folder)
    model, names = cast(Any, run.model).eval(), run.model.modalities
    dataset = cast(Dataset, load_data(run.config.data, seed=0).splits["test"])
    batch = next(iter(DataLoader(dataset, batch_size=SIZES["test"])))
    here = torch.ones(SIZES["test"], dtype=torch.bool)

    def accuracy(kept: tuple[str, ...]) -> float:
        logits = model(batch["inputs"], present={m: here if m in kept else ~here for m in names})
        return float((logits.argmax(1) == batch["target"]).double().mean())

    return {m: accuracy((m,)) for m in names} | {"all": accuracy(tuple(names))}


def run_one(seed: int, noise: dict[str, float], **settings: Any) -> dict[str, float]:
    """Plant, train and score; ``weak`` is the mean of the weak ones."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "planted.npz"
        plant(file, seed, noise)
        inputs = ",".join(f"{m}:NTC" for m in noise)
        common: dict[str, Any] = {"optimizer": "sgd", "lr": 0.03, "epochs": 15, "patience": 0, "width": 8}
        config = TrainConfig(
            data=f"npz:{file}?inputs={inputs}&target=label&split=split",
            out=f"{folder}/run",
            model="classifier",
            seed=seed,
            accelerator="cpu",
            **(common | settings),
        )
        found = values(train(config, quiet=True))
    weak = [x for m, x in found.items() if m.startswith("weak")]
    return {"strong": found["strong"], "weak": float(np.mean(weak)), "all": found["all"]}


def difference(after: list[float], before: list[float]) -> tuple[float, float, int]:
    """Mean of the paired differences, half of its 95 % interval (t), and how many are above 0."""
    each = np.subtract(after, before)
    half = stats.t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / len(each) ** 0.5
    return float(each.mean()), float(half), int((each > 0).sum())


def table(title: str, noise: dict[str, float], seeds: int, alpha: float, **settings: Any) -> bool:
    """Print the comparison; return whether OGM-GE raised V(weak)."""
    found = {
        arm: [run_one(s, noise, **settings, **({"modulation": alpha} | more if more else {})) for s in range(seeds)]
        for arm, more in ARMS.items()
    }
    print(f"\n{title}\n\n| modulation | V(weak), seed by seed | V(weak) | V(strong) | V(all) | V(weak) - none | up |")
    print("|---|---|---|---|---|---|---|")
    held = False
    for arm, rows in found.items():
        mean = {name: np.mean([row[name] for row in rows]) for name in ("weak", "strong", "all")}
        text = "| |"
        if arm != "none":
            gain, half, up = difference([row["weak"] for row in rows], [row["weak"] for row in found["none"]])
            text = f" {gain:+.3f} ± {half:.3f} | {up} of {seeds} |"
            held = gain - half > 0 and up >= 0.8 * seeds
        each = ", ".join(f"{row['weak']:.3f}" for row in rows)
        print(f"| {arm} | {each} | {mean['weak']:.3f} | {mean['strong']:.3f} | {mean['all']:.3f} |{text}", flush=True)
    return held


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--alpha", type=float, default=1.0, help="strength of the damping")
    options = parser.parse_args()
    two, three = {"strong": 0.5, "weak": 1.0}, {"strong": 0.5, "weak": 1.0, "weak2": 1.0}
    print(f"alpha {options.alpha:g}; V of a coin: {1 / CLASSES:.2f}")
    held = [
        table("Two modalities, SGD", two, options.seeds, options.alpha),
        table("Three modalities, SGD", three, options.seeds, options.alpha),
    ]
    table("Two modalities, AdamW (no limit)", two, options.seeds, options.alpha, optimizer="adamw", lr=2e-3)
    print(f"\nOGM-GE raises V(weak) beyond its interval: {'yes' if all(held) else 'NO'} (with SGD).")
    return int(not all(held))


if __name__ == "__main__":
    sys.exit(main())
