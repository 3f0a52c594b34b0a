"""Two processes under torchrun against one with the same global batch: the validation score over seeds.

    python benchmarks/two_ranks.py [--seeds 5] [--epochs 8]

Digits, batch norms and all: on CPUs these take their statistics on each rank apart, so the two trainings are not the
same and only their scores can be. Prints each seed's scores, the mean paired difference with its t interval, and the
spread over seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from fusionscope.measures.functional import paired_difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with tempfile.TemporaryDirectory() as place:
        found = np.array(
            [
                [score(begin, seed, options.epochs, Path(place)) for begin in ([sys.executable], launch)]
                for seed in range(options.seeds)
            ]
        )
    print("seed   one process   two ranks   (best validation accuracy)")
    for seed, (one, two) in enumerate(found):
        print(f"{seed:4d}   {one:11.4f}   {two:9.4f}")
    difference = paired_difference(found[:, 1], found[:, 0])
    spread = found.std(0, ddof=1)
    print(
        f"difference {difference.mean:+.4f} [{difference.t_low:+.4f}, {difference.t_high:+.4f}], p {difference.p:.2f}; "
        f"standard deviation over seeds {spread[0]:.4f} and {spread[1]:.4f}"
    )
    inside = difference.t_low <= 0 <= difference.t_high
    print("within the noise of seeds" if inside else "NOT within the noise of seeds")


def score(begin: list[str], seed: int, epochs: int, place: Path) -> float:
    out = place / f"{len(begin)}-{seed}"
    settings = ["--data", "digits", "--epochs", str(epochs), "--patience", "0", "--accelerator", "cpu"]
    command = [*begin, "-m", "fusionscope", "train", *settings, "--seed", str(seed), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return json.loads((out / "metrics.json").read_text())["val"]["accuracy"]


if __name__ == "__main__":
    main()
