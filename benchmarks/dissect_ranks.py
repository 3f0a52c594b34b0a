"""Throughput of ``dissect`` in two processes under torchrun, one thread each, over one process with one thread.

    python benchmarks/dissect_ranks.py [--rounds 3] [--batches 16] [--batch-size 32] [--size 64]

The two-stream ResNet-18 of ``dissect_overhead.py``, all measures that ``dissect`` runs unless told otherwise; the trace
is excluded. The tables of both must be the same. Needs two free cores; the ratio should be at least 1.7.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from dissect_overhead import TwoStream
from torch import distributed

import fusionscope as fs


def child(options: argparse.Namespace) -> None:
    """Dissect; rank 0 saves the result."""
    torch.set_num_threads(1)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        distributed.init_process_group("gloo")
    torch.manual_seed(0)
    model, n, s = TwoStream(10).eval(), options.batch_size, options.size
    batches = [
        {"rgb": torch.randn(n, 3, s, s), "depth": torch.randn(n, 1, s, s), "label": torch.randint(0, 10, (n,))}
        for _ in range(options.batches)
    ]
    found = fs.dissect(model, batches, progress=False)
    if not distributed.is_initialized() or not distributed.get_rank():
        found.save(options.child)
    if distributed.is_initialized():
        distributed.destroy_process_group()


def run(options: argparse.Namespace, processes: int, out: Path) -> float:
    """Return the seconds that the batches took."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    sizes = ["--batches", str(options.batches), "--batch-size", str(options.batch_size), "--size", str(options.size)]
    command = [sys.executable, *(launch if processes > 1 else []), __file__, "--child", str(out), *sizes]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return json.loads((out / "manifest.json").read_text())["wall_s"]["stream"]


def difference(a: Path, b: Path) -> float:
    """Return the largest difference of any number in any table."""
    one, two = fs.load(a), fs.load(b)
    worst = 0.0
    for name, table in one.tables.items():
        columns = table.select_dtypes("number").columns
        gap = np.abs(table[columns].to_numpy(float) - two.tables[name][columns].to_numpy(float))
        worst = max(worst, float(np.nanmax(gap)) if np.isfinite(gap).any() else 0.0)
    return worst


def main() -> None:
    """Time both in turn and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options)
    ratios, worst = [], 0.0
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            one, two = (run(options, n, Path(folder) / str(n)) for n in (1, 2))
            worst = max(worst, difference(Path(folder) / "1", Path(folder) / "2"))
        ratios.append(one / two)
        print(f"round {number}: one process {one:.2f} s, two {two:.2f} s, ratio {ratios[-1]:.2f}")
    ratio = statistics.median(ratios)
    print(f"largest difference between their tables {worst:.1e}")
    print(f"ratio: median {ratio:.2f} (limit 1.7) {'PASS' if ratio >= 1.7 else 'FAIL'}")


if __name__ == "__main__":
    main()
