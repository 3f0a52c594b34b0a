"""What a sweep over corruptions costs beyond the forwards it needs.

    python benchmarks/robustness_sweep.py [--rounds 3] [--batches 1] [--batch-size 16] [--size 128] [--device cpu]

Model: two ResNet-18 encoders (3 and 1 input channels) whose pooled features are concatenated. Measured: every
corruption of an image and of a depth map at severities 1-5, JPEG compression included, each with its forward and its
scores in a ``Robustness`` instrument, the final table with 1,000 bootstrap resamples excluded and timed beside it.
Rival: the same number of bare forwards of the same model over the same batches. Both run under
``torch.inference_mode``, curve by curve in turn, in alternating order, so that what else the machine does falls on
both; the ratio is taken over each round. A table of milliseconds per corruption and batch comes first.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from dissect_overhead import TwoStream

from fusionscope.data import CorruptionStatistics, corrupt, corruptions
from fusionscope.measures import Robustness, resolve_score

KINDS = {"rgb": "image", "depth": "depth"}


def main() -> None:
    """Time both in turn and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch (default: its own choice)")
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    model = TwoStream(options.classes).to(device).eval()
    n, s = options.batch_size, options.size
    batches = [
        (
            {"rgb": torch.randn(n, 3, s, s, device=device), "depth": torch.rand(n, 1, s, s, device=device)},
            torch.randint(0, options.classes, (n,), device=device),
        )
        for _ in range(options.batches)
    ]
    curves = {modality: corruptions(kind) for modality, kind in KINDS.items()}
    statistics_of = {
        modality: CorruptionStatistics.of(batches[0][0][modality], kind) for modality, kind in KINDS.items()
    }

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def damaged(inputs: dict, modality: str, name: str, severity: int, index: int) -> dict:
        values = corrupt(
            inputs[modality],
            name,
            severity,
            kind=KINDS[modality],
            index=index,
            modality=modality,
            statistics=statistics_of[modality],
        )
        return {**inputs, modality: values}

    def swept(metric: Robustness, modality: str, name: str) -> float:
        start = now()
        with torch.inference_mode():
            for index, (inputs, target) in enumerate(batches):
                for severity in range(1, 6):
                    output = model(**damaged(inputs, modality, name, severity, index))
                    metric.update((modality, name, severity), output, target)
        return now() - start

    def bare(forwards: int) -> float:
        start = now()
        with torch.inference_mode():
            for i in range(forwards):
                model(**batches[i % len(batches)][0])
        return now() - start

    bare(3)
    inputs, _ = batches[0]
    one = bare(5) / 5
    print(f"{options.device}, {torch.get_num_threads()} threads, batches of {n} at {s}x{s}; forward {1e3 * one:.1f} ms")
    total = 0.0
    for modality, names in curves.items():
        for name in names:
            damaged(inputs, modality, name, 3, 0)
            start = now()
            for severity in range(1, 6):
                damaged(inputs, modality, name, severity, 0)
            took = (now() - start) / 5
            total += took
            print(f"  {modality:5} {name:13} {1e3 * took:7.2f} ms  {took / one:6.1%} of a forward")
    print(f"  mean          {1e3 * total / sum(map(len, curves.values())):13.2f} ms")
    ratios = []
    forwards = 5 * len(batches)
    for number in range(options.rounds):
        metric = Robustness(curves, score=resolve_score("accuracy", "classification", options.classes)).to(device)
        ours = theirs = 0.0
        for step, (modality, name) in enumerate((m, name) for m, names in curves.items() for name in names):
            first = (number + step) % 2
            theirs += bare(forwards) if first else 0.0
            ours += swept(metric, modality, name)
            theirs += 0.0 if first else bare(forwards)
        ratios.append(ours / theirs)
        print(f"round {number}: sweep {ours:.2f} s, as many bare forwards {theirs:.2f} s, ratio {ratios[-1]:.3f}")
    start = now()
    metric.compute()
    print(f"table: {now() - start:.2f} s, once")
    print(f"ratio: median {statistics.median(ratios):.3f}, range {min(ratios):.3f} to {max(ratios):.3f} (limit 1.25)")


if __name__ == "__main__":
    main()
