"""Do the special and consistent concepts of separately trained encoders equal the planted ones?

    python benchmarks/concept_sets.py [--seeds 5] [--epochs 6] [--out FOLDER]

For each seed, trains an encoder on rgb alone, one on depth alone, and a second one on each from another seed (seed +
10); runs that FOLDER already holds are taken as they are. Then, at the last level:

- rgb against depth: special to rgb must be the classes planted in colour, special to depth those planted in geometry,
and
  consistent the class that either shows (the background, for which nothing is planted, may be anything but special);
- each encoder against its copy: nothing may be special, at any level.

At least 4 of 5 of the first and all of the second must hold. Also printed: the largest difference of any
concept at any level between copies, from which the default margin of 0.05 was set.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

import fusionscope as fs
from fusionscope.data import SCENE_TABLE
from fusionscope.engine import Run


class Beside(nn.Module):
    """Two networks side by side, whose answers are added: every stream belongs to one of them."""

    def __init__(self, one: Run, two: Run) -> None:
        super().__init__()
        self.one, self.two = one.model, two.model
        self.names = one.model.modalities[0], two.model.modalities[0]

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.one({self.names[0]: a}) + self.two({self.names[1]: b})


class Views:
    """A loader of what the two networks take, by the names a and b."""

    def __init__(self, one: Run, two: Run) -> None:
        self.data = fs.load_data("scenes")
        self.names = one.model.modalities[0], two.model.modalities[0]

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self.data.loader("test", 64, shuffle=True, seed=0):  # a new one shuffles alike
            a, b = (batch["inputs"][name] for name in self.names)
            yield {"a": a, "b": b, "target": batch["target"]}


def trained(folder: Path, modality: str, seed: int, epochs: int) -> Run:
    """Return a run, trained if it is not there yet."""
    out = folder / f"{modality}-{seed}"
    if not out.exists():
        only = (modality,)
        fs.train(
            fs.TrainConfig(data="scenes", modalities=only, epochs=epochs, width=12, lr=0.004, seed=seed, out=str(out)),
            quiet=True,
        )
    return fs.load_run(out)


def compared(one: Run, two: Run) -> pd.DataFrame:
    """Return the profile between the two networks."""
    classes = list(SCENE_TABLE.classes)
    measured = fs.dissect(Beside(one, two), Views(one, two), measures=("semantics",), classes=classes, progress=False)
    table = measured.tables["profile"]
    return table[table["question"] == "across"]


def wanted(kind: str) -> set[str]:
    """Return the classes that are planted in this way."""
    return {name for name, word in zip(SCENE_TABLE.classes, SCENE_TABLE.planted, strict=True) if word == kind}


def main() -> None:
    """Print one line per seed, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", default="")
    options = parser.parse_args()
    torch.set_num_threads(max(torch.get_num_threads(), 1))
    planted, empty, worst = 0, 0, 0.0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.out or temporary)
        for seed in range(options.seeds):
            rgb, depth = (trained(folder, m, seed, options.epochs) for m in ("rgb", "depth"))
            table = compared(rgb, depth)
            last = table[table["level_a"] == table["level_a"].max()]
            found = {kind: set(last[last["kind"] == kind]["concept"]) for kind in ("a", "b", "both")}
            right = (found["a"], found["b"]) == (wanted("colour"), wanted("geometry"))
            right &= found["both"] - wanted("none") == wanted("either")
            special = []
            for run in (rgb, depth):
                copy = trained(folder, run.model.modalities[0], seed + 10, options.epochs)
                between = compared(run, copy)
                worst = max(worst, float(between["d"].abs().max()))
                special += list(between[between["kind"].isin(["a", "b"])]["concept"])
            planted, empty = planted + right, empty + (not special)
            sets = "; ".join(f"{kind} {sorted(names)}" for kind, names in found.items())
            print(f"seed {seed}: {sets}: {'as planted' if right else 'NOT as planted'}; copies: {special or 'nothing'}")
    print(
        f"as planted {planted} of {options.seeds} (limit 4 of 5); copies empty {empty} of {options.seeds} (limit all)"
    )
    print(f"largest difference between copies {worst:.3f}")


if __name__ == "__main__":
    main()
